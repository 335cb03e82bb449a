"""What was given to a store and is not durable yet, kept so that it can be given once more."""

import asyncio
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Lock
from typing import TypeVar

from hamt_bulk.block import Block, Data
from hamt_bulk.cas.retries import Attempts, Retries
from hamt_bulk.cas.writer import CodecInput, Receipt, Writer, as_bytes
from hamt_bulk.errors import CASError

T = TypeVar("T")

KEPT_BYTES = 64 << 20
"""A writer flushes by itself when it keeps more than this."""

_GROUP_BYTES = 4 << 20
_GROUP_BLOCKS = 1024


def fixed(data: Data) -> bytes:
    """The bytes, which the caller cannot change any more."""
    data = as_bytes(data)
    return data if isinstance(data, bytes) else bytes(data)


class RetryingWriter(Writer):
    """
    A writer that begins again when the one within has failed.

    What was given since the last `flush` is kept, copied where the caller might change it. After a failure the writer
    within is closed, and another is made and given all of it.
    """

    def __init__(self, make: Callable[[], Writer], retries: Retries) -> None:
        self._make = make
        self._retries = retries
        self._writer: Writer | None = None
        self._kept: list[Block] = []
        self._kept_bytes = 0
        self._flushed = Receipt()
        first = self._again(lambda writer: writer)
        super().__init__(first.hasher, first.leaf_bytes)

    def save_many(self, blocks: Iterable[Block]) -> None:
        group: list[Block] = []
        size = 0
        try:
            for cid, data in blocks:
                group.append(Block(cid, fixed(data)))
                size += len(group[-1].data)
                if size > _GROUP_BYTES or len(group) == _GROUP_BLOCKS:
                    given, group = group, []
                    self._put(given, size)
                    size = 0
        finally:
            # Also when `blocks` has failed: those before it were given.
            if group:
                self._put(group, size)

    def _put(self, group: list[Block], size: int) -> None:
        self._again(lambda writer: writer.save_many(group))
        self._kept += group
        self._kept_bytes += size
        if self._kept_bytes > KEPT_BYTES:
            self._flush()

    def flush(self) -> Receipt:
        self._flush()
        receipt, self._flushed = self._flushed, Receipt()
        return receipt

    def _flush(self) -> None:
        self._flushed += self._again(lambda writer: writer.flush())
        self._kept, self._kept_bytes = [], 0

    def _again(self, call: Callable[[Writer], T]) -> T:
        """What `call` gives, made again after failures that may pass."""
        attempts = Attempts(self._retries)
        while True:
            try:
                return call(self._opened())
            except CASError as error:
                self._discard()
                seconds = attempts.after(error)
            time.sleep(seconds)

    def _opened(self) -> Writer:
        """A writer that was given all that is kept."""
        if self._writer is None:
            self._writer = self._make()
            if self._kept:
                self._writer.save_many(self._kept)  # in one call, of which there is only one that may fail
        return self._writer

    def _discard(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(CASError):  # it has failed already, and nothing that it holds is counted on
                writer.close()

    def close(self) -> None:
        self._kept, self._kept_bytes, self._flushed = [], 0, Receipt()
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()


class Unflushed:
    """
    What `save` of a store was given, by all threads, and no `flush` has made durable.

    is_lost  whether the store has dropped it, so that it has to be given again
    changes  how often that was begun, and done
    turn     held by the thread that flushes, or gives again
    receipt  of what was given again, for the next `flush`
    """

    def __init__(self) -> None:
        self.size = 0
        self.is_lost = False
        self.changes = 0
        self.turn = Lock()
        self.receipt = Receipt()
        self._values: dict[int, tuple[bytes, CodecInput]] = {}
        self._added = 0
        self._lock = Lock()
        self._pool: ThreadPoolExecutor | None = None

    def add(self, data: bytes, codec: CodecInput, changes: int) -> bool:
        """Keeps a value whose saving began after so many `changes`; `False` when there were others since."""
        with self._lock:
            if changes != self.changes:
                return False
            self._values[self._added] = data, codec
            self._added += 1
            self.size += len(data)
            return True

    def lose(self, changes: int) -> bool:
        """Notes that the store failed in a call that began after so many `changes`. `False` when that is known."""
        with self._lock:
            is_new = changes == self.changes and not self.is_lost
            self.is_lost |= is_new
            return is_new

    def changed(self) -> None:
        """Notes that the store was opened anew, or given again what it had lost."""
        with self._lock:
            self.changes += 1

    def now(self) -> dict[int, tuple[bytes, CodecInput]]:
        """What is kept at this moment, by number."""
        with self._lock:
            return dict(self._values)

    def remove(self, numbers: Iterable[int]) -> None:
        """Lets go of values that are durable."""
        with self._lock:
            for number in numbers:
                data, _ = self._values.pop(number)
                self.size -= len(data)

    def may_come_back(self, changes: int) -> bool:
        """Whether a block that was looked for after so many `changes`, and not there, may be given again."""
        return self.is_lost or self.turn.locked() or changes != self.changes

    async def aside(self, call: Callable[[], object]) -> None:
        """Runs `call` in a thread of its own: those of the loop may all be waiting for what it does."""
        with self._lock:
            self._pool = self._pool or ThreadPoolExecutor(1, "hamt-bulk-again")
        await asyncio.get_running_loop().run_in_executor(self._pool, call)
