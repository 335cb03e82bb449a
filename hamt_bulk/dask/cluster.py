"""A cluster, whose workers may come, go and die."""

import asyncio
from typing import Any, TypeAlias

import dask
from distributed import Client, Future, as_completed
from distributed.scheduler import KilledWorker

from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.dask.halt import Halted
from hamt_bulk.dask.layers import Key
from hamt_bulk.dask.stage import Stage, Tick, Window
from hamt_bulk.dask.workers import preflight
from hamt_bulk.errors import CASError, WorkersDied

AnyFuture: TypeAlias = "Future[Any]"
"""In quotes: before 2026 the class takes no parameter."""

MAX_WINDOWS = 2
"""Windows on the cluster at a time: while the last tasks of one run, the next is there."""

MAX_SUSPECTS = 8
"""So many tasks may have killed their workers before no more windows are begun."""


class ClientRunner:
    """Runs stages on a cluster."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._running: _Running | None = None

    @property
    def workers(self) -> int:
        """Tasks that run at a time."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        return max(1, sum(int(worker["nthreads"]) for worker in workers))

    def check(self, cas: ContentAddressedStore) -> None:
        """Raises before any work when a worker has other versions, or does not reach the store."""
        preflight(self._client, cas)

    def results(self, stage: Stage, tick: Tick) -> list[Any]:
        """The results of all windows, as they come. On an interrupt the tasks are cancelled."""
        try:
            results: list[Any] = self._client.sync(self.results_async, stage, tick)
            return results
        finally:
            if self._running is not None and self._running.futures:
                stage.halt()
                self._client.cancel(list(self._running.futures), force=True)

    async def results_async(self, stage: Stage, tick: Tick) -> list[Any]:
        """The results of all windows, as they come. When one fails the others are cancelled."""
        self._running = running = _Running(self._client, stage, tick)
        try:
            return await running.results()
        finally:
            self._running = None
            if running.futures:
                stage.halt()
                await self._client._cancel(list(running.futures), force=True)


class _Running:
    """
    One stage on the cluster.

    A task whose workers all died is cut into smaller ones, until those that kill are known: a task that only ran beside
    one of them comes through. Single ones are tried once more at the end, each alone.
    """

    def __init__(self, client: Client, stage: Stage, tick: Tick) -> None:
        self._client = client
        self._stage = stage
        self._tick = tick
        self._done = as_completed(loop=client.loop, with_results=True, raise_errors=False)
        self.futures: dict[AnyFuture, int] = {}
        self._windows: list[set[AnyFuture]] = []
        self._suspects: dict[Key, KilledWorker] = {}
        self._guilty: dict[Key, KilledWorker] = {}

    async def results(self) -> list[Any]:
        """The results of all windows."""
        results: list[Any] = []
        more = True
        while True:
            while more and len(self._windows) < MAX_WINDOWS and len(self._suspects) < MAX_SUSPECTS:
                window = await asyncio.to_thread(next, self._stage.windows, None)
                if window is None:
                    more = False
                else:
                    self._submit(window)
            if not self._windows and not await self._try_alone():
                break
            future, result = await self._done.__anext__()
            units = self.futures.pop(future)
            for waiting in self._windows:
                waiting.discard(future)
            if isinstance(result, BaseException):
                raise CASError(
                    f"the cluster gave up {self._stage.describe(future.key)} ({result}): was its scheduler "
                    "restarted, or the task cancelled? Call again"
                )
            if _is_failure(result):
                await self._failed(future.key, result[1], result[2])
            else:
                await asyncio.to_thread(self._stage.finished, future.key, result)
                results.append(result)
                self._tick(units)
            self._windows = [waiting for waiting in self._windows if waiting]
        if self._guilty:
            raise self._died()
        return results

    def _submit(self, window: Window) -> None:
        keys = list(window.results)
        # A window is as large as it should be; the warning is about arrays that were put into a graph.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 GiB"}):
            futures = self._client.get(window.graph, keys, sync=False)
        self.futures.update(zip(futures, window.results.values(), strict=True))
        self._windows.append(set(futures))
        self._done.update(futures)

    async def _failed(self, key: Key, error: BaseException, trace: Any) -> None:
        """Submits what is to be tried in the place of a task that failed. Raises where nothing is."""
        if not isinstance(error, KilledWorker | Halted):
            raise error.with_traceback(trace)
        if isinstance(error, KilledWorker) and error.task != key:
            needing = self._stage.describe(key)
            raise WorkersDied(f"{needing} needs what {error.task!r} computes. {error}") from error
        smaller = isinstance(error, KilledWorker)
        window = await asyncio.to_thread(self._stage.again, key, smaller=smaller)
        if window is not None:
            self._submit(window)
        elif isinstance(error, KilledWorker):
            # What ran beside it may have killed the worker.
            (self._suspects if self.futures else self._guilty)[key] = error
        else:
            raise CASError(f"the cluster took back {self._stage.describe(key)}: call again")

    async def _try_alone(self) -> bool:
        """Submits one of the tasks that may have killed their workers, now that nothing else runs, if there is one."""
        while self._suspects:
            key, error = self._suspects.popitem()
            window = await asyncio.to_thread(self._stage.again, key, smaller=False)
            if window is not None:
                self._submit(window)
                return True
            self._guilty[key] = error
        return False

    def _died(self) -> WorkersDied:
        first, *others = map(self._stage.describe, self._guilty)
        count = next(iter(self._guilty.values())).allowed_failures + 1
        also = f" The same goes for {'; '.join(others)}." if others else ""
        return WorkersDied(
            f"{first}: {count} workers worked on it, and all died.{also} It takes more memory than a worker has, or crashes "
            "what reads or encodes it; the workers' logs say which. Give workers more memory, make the Dask chunks smaller, "
            "or leave it out. What else was begun is finished"
        )


def _is_failure(result: Any) -> bool:
    """Whether this is what a future of a failed task gives: type, error and traceback."""
    return isinstance(result, tuple) and len(result) == 3 and isinstance(result[1], BaseException)
