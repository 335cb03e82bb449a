"""
The tree as a handle that is edited key by key, with py-hamt's names.

    hamt = await HAMT.build(cas=cas, values_are_bytes=True)
    await hamt.set("key", b"value")
    root = await hamt.flush()
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from types import TracebackType
from typing import Any, Self

import dag_cbor
from dag_cbor.encoding import CBOREncodingError
from dag_cbor.ipld import IPLDKind
from multiformats import CID

from hamt_bulk.block import AnyCID, text, to_bytes, to_cid
from hamt_bulk.bulk import pairs_of
from hamt_bulk.cas import ContentAddressedStore, open_cas
from hamt_bulk.cas.base import range_of
from hamt_bulk.draft import MAX_WAITING_EDITS, Draft
from hamt_bulk.errors import InvalidInput, KeyNotFound, NotPortable, ReadOnly
from hamt_bulk.layout import BUCKET_SIZE, PyHamt
from hamt_bulk.manifest import TOMBSTONE, HashFn, blake3_hashfn, encode_key
from hamt_bulk.nodes import CACHE_BYTES, NodeCache

VALUES_AT_ONCE = 32
"""How many values `items` loads at a time."""


class HAMT:
    """
    A mapping from text to values, in a content-addressed store.

    Edits wait in memory and are seen by every read of this object; `flush` puts them into the tree, all at
    once, and returns its new root. Until then, and when a flush fails, `root_node_id` is the old root, which is
    still good, and the edits still wait. Past `max_waiting_edits` an edit flushes the others first.

    Any number of `set`, `get`, `delete` and iterations may run at once, in one event loop or several, and in
    several threads. An iteration gives the entries as they are when its first one is asked for; what is
    edited meanwhile makes no difference to it.

    cas               a store or its URL
    hash_fn           places the keys: a digest of always the same length. It is not recorded in the tree
    root_node_id      the tree to open; `None`: a new one, which `build` stores and the constructor does not
    read_only         whether edits are refused
    max_bucket_size   that of the tree. A larger one than it was built with gives another root than a rebuild
    values_are_bytes  values are bytes, stored as they are; else they are any IPLD value, stored as dag-cbor
    max_cache_bytes   memory for decoded nodes
    """

    def __init__(
        self,
        cas: ContentAddressedStore | str,
        hash_fn: HashFn = blake3_hashfn,
        root_node_id: AnyCID | None = None,
        read_only: bool = False,
        max_bucket_size: int = BUCKET_SIZE,
        values_are_bytes: bool = False,
        *,
        max_cache_bytes: int = CACHE_BYTES,
        max_waiting_edits: int = MAX_WAITING_EDITS,
        cache: NodeCache | None = None,
    ) -> None:
        if max_waiting_edits < 1:
            raise InvalidInput(f"max_waiting_edits={max_waiting_edits}: expected 1 or more")
        self.cas = open_cas(cas)
        self.hash_fn = hash_fn
        self.max_bucket_size = max_bucket_size
        self.values_are_bytes = values_are_bytes
        self.draft = Draft(
            None if root_node_id is None else to_bytes(root_node_id),
            self.cas,
            PyHamt(max_bucket_size, self.cas.hasher),
            hash_fn,
            NodeCache(max_cache_bytes) if cache is None else cache,
            read_only=read_only,
            max_waiting_edits=max_waiting_edits,
        )

    @classmethod
    async def build(cls, *arguments: Any, **options: Any) -> Self:
        """
        A tree, opened or new; the arguments are those of the class.

        The root of a new one is stored. That of an old one is loaded, so what is no root is refused here.
        """
        hamt = cls(*arguments, **options)
        await hamt.draft.open()
        return hamt

    @property
    def root_node_id(self) -> CID:
        """The root that was flushed last. It is valid at any time, and knows nothing of the waiting edits."""
        return to_cid(self.draft.tree.root)

    @property
    def read_only(self) -> bool:
        """Whether edits are refused."""
        return self.draft.read_only

    async def set(self, key: str, val: IPLDKind) -> None:
        """Gives `key` a value. It is stored when this returns, and durable with the next flush."""
        self._refuse_read_only("set", key)
        data = self._encoded(key, val)
        await self.draft.record({key: await self.draft.save(data)})

    async def set_pointer(self, key: str, pointer: AnyCID) -> None:
        """Gives `key` the value of this CID, which the store has or will have; it is not looked for."""
        self._refuse_read_only("set_pointer", key)
        encode_key(key)
        await self.draft.record({key: to_bytes(pointer)})

    async def update(self, items: Mapping[str, IPLDKind] | Iterable[tuple[str, IPLDKind]]) -> None:
        """
        `set` for many keys, of which the last counts when one comes twice. All of them are set, or none.

        The items are taken in a thread, and their values stored in one go.
        """
        self._refuse_read_only("update")

        def save() -> dict[str, bytes]:
            with self.cas.writer() as writer:
                saved = {key: writer.save(self._encoded(key, value)) for key, value in pairs_of(items)}
                writer.flush()
            return saved

        saved = await asyncio.to_thread(save)
        await self.draft.record(saved)

    async def get(
        self, key: str, offset: int | None = None, length: int | None = None, suffix: int | None = None
    ) -> IPLDKind:
        """
        The value under `key`. Raises `KeyNotFound`.

        offset  first byte of a range, for values that are bytes
        length  how many bytes from `offset`, or fewer at the end
        suffix  the last bytes instead, as many
        """
        start, stop = range_of(offset, length, suffix)
        if not self.values_are_bytes and (start, stop, suffix) != (0, None, None):
            raise InvalidInput(f"{key!r}: a range is of bytes, and this HAMT has values_are_bytes=False")
        pointer = await self._pointer(key)
        return self._decoded(key, await self.draft.tree.read_async(pointer, start, stop, suffix))

    async def get_pointer(self, key: str) -> CID:
        """The CID of the value under `key`. Raises `KeyNotFound`."""
        return to_cid(await self._pointer(key))

    async def contains(self, key: str) -> bool:
        """Whether there is such a key. Loads no value."""
        return await self.draft.pointer(key) is not None

    async def delete(self, key: str) -> None:
        """Deletes a key. Raises `KeyNotFound` when it is not there."""
        self._refuse_read_only("delete", key)
        if not await self.draft.record_if(key, TOMBSTONE, present=True):
            raise self._not_found(key)

    async def keys(self, prefix: str = "") -> AsyncIterator[str]:
        """
        The keys, in no promised order, of which those that start with `prefix`.

        Places in the tree come from hashes, so a prefix spares no reads.
        """
        async for key, _ in self.draft.entries():
            if key.startswith(prefix):
                yield key

    async def items(self, prefix: str = "") -> AsyncIterator[tuple[str, IPLDKind]]:
        """The keys that start with `prefix` and their values, a few of which are loaded at a time."""
        waiting: list[tuple[str, bytes]] = []
        async for entry in self.draft.entries():
            if entry[0].startswith(prefix):
                waiting.append(entry)
            if len(waiting) == VALUES_AT_ONCE:
                for item in await self._values(waiting):
                    yield item
                waiting.clear()
        for item in await self._values(waiting):
            yield item

    async def len(self) -> int:
        """How many keys there are. Reads the whole tree."""
        count = 0
        async for _ in self.draft.entries():
            count += 1
        return count

    async def flush(self) -> CID:
        """
        The root that has all edits made until now, durably stored. Without any it is the last one.

        Raises `BlockNotFound` when the store failed before and has lost values that were set: set them again.
        """
        return to_cid(await self.draft.flush())

    async def make_read_only(self) -> None:
        """Flushes, and refuses edits from now on."""
        await self.draft.make_read_only()

    async def enable_write(self) -> None:
        """Takes edits from now on."""
        self.draft.read_only = False

    async def cache_size(self) -> int:
        """Memory in bytes, estimated, of the nodes that are kept and the edits that wait."""
        return self.draft.tree.cache.nbytes + self.draft.waiting_bytes

    async def cache_vacate(self) -> None:
        """Flushes, and lets go of all nodes."""
        if not self.read_only:
            await self.draft.flush()
        self.draft.tree.cache.clear()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Flushes, unless an error ended the block."""
        if kind is None and not self.read_only:
            await self.draft.flush()

    def __reduce__(self) -> tuple[Any, ...]:
        if not self.read_only or self.draft.waiting:
            raise NotPortable(
                "a HAMT that takes edits cannot go to another process, where they would be lost: pass its "
                "root, or build with hamt_bulk.dask.build or hamt_bulk.xarray.to_hamt, which write from workers"
            )
        tree = self.draft.tree
        arguments = self.cas, self.hash_fn, tree.root, True, self.max_bucket_size, self.values_are_bytes
        return _reopened, (type(self), arguments, tree.cache.max_bytes)

    def __repr__(self) -> str:
        mode = "read-only" if self.read_only else f"{self.draft.waiting} edits waiting"
        return f"HAMT({text(self.draft.tree.root)!r}, {self.cas!r}, {mode})"

    async def _pointer(self, key: str) -> bytes:
        pointer = await self.draft.pointer(key)
        if pointer is None:
            raise self._not_found(key)
        return pointer

    async def _values(self, entries: list[tuple[str, bytes]]) -> list[tuple[str, IPLDKind]]:
        tree = self.draft.tree
        values = await asyncio.gather(*(tree.read_async(pointer) for _, pointer in entries))
        return [(key, self._decoded(key, value)) for (key, _), value in zip(entries, values, strict=True)]

    def _encoded(self, key: str, value: IPLDKind) -> bytes:
        encode_key(key)
        if self.values_are_bytes:
            if not isinstance(value, (bytes, bytearray, memoryview)):
                raise InvalidInput(
                    f"the value of {key!r} is a {type(value).__name__}, expected bytes: open the HAMT with "
                    "values_are_bytes=False for any IPLD value"
                )
            return bytes(value)
        try:
            return dag_cbor.encode(value)
        except (CBOREncodingError, RecursionError, UnicodeError) as error:
            raise InvalidInput(f"the value of {key!r} is no IPLD value: {error}") from None

    def _decoded(self, key: str, data: bytes) -> IPLDKind:
        if self.values_are_bytes:
            return data
        try:
            return dag_cbor.decode(data)
        except Exception as error:  # its errors share no base with ours, and a bad value may raise any
            raise InvalidInput(
                f"the value of {key!r} is not dag-cbor, so it was stored as bytes: open the HAMT with "
                f"values_are_bytes=True ({error})"
            ) from error

    def _not_found(self, key: str) -> KeyNotFound:
        return KeyNotFound(f"{key!r} is not in the tree {text(self.draft.tree.root)}")

    def _refuse_read_only(self, what: str, key: str | None = None) -> None:
        if self.read_only:
            call = what if key is None else f"{what}({key!r})"
            raise ReadOnly(
                f"{call}: this HAMT is read-only; call `await hamt.enable_write()` or open it with read_only=False"
            )


def _reopened(kind: type[HAMT], arguments: tuple[Any, ...], max_cache_bytes: int) -> HAMT:
    return kind(*arguments, max_cache_bytes=max_cache_bytes)
