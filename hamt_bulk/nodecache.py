"""
Decoded nodes, kept in memory.

They are loaded in threads, never on a caller's event loop, which may be blocked or gone while others wait.
"""

import asyncio
import os
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, TypeAlias

from hamt_bulk.layout import Bucket, Slot

CACHE_BYTES = 64 << 20
"""Memory for decoded nodes, unless the caller says otherwise: that of some thousand."""

LOADERS = 32
"""How many loads, each of a node or of a listing's batch, are under way at once for all event loops."""

Node: TypeAlias = list[Slot]
"""A decoded node. It is shared, so nobody changes it."""

Load: TypeAlias = Callable[[Sequence[bytes]], list[Node]]
"""Loads and decodes nodes, in the thread that calls it."""

_Claims: TypeAlias = "dict[bytes, Future[Node | None]]"
"""Nodes under way. `None`: the load failed for a reason that need not be this node's."""

_Nodes: TypeAlias = dict[bytes, Node]

EMPTY: Bucket = {}
"""Every bucket without entries that is kept: one object for all."""


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
            nodes = {cid: [slot or EMPTY for slot in node] for cid, node in zip(mine, loaded, strict=True)}
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
        if scan and self.nbytes >= self.max_bytes:
            return
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
