"""Where a command's tasks run."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from hamt_bulk.errors import CASError

CONNECT_SECONDS = 30


@contextmanager
def running_on(workers: int | None, threads: int | None, scheduler: str | None) -> Iterator[str]:
    """
    Within it Dask's work goes where the caller said. Gives it in words.

    workers    processes on this host; `None`: one for each core; 0: threads of this process
    threads    in each of them; `None`: one, or one for each core
    scheduler  the address of a cluster that is there already
    """
    # Imported here: `hamt-bulk ls` should not wait for distributed.
    import dask
    from dask.system import CPU_COUNT
    from distributed import Client, LocalCluster

    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=CONNECT_SECONDS)
        except (OSError, ValueError) as error:
            raise CASError(f"no scheduler answers at {scheduler}: {error}") from error
        with client:
            yield f"the cluster at {scheduler}"
    elif workers == 0:
        count = threads or CPU_COUNT
        with dask.config.set(scheduler="threads", num_workers=count):
            yield f"{count} threads"
    else:
        count = workers or CPU_COUNT
        # Dask's local cluster gives up a worker that is being replaced 15 seconds after another death of it.
        with (
            dask.config.set({"distributed.deploy.lost-worker-timeout": "1 day"}),
            _children_without_interrupts(),
        ):
            cluster = LocalCluster(
                n_workers=count,
                threads_per_worker=threads or 1,
                processes=True,
                dashboard_address="127.0.0.1:0",
                silence_logs=logging.CRITICAL,
            )
        with cluster, Client(cluster):
            yield f"{count} worker processes"


@contextmanager
def _children_without_interrupts() -> Iterator[None]:
    """
    Processes that are started within do not see Ctrl-C, which a terminal sends to all.

    This one sees it and closes them, in order and in silence.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
