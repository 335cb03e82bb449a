"""A cluster, whose workers may come, go and die."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distributed import Client, rejoin, secede
from distributed.client import ClosedClientError
from distributed.comm.core import CommClosedError

from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.dask.halt import is_task
from hamt_bulk.dask.running import Running
from hamt_bulk.dask.stage import Stage, Tick
from hamt_bulk.dask.workers import preflight_async
from hamt_bulk.errors import CASError

log = logging.getLogger("hamt_bulk.dask")

_GONE = (CommClosedError, ClosedClientError)


class ClientRunner:
    """Runs stages on a cluster."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._running: Running | None = None
        self._fit: list[tuple[ContentAddressedStore, set[str]]] = []
        """What has to be reached from workers, and which of them do."""

    @property
    def workers(self) -> int:
        """Tasks that run at a time."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        return max(1, sum(int(worker["nthreads"]) for worker in workers))

    def check(self, cas: ContentAddressedStore) -> None:
        """Raises before any work when a worker has other versions, or does not reach the store."""
        self._client.sync(self.check_async, cas)

    async def check_async(self, cas: ContentAddressedStore) -> None:
        """As `check`, with an asynchronous Client."""
        with connected():
            self._fit.append((cas, await preflight_async(self._client, cas)))

    async def _check_newcomers(self) -> None:
        """As `check`, of the workers that have come since: their blocks may be on another disk."""
        for cas, fit in self._fit:
            fit |= await preflight_async(self._client, cas, fit)

    def results(self, stage: Stage, tick: Tick) -> list[Any]:
        """The results of all windows, as they come. On an interrupt the tasks are cancelled."""
        try:
            with connected(), _giving_way():
                results: list[Any] = self._client.sync(self.results_async, stage, tick)
                return results
        finally:
            if self._running is not None and self._running.futures:
                stage.halt()
                try:
                    self._client.cancel(list(self._running.futures), force=True)
                except _GONE as error:
                    log.debug("tasks were not cancelled: %s", error)

    async def results_async(self, stage: Stage, tick: Tick) -> list[Any]:
        """The results of all windows, as they come. When one fails the others are cancelled."""
        self._running = running = Running(self._client, stage, tick, self._check_newcomers)
        try:
            with connected():
                return await running.results()
        finally:
            self._running = None
            running.close()
            if running.futures:
                stage.halt()
                try:
                    await self._client._cancel(list(running.futures), force=True)
                except _GONE as error:
                    log.debug("tasks were not cancelled: %s", error)


@contextmanager
def connected() -> Iterator[None]:
    """Within it a connection to the scheduler that is gone is a `CASError`."""
    try:
        yield
    except _GONE as error:
        raise CASError(
            f"the connection to the Dask scheduler is gone ({error}): was it ended, or the Client closed? Call again with a "
            "Client that is connected"
        ) from error


@contextmanager
def _giving_way() -> Iterator[None]:
    """Within it a task that waits for others leaves its thread to them: its worker may have no more."""
    try:
        if is_task():
            secede()
            stays = False
        else:
            stays = True
    except KeyError:  # it has done so already
        stays = True
    try:
        yield
    finally:
        if not stays:
            rejoin()
