"""What lies in which folder of a hierarchy."""

from collections.abc import Iterable

from hamt_bulk.zarr.keys import CHUNK

FOLDER_NAMES = 100_000
"""How many names a listing remembers for the next one. A hierarchy with more is walked each time."""


class Folders:
    """What lies in the folders of a hierarchy, but for those of arrays, whose chunks would fill it."""

    def __init__(self) -> None:
        self._names: dict[str, dict[str, None]] = {"": {}}
        self._arrays: set[str] = set()
        self._left = FOLDER_NAMES

    def add(self, key: str) -> None:
        if self._left <= 0:
            return
        if chunk := CHUNK.search(key):
            key = key[: chunk.start()]
            if key in self._arrays:
                return
            self._arrays.add(key)
        elif "" in key.split("/"):
            self._left = 0  # folders without a name: no hierarchy of zarr's
        while key:
            parent, _, name = key.rpartition("/")
            names = self._names.setdefault(parent, {})
            if name in names:
                return  # and so are all folders above
            names[name] = None
            self._left -= 1
            key = parent

    def names(self, folder: str) -> Iterable[str] | None:
        """What lies in `folder`, or `None` when that was not remembered."""
        if self._left <= 0:
            return None
        inside = [folder[:at] for at, char in enumerate(folder) if char == "/"] + [folder, ""]
        return None if self._arrays.intersection(inside) else self._names.get(folder, {})
