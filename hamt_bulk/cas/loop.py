"""One private event loop for each process, for sync callers of async code."""

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Future
from typing import Any, TypeVar

from hamt_bulk.errors import InvalidInput

T = TypeVar("T")

AT_ONCE = 32
"""Calls of one batch under way at a time. Clients give up when thousands wait for one pool."""

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None
_thread: threading.Thread | None = None
_inherited: list[asyncio.AbstractEventLoop] = []
"""Loops of the processes that this one was forked from. Closing one would disturb its owner."""


def run_sync(coroutine: Coroutine[Any, Any, T]) -> T:
    """The result of `coroutine`, run on the private loop. Not to be called from that loop itself."""
    if threading.current_thread() is _thread:
        coroutine.close()
        raise InvalidInput(
            "a store's `save` or `load` called a method that waits for such a call: await them instead, "
            "or run the method in a thread (asyncio.to_thread)"
        )
    future = start(coroutine)
    try:
        return future.result()
    finally:
        future.cancel()  # of no effect unless the wait was interrupted


async def on_loop(coroutine: Coroutine[Any, Any, T]) -> T:
    """As `run_sync`, for callers on any event loop, the private one too."""
    if threading.current_thread() is _thread:
        return await coroutine
    return await asyncio.wrap_future(start(coroutine))


def start(coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
    """Begins `coroutine` on the private loop."""
    global _loop, _thread
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            _thread = threading.Thread(target=_loop.run_forever, name="hamt-bulk-loop", daemon=True)
            _thread.start()
        loop = _loop
    return asyncio.run_coroutine_threadsafe(coroutine, loop)


async def gather(calls: Iterable[Callable[[], Awaitable[T]]], at_once: int = AT_ONCE) -> list[T]:
    """The results of `calls` in order, `at_once` under way at a time. The first to fail ends the others."""
    results: list[T] = []
    numbered = enumerate(calls)

    async def work() -> None:
        for number, call in numbered:
            results.extend([None] * (number + 1 - len(results)))  # type: ignore[list-item]  # until it is there
            results[number] = await call()

    tasks = [asyncio.ensure_future(work()) for _ in range(at_once)]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
    return results


def _after_fork() -> None:
    """A forked child has its parent's memory, but not its threads, which may have held the lock."""
    global _lock, _loop, _thread
    _lock = threading.Lock()
    if _loop is not None:
        _inherited.append(_loop)
    _loop = _thread = None


os.register_at_fork(after_in_child=_after_fork)
