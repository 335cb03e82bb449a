"""A Zarr store that keeps what is written until somebody takes it, over a base that is read."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import MemoryStore

from hamt_bulk.block import Data
from hamt_bulk.cas.loop import run_sync
from hamt_bulk.foreign import from_json
from hamt_bulk.keys import folder_start, is_metadata
from hamt_bulk.zarr.folders import Folders
from hamt_bulk.zarr.store import ZarrHAMTStore


class _Record(dict[str, Buffer]):
    """What was written, and which keys were deleted: zarr deletes a chunk that is all fill value."""

    def __init__(self) -> None:
        super().__init__()
        self.deleted: set[str] = set()

    def __setitem__(self, key: str, value: Buffer) -> None:
        self.deleted.discard(key)
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        self.deleted.add(key)
        super().__delitem__(key)


class RecordingStore(MemoryStore):
    """
    Records keys and values that are written; reads those, and what they do not hide of `base`.

    A copy that was pickled starts empty: each task of a build unpickles its targets and so has a record
    of its own, whatever threads, retries and speculative runs there are.

    Folders of the base are listed from its consolidated metadata, where it has some, as zarr itself opens it;
    else from a walk through the tree. Where something is there that the metadata does not name, and that is
    concerned, it is out of date, and the tree is walked as well.

    folders  what lies in the folders of the base, when that is known
    """

    _store_dict: _Record

    def __init__(self, base: ZarrHAMTStore | None = None, folders: Folders | None = None) -> None:
        super().__init__(_Record())
        self.cleared: list[str] = []
        """Starts of keys of which the base's count no longer."""
        self._base = base
        self.concerned: list[str] = []
        """The paths of groups and arrays that are about to be written."""
        self._folders_of_base = folders
        self._is_listed = folders is not None

    def __reduce__(self) -> tuple[Any, ...]:
        return _emptied, (self._base, self.cleared)

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        if self._base is None or key in self._store_dict or self._is_hidden(key):
            return await super().get(key, prototype, byte_range)
        return await self._base.get(key, prototype, byte_range)

    async def exists(self, key: str) -> bool:
        if await super().exists(key):
            return True
        return self._base is not None and not self._is_hidden(key) and await self._base.exists(key)

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        if not await self.exists(key):
            await self.set(key, value)

    def get_sync(self, key: str, **options: Any) -> Buffer | None:
        """As `get`, for the synchronous codec pipeline that zarr has from 3.2 on."""
        return run_sync(self.get(key, **options))

    async def list(self) -> AsyncIterator[str]:
        async for key in super().list():
            yield key
        if self._base is not None:
            async for key in self._base.list():
                if key not in self._store_dict and not self._is_hidden(key):
                    yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        async for key in self.list():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        own = {name async for name in super().list_dir(prefix)}
        for name in own:
            yield name
        start = folder_start(prefix.rstrip("/"))
        if self._base is None or self.is_cleared(start):
            return
        async for name in self._names_in_base(start):
            if (
                name not in own
                and not self._is_hidden(start + name)
                and not self.is_cleared(f"{start}{name}/")
            ):
                yield name

    async def is_empty(self, prefix: str) -> bool:
        async for _ in self.list_dir(prefix):
            return False
        return True

    async def delete_dir(self, prefix: str) -> None:
        start = folder_start(prefix)
        for key in [key for key in self._store_dict if key.startswith(start)]:
            dict.__delitem__(self._store_dict, key)
        self.cleared.append(start)

    async def clear(self) -> None:
        await self.delete_dir("")

    def take_chunks(self) -> Iterator[tuple[str, Data | None]]:
        """
        Removes and gives all chunks, by key; `None` for one that was deleted.

        Not in the order in which zarr's threads were done: a batch that is written again makes the same pack.
        """
        for key in sorted(key for key in self._store_dict if not is_metadata(key)):
            yield key, _data(self._store_dict.pop(key))
        for key in sorted(self._store_dict.deleted):
            if not is_metadata(key):
                self._store_dict.deleted.discard(key)
                yield key, None

    def metadata(self) -> Iterator[tuple[str, Data | None]]:
        """The metadata documents, by key; `None` for one that was deleted."""
        for key, value in sorted(self._store_dict.items()):
            if is_metadata(key):
                yield key, _data(value)
        for key in sorted(self._store_dict.deleted):
            if is_metadata(key):
                yield key, None

    def _is_hidden(self, key: str) -> bool:
        """Whether what the base has under `key` counts no longer."""
        return key in self._store_dict.deleted or self.is_cleared(key)

    def is_cleared(self, key: str) -> bool:
        """Whether `key` was in a folder that was deleted."""
        return any(key.startswith(start) for start in self.cleared)

    async def _names_in_base(self, start: str) -> AsyncIterator[str]:
        assert self._base is not None
        if not self._is_listed:
            self._folders_of_base = await self._listed(self._base)
            self._is_listed = True
        folders = self._folders_of_base
        known = None if folders is None else folders.names(start[:-1])
        if known is None:
            async for name in self._base.list_dir(start):
                yield name
        else:
            for name in known:
                yield name

    async def _listed(self, base: ZarrHAMTStore) -> Folders | None:
        """What lies in the folders of the base, as its consolidated metadata has it, where that can be relied on."""
        folders = await _consolidated_folders(base)
        if folders is not None:
            for path in self.concerned:
                start = folder_start(path)
                for document in ("zarr.json", ".zarray", ".zgroup"):
                    if document not in (folders.names(path) or ()) and await base.exists(start + document):
                        return None
        return folders


def _emptied(base: ZarrHAMTStore | None, cleared: list[str]) -> RecordingStore:
    store = RecordingStore(base)
    store.cleared = cleared
    return store


async def _consolidated_folders(store: ZarrHAMTStore) -> Folders | None:
    """The groups and arrays that the consolidated metadata of a hierarchy names; `None` when it has none."""
    for document in ("zarr.json", ".zmetadata"):
        value = await store.get(document)
        if value is not None and (names := named_in(document, value.to_bytes())) is not None:
            folders = Folders()
            for name in (*names, document):
                folders.add(name)
            return folders
    return None


def named_in(document: str, content: bytes) -> list[str] | None:
    """The keys of the documents of which `zarr.json` or `.zmetadata` has a copy; `None` when it has none."""
    try:
        parsed = from_json(content)
        copies = parsed["consolidated_metadata"] if document == "zarr.json" else parsed
        named = copies["metadata"]
    except (ValueError, TypeError, LookupError):
        return None  # what is wrong with the document zarr will say
    if not isinstance(named, dict):
        return None
    return [f"{path}/zarr.json" for path in named] if document == "zarr.json" else list(named)


def _data(value: Buffer) -> Data:
    array = value.as_numpy_array()
    return array.data.cast("B") if array.size and array.flags.c_contiguous else value.to_bytes()
