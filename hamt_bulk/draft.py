"""
A tree and the edits that are not yet in it.

Nothing is ever half-written: edits wait in a dict, and a flush puts all of them into a new root at once. Values
are saved before their edits are recorded, nodes before their root. Whatever fails, the old root is still
good and the edits still wait.
"""

import asyncio
import sys
import threading
import uuid
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from threading import Thread
from typing import TypeAlias

from hamt_bulk.bulk import tidy
from hamt_bulk.cas.base import ContentAddressedStore
from hamt_bulk.cas.wrap import save_value
from hamt_bulk.errors import InvalidInput, ReadOnly
from hamt_bulk.layout import PyHamt
from hamt_bulk.manifest import TOMBSTONE, HashFn, Manifest
from hamt_bulk.nodes import NodeCache, Tree, running
from hamt_bulk.reads import drive
from hamt_bulk.tree import EMPTY_ROOT, update

MAX_WAITING_EDITS = 200_000
"""Edits that wait at a time, unless the caller says otherwise: some 60 MB. One more flushes the others first."""

DELETED_AT_ONCE = 10_000
"""How many keys of a folder are noted before they are deleted."""

Edits: TypeAlias = dict[str, bytes]
"""The CID of each key's new value, or `TOMBSTONE`."""

Listener: TypeAlias = Callable[[Mapping[str, bytes]], None]
"""Called with edits as they are recorded, with the draft locked: it may not call the draft."""


