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
from hamt_bulk.bulk import Key, pairs_of
from hamt_bulk.cas import ContentAddressedStore, open_cas
from hamt_bulk.cas.base import range_of
from hamt_bulk.draft import MAX_WAITING_EDITS, Draft
from hamt_bulk.errors import InvalidInput, KeyNotFound, NotPortable, ReadOnly
from hamt_bulk.keys import key_text, plain_key
from hamt_bulk.layout import BUCKET_SIZE, HashMap, LayoutOption, OtherLayout, chosen
from hamt_bulk.manifest import TOMBSTONE, HashFn, blake3_hashfn
from hamt_bulk.nodecache import CACHE_BYTES, NodeCache
from hamt_bulk.pointers import Inline, cut, inline_pointer, inline_value, is_inline, is_value, link_pointer
from hamt_bulk.shapes import shape_of

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
    layout            `"pyhamt"`, or a `HashMap`: then keys may be any bytes, CIDs are links, bytes are stored and linked,
                      and other IPLD values, or what is `Inline`, are held by the tree itself. `build` finds out that of an
                      old tree
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
        layout: LayoutOption = None,
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
        self.layout = layout
        self.draft = Draft(
            None if root_node_id is None else to_bytes(root_node_id),
            self.cas,
            *chosen(layout, max_bucket_size, hash_fn, self.cas.hasher),
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
        try:
            await hamt.draft.open()
        except OtherLayout:
            if hamt.layout is not None:
                raise
            shape = await asyncio.to_thread(hamt._shape)
            hamt = cls(*arguments, **options, layout=shape)
            await hamt.draft.open()
        return hamt

    def _shape(self) -> HashMap:
        tree = self.draft.tree
        [data] = tree.blocks([tree.root])
        return shape_of(tree.root, data, tree)

    @property
    def root_node_id(self) -> CID:
        """The root that was flushed last. It is valid at any time, and knows nothing of the waiting edits."""
        return to_cid(self.draft.tree.root)

    @property
    def read_only(self) -> bool:
        """Whether edits are refused."""
        return self.draft.read_only

    async def set(self, key: Key, val: IPLDKind | Inline) -> None:
        """Gives `key` a value. It is stored when this returns, and durable with the next flush."""
        self._refuse_read_only("set", key)
        key, held = self._key(key), self._held(key, val)
        pointer = await self.draft.save(self._encoded(key, val)) if held is None else held
        await self.draft.record({key: pointer})

    async def set_pointer(self, key: Key, pointer: AnyCID) -> None:
        """Gives `key` the value of this CID, which the store has or will have; it is not looked for."""
        self._refuse_read_only("set_pointer", key)
        await self.draft.record({self._key(key): link_pointer(to_bytes(pointer))})

    async def update(self, items: Mapping[str, IPLDKind] | Iterable[tuple[Key, IPLDKind]]) -> None:
        """
        `set` for many keys, of which the last counts when one comes twice. All of them are set, or none.

        The items are taken in a thread, and their values stored in one go.
        """
        self._refuse_read_only("update")

        def save() -> dict[str, bytes]:
            pairs: Iterable[tuple[Any, Any]] = pairs_of(items)
            saved: dict[str, bytes] = {}
            with self.cas.writer() as writer:
                for given, value in pairs:
                    key, held = self._key(given), self._held(given, value)
                    saved[key] = writer.save(self._encoded(key, value)) if held is None else held
                writer.flush()
            return saved

        saved = await asyncio.to_thread(save)
        await self.draft.record(saved)

    async def get(
        self, key: Key, offset: int | None = None, length: int | None = None, suffix: int | None = None
    ) -> IPLDKind:
        """
        The value under `key`. Raises `KeyNotFound`.

        offset  first byte of a range, for values that are bytes
        length  how many bytes from `offset`, or fewer at the end
        suffix  the last bytes instead, as many
        """
        start, stop = range_of(offset, length, suffix)
        is_range = (start, stop, suffix) != (0, None, None)
        if is_range and not self.values_are_bytes and not self._keeps_values:
            raise InvalidInput(f"{key!r}: a range is of bytes, and this HAMT has values_are_bytes=False")
        pointer = await self._pointer(key)
        if self._keeps_values and (is_inline(pointer) or not is_value(pointer)):
            return _cut(key, self._here(key, pointer), start, stop, suffix)
        return self._decoded(key, await self.draft.tree.read_async(pointer, start, stop, suffix))

    async def get_pointer(self, key: Key) -> CID:
        """The CID of the value under `key`. Raises `KeyNotFound`, `InvalidInput` for a value that the tree itself holds."""
        pointer = await self._pointer(key)
        if self._keeps_values and is_inline(pointer):
            raise InvalidInput(f"{key!r} has no CID: its value is held by the tree itself")
        return to_cid(pointer)

    async def contains(self, key: Key) -> bool:
        """Whether there is such a key. Loads no value."""
        return await self.draft.pointer(self._key(key)) is not None

    async def delete(self, key: Key) -> None:
        """Deletes a key. Raises `KeyNotFound` when it is not there."""
        self._refuse_read_only("delete", key)
        if not await self.draft.record_if(self._key(key), TOMBSTONE, present=True):
            raise self._not_found(key)

    async def keys(self, prefix: str = "") -> AsyncIterator[Any]:
        """
        The keys, in no promised order, of which those that start with `prefix`: text, or bytes where a key is no UTF-8.

        Places in the tree come from hashes, so a prefix spares no reads.
        """
        async for key, _ in self.draft.entries():
            if key.startswith(prefix):
                yield self._given(key)

    async def items(self, prefix: str = "") -> AsyncIterator[tuple[Any, IPLDKind]]:
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
        return _reopened, (type(self), arguments, tree.cache.max_bytes, self.layout)

    def __repr__(self) -> str:
        mode = "read-only" if self.read_only else f"{self.draft.waiting} edits waiting"
        return f"HAMT({text(self.draft.tree.root)!r}, {self.cas!r}, {mode})"

    async def _pointer(self, key: Key) -> bytes:
        pointer = await self.draft.pointer(self._key(key))
        if pointer is None:
            raise self._not_found(key)
        return pointer

    async def _values(self, entries: list[tuple[str, bytes]]) -> list[tuple[Any, IPLDKind]]:
        tree = self.draft.tree

        async def value(key: str, pointer: bytes) -> IPLDKind:
            if self._keeps_values and (is_inline(pointer) or not is_value(pointer)):
                return self._here(key, pointer)
            return self._decoded(key, await tree.read_async(pointer))

        values = await asyncio.gather(*(value(key, pointer) for key, pointer in entries))
        return [(self._given(key), value) for (key, _), value in zip(entries, values, strict=True)]

    @property
    def _keeps_values(self) -> bool:
        return self.draft.tree.layout.keeps_values

    def _key(self, key: Key) -> str:
        """A key as the tree has it. Raises `InvalidInput` for what is none."""
        if self.draft.tree.layout.any_keys:
            return key_text(key)
        self.draft.refuse_key(key)  # type: ignore[arg-type]  # refuses bytes
        return key  # type: ignore[return-value]

    def _given(self, key: str) -> Key:
        return plain_key(key) if self.draft.tree.layout.any_keys else key

    def _held(self, key: Key, value: Any) -> bytes | None:
        """The pointer of a value that the tree itself holds, or that is a link; `None` for one that is stored."""
        if not self._keeps_values:
            return None
        if isinstance(value, CID):
            return link_pointer(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return None
        if self.values_are_bytes:
            raise InvalidInput(f"the value of {key!r} is a {type(value).__name__}, expected bytes")
        return inline_pointer(value.value if isinstance(value, Inline) else value)

    def _here(self, key: Key, pointer: bytes) -> IPLDKind:
        """What a pointer says without a load: a value, or a link."""
        value = inline_value(pointer) if is_inline(pointer) else to_cid(pointer)
        if self.values_are_bytes and not isinstance(value, bytes):
            raise InvalidInput(
                f"the value of {key!r} is a {type(value).__name__}, no bytes: open the HAMT with values_are_bytes=False"
            )
        return value

    def _encoded(self, key: Key, value: Any) -> bytes:
        if self.values_are_bytes or self._keeps_values:
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

    def _decoded(self, key: Key, data: bytes) -> IPLDKind:
        if self.values_are_bytes or self._keeps_values:
            return data
        try:
            return dag_cbor.decode(data)
        except Exception as error:  # its errors share no base with ours, and a bad value may raise any
            raise InvalidInput(
                f"the value of {key!r} is not dag-cbor, so it was stored as bytes: open the HAMT with "
                f"values_are_bytes=True ({error})"
            ) from error

    def _not_found(self, key: Key) -> KeyNotFound:
        return KeyNotFound(f"{key!r} is not in the tree {text(self.draft.tree.root)}")

    def _refuse_read_only(self, what: str, key: Key | None = None) -> None:
        if self.read_only:
            call = what if key is None else f"{what}({key!r})"
            raise ReadOnly(
                f"{call}: this HAMT is read-only; call `await hamt.enable_write()` or open it with read_only=False"
            )


def _cut(key: Key, value: IPLDKind, start: int, stop: int | None, suffix: int | None) -> IPLDKind:
    """A range of a value that is here. Raises `InvalidInput` for one of what is no bytes."""
    if (start, stop, suffix) == (0, None, None):
        return value
    if not isinstance(value, bytes):
        raise InvalidInput(f"{key!r}: a range is of bytes, and its value is a {type(value).__name__}")
    return cut(value, start, stop, suffix)


def _reopened(
    kind: type[HAMT], arguments: tuple[Any, ...], max_cache_bytes: int, layout: LayoutOption
) -> HAMT:
    return kind(*arguments, max_cache_bytes=max_cache_bytes, layout=layout)
