"""
A tree as a Zarr store.

The rule of this module: only "the tree is sound and has no such key" is ever "no such chunk". zarr drops
a variable, or fills a chunk, when a store raises `KeyError` or `FileNotFoundError`; so a block that is
missing, damaged or out of reach raises an error that is neither, and it comes out of zarr and xarray.
"""

import asyncio
from collections.abc import AsyncIterator, Generator, Iterable
from functools import lru_cache
from os import PathLike
from typing import Any, Self

from multiformats import CID
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from hamt_bulk.block import AnyCID, text, to_bytes, to_cid
from hamt_bulk.cas.base import ContentAddressedStore
from hamt_bulk.cas.wrap import configuration
from hamt_bulk.errors import InvalidInput, ReadOnly
from hamt_bulk.layout import PyHamt
from hamt_bulk.manifest import HashFn
from hamt_bulk.nodes import CACHE_BYTES, NodeCache, Tree
from hamt_bulk.zarr.folders import Folders
from hamt_bulk.zarr.keys import folder_start

SIZES_AT_ONCE = 256
"""How many values `getsize_prefix` asks the sizes of in one request."""

SHARED_CACHES = 4
"""How many caches of stores that came from pickles a process keeps, for the next task with one of these."""


class StoreIsReadOnly(ReadOnly, ValueError, NotImplementedError):
    """`ReadOnly`, as the two errors with which zarr's own stores refuse to be written to."""