class Draft:
    """
    A root and the edits to it that wait for the next flush. Reads see them at once.

    Serves any number of tasks, event loops and threads.

    root  `None`: a new tree, whose empty root is stored by the first flush
    """

    def __init__(
        self,
        root: bytes | None,
        cas: ContentAddressedStore,
        layout: PyHamt,
        hash_fn: HashFn,
        cache: NodeCache,
        *,
        read_only: bool,
        max_waiting_edits: int,
    ) -> None:
        self.cas = cas
        self.read_only = read_only
        self.token = uuid.uuid4().hex
        """Tells this draft from all others."""
        self.version = 0
        """How many times edits were recorded."""
        self._max_waiting = max_waiting_edits
        self._lock = threading.Lock()
        self._listeners: list[Listener] = []
        self._edits: Edits = {}
        self._applying: Edits = {}
        self._flush: Future[None] | None = None
        self._is_stored = root is not None
        self._empty = layout.encode_slots(EMPTY_ROOT).cid
        if root is None:
            root = self._empty
            cache.put(root, list(EMPTY_ROOT))
        self._tree = Tree(root, cas, layout, hash_fn, cache)

    @property
    def tree(self) -> Tree:
        """The tree of the last root that was flushed."""
        return self._tree

    @property
    def waiting_bytes(self) -> int:
        """An estimate of the memory that the waiting edits take."""
        with self._lock:
            edits = [*self._edits.items(), *self._applying.items()]
        return sum(sys.getsizeof(key) + sys.getsizeof(pointer) + 100 for key, pointer in edits)

    @property
    def waiting(self) -> int:
        """How many edits wait."""
        with self._lock:
            return len(self._edits.keys() | self._applying.keys())

    def listen(self, listener: Listener) -> bool:
        """Tells `listener` of every edit from now on. Whether the tree is known to be empty until now."""
        with self._lock:
            self._listeners.append(listener)
            return self._tree.root == self._empty and not self._edits and not self._applying

    async def open(self) -> None:
        """Stores the root of a new tree; loads that of an old one. Raises when it is not the root of a tree."""
        if self._is_stored:
            await self._tree.open_async()
        elif self.read_only:
            raise InvalidInput("read_only=True without a root: there is nothing to read")
        else:
            block = self._tree.layout.encode_slots(EMPTY_ROOT)
            await save_value(self.cas, block.data, "dag-cbor")
            self._is_stored = True

    async def pointer(self, key: str) -> bytes | None:
        """The CID of the value under `key`, or `None`."""
        edit, tree = self._edit_of(key)
        if edit is not None:
            return edit or None
        return await tree.pointer_async(key)

    async def record(self, edits: Mapping[str, bytes]) -> None:
        """Adds edits, whose values are stored. When too many wait, those are flushed first."""
        while not self._recorded(edits):
            await self.flush()

    async def record_if(self, key: str, pointer: bytes, *, present: bool) -> bool:
        """Records one edit if `key` is there, or if it is not. Whether it was recorded."""
        while True:
            edit, tree = self._edit_of(key)
            found = edit or None if edit is not None else await tree.pointer_async(key)
            if (found is not None) != present:
                return False
            with self._lock:
                self._refuse_read_only()
                has_room = len(self._edits) < self._max_waiting
                # Another task may have edited the key, or flushed, while this one read the tree.
                if has_room and self._tree is tree and self._waiting(key) == edit:
                    self._add({key: pointer})
                    return True
            if not has_room:
                await self.flush()

    async def delete_many(self, wanted: Callable[[str], bool]) -> None:
        """Deletes all keys that are `wanted`."""
        found: Edits = {}
        async for key, _ in self.entries():
            if wanted(key):
                found[key] = TOMBSTONE
            if len(found) == DELETED_AT_ONCE:
                await self.record(found)
                found.clear()
        await self.record(found)

    async def entries(self) -> AsyncIterator[tuple[str, bytes]]:
        """
        Keys and pointers in no promised order, as they are when the first one is asked for.

        Whatever is edited later makes no difference: trees do not change, and the waiting edits are copied.
        """
        with self._lock:
            tree, waiting = self._tree, self._applying | self._edits
        async for entry in tree.entries_async():
            if entry[0] not in waiting:
                yield entry
        for entry in waiting.items():
            if entry[1] != TOMBSTONE:
                yield entry

    async def flush(self) -> bytes:
        """The root that has all edits recorded until now, durably stored."""
        future, is_own = self._begin()
        if future is not None and not is_own:
            # It began before some of the edits; whatever comes of it, the next one has them all.
            await asyncio.gather(asyncio.wrap_future(future), return_exceptions=True)
            future, _ = self._begin()
        if future is not None:
            await asyncio.wrap_future(future)
        return self._tree.root

    async def make_read_only(self) -> None:
        """Flushes, and refuses edits from now on. When the flush fails, edits are still taken."""
        was, self.read_only = self.read_only, True
        try:
            await self.flush()
        except BaseException:
            self.read_only = was
            raise

    def flush_here(self) -> bytes:
        """As `flush`, for callers that are not on an event loop."""
        future, is_own = self._begin()
        if future is not None and not is_own:
            future.exception()
            future, _ = self._begin()
        if future is not None:
            future.result()
        return self._tree.root

    def _edit_of(self, key: str) -> tuple[bytes | None, Tree]:
        """The waiting edit of `key`, if there is one, and the tree to look into else."""
        with self._lock:
            return self._waiting(key), self._tree

    def _waiting(self, key: str) -> bytes | None:
        edit = self._edits.get(key)
        return self._applying.get(key) if edit is None else edit

    def _recorded(self, edits: Mapping[str, bytes]) -> bool:
        """Adds edits, unless too many wait already."""
        with self._lock:
            self._refuse_read_only()
            if self._edits and len(self._edits) + len(edits) > self._max_waiting:
                return False
            self._add(edits)
            return True

    def _add(self, edits: Mapping[str, bytes]) -> None:
        self._edits.update(edits)
        self.version += 1
        for listener in self._listeners:
            listener(edits)

    def _refuse_read_only(self) -> None:
        if self.read_only:
            raise ReadOnly("this tree was opened for reading: open it with read_only=False to edit it")

    def _begin(self) -> tuple[Future[None] | None, bool]:
        """The flush that is under way, or a new one, and whether it is new; `None` when there is nothing to do."""
        with self._lock:
            if self._flush is not None:
                return self._flush, False
            if not self._edits and self._is_stored:
                return None, False
            self._applying, self._edits = self._edits, {}
            self._flush = future = running()
            # A thread of its own: it waits for loads, which have the threads of the pool.
            thread = Thread(
                target=self._run, args=(future, self._tree, self._applying), name="hamt-bulk-flush"
            )
        try:
            thread.start()
        except BaseException as error:  # no more threads, or the interpreter is shutting down
            self._finish(future, error)
            raise
        return future, True

    def _run(self, future: Future[None], tree: Tree, edits: Edits) -> None:
        try:
            root = self._applied(tree, edits)
        except BaseException as error:
            self._finish(future, error)
        else:
            self._finish(future, None, root)

    def _finish(self, future: Future[None], error: BaseException | None, root: bytes | None = None) -> None:
        with self._lock:
            if root is None:
                self._edits = self._applying | self._edits
            else:
                self._tree = self._tree.at(root)
                self._is_stored = True
            self._applying = {}
            self._flush = None
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    def _applied(self, tree: Tree, edits: Edits) -> bytes:
        """The root of `tree` after `edits`, durably stored."""
        manifest = Manifest.of(edits.items(), tree.hash_fn)
        base = tree.root if self._is_stored else None
        self.cas.flush()
        with self.cas.writer() as writer:
            root = drive(update(base, manifest, tree.layout, writer.save_many, tree.hash_fn), tree.nodes)
            writer.flush()
        tidy(self.cas)
        return root
