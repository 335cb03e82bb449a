"""
The reading side of a tree: keys looked up in a store, with decoded nodes kept.

Nodes are loaded in threads, never on a caller's event loop, which may be blocked or gone while others wait.
"""

import asyncio
import os
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import lru_cache
from itertools import islice
from typing import Any, TypeAlias, cast

from hamt_bulk.block import Data, text
from hamt_bulk.cas.base import ContentAddressedStore
from hamt_bulk.cas.wrap import Reader
from hamt_bulk.errors import BlockNotFound, MalformedNode
from hamt_bulk.keys import any_key
from hamt_bulk.layout import Bucket, Layout, PyHamt, Slot
from hamt_bulk.manifest import HashFn, blake3_hashfn, encode_key
from hamt_bulk.reads import drive, drive_async
from hamt_bulk.tree import Found, Walk, entries, entries_below, lookup, root_slots

CACHE_BYTES = 64 << 20
"""Memory for decoded nodes, unless the caller says otherwise: that of some thousand."""

LOADERS = 32
"""How many loads, each of a node or of a listing's batch, are under way at once for all event loops."""

Node: TypeAlias = list[Slot]
"""A decoded node. It is shared, so nobody changes it."""

Load: TypeAlias = Callable[[Sequence[bytes]], list[Node]]
"""Loads and decodes nodes, in the thread that calls it."""

PATH_LEVELS = 8
"""Nodes on the way to a key that are asked for together. A tree of 10^12 keys is not that deep."""

_Claims: TypeAlias = "dict[bytes, Future[Node | None]]"
"""Nodes under way. `None`: the load failed for a reason that need not be this node's."""

_Nodes: TypeAlias = dict[bytes, Node]

_EMPTY: Bucket = {}
_LAYOUT = PyHamt()


class NodeCache:
    """
    Decoded nodes by CID, of which the least recently used go first.

    Serves any number of threads and event loops at once. A node that several of them want and none has is
    loaded once; when that fails all who waited get the error, and the next one loads again. Whoever is
    cancelled while waiting leaves the others alone.

    max_bytes  an upper bound for `nbytes`, the sum of `node_bytes`; a node larger than it is not kept
    """

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self.max_bytes = max_bytes
        self._reset()
        _caches.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._nodes: OrderedDict[bytes, tuple[Node, int]] = OrderedDict()
        self._loading: _Claims = {}
        self.nbytes = 0

    def get(self, cids: Sequence[bytes], load: Load, *, scan: bool = False) -> list[Node]:
        """
        The nodes `cids`; `load` is asked for those that are neither here nor on their way.

        scan  each is wanted once, so none pushes another out
        """
        nodes: _Nodes = {}
        while wanted := [cid for cid in cids if cid not in nodes]:
            mine, others = self._claim(wanted, nodes)
            if mine:
                nodes.update(self._fill(mine, load, scan))
            for cid, future in others.items():
                if (node := future.result()) is not None:
                    nodes[cid] = node
        return [nodes[cid] for cid in cids]

    async def get_async(self, cids: Sequence[bytes], load: Load, *, scan: bool = False) -> list[Node]:
        """As `get`; `load` is called in a thread."""
        nodes: _Nodes = {}
        while wanted := [cid for cid in cids if cid not in nodes]:
            mine, others = self._claim(wanted, nodes)
            if mine:
                loaded = await asyncio.wrap_future(self._start(mine, load, scan))
                nodes.update(loaded)
            for cid, future in others.items():
                if (node := await asyncio.wrap_future(future)) is not None:
                    nodes[cid] = node
        return [nodes[cid] for cid in cids]

    def put(self, cid: bytes, node: Node) -> None:
        """Keeps a node that need not be loaded."""
        with self._lock:
            if cid not in self._nodes:
                self._keep(cid, node, False)

    def clear(self) -> None:
        """Lets go of all nodes."""
        with self._lock:
            self._nodes.clear()
            self.nbytes = 0

    def _claim(self, cids: Sequence[bytes], nodes: _Nodes) -> tuple[_Claims, _Claims]:
        """What the caller has to load, and what others are loading. What is here goes to `nodes`."""
        mine: _Claims = {}
        others: _Claims = {}
        with self._lock:
            for cid in cids:
                if kept := self._nodes.get(cid):
                    self._nodes.move_to_end(cid)
                    nodes[cid] = kept[0]
                elif future := self._loading.get(cid):
                    others[cid] = future
                else:
                    mine[cid] = self._loading[cid] = running()
        return mine, others

    def _fill(self, mine: _Claims, load: Load, scan: bool) -> _Nodes:
        """The nodes that the caller claimed: loaded, kept, and given to all who wait for them."""
        try:
            loaded = load(list(mine))
            nodes = {cid: [slot or _EMPTY for slot in node] for cid, node in zip(mine, loaded, strict=True)}
        except BaseException as error:
            # The error of a batch may be another node's, so each that waits asks again for its own.
            own = error if len(mine) == 1 and isinstance(error, Exception) else None
            self._settle(mine, {}, scan, own)
            raise
        self._settle(mine, nodes, scan)
        return nodes

    def _start(self, mine: _Claims, load: Load, scan: bool) -> Future[_Nodes]:
        """`_fill` in a thread. Cancelling what this returns does not stop it."""
        outcome: Future[_Nodes] = running()

        def run() -> None:
            try:
                outcome.set_result(self._fill(mine, load, scan))
            except BaseException as error:
                outcome.set_exception(error)

        try:
            _loaders().submit(run)
        except RuntimeError:  # the interpreter is shutting down
            self._settle(mine, {}, scan)
            raise
        return outcome

    def _settle(self, mine: _Claims, nodes: _Nodes, scan: bool, error: Exception | None = None) -> None:
        with self._lock:
            for cid in mine:
                self._loading.pop(cid, None)
                if cid in nodes:
                    self._keep(cid, nodes[cid], scan)
        for cid, future in mine.items():
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(nodes.get(cid))

    def _keep(self, cid: bytes, node: Node, scan: bool) -> None:
        size = node_bytes(node)
        if size > self.max_bytes or (scan and self.nbytes + size > self.max_bytes):
            return
        self._nodes[cid] = node, size
        self.nbytes += size
        while self.nbytes > self.max_bytes:
            _, (_, freed) = self._nodes.popitem(last=False)
            self.nbytes -= freed


