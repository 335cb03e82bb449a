"""One private event loop for each process, for sync callers of async code."""

import asyncio
import os
import threading
import weakref
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, Generic, TypeVar

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
    """
    As `run_sync`, for callers on any event loop, the private one too.

    A thread takes long to wake, so calls that begin together, and results that come together, share a wake-up.
    """
    if threading.current_thread() is _thread:
        return await coroutine
    caller = asyncio.get_running_loop()
    result: asyncio.Future[T] = caller.create_future()
    private = _private_loop()
    call = _Call(coroutine, _mail_to(caller), result)
    _mail_to(private).send(call.begin)
    try:
        return await result
    except asyncio.CancelledError:
        _mail_to(private).send(call.cancel)
        raise


def start(coroutine: Coroutine[Any, Any, T]) -> "Future[T]":
    """Begins `coroutine` on the private loop."""
    return asyncio.run_coroutine_threadsafe(coroutine, _private_loop())


def _private_loop() -> asyncio.AbstractEventLoop:
    global _loop, _thread
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            _thread = threading.Thread(target=_loop.run_forever, name="hamt-bulk-loop", daemon=True)
            _thread.start()
        return _loop


class _Mail:
    """Calls to be made on a loop, in order, from other threads. One wake-up is for all that have come by then."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = weakref.ref(loop)
        self._calls: deque[Callable[[], None]] = deque()
        self._lock = threading.Lock()
        self._is_woken = False

    def send(self, call: Callable[[], None]) -> None:
        with self._lock:
            self._calls.append(call)
            if self._is_woken:
                return
            self._is_woken = True
        loop = self._loop()
        if loop is not None:
            with suppress(RuntimeError):  # it is closed, and nobody there waits any more
                loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        with self._lock:
            calls, self._calls = self._calls, deque()
            self._is_woken = False
        for call in calls:
            try:
                call()
            except Exception as error:  # the others wait for theirs
                loop = asyncio.get_running_loop()
                loop.call_exception_handler(
                    {"message": "a call from another thread failed", "exception": error}
                )


_mail: "weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Mail]" = weakref.WeakKeyDictionary()


def _mail_to(loop: asyncio.AbstractEventLoop) -> _Mail:
    with _lock:
        found = _mail.get(loop)
        if found is None:
            found = _mail[loop] = _Mail(loop)
        return found


class _Call(Generic[T]):
    """A coroutine on the private loop, whose outcome goes to a future of another."""

    def __init__(self, coroutine: Coroutine[Any, Any, T], mail: _Mail, result: "asyncio.Future[T]") -> None:
        self._coroutine = coroutine
        self._mail = mail
        self._result = result
        self._task: asyncio.Task[T] | None = None

    def begin(self) -> None:
        self._task = asyncio.ensure_future(self._coroutine)
        self._task.add_done_callback(self._done)

    def cancel(self) -> None:
        if self._task is not None:
            self._task.cancel()

    def _done(self, task: "asyncio.Task[T]") -> None:
        error = asyncio.CancelledError() if task.cancelled() else task.exception()
        self._mail.send(partial(self._settle, error))

    def _settle(self, error: BaseException | None) -> None:
        assert self._task is not None
        if self._result.done():  # whoever waited was cancelled
            return
        if isinstance(error, asyncio.CancelledError):
            self._result.cancel()
        elif error is not None:
            self._result.set_exception(error)
        else:
            self._result.set_result(self._task.result())


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
    _mail.clear()


os.register_at_fork(after_in_child=_after_fork)
