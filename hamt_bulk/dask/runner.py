"""
Runs the stages of a build on whatever scheduler Dask would use.

A build is written once, as a generator that yields each `Stage` and is sent its results; `run` feeds it
from any scheduler, `run_async` from an asynchronous Client.
"""

import asyncio
from typing import Any, TypeAlias, TypeVar

import dask
import dask.base
import dask.threaded
from distributed import Client, get_client

from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.dask.cluster import ClientRunner
from hamt_bulk.dask.local import LocalRunner
from hamt_bulk.dask.stage import Stage, Stages, Tick, Window
from hamt_bulk.errors import HamtError, InvalidInput
from hamt_bulk.progress import BuildProgress, Progress

__all__ = [
    "ClientRunner",
    "LocalRunner",
    "Stage",
    "Stages",
    "Window",
    "client_here",
    "run",
    "run_async",
    "runner_here",
]

T = TypeVar("T")


def run(stages: Stages[T], runner: "Runner", cas: ContentAddressedStore, progress: Progress) -> T:
    """The result of `stages`."""
    try:
        with progress:
            runner.check(cas)
            stage = next(stages)
            while True:
                try:
                    results = runner.results(stage, _ticker(stage, progress))
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

    async def advanced(results: list[Any] | None) -> Any:
        """The next stage. A thread cannot be stopped: when this is cancelled it is waited for."""
        step = asyncio.ensure_future(asyncio.to_thread(advance, results))
        try:
            return await asyncio.shield(step)
        except asyncio.CancelledError:
            await asyncio.gather(step, return_exceptions=True)
            raise

    def advance(results: list[Any] | None) -> Any:
        try:
            return stages.send(results)  # type: ignore[arg-type]
        except StopIteration as stop:
            returned.append(stop.value)
            return finished

    try:
        with progress:
            await runner.check_async(cas)
            results: list[Any] | None = None
            while True:
                stage = await advanced(results)
                if stage is finished:
                    return returned[0]
                try:
                    results = await runner.results_async(stage, _ticker(stage, progress))
                except HamtError as error:
                    stages.throw(error)
                    raise
    finally:
        stages.close()


def _ticker(stage: Stage, progress: Progress) -> Tick:
    done = stage.done

    def tick(units: int) -> None:
        nonlocal done
        done += units
        progress(BuildProgress(stage.name, done, stage.total))

    tick(0)
    return tick


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
