"""
A tree as a Zarr store.

The rule of this module: only "the tree is sound and has no such key" is ever "no such chunk". zarr drops
a variable, or fills a chunk, when a store raises `KeyError` or `FileNotFoundError`; so a block that is
missing, damaged or out of reach raises an error that is neither, and it comes out of zarr and xarray.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterable, Sequence
from contextlib import aclosing
from functools import lru_cache
from os import PathLike
from typing import Any, Self

from multiformats import CID
from zarr.abc.store import ByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from hamt_bulk.block import AnyCID, Data, text, to_bytes, to_cid
from hamt_bulk.cas import ContentAddressedStore, open_cas
from hamt_bulk.cas.wrap import configuration
from hamt_bulk.crypto import Encryption, checked
from hamt_bulk.errors import InvalidInput, NotPortable, ReadOnly
from hamt_bulk.hamt import HAMT
from hamt_bulk.keys import folder_start
from hamt_bulk.layout import LayoutOption
from hamt_bulk.manifest import TOMBSTONE, HashFn, encode_key
from hamt_bulk.nodecache import CACHE_BYTES, NodeCache
from hamt_bulk.zarr.carried import Parts, carried
from hamt_bulk.zarr.folders import Listing
from hamt_bulk.zarr.listed import ListedStore
from hamt_bulk.zarr.reading import Ranges, heavy, read, size_of

SIZES_AT_ONCE = 256
"""How many values `getsize_prefix` asks the sizes of in one request."""

SHARED_CACHES = 4
"""How many caches of stores that came from pickles a process keeps, for the next task with one of these."""


class StoreIsReadOnly(ReadOnly, ValueError, NotImplementedError):
    """`ReadOnly`, as the two errors with which zarr's own stores refuse to be written to."""


