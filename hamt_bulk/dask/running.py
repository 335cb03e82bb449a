"""One stage on a cluster: what is handed out, what comes back, and what is tried again."""

import asyncio
import logging
import uuid
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import dask
from distributed import Client, Future, Variable
from distributed.scheduler import KilledWorker

from hamt_bulk.dask.halt import Halted
from hamt_bulk.dask.layers import Key
from hamt_bulk.dask.stage import Stage, Tick, Window
from hamt_bulk.errors import CASError, WorkersDied

log = logging.getLogger("hamt_bulk.dask")

AnyFuture: TypeAlias = "Future[Any]"
"""In quotes: before 2026 the class takes no parameter."""

MAX_WINDOWS = 2
"""Windows on the cluster at a time: while the last tasks of one run, the next is there."""

MAX_SUSPECTS = 4
"""When the workers of so many tasks have died, all others wait until it is known which ones kill."""

MAX_GUILTY = 3
"""So many chunks that kill are looked for: where each does, for want of memory, there would be no end."""

LOOK_SECONDS = 30
"""How often workers are looked for while no task ends."""

NEWCOMER_SECONDS = 2
"""How often workers that have come since are looked for, and after each stage."""

SPOT_SECONDS = 5
"""How long a task that died may have needed to note what it worked on."""


