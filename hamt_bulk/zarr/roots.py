"""
A root of any kind as a Zarr store.

The rule is that of `hamt_bulk.zarr.store`: only "the root is sound and has no such key" is ever "no such chunk".
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from typing import Any, NoReturn, ParamSpec, Self, TypeVar

from multiformats import CID
from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from hamt_bulk.block import text
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.cas.wrap import configuration
from hamt_bulk.crypto.bound import MAGIC
from hamt_bulk.errors import InvalidInput, WrongKey
from hamt_bulk.formats.root import Root
from hamt_bulk.formats.sealed import SealedRoot
from hamt_bulk.keys import folder_start
from hamt_bulk.zarr.carried import carried_root
from hamt_bulk.zarr.checked import ENCRYPTED
from hamt_bulk.zarr.folders import Folders
from hamt_bulk.zarr.listed import ListedStore
from hamt_bulk.zarr.store import StoreIsReadOnly

KEYS_AT_ONCE = 1000
"""How many keys a listing takes from its root in one go."""

READS_AT_ONCE = 32
"""How many reads are under way at once, for all stores of a process. asyncio's own threads are 4 more than the cores."""

P = ParamSpec("P")
T = TypeVar("T")


class RootStore(ListedStore):
    """
    What a root of any kind holds, as a read-only Zarr store, for zarr, xarray and dask alike.

        store = open_root(root, cas).store()
        ds = xr.open_zarr(store)

    Pickles as its root and the configuration of its CAS. Equal are those of the same kind which read the same root
    from the same place.
    """

    supports_writes: bool = False
    supports_deletes: bool = False

    def __init__(self, source: Root) -> None:
        super().__init__(read_only=True)
        self.source = source
        self._folders: Folders | None = None

    @property
    def root(self) -> CID:
        """The CID of what is read."""
        return self.source.cid

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The value under `key`, or a part of it. `None`: no such key."""
        wanted = _bounds(key, byte_range)
        data = await self._run(self._read, key, *wanted)
        return None if data is None else (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    def _read(self, key: str, start: int, stop: int | None, suffix: int | None) -> bytes | None:
        pointer = self.source.pointer(key)
        if pointer is None:
            return None
        data = self.source.read(key, pointer, start, stop, suffix)
        if not start and not isinstance(self.source, SealedRoot) and data.startswith(MAGIC):
            raise WrongKey(f"{key!r} {ENCRYPTED}")
        return data

    async def exists(self, key: str) -> bool:
        return await self._run(self.source.pointer, key) is not None

    async def getsize(self, key: str) -> int:
        pointer = await self._run(self.source.pointer, key)
        if pointer is None:
            raise FileNotFoundError(key)  # what zarr's stores raise
        [size] = await self._run(self.source.sizes, [(key, pointer)])
        return size

    async def getsize_prefix(self, prefix: str) -> int:
        """The bytes of all values in the folder `prefix`."""
        start, total = folder_start(prefix), 0
        async for entries in self._entries():
            inside = [entry for entry in entries if entry[0].startswith(start)]
            total += sum(await self._run(self.source.sizes, inside))
        return total

    async def list(self) -> AsyncIterator[str]:
        async for entries in self._entries():
            for key, _ in entries:
                yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """The names in the folder `prefix`, each once. The first listing reads all keys and remembers the folders."""
        start = folder_start(prefix.rstrip("/"))
        if self._folders is not None and (known := self._folders.names(start[:-1])) is not None:
            for name in [*known]:
                yield name
            return
        folders, seen = Folders(), set[str]()
        async for key in self.list():
            folders.add(key)
            if key.startswith(start) and key != start:
                inside = key[len(start) :].partition("/")[0]
                if inside not in seen:
                    seen.add(inside)
                    yield inside
        self._remember(folders)

    def _remember(self, folders: Folders) -> None:
        self._folders = folders

    async def _entries(self) -> AsyncIterator[Sequence[tuple[str, bytes]]]:
        """All keys and pointers, some at a time."""
        entries: Iterator[tuple[str, bytes]] = self.source.pointers()
        while some := await self._run(lambda: [*islice(entries, KEYS_AT_ONCE)]):
            yield some

    async def _run(self, call: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
        """What `call` gives: in a thread, unless blocks are there without waiting."""
        if self.source.cas.in_memory:
            return call(*arguments, **options)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(_readers(), lambda: call(*arguments, **options))

    def with_read_only(self, read_only: bool = False) -> Self:
        """This store again. A writable one is refused."""
        if not read_only:
            raise StoreIsReadOnly(
                f"with_read_only is not implemented for the {type(self)} store type, which is read-only. {_INSTEAD}"
            )
        clone = type(self)(self.source)
        clone._folders = self._folders
        return clone

    async def set(self, key: str, value: Buffer) -> None:
        _refuse()

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        _refuse()

    async def set_partial_values(self, key_start_values: Iterable[tuple[str, int, bytes]]) -> None:
        _refuse()  # abstract before zarr 3.1.3

    async def delete(self, key: str) -> None:
        _refuse()

    async def delete_dir(self, prefix: str) -> None:
        _refuse()

    async def clear(self) -> None:
        _refuse()

    def _identity(self) -> tuple[object, ...]:
        return type(self).__qualname__, *_identity_of(self.source)

    def __eq__(self, value: object) -> bool:
        return isinstance(value, RootStore) and self._identity() == value._identity()

    def __hash__(self) -> int:
        return hash(self.source.root)

    def __str__(self) -> str:
        return f"ipfs://{text(self.source.root)}"

    def __repr__(self) -> str:
        return f"RootStore({self.source!r})"

    def __dask_tokenize__(self) -> tuple[object, ...]:
        from dask.base import tokenize  # it is dask that calls this

        # dask goes by the repr of what is in here, which says nothing of a key.
        return type(self).__qualname__, *map(tokenize, self._identity())

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (type(self), carried_root(self.source), self._is_open)


_INSTEAD = "A root never changes: hamt_bulk.convert makes a tree of it, which hamt_bulk.xarray.to_hamt takes as its base"


def _refuse() -> NoReturn:
    raise StoreIsReadOnly(f"store was opened in read-only mode and does not support writing. {_INSTEAD}")


def _bounds(key: str, byte_range: ByteRequest | None) -> tuple[int, int | None, int | None]:
    """Start, stop and suffix of what a request wants."""
    match byte_range:
        case None:
            return 0, None, None
        case RangeByteRequest(start, end) if min(start, end) >= 0:
            return start, max(start, end), None
        case OffsetByteRequest(offset) if offset >= 0:
            return offset, None, None
        case SuffixByteRequest(suffix) if suffix >= 0:
            return 0, None, suffix
        case _:
            raise InvalidInput(f"{key!r}: Unexpected byte_range, got {byte_range}.")


def _identity_of(root: Root) -> tuple[object, ...]:
    """What a root is opened with again, its store as its configuration."""
    parts: list[object] = []
    for part in root.__reduce__()[1]:
        match part:
            case ContentAddressedStore():
                parts.append(configuration(part))
            case Root():
                parts += _identity_of(part)
            case _:
                parts.append(part)
    return type(root).__qualname__, *parts


def _reopened(cls: type[RootStore], source: Root, is_open: bool) -> RootStore:
    store = cls(source)
    store._is_open = is_open
    return store


@lru_cache(1)
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(READS_AT_ONCE, "hamt-bulk-root")


# A forked child has its parent's memory, but not its threads.
os.register_at_fork(after_in_child=_readers.cache_clear)