class ZarrHAMTStore(ListedStore):
    """
    A tree as a Zarr store, for zarr, xarray and dask alike.

        store = ZarrHAMTStore.open(root, cas)                                      # to read
        store = ZarrHAMTStore(await HAMT.build(cas=cas, values_are_bytes=True))    # to write
        ds.to_zarr(store, mode="w")
        root = store.flush()

    What is written waits in the HAMT; `flush`, of either, makes a root of it. A read-only store pickles as its
    root and the configuration of its CAS; what one process unpickles shares a cache. A writable one refuses to
    be pickled, since what another process writes to it would be lost.

    encryption  how values, and key names if they are hidden, are encrypted in the tree. All keys and values that the
                store takes and gives are plain ones. What is not encrypted as it says raises `NotAuthentic` or
                `WrongKey`

    There is no `get_sync`: zarr up to 3.1 has no use for it, and later ones ask for it only together with
    `set_sync` and `delete_sync`, in a codec pipeline that is opt-in and reads with one thread a core, where
    the asynchronous one has more reads under way.
    """

    def __init__(self, hamt: HAMT, read_only: bool = False, encryption: Encryption | None = None) -> None:
        if not hamt.values_are_bytes:
            raise InvalidInput("a Zarr store holds bytes: open the HAMT with values_are_bytes=True")
        if hamt.read_only and not read_only:
            raise StoreIsReadOnly(
                "the HAMT is read-only: pass read_only=True, or call `await hamt.enable_write()` first"
            )
        super().__init__(read_only=read_only)
        self.hamt = hamt
        self._draft = hamt.draft
        self._encryption = checked(encryption)
        self._ranges = Ranges()
        self._knows_names = encryption is None or not encryption.hide_names
        self._listing = Listing(hamt.draft, str if encryption is None else encryption.key_of)
        self._was_edited = not hamt.read_only

    @classmethod
    def open(  # type: ignore[override]  # zarr's is to be awaited, and this one may be
        cls,
        root: AnyCID | PathLike[str],
        cas: ContentAddressedStore | str | PathLike[str],
        *,
        max_cache_bytes: int = CACHE_BYTES,
        encryption: Encryption | None = None,
        layout: LayoutOption = None,
    ) -> Self:
        """
        The read-only store of the tree `root`, opened. `cas` may also be a URL.

        max_cache_bytes  memory for decoded nodes
        encryption       how the hierarchy was encrypted
        layout           that of the tree, where it is a HashMap
        """
        hamt = HAMT(
            open_cas(cas),
            root_node_id=to_bytes(root),
            read_only=True,
            values_are_bytes=True,
            max_cache_bytes=max_cache_bytes,
            layout=layout,
        )
        return cls._opened(hamt, encryption)

    @classmethod
    def _opened(cls, hamt: HAMT, encryption: Encryption | None, is_open: bool = True) -> Self:
        """A read-only store, whatever arguments a subclass takes."""
        store = cls.__new__(cls)
        ZarrHAMTStore.__init__(store, hamt, True, encryption)
        store._is_open = is_open
        return store

    def __await__(self) -> Generator[Any, None, Self]:
        """The store itself, so that `await ZarrHAMTStore.open(...)` does what it does for zarr's stores."""
        return self._self().__await__()

    async def _self(self) -> Self:
        return self

    @property
    def _is_edited(self) -> bool:
        """Whether the tree has one root after the other, so that the store is equal to those of its HAMT alone."""
        return self._was_edited or not self.hamt.read_only

    @property
    def root(self) -> CID:
        """The tree's root: of a store that is written to, the one that was flushed last."""
        return self.hamt.root_node_id

    def flush(self) -> CID:
        """The root that has all that was written until now, durably stored."""
        return to_cid(self._draft.flush_here())

    @property
    def read_only(self) -> bool:
        """Whether writes are refused."""
        return self._read_only or self.hamt.read_only

    @property
    def supports_writes(self) -> bool:
        """Whether the tree can be edited."""
        return not self.hamt.read_only

    @property
    def supports_deletes(self) -> bool:
        """Whether the tree can be edited."""
        return not self.hamt.read_only

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        """The value under `key`, of which a range loads only the blocks it lies in. `None`: no such key."""
        pointer = await self._pointer(key)
        if pointer is None:
            return None
        data = await read(self._draft.tree, self._encryption, self._ranges, key, pointer, byte_range)
        return (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    async def exists(self, key: str) -> bool:
        return await self._pointer(key) is not None

    async def getsize(self, key: str) -> int:
        pointer = await self._pointer(key)
        if pointer is None:
            raise FileNotFoundError(key)  # what zarr's stores raise
        return await self._size_of([(key, pointer)])

    async def getsize_prefix(self, prefix: str) -> int:
        """The bytes of all values in the folder `prefix`."""
        start = folder_start(prefix)
        total, waiting = 0, list[tuple[str, bytes]]()
        async for key, pointer in self._entries():
            if key.startswith(start):
                waiting.append((key, pointer))
            if len(waiting) == SIZES_AT_ONCE:
                total += await self._size_of(waiting)
                waiting.clear()
        return total + (await self._size_of(waiting) if waiting else 0)

    async def list(self) -> AsyncIterator[str]:
        async for key, _ in self._entries():
            yield key

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """The names in the folder `prefix`."""
        await self._fetch_key()
        async for name in self._listing.names(prefix):
            yield name

    def with_read_only(self, read_only: bool = False) -> Self:
        """A store of the same HAMT that refuses writes, or takes them."""
        if not read_only and self.hamt.read_only:
            raise StoreIsReadOnly(
                f"with_read_only is not implemented for the {type(self)} store type of a read-only HAMT. {_INSTEAD}"
            )
        clone = object.__new__(type(self))  # `copy` would go the way of pickles
        clone.__dict__ |= self.__dict__ | {"_read_only": read_only, "_is_open": False}
        return clone

    def _check_writable(self) -> None:
        if self.read_only:
            raise StoreIsReadOnly(
                f"store was opened in read-only mode and does not support writing. {_INSTEAD}"
            )

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()
        await self._draft.record(dict([await self._saved(key, value)]))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        self._check_writable()
        if not await self.exists(key):
            await self._draft.record_if(*await self._saved(key, value), present=False)

    async def set_partial_values(self, key_start_values: Iterable[tuple[str, int, bytes]]) -> None:
        """Refused: no store of zarr's takes parts of values, and zarr asks none to."""
        self._check_writable()  # abstract before zarr 3.1.3
        raise NotImplementedError("values are written whole")

    async def delete(self, key: str) -> None:
        self._check_writable()
        await self._fetch_key()
        await self._draft.record_if(self.name_of(key), TOMBSTONE, present=True)

    async def delete_dir(self, prefix: str) -> None:
        """Deletes all keys in the folder `prefix`."""
        self._check_writable()
        await self._fetch_key()
        start = folder_start(prefix)
        await self._draft.delete_many(lambda name: self.key_of(name).startswith(start))

    async def clear(self) -> None:
        """Deletes all keys."""
        await self.delete_dir("")

    async def _saved(self, key: str, value: Buffer) -> tuple[str, bytes]:
        """The edit that gives `key` a value, which is now in the store."""
        if not isinstance(value, Buffer):
            raise TypeError(
                f"ZarrHAMTStore.set(): `value` must be a Buffer instance. Got an instance of {type(value)} instead."
            )
        encode_key(key)
        # A copy: the buffer may be a view of an array that its owner goes on to change.
        data: Data = value.to_bytes()
        if self._encryption is None:
            return key, await self._draft.save(data)
        await self._fetch_key()
        data = await heavy(len(data), self._encryption.seal, key, data)
        return self._encryption.name(key), await self._draft.save(data)

    @property
    def encryption(self) -> Encryption | None:
        """How the hierarchy is encrypted in the tree."""
        return self._encryption

    def name_of(self, key: str) -> str:
        """What stands in the tree for `key`."""
        return key if self._encryption is None else self._encryption.name(key)

    def key_of(self, name: str) -> str:
        """What `name` in the tree stands for. Raises `WrongKey` or `NotAuthentic` for a name that stands for nothing."""
        return name if self._encryption is None else self._encryption.key_of(name)

    async def _fetch_key(self) -> None:
        """Has the key of the encryption here: what fetches it may take its time."""
        if self._encryption is not None and not self._encryption.is_ready:
            await asyncio.to_thread(self._encryption.fetch)

    async def _pointer(self, key: str) -> bytes | None:
        await self._fetch_key()
        pointer = await self._draft.pointer(self.name_of(key))
        if pointer is None and not self._knows_names:
            # With another key no name would be found, and the tree seem empty.
            async with aclosing(self._entries()) as entries:
                async for _ in entries:
                    self._knows_names = True
                    break
        return pointer

    async def _entries(self) -> AsyncGenerator[tuple[str, bytes]]:
        """The keys, and what the tree holds for each."""
        await self._fetch_key()
        async for name, pointer in self._draft.entries():
            yield self.key_of(name), pointer

    async def _size_of(self, entries: Sequence[tuple[str, bytes]]) -> int:
        return await size_of(self._draft.tree, self._encryption, self._ranges, entries)

    def _identity(self) -> tuple[object, ...]:
        if self._is_edited:
            return type(self), id(self.hamt), self._read_only, self._encryption
        tree = self._draft.tree
        place = tree.root, configuration(tree.cas), tree.layout, tree.hash_fn
        return type(self), *place, self._read_only, self._encryption

    def __eq__(self, value: object) -> bool:
        """
        Whether both read the same root from the same place; where the tree is edited, through the same HAMT.

        Sizes of caches make no difference.
        """
        return isinstance(value, ZarrHAMTStore) and self._identity() == value._identity()

    def __hash__(self) -> int:
        return id(self.hamt) if self._is_edited else hash(self._draft.tree.root)

    def __str__(self) -> str:
        return f"ipfs://{text(self._draft.tree.root)}"

    def __repr__(self) -> str:
        encrypted = "" if self._encryption is None else f", encryption={self._encryption!r}"
        if self._is_edited:
            return f"ZarrHAMTStore({self.hamt!r}{encrypted})"
        return f"ZarrHAMTStore({text(self._draft.tree.root)!r}, {self._draft.tree.cas!r}{encrypted})"

    def __dask_tokenize__(self) -> tuple[object, ...]:
        key = () if self._encryption is None else (self._encryption.fingerprint,)
        if self._is_edited:
            return type(self).__qualname__, self._draft.token, self._draft.version, *key
        return type(self).__qualname__, text(self._draft.tree.root), configuration(self._draft.tree.cas), *key

    def __reduce__(self) -> tuple[Any, ...]:
        if self._is_edited:
            raise NotPortable(
                "a ZarrHAMTStore that is written to cannot go to another process, where what is written would be "
                "lost: use hamt_bulk.xarray.to_hamt(ds, cas, base=root), which writes from workers, or a Dask "
                "scheduler of threads"
            )
        tree = self._draft.tree
        hamt = self.hamt
        shape = hamt.hash_fn, hamt.max_bucket_size, hamt.layout
        parts = carried(hamt.cas, self._encryption)
        return _reopen, (type(self), tree.root, parts, shape, tree.cache.max_bytes, self._is_open)


_INSTEAD = (
    "A root never changes: hamt_bulk.xarray.to_hamt makes a new one with this one as its base, or open a HAMT "
    "with read_only=False for small edits"
)


def _reopen(
    cls: type[ZarrHAMTStore],
    root: bytes,
    parts: Parts,
    shape: tuple[HashFn, int, LayoutOption],
    max_cache_bytes: int,
    is_open: bool,
) -> ZarrHAMTStore:
    """A store that came from a pickle."""
    cas, encryption = parts
    hash_fn, max_bucket_size, layout = shape
    hamt = HAMT(
        cas,
        hash_fn,
        root,
        True,
        max_bucket_size,
        values_are_bytes=True,
        layout=layout,
        cache=_shared_cache(configuration(cas), max_cache_bytes),
    )
    return cls._opened(hamt, encryption, is_open)


@lru_cache(SHARED_CACHES)
def _shared_cache(cas: tuple[str, str], max_bytes: int) -> NodeCache:
    """
    The cache of this process for the stores that it unpickles.

    Each task of a job unpickles its own, one after the other, so a weak registry would be empty between two.
    One for all roots of a CAS: nodes are named by their content, and successive roots share most of them.
    """
    return NodeCache(max_bytes)
