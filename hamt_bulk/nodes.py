"""The reading side of a tree: keys looked up in a store, with decoded nodes kept."""

from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import cast

from hamt_bulk.block import Data, text
from hamt_bulk.cas.base import ContentAddressedStore
from hamt_bulk.cas.wrap import Reader
from hamt_bulk.errors import BlockNotFound, MalformedNode
from hamt_bulk.keys import any_key
from hamt_bulk.layout import Layout, PyHamt
from hamt_bulk.manifest import HashFn, blake3_hashfn, encode_key
from hamt_bulk.nodecache import EMPTY, Load, Node, NodeCache
from hamt_bulk.pointers import cut, inline_bytes, is_inline
from hamt_bulk.reads import drive, drive_async
from hamt_bulk.tree import Found, Walk, entries, entries_below, lookup, root_slots

PATH_LEVELS = 8
"""Nodes on the way to a key that are asked for together. A tree of 10^12 keys is not that deep."""

SCAN_BYTES = 16 << 20
"""Of the blocks of nodes that are decoded together by a walk."""

_LAYOUT = PyHamt()


class _TooMuch(Exception):
    """Nodes that would take too much memory together; `many` of them would not."""

    def __init__(self, many: int) -> None:
        super().__init__(many)
        self.many = many


class _Lighter:
    """
    Nodes for a walk, so few decoded at a time that their blocks take no more than `SCAN_BYTES`.

    A decoded node takes up to twenty times the memory of its block. Those that a build makes are all light enough.
    """

    def __init__(
        self, decoded: Callable[..., list[Node]], get: Callable[[Sequence[bytes], Load], Sequence[Node]]
    ) -> None:
        self._decoded = decoded
        self._get = get
        self._many: int | None = None

    def __call__(self, cids: Sequence[bytes]) -> Iterable[Node]:
        if self._many is None or len(cids) <= self._many:
            try:
                return self._get(cids, partial(self._decoded, most=SCAN_BYTES))
            except _TooMuch as error:
                self._many = error.many
        return self._in_groups(cids, self._many)

    def _in_groups(self, cids: Sequence[bytes], many: int) -> Iterator[Node]:
        for at in range(0, len(cids), many):
            yield from self._get(cids[at : at + many], self._decoded)


