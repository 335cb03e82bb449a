"""
A tree and the edits that are not yet in it.

Nothing is ever half-written: edits wait in a dict, and a flush puts all of them into a new root at once. Values
are saved before their edits are recorded, nodes before their root. Whatever fails, the old root is still
good and the edits still wait.
"""

import asyncio
import os
import sys
import threading
import uuid
import weakref
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import Future
from threading import Thread
from typing import TypeAlias
from weakref import WeakMethod

from hamt_bulk.block import Data
from hamt_bulk.bulk import tidy
from hamt_bulk.cas.base import ContentAddressedStore
from hamt_bulk.cas.wrap import save_value
from hamt_bulk.errors import BlockNotFound, InvalidInput, ReadOnly
from hamt_bulk.keys import any_key
from hamt_bulk.layout import Layout
from hamt_bulk.manifest import TOMBSTONE, HashFn, Manifest, encode_key
from hamt_bulk.nodecache import NodeCache, running
from hamt_bulk.nodes import Tree
from hamt_bulk.pointers import is_inline
from hamt_bulk.reads import drive
from hamt_bulk.tree import empty_slots, update
from hamt_bulk.tree.guards import refuse_other_root

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
        layout: Layout,
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
        _living.add(self)
        self._listeners: list[WeakMethod[Listener]] = []
        self._edits: Edits = {}
        self._applying: Edits = {}
        self._flush: Future[None] | None = None
        self._is_durable = root is not None
        self._in_doubt = False
        """Whether the store failed, and may have lost values of edits that wait."""
        self._empty = layout.encode_slots(empty_slots(layout), is_root=True).cid
        if root is None:
            root = self._empty
            cache.put(root, empty_slots(layout))
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
        """
        Tells `listener`, a method, of every edit from now on, as long as its object lives.

        Whether the tree is known to be empty until now.
        """
        with self._lock:
            self._listeners = [*(known for known in self._listeners if known()), WeakMethod(listener)]
            return self._tree.root == self._empty and not self._edits and not self._applying

    def unless_edited(self, version: int, call: Callable[[], None]) -> None:
        """Calls `call` if no edit was recorded since `version`, and before the next one is."""
        with self._lock:
            if self.version == version:
                call()

    async def open(self) -> None:
        """Stores the root of a new tree; loads that of an old one. Raises when it is not the root of a tree."""
        tree = self._tree
        if self._is_durable and self.read_only:
            # Buckets of any size can be read, so they are not looked at.
            [root] = await asyncio.to_thread(tree.nodes, [tree.root])
            refuse_other_root(tree.root, tree.layout.decode(tree.root, root), tree.layout, tree.hash_fn)
        elif self._is_durable:
            await tree.open_async()
        elif self.read_only:
            raise InvalidInput("read_only=True without a root: there is nothing to read")
        else:
            block = tree.layout.encode_slots(empty_slots(tree.layout), is_root=True)
            await save_value(self.cas, block.data, "dag-cbor")

    def refuse_key(self, key: str) -> None:
        """Raises `InvalidInput` for what cannot be a key of this tree."""
        if self._tree.layout.any_keys and isinstance(key, str):
            any_key(key)
        else:
            encode_key(key)

    async def save(self, data: Data) -> bytes:
        """The CID of a value, which is now in the store, and durable with the next flush."""
        try:
            return await save_value(self.cas, data)
        except Exception:
            self._in_doubt = True
            raise

    async def pointer(self, key: str) -> bytes | None:
        """The CID of the value under `key`, or `None`."""
        self.refuse_key(key)
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
        self.refuse_key(key)
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
            if not was:
                self.read_only = False
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
        for known in self._listeners:
            if listener := known():
                listener(edits)

    def _refuse_read_only(self) -> None:
        if self.read_only:
            raise ReadOnly("this tree was opened for reading: open it with read_only=False to edit it")

    def _begin(self) -> tuple[Future[None] | None, bool]:
        """The flush that is under way, or a new one, and whether it is new; `None` when there is nothing to do."""
        future = running()
        # A thread of its own: it waits for loads, which have the threads of the pool.
        thread = Thread(target=self._run, args=(future,), name="hamt-bulk-flush")
        try:
            with self._lock:
                if self._flush is not None:
                    return self._flush, False
                if not self._edits and self._is_durable:
                    return None, False
                self._flush = future
            thread.start()
        except BaseException:  # no more threads, Ctrl-C, or the interpreter is shutting down
            with self._lock:
                if self._flush is future and thread.ident is None:
                    self._flush = None
                    future.set_result(None)  # whoever waits for it begins another
            raise
        return future, True

    def _run(self, future: Future[None]) -> None:
        with self._lock:
            if self._flush is not future:
                return
            tree, edits = self._tree, self._edits
            self._applying, self._edits = edits, {}
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
                self._is_durable = True
            self._applying = {}
            self._flush = None
        if error is None:
            future.set_result(None)
        else:
            future.set_exception(error)

    def _applied(self, tree: Tree, edits: Edits) -> bytes:
        """The root of `tree` after `edits`, durably stored."""
        manifest = Manifest.of(edits.items(), tree.hash_fn, any_keys=tree.layout.any_keys)
        base = tree.root if self._is_durable else None
        self._flush_values(edits)
        with self.cas.writer() as writer:
            root = drive(update(base, manifest, tree.layout, writer.save_many, tree.hash_fn), tree.nodes)
            writer.flush()
        tidy(self.cas)
        return root

    def _flush_values(self, edits: Edits) -> None:
        """
        Makes durable what was saved.

        A store that failed may have dropped what it had taken before, and have been told to go on. Then the values
        are looked for, and `BlockNotFound` names the keys of those that are gone.
        """
        doubted, self._in_doubt = self._in_doubt, False
        try:
            self.cas.flush()
            if doubted:
                pointers = {
                    key: pointer
                    for key, pointer in edits.items()
                    if pointer != TOMBSTONE and not is_inline(pointer)
                }
                there = self.cas.has_many(list(pointers.values()))
                lost = [key for key, has in zip(pointers, there, strict=True) if not has]
                if lost:
                    raise BlockNotFound(
                        f"the store failed, and has not kept the values of {len(lost)} keys: set them again, or delete "
                        f"them: {', '.join(map(repr, lost[:5]))}{', …' if len(lost) > 5 else ''}"
                    )
        except BaseException:
            self._in_doubt = True
            raise

    def _after_fork(self) -> None:
        """A forked child has no other threads: one that held the lock never lets go, and a flush never ends."""
        self._lock = threading.Lock()
        self._edits, self._applying = self._applying | self._edits, {}
        self._flush = None
        self._in_doubt = True  # values that were not flushed are the parent's


_living: "weakref.WeakSet[Draft]" = weakref.WeakSet()


def _after_fork() -> None:
    for draft in list(_living):
        draft._after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
