"""
Runs the stages of a build on whatever scheduler Dask would use.

A build is written once, as a generator that yields each `Stage` and is sent its results; `run` feeds it
from any scheduler, `run_async` from an asynchronous Client.
"""

import asyncio
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import dask
import dask.base
import dask.threaded
from dask.callbacks import Callback
from dask.system import CPU_COUNT
from distributed import Client, Future, as_completed, get_client

from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.dask.layers import Key
from hamt_bulk.dask.workers import preflight, preflight_async
from hamt_bulk.errors import HamtError, InvalidInput
from hamt_bulk.progress import BuildProgress, Progress

T = TypeVar("T")

AnyFuture: TypeAlias = "Future[Any]"
"""In quotes: before 2026 the class takes no parameter."""

Tick: TypeAlias = Callable[[int], None]
"""Called with the units of progress of each task that is finished."""

MAX_WINDOWS = 2
"""Windows on the cluster at a time: while the last tasks of one run, the next is there."""


@dataclass(frozen=True, slots=True)
class Window:
    """
    Tasks that are handed to the scheduler together.

    graph    tasks by key
    results  the keys of the tasks whose results are wanted, and how many units of progress each is
    """

    graph: dict[Key, Any]
    results: dict[Key, int]


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a build. `total` is in units of progress; `windows` are made when they are needed."""

    name: str
    total: int
    windows: Iterator[Window]


Stages: TypeAlias = Generator[Stage, list[Any], T]
"""
A build: yields stages, is sent the results of each in any order, and returns.

What a task raised is thrown into it, so that it may say more.
"""


def run(stages: Stages[T], runner: "Runner", cas: ContentAddressedStore, progress: Progress) -> T:
    """The result of `stages`."""
    try:
        with progress:
            runner.check(cas)
            stage = next(stages)
            while True:
                try:
                    results = runner.results(stage.windows, _ticker(stage, progress))
                except HamtError as error:
                    stage = stages.throw(error)
                else:
                    stage = stages.send(results)
    except StopIteration as stop:
        result: T = stop.value
        return result
    finally:
        stages.close()


async def run_async(stages: Stages[T], client: Client, cas: ContentAddressedStore, progress: Progress) -> T:
    """The result of `stages`, on an asynchronous Client. What is not the cluster's runs in a thread."""
    runner = ClientRunner(client)
    # A StopIteration cannot leave a coroutine or a thread's future.
    finished = object()
    returned: list[T] = []

    def advance(results: list[Any] | None) -> Any:
        try:
            return stages.send(results)  # type: ignore[arg-type]
        except StopIteration as stop:
            returned.append(stop.value)
            return finished

    try:
        with progress:
            await preflight_async(client, cas)
            results: list[Any] | None = None
            while True:
                stage = await asyncio.to_thread(advance, results)
                if stage is finished:
                    return returned[0]
                try:
                    results = await runner.results_async(stage.windows, _ticker(stage, progress))
                except HamtError as error:
                    stages.throw(error)
                    raise
    finally:
        stages.close()


def _ticker(stage: Stage, progress: Progress) -> Tick:
    done = 0

    def tick(units: int) -> None:
        nonlocal done
        done += units
        progress(BuildProgress(stage.name, done, stage.total))

    tick(0)
    return tick


class LocalRunner:
    """The synchronous scheduler, threads or processes."""

    def __init__(self, get: Callable[..., Any]) -> None:
        self._get = get
        self._stays_here = "multiprocessing" not in getattr(get, "__module__", "")

    @property
    def workers(self) -> int:
        """Tasks that run at a time."""
        if self._get is dask.base.named_schedulers["sync"]:
            return 1
        return int(dask.config.get("num_workers", None) or CPU_COUNT)

    def check(self, cas: ContentAddressedStore) -> None:
        """Raises `NotPortable` before any work when the store cannot go where the tasks run."""
        if not self._stays_here:
            cas.refuse_other_processes()

    def results(self, windows: Iterator[Window], tick: Tick) -> list[Any]:
        """The results of all windows."""
        results: list[Any] = []
        for window in windows:

            def finished(key: Key, *_: Any, units: dict[Key, int] = window.results) -> None:
                if key in units:
                    tick(units[key])

            with Callback(posttask=finished):
                results += self._get(window.graph, list(window.results))
        return results


class ClientRunner:
    """A cluster."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._futures: dict[AnyFuture, int] = {}

    @property
    def workers(self) -> int:
        """Tasks that run at a time."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        return max(1, sum(int(worker["nthreads"]) for worker in workers))

    def check(self, cas: ContentAddressedStore) -> None:
        """Raises before any work when a worker has other versions, or does not reach the store."""
        preflight(self._client, cas)

    def results(self, windows: Iterator[Window], tick: Tick) -> list[Any]:
        """The results of all windows, as they come. On an interrupt the tasks are cancelled."""
        try:
            results: list[Any] = self._client.sync(self.results_async, windows, tick)
            return results
        finally:
            if self._futures:
                self._client.cancel(list(self._futures), force=True)

    async def results_async(self, windows: Iterator[Window], tick: Tick) -> list[Any]:
        """The results of all windows, as they come. When one fails the others are cancelled."""
        results: list[Any] = []
        running = as_completed(loop=self._client.loop, with_results=True)
        outstanding: list[set[AnyFuture]] = []
        more = True
        try:
            while True:
                while more and len(outstanding) < MAX_WINDOWS:
                    window = await asyncio.to_thread(next, windows, None)
                    if window is None:
                        more = False
                    else:
                        outstanding.append(self._submit(window))
                        running.update(outstanding[-1])
                if not outstanding:
                    return results
                future, result = await running.__anext__()
                results.append(result)
                tick(self._futures.pop(future))
                for waiting in outstanding:
                    waiting.discard(future)
                outstanding = [waiting for waiting in outstanding if waiting]
        finally:
            futures, self._futures = list(self._futures), {}
            if futures:
                await self._client._cancel(futures, force=True)

    def _submit(self, window: Window) -> set[AnyFuture]:
        keys = list(window.results)
        # A window is as large as it should be; the warning is about arrays that were put into a graph.
        with dask.config.set({"distributed.admin.large-graph-warning-threshold": "1 GiB"}):
            futures = self._client.get(window.graph, keys, sync=False)
        self._futures.update(zip(futures, window.results.values(), strict=True))
        return set(futures)


Runner: TypeAlias = LocalRunner | ClientRunner


def runner_here(alternative: str) -> Runner:
    """
    The scheduler that Dask would use here.

    Raises `InvalidInput`, naming the `alternative` to call, when it is an asynchronous Client.
    """
    chosen = dask.config.get("scheduler", None)
    if (
        chosen is None
        or (isinstance(chosen, str) and chosen.endswith("distributed"))
        or isinstance(chosen, Client)
    ):
        client = chosen if isinstance(chosen, Client) else client_here()
        if client is not None and client.asynchronous:
            raise InvalidInput(f"the active Client is asynchronous: {alternative}")
        if client is not None:
            return ClientRunner(client)
    return LocalRunner(dask.base.get_scheduler() or dask.threaded.get)


def client_here() -> Client | None:
    """The active Client, or that of the worker on which this runs."""
    try:
        return get_client()
    except ValueError:
        return None