class Running:
    """
    One stage on the cluster.

    A task whose workers all died may have killed them, or have run beside one that did. When nothing else is left it
    runs once more, alone, and notes what it works on: so the error can name the chunk.
    """

    def __init__(
        self, client: Client, stage: Stage, tick: Tick, check_newcomers: Callable[[], Awaitable[None]]
    ) -> None:
        self._client = client
        self._check_newcomers = check_newcomers
        self._checked = 0.0
        self._stage = stage
        self._tick = tick
        self.futures: dict[AnyFuture, int] = {}
        self._done: asyncio.Queue[tuple[AnyFuture, Any]] = asyncio.Queue()
        self._followed: set[asyncio.Task[None]] = set()
        self._windows: list[set[AnyFuture]] = []
        self._suspects: dict[Key, KilledWorker] = {}
        self._guilty: dict[str, KilledWorker] = {}
        self._paused: list[Key] = []
        self._spot: Variable | None = None
        self._looks = 0

    async def results(self) -> list[Any]:
        """The results of all windows."""
        results: list[Any] = []
        more = True
        while True:
            if len(self._suspects) >= MAX_SUSPECTS and self._spot is None:
                await self._pause()
            while more and not self._paused and len(self._windows) < MAX_WINDOWS:
                window = await asyncio.to_thread(next, self._stage.windows, None)
                if window is None:
                    more = False
                else:
                    self._submit(window)
            if not self._windows and not await self._try_alone():
                if self._guilty:
                    raise self._died()
                if not self._paused and not more:
                    await self._check_newcomers()
                    return results
                await self._go_on()
                continue
            key, units, result = await self._next()
            if (now := asyncio.get_running_loop().time()) > self._checked + NEWCOMER_SECONDS:
                self._checked = now
                await self._check_newcomers()
            if isinstance(result, BaseException):
                raise CASError(
                    f"the cluster gave up {self._stage.describe(key)} ({result}): was its scheduler restarted, or the "
                    "task cancelled? Call again"
                )
            if _is_failure(result):
                await self._failed(key, result[1], result[2])
            else:
                await asyncio.to_thread(self._stage.finished, key, result)
                results.append(result)
                self._tick(units)

    def _follow(self, future: AnyFuture) -> None:
        """Has the future in the queue when it has ended, with its result, or type, error and traceback."""
        done = self._done

        async def follow() -> None:
            try:
                result = await future._result(raiseit=False)
            except Exception as error:
                # The result was lost with its worker before it was here, and computing it again has failed. It is for
                # this that `as_completed` will not do: it would wait for ever.
                result = type(error), error, error.__traceback__
            done.put_nowait((future, result))

        task = asyncio.ensure_future(follow())
        self._followed.add(task)
        task.add_done_callback(self._followed.discard)

    def close(self) -> None:
        """Nobody waits for the tasks any more."""
        for task in self._followed:
            task.cancel()

    async def _pause(self) -> None:
        """Takes back the tasks that are on the cluster."""
        self._paused += [future.key for future in self.futures]
        futures, self.futures = list(self.futures), {}
        self._windows, self._done = [], asyncio.Queue()
        await self._client._cancel(futures, force=True)

    async def _go_on(self) -> None:
        """Hands out again what was taken back."""
        paused, self._paused = self._paused, []
        for key in paused:
            window = await asyncio.to_thread(self._stage.again, key, None)
            if window is None:
                raise CASError(f"{self._stage.describe(key)} was taken back: call again")
            self._submit(window)

    async def _next(self) -> tuple[Key, int, Any]:
        """
        The key, units and result of the next task that ends.

        Its future is let go of: the scheduler would compute a result again that is lost with its worker.
        """
        while True:
            waiting = asyncio.ensure_future(self._done.get())
            try:
                await asyncio.wait([waiting], timeout=LOOK_SECONDS)
            finally:
                if not waiting.done():
                    waiting.cancel()
            if waiting.done() and not waiting.cancelled():
                break
            await self._look_for_workers()
        future, result = waiting.result()
        key, units = future.key, self.futures.pop(future)
        for window in self._windows:
            window.discard(future)
        self._windows = [window for window in self._windows if window]
        return key, units, result

    async def _look_for_workers(self) -> None:
        """Says when the cluster has no workers. Raises `WorkersDied` when they died, and none came back."""
        if await self._client.scheduler.ncores():  # type: ignore[union-attr]
            self._looks = 0
            return
        self._looks += 1
        killers = [*map(self._stage.describe, self._suspects), *self._guilty]
        if self._spot is not None and self._looks > 1:
            [future] = self.futures
            what, _ = self._stage.without(future.key, await self._noted(self._spot), self._spot.name)
            killers.append(what)
        if killers and self._looks > 1:
            raise WorkersDied(
                f"the cluster has no workers left: they died while they worked on {'; '.join(killers)}, and none came "
                f"back for {self._looks * LOOK_SECONDS} seconds. What was finished is kept"
            )
        log.warning("the cluster has no workers: waiting for some")

    def _submit(self, window: Window) -> None:
        keys = list(window.results)
        # A window is as large as it should be; the warning is about arrays that were put into a graph.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 GiB"}):
            futures = self._client.get(window.graph, keys, sync=False)
        self.futures.update(zip(futures, window.results.values(), strict=True))
        self._windows.append(set(futures))
        for future in futures:
            self._follow(future)

    async def _failed(self, key: Key, error: BaseException, trace: Any) -> None:
        """What becomes of a task that failed. Raises where that ends the build."""
        if isinstance(error, Halted):
            window = await asyncio.to_thread(self._stage.again, key, None)
            if window is None:
                raise CASError(f"the cluster took back {self._stage.describe(key)}: call again")
            self._submit(window)
        elif not isinstance(error, KilledWorker):
            raise error.with_traceback(trace)
        elif self._spot is None:
            self._suspects[key] = error
        elif error.task != key:
            self._guilty[f"{self._stage.describe(key)}, which needs what {error.task!r} computes"] = error
        else:
            number = await self._noted(self._spot)
            what, window = await asyncio.to_thread(self._stage.without, key, number, self._spot.name)
            self._guilty[what] = error
            if len(self._guilty) >= MAX_GUILTY:
                raise self._died()
            if window is not None:
                self._submit(window)

    async def _try_alone(self) -> bool:
        """Submits one of the tasks that may have killed their workers, now that nothing else runs, if there is one."""
        if self._spot is not None:
            self._spot.delete()
        self._spot = None
        while self._suspects:
            key, error = self._suspects.popitem()
            spot = Variable(f"hamt-bulk-{uuid.uuid4().hex}", client=self._client)
            window = await asyncio.to_thread(self._stage.again, key, spot.name)
            if window is not None:
                self._spot = spot
                self._submit(window)
                return True
            self._guilty[self._stage.describe(key)] = error
        return False

    async def _noted(self, spot: Variable) -> int:
        """What a task noted before its workers died; -1 where it did not come so far."""
        try:
            if self._client.asynchronous:
                return int(await spot.get(timeout=SPOT_SECONDS))
            return int(await asyncio.to_thread(spot.get, timeout=SPOT_SECONDS))
        except TimeoutError:
            return -1

    def _died(self) -> WorkersDied:
        first, *others = self._guilty
        count = next(iter(self._guilty.values())).allowed_failures + 1
        also = f" The same goes for {'; '.join(others)}." if others else ""
        left = "the rest was taken back" if self._paused else "all else is finished"
        if len(self._guilty) >= MAX_GUILTY:
            left = "no more were looked for"
        return WorkersDied(
            f"{first}: {count} workers worked on it, and all died.{also} It takes more memory than a worker has, or crashes "
            "what reads or encodes it; the workers' logs say which. Give workers more memory, make the Dask chunks smaller, "
            f"or leave it out ({left})"
        )


def _is_failure(result: Any) -> bool:
    """Whether this is what a future of a failed task gives: type, error and traceback."""
    return isinstance(result, tuple) and len(result) == 3 and isinstance(result[1], BaseException)
