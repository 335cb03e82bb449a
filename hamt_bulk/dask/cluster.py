"""A cluster, whose workers may come, go and die."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distributed import Client
from distributed.client import ClosedClientError
from distributed.comm.core import CommClosedError

from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.dask.running import Running
from hamt_bulk.dask.stage import Stage, Tick
from hamt_bulk.dask.workers import preflight
from hamt_bulk.errors import CASError

log = logging.getLogger("hamt_bulk.dask")

_GONE = (CommClosedError, ClosedClientError)


class ClientRunner:
    """Runs stages on a cluster."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._running: Running | None = None

    @property
    def workers(self) -> int:
        """Tasks that run at a time."""
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        return max(1, sum(int(worker["nthreads"]) for worker in workers))

    def check(self, cas: ContentAddressedStore) -> None:
        """Raises before any work when a worker has other versions, or does not reach the store."""
        with connected():
            preflight(self._client, cas)

    def results(self, stage: Stage, tick: Tick) -> list[Any]:
        """The results of all windows, as they come. On an interrupt the tasks are cancelled."""
        try:
            with connected():
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
        self._running = running = Running(self._client, stage, tick)
        try:
            with connected():
                return await running.results()
        finally:
            self._running = None
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