def node_bytes(node: Node) -> int:
    """An estimate of the memory that a decoded node takes in a cache, with all its parts and its place."""
    size = sys.getsizeof
    total = size(node) + 400
    for slot in filter(None, node):
        total += size(slot)
        if isinstance(slot, dict):
            total += sum(size(key) + size(pointer) for key, pointer in slot.items())
    return total


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

    def entries(self) -> Iterator[tuple[str, bytes]]:
        """All keys and pointers, in no promised order. Loads each node once and no value."""
        return self._walked(
            entries(self.root, self.layout), lambda cids: self.cache.get(cids, self._load, scan=True)
        )

    def entries_below(self, nodes: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
        """As `entries`, for those below some nodes that are not the root; nothing is kept of what was loaded."""
        return self._walked(entries_below(nodes, self.layout), self._load)

    def _walked(self, walk: Walk, load: Load) -> Iterator[tuple[str, bytes]]:
        sent: Sequence[Data] | None = None
        while (step := _next_step(walk, sent)) is not None:
            sent = None
            if isinstance(step, Found):
                yield from step
            else:
                sent = cast(Sequence[Data], load(step))

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
                self.cache.put(child, [slot or _EMPTY for slot in node])
            return [first]

        return load

    def _load(self, cids: Sequence[bytes]) -> list[Node]:
        with self._explained(cids):
            blocks = self.blocks(cids)
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


def running() -> Future[Any]:
    """A future that whoever waits for it cannot cancel."""
    future: Future[Any] = Future()
    future.set_running_or_notify_cancel()
    return future


_caches: "weakref.WeakSet[NodeCache]" = weakref.WeakSet()


@lru_cache(1)
def _loaders() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(LOADERS, "hamt-bulk-load")


def _after_fork() -> None:
    """A forked child has no other threads: locks they held stay locked, and loads they ran never end."""
    _loaders.cache_clear()
    for cache in list(_caches):
        cache._reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
