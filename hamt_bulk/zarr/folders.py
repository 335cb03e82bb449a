"""What lies in which folder of a hierarchy."""

from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from functools import partial

from hamt_bulk.draft import Draft
from hamt_bulk.errors import HamtError
from hamt_bulk.keys import METADATA_NAMES, array_of, folder_start
from hamt_bulk.manifest import TOMBSTONE

FOLDER_NAMES = 100_000
"""How many names a listing remembers for the next one. A hierarchy with more is walked each time."""

NAME_CHARACTERS = 100
"""So many characters of a path count as one more name."""


class Folders:
    """What lies in the folders of a hierarchy, but for those of arrays, whose chunks would fill it."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, None]] = {"": {}}
        self._arrays: set[str] = set()
        self._left = FOLDER_NAMES

    def add(self, key: str) -> None:
        if self._left <= 0:
            return
        if (array := array_of(key)) is not None:
            key = array
            if key in self._arrays:
                return
            self._arrays.add(key)
        elif "" in key.split("/"):
            self._left = 0  # folders without a name: no hierarchy of zarr's
        while key and self._left > 0:
            parent, _, name = key.rpartition("/")
            names = self._names.setdefault(parent, {})
            if name in names:
                return  # and so are all folders above
            names[name] = None
            self._left -= 1 + len(key) // NAME_CHARACTERS
            key = parent

    def names(self, folder: str) -> Iterable[str] | None:
        """What lies in `folder`, or `None` when that was not remembered."""
        if self._left <= 0:
            return None
        cuts = (at for at, char in enumerate(f"{folder}/") if char == "/")
        inside = "" in self._arrays or any(folder[:cut] in self._arrays for cut in cuts)
        return None if inside else self._names.get(folder, {})

    def keeps(self, deleted: str) -> bool:
        """Whether all folders are still there without the key `deleted`, a chunk of an array that has metadata."""
        array = array_of(deleted)
        names = {} if array is None else self._names.get(array, {})
        return any(name in names for name in METADATA_NAMES)


class Listing:
    """
    The names in the folders of a draft.

    A tree places keys by their hash, so the first listing walks all of it, and remembers what lies in which
    folder, chunks left out; edits are added to that. So zarr's descent through a hierarchy costs one walk, not
    one a group, and that of a hierarchy which was begun here costs none.

    key_of  the key that a name in the tree stands for
    """

    def __init__(self, draft: Draft, key_of: Callable[[str], str]) -> None:
        self._draft = draft
        self._key_of = key_of
        self._folders: Folders | None = Folders()  # before it listens: another thread may edit at once
        if not draft.listen(self._note):
            self._folders = None

    def _note(self, edits: Mapping[str, bytes]) -> None:
        for name, pointer in edits.items():
            if self._folders is None:
                return
            try:
                key = self._key_of(name)
            except HamtError:
                self._folders = None  # whoever lists will be told
                return
            if pointer != TOMBSTONE:
                self._folders.add(key)
            elif not self._folders.keeps(key):
                self._folders = None

    async def names(self, prefix: str) -> AsyncIterator[str]:
        """The names in the folder `prefix`, each once."""
        start = folder_start(prefix.rstrip("/"))
        if self._folders is not None and (known := self._folders.names(start[:-1])) is not None:
            for name in list(known):
                yield name
            return
        before = self._draft.version
        folders, seen = Folders(), set[str]()
        async for found, _ in self._draft.entries():
            key = self._key_of(found)
            folders.add(key)
            if key.startswith(start) and key != start:
                name = key[len(start) :].partition("/")[0]
                if name not in seen:
                    seen.add(name)
                    yield name
        self._draft.unless_edited(before, partial(setattr, self, "_folders", folders))