class Tree(Reader):
    """A tree that is read: pointers by key, and values by pointer, the CID that the tree holds for a key."""

    def __init__(
        self,
        root: bytes,
        cas: ContentAddressedStore,
        layout: Layout = _LAYOUT,
        hash_fn: HashFn = blake3_hashfn,
        cache: NodeCache | None = None,
    ) -> None:
        super().__init__(cas)
        self.root = root
        self.layout = layout
        self.hash_fn = hash_fn
        self.cache = NodeCache() if cache is None else cache

    def at(self, root: bytes) -> "Tree":
        """The tree of another root of the same store, with the same cache."""
        return Tree(root, self.cas, self.layout, self.hash_fn, self.cache)

    async def open_async(self) -> None:
        """Loads the root. Raises when it is not there, or is the root of something else."""

        async def load(cids: Sequence[bytes]) -> Sequence[Data]:
            return cast(Sequence[Data], await self._nodes_async(cids))

        await drive_async(root_slots(self.root, self.layout, self.hash_fn), load)

    def nodes(self, cids: Sequence[bytes]) -> Sequence[Data]:
        """The nodes of these names, decoded, which `layout.decode` lets pass."""
        return cast(Sequence[Data], self.cache.get(cids, self._load))

    async def _nodes_async(
        self, cids: Sequence[bytes], scan: bool = False, load: Load | None = None
    ) -> list[Node]:
        # A thread would cost several times what a store in memory takes.
        if self.cas.in_memory:
            return self.cache.get(cids, load or self._load, scan=scan)
        return await self.cache.get_async(cids, load or self._load, scan=scan)

    def pointer(self, key: str) -> bytes | None:
        """What the tree holds under `key`. `None` only when it is sound and has no such key."""
        path: list[Node] = []
        digest = self._way(key)

        def load(cids: Sequence[bytes]) -> Sequence[Data]:
            path.extend(self.cache.get(cids, self._loader(digest, len(path))))
            return cast(Sequence[Data], path[-1:])

        found = drive(lookup(self.root, key, self.layout, self.hash_fn), load)
        if found is None:
            self._doubted(key, path)
        return found

    async def pointer_async(self, key: str) -> bytes | None:
        """As `pointer`."""
        path: list[Node] = []
        digest = self._way(key)

        async def load(cids: Sequence[bytes]) -> Sequence[Data]:
            path.extend(await self._nodes_async(cids, load=self._loader(digest, len(path))))
            return cast(Sequence[Data], path[-1:])

        found = await drive_async(lookup(self.root, key, self.layout, self.hash_fn), load)
        if found is None:
            self._doubted(key, path)
        return found

    def _way(self, key: str) -> bytes:
        return self.hash_fn(any_key(key) if self.layout.any_keys else encode_key(key))

    def root_slots(self) -> Node:
        """The slots of the root. They are shared, so nobody changes them."""
        return self.cache.get([self.root], self._load)[0]

    def entries(self, batch: int = 256) -> Iterator[tuple[str, bytes]]:
        """All keys and pointers, in no promised order. Loads each node once, so many together at most, and no value."""
        load = _Lighter(self._load, lambda cids, load: self.cache.get(cids, load, scan=True))
        return self._walked(entries(self.root, self.layout, batch), load)

    def read(
        self, pointer: bytes, start: int = 0, stop: int | None = None, suffix: int | None = None
    ) -> bytes:
        if self.layout.keeps_values and is_inline(pointer):
            return cut(inline_bytes(pointer), start, stop, suffix)
        return super().read(pointer, start, stop, suffix)

    async def read_async(
        self, pointer: bytes, start: int = 0, stop: int | None = None, suffix: int | None = None
    ) -> bytes:
        if self.layout.keeps_values and is_inline(pointer):
            return cut(inline_bytes(pointer), start, stop, suffix)
        return await super().read_async(pointer, start, stop, suffix)

    def sizes(self, pointers: Sequence[bytes]) -> list[int]:
        if not self.layout.keeps_values:
            return super().sizes(pointers)
        stored = iter(super().sizes([pointer for pointer in pointers if not is_inline(pointer)]))
        return [len(inline_bytes(pointer)) if is_inline(pointer) else next(stored) for pointer in pointers]

    def value(self, key: str) -> bytes | None:
        """The value under `key`; `None` when there is no such key."""
        pointer = self.pointer(key)
        return None if pointer is None else self.opened(key, self.read(pointer))

    def opened(self, key: str, stored: bytes) -> bytes:
        """The value of `key`, of which this is stored: itself, unless a subclass knows better."""
        return stored

    def entries_below(self, nodes: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
        """As `entries`, for those below some nodes that are not the root; nothing is kept of what was loaded."""
        load = _Lighter(self._load, lambda cids, load: load(cids))
        return self._walked(entries_below(nodes, self.layout), load)

    def _walked(self, walk: Walk, load: "_Lighter") -> Iterator[tuple[str, bytes]]:
        sent: Sequence[Data] | None = None
        while (step := _next_step(walk, sent)) is not None:
            sent = None
            if isinstance(step, Found):
                yield from step
            else:
                sent = cast(Sequence[Data], load(step))  # each is taken once

    async def entries_async(self) -> AsyncIterator[tuple[str, bytes]]:
        """As `entries`."""
        walk, sent = entries(self.root, self.layout), None
        while (step := _next_step(walk, sent)) is not None:
            sent = None
            if isinstance(step, Found):
                for entry in step:
                    yield entry
            else:
                sent = cast(Sequence[Data], await self._nodes_async(step, scan=True))

    def _loader(self, digest: bytes, depth: int) -> Load:
        """What loads the node at `depth` on the way to a key; where the store can, with those that follow."""
        if not self.cas.loads_paths:
            return self._load
        below = digest[depth : depth + PATH_LEVELS]
        segments = self.layout.way(below)
        if not segments:
            return self._load

        def load(cids: Sequence[bytes]) -> list[Node]:
            [cid] = cids
            with self._explained(cids):
                way = dict(self.path(cid, segments))
            node = first = self.layout.decode(cid, way[cid], is_root=not depth)
            # The nodes below were not asked for one by one, so what came is followed and not believed.
            for byte in below:
                child = node[byte]
                if not isinstance(child, bytes) or child not in way:
                    break
                node = self.layout.decode(child, way[child])
                self.cache.put(child, [slot or EMPTY for slot in node])
            return [first]

        return load

    def _load(self, cids: Sequence[bytes], most: int | None = None) -> list[Node]:
        with self._explained(cids):
            blocks = self.blocks(cids)
        size = sum(map(len, blocks))
        if most is not None and size > most and len(cids) > 1:
            raise _TooMuch(max(len(cids) * most // size, 1))
        return [
            self.layout.decode(cid, block, is_root=cid == self.root)
            for cid, block in zip(cids, blocks, strict=True)
        ]

    @contextmanager
    def _explained(self, cids: Sequence[bytes]) -> Iterator[None]:
        try:
            yield
        except BlockNotFound as error:
            if self.root not in cids:
                raise
            raise BlockNotFound(
                f"the root {text(self.root)} is not in this store, {self.cas!r}: {error}"
            ) from error

    def _doubted(self, key: str, path: list[Node]) -> None:
        """Raises `MalformedNode` when the node that lacks `key` has another key that should not be there."""
        above = self._way(key)[: (len(path) - 1) * self.layout.step]
        buckets = ((number, slot) for number, slot in enumerate(path[-1]) if isinstance(slot, dict) and slot)
        for number, bucket in islice(buckets, 1):
            other, place = next(iter(bucket)), above + self.layout.path(number)
            expected = self._way(other)[: len(place)]
            if place != expected:
                raise MalformedNode(
                    f"no telling whether {text(self.root)} has {key!r}: {other!r} lies at {place.hex()}, "
                    f"expected {expected.hex()}: it was built with another hash_fn, or damaged by its writer"
                )


def _next_step(walk: Walk, sent: Sequence[Data] | None) -> "list[bytes] | Found | None":
    """What `entries` asks for or has found, or `None` at its end."""
    try:
        return walk.send(sent)
    except StopIteration:
        return None