class ZarrHAMTStore(Store):
    """
    A tree as a read-only Zarr store, for zarr, xarray and dask alike.

    It pickles as its root and the configuration of its CAS; what one process unpickles shares a cache.

    There is no `get_sync`: zarr up to 3.1 has no use for it, and later ones ask for it only together with
    `set_sync` and `delete_sync`, in a codec pipeline that is opt-in and reads with one thread a core, where
    the asynchronous one has more reads under way.
    """

    supports_writes: bool = False
    supports_deletes: bool = False
    supports_listing: bool = True
    supports_partial_writes = False  # an abstract property before zarr 3.1.3

    def __init__(self, tree: Tree) -> None:
        super().__init__(read_only=True)
        self._tree = tree
        self._folders: Folders | None = None

    @classmethod
    def open(  # type: ignore[override]  # zarr's is to be awaited, and this one may be
        cls,
        root: AnyCID | PathLike[str],
        cas: ContentAddressedStore | str | PathLike[str],
        *,
        max_cache_bytes: int = CACHE_BYTES,
    ) -> Self:
        """
        The store of the tree `root`, opened. `cas` may also be a URL.

        max_cache_bytes  memory for decoded nodes
        """
        from hamt_bulk.cas import open_cas

        store = cls(Tree(to_bytes(root), open_cas(cas), cache=NodeCache(max_cache_bytes)))
        store._is_open = True
        return store

    def __await__(self) -> Generator[Any, None, Self]:
        """The store itself, so that `await ZarrHAMTStore.open(...)` does what it does for zarr's stores."""
        return self._self().__await__()

    async def _self(self) -> Self:
        return self

    @property
    def root(self) -> CID:
        """The tree's root."""
        return to_cid(self._tree.root)

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The value under `key`, of which a range loads only the blocks it lies in. `None`: no such key."""
        pointer = await self._tree.pointer_async(key)
        if pointer is None:
            return None
        match byte_range:
            case None:
                data = await self._tree.read_async(pointer)
            case RangeByteRequest(start, end) if min(start, end) >= 0:
                data = await self._tree.read_async(pointer, start, end)
            case OffsetByteRequest(offset) if offset >= 0:
                data = await self._tree.read_async(pointer, offset)
            case SuffixByteRequest(suffix) if suffix >= 0:
                data = await self._tree.read_async(pointer, suffix=suffix)
            case _:
                raise InvalidInput(f"{key!r}: Unexpected byte_range, got {byte_range}.")
        return (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return await asyncio.gather(*(self.get(key, prototype, wanted) for key, wanted in key_ranges))

    async def exists(self, key: str) -> bool:
        return await self._tree.pointer_async(key) is not None

    async def getsize(self, key: str) -> int:
        pointer = await self._tree.pointer_async(key)
        if pointer is None:
            raise FileNotFoundError(key)  # what zarr's stores raise
        [size] = await self._tree.sizes_async([pointer])
        return size

    async def getsize_prefix(self, prefix: str) -> int:
        """The bytes of all values in the folder `prefix`."""
        start = folder_start(prefix)
        total, waiting = 0, list[bytes]()
        async for key, pointer in self._tree.entries_async():
            if key.startswith(start):
                waiting.append(pointer)
            if len(waiting) == SIZES_AT_ONCE:
                total += sum(await self._tree.sizes_async(waiting))
                waiting.clear()
        return total + (sum(await self._tree.sizes_async(waiting)) if waiting else 0)

    async def list(self) -> AsyncIterator[str]:
        async for key, _ in self._tree.entries_async():
            yield key

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        async for key in self.list():
            if key.startswith(prefix):
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """
        The names in the folder `prefix`.

        A tree places keys by their hash, so this walks all of it. The first walk remembers what lies in
        which folder, chunks left out, and zarr's descent through a hierarchy costs one walk, not one a group.
        """
        start = folder_start(prefix.rstrip("/"))
        if self._folders is not None and (known := self._folders.names(start[:-1])) is not None:
            for name in known:
                yield name
            return
        folders, seen = Folders(), set[str]()
        async for key in self.list():
            folders.add(key)
            if key.startswith(start) and key != start:
                name = key[len(start) :].partition("/")[0]
                if name not in seen:
                    seen.add(name)
                    yield name
        self._folders = folders

    async def is_empty(self, prefix: str) -> bool:
        start = folder_start(prefix)
        async for key in self.list():
            if key.startswith(start):
                return False
        return True

    def with_read_only(self, read_only: bool = False) -> Self:
        if read_only:
            return type(self)(self._tree)
        raise StoreIsReadOnly(
            f"with_read_only is not implemented for the {type(self)} store type. {_INSTEAD}"
        )

    def _check_writable(self) -> None:
        raise StoreIsReadOnly(f"store was opened in read-only mode and does not support writing. {_INSTEAD}")

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        self._check_writable()

    async def set_partial_values(self, key_start_values: Iterable[tuple[str, int, bytes]]) -> None:
        self._check_writable()  # abstract before zarr 3.1.3

    async def delete(self, key: str) -> None:
        self._check_writable()

    async def delete_dir(self, prefix: str) -> None:
        self._check_writable()

    async def clear(self) -> None:
        self._check_writable()

    def _identity(self) -> tuple[object, ...]:
        tree = self._tree
        return type(self), tree.root, configuration(tree.cas), tree.layout, tree.hash_fn, self.read_only

    def __eq__(self, value: object) -> bool:
        """Whether both read the same root from the same place. Sizes of caches make no difference."""
        return isinstance(value, ZarrHAMTStore) and self._identity() == value._identity()

    def __hash__(self) -> int:
        return hash(self._tree.root)

    def __str__(self) -> str:
        return f"ipfs://{text(self._tree.root)}"

    def __repr__(self) -> str:
        return f"ZarrHAMTStore({text(self._tree.root)!r}, {self._tree.cas!r})"

    def __dask_tokenize__(self) -> tuple[str, str, tuple[str, str]]:
        return type(self).__qualname__, text(self._tree.root), configuration(self._tree.cas)

    def __reduce__(self) -> tuple[Any, ...]:
        tree = self._tree
        parts = tree.root, tree.cas, tree.layout, tree.hash_fn, tree.cache.max_bytes
        return _reopen, (type(self), *parts, self._is_open)


_INSTEAD = "A root never changes: hamt_bulk.xarray.to_hamt makes a new one"


def _reopen(
    cls: type[ZarrHAMTStore],
    root: bytes,
    cas: ContentAddressedStore,
    layout: PyHamt,
    hash_fn: HashFn,
    max_cache_bytes: int,
    is_open: bool,
) -> ZarrHAMTStore:
    """A store that came from a pickle."""
    store = cls(Tree(root, cas, layout, hash_fn, _shared_cache(configuration(cas), max_cache_bytes)))
    store._is_open = is_open
    return store


@lru_cache(SHARED_CACHES)
def _shared_cache(cas: tuple[str, str], max_bytes: int) -> NodeCache:
    """
    The cache of this process for the stores that it unpickles.

    Each task of a job unpickles its own, one after the other, so a weak registry would be empty between two.
    One for all roots of a CAS: nodes are named by their content, and successive roots share most of them.
    """
    return NodeCache(max_bytes)
