"""Blocks from whichever server has them: failover, cool-down and hedged second requests."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

from hamt_bulk.block import Block, text
from hamt_bulk.cas.ipfs.health import in_order
from hamt_bulk.cas.ipfs.source import Source
from hamt_bulk.errors import BlockMismatch, BlockNotFound, CASError, HamtError

T = TypeVar("T")

REMEDY = (
    "A garbage collection takes what is not pinned: copy the root there again from a store that has it, and pin it; "
    "or add a gateway that has it"
)


class Sources:
    """Servers in order of preference. One that failed often is asked last for a while."""

    def __init__(self, sources: Sequence[Source], concurrency: int) -> None:
        self._sources = list(sources)
        # Here, not only at each server: whoever waits for a turn does not wait for a server.
        self._turn = asyncio.Semaphore(concurrency)

    @property
    def gives_paths(self) -> bool:
        """Whether a server gives all blocks on a path in one answer."""
        return any(source.gives_paths for source in self._sources)

    async def block(self, cid: bytes) -> bytes:
        """
        The block, compared with its CID.

        Raises `BlockNotFound` when all servers say that they lack it, `CASError` when one could not be asked, and
        `BlockMismatch` when one gave other bytes; all say which server answered what.
        """
        async with self._turn:
            return await self._first(self._sources, lambda source: source.block(cid), cid)

    async def size(self, cid: bytes) -> int:
        """The length of a block as a server says."""
        async with self._turn:
            return await self._first(self._sources, lambda source: source.size(cid), cid)

    async def has(self, cid: bytes) -> bool:
        """Whether a server has the block."""
        try:
            await self.size(cid)
        except BlockNotFound:
            return False
        return True

    async def path(self, root: bytes, segments: Sequence[str]) -> list[Block]:
        """
        The blocks on the way from `root`, as far as they came; at least the first.

        Whatever a server did not give is asked for block by block.
        """
        able = [source for source in self._sources if source.gives_paths]

        async def way(source: Source) -> list[Block]:
            blocks = await source.path(root, segments)
            if not blocks or blocks[0].cid != root:
                raise source.not_found(root, "a CAR without it")
            return blocks

        if able:
            with suppress(HamtError):
                async with self._turn:
                    return await self._first(able, way, root)
        return [Block(root, await self.block(root))]

    async def _first(self, sources: Sequence[Source], ask: Callable[[Source], Awaitable[T]], cid: bytes) -> T:
        """The first good answer. A server that takes long has the next one asked beside it."""
        now = time.monotonic()
        waiting = [source for source, _ in in_order([(one, one.health) for one in sources], now)]
        failures: list[HamtError] = []
        running: dict[asyncio.Task[T], Source] = {}
        try:
            while waiting or running:
                patience = None
                if waiting and not running and not any(source.hedges for source in waiting[1:2]):
                    try:
                        return await _timed(waiting.pop(0), ask)
                    except HamtError as failure:
                        failures.append(failure)
                        continue
                if waiting:
                    source = waiting.pop(0)
                    task = asyncio.ensure_future(_timed(source, ask))
                    task.add_done_callback(_noticed)
                    running[task] = source
                    hedge = waiting and waiting[0].hedges
                    patience = source.health.hedge_after() if hedge else None
                done, _ = await asyncio.wait(running, timeout=patience, return_when=asyncio.FIRST_COMPLETED)
                for task in list(running):  # in the order they were asked in
                    if task not in done:
                        continue
                    error = task.exception()
                    if error is None:
                        self._late(list(running.values()), running[task])
                        return task.result()
                    del running[task]
                    if not isinstance(error, HamtError):
                        raise error
                    failures.append(error)
        finally:
            for task in running:
                task.cancel()
        raise _together(failures, cid) from failures[0]

    def _late(self, running: Sequence[Source], answered: Source) -> None:
        """Notes those that were asked before the one that answered, and would make others wait as long."""
        for source in running[: list(running).index(answered)]:
            source.health.failed(time.monotonic())


def _noticed(task: asyncio.Task[Any]) -> None:
    """Looks at how a task ended, or asyncio complains that nobody did."""
    if not task.cancelled():
        task.exception()


async def _timed(source: Source, ask: Callable[[Source], Awaitable[T]]) -> T:
    """The answer of one server, and a note of how it did."""
    started = time.monotonic()
    try:
        answer = await ask(source)
    except BlockNotFound:
        source.health.succeeded(time.monotonic() - started)
        raise
    except HamtError:
        source.health.failed(time.monotonic())
        raise
    source.health.succeeded(time.monotonic() - started)
    return answer


def _together(failures: Sequence[HamtError], cid: bytes) -> HamtError:
    """What all servers said, as one error."""
    said = "; ".join(str(error) for error in failures)
    if all(isinstance(error, BlockNotFound) for error in failures):
        return BlockNotFound(f"no block {text(cid)}: {said}. {REMEDY}")
    mismatch = any(isinstance(error, BlockMismatch) for error in failures)
    if mismatch and not any(isinstance(error, CASError) for error in failures):
        return BlockMismatch(said)
    kinds = [error for error in failures if not isinstance(error, (BlockNotFound, BlockMismatch))]
    return type(kinds[0])(said) if len(failures) == 1 else CASError(f"{text(cid)}: {said}")
