"""A dataset whose chunks note when they are computed, for builds whose workers or drivers die."""

import logging
import os
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import xarray as xr
from distributed import Client, LocalCluster

from hamt_bulk import PackCAS, Writer
from hamt_bulk.dask import batches, stages

ROWS, COLUMNS = 60, 4

BATCH = 8
"""Chunks of a batch, after `small_batches`."""


def dataset(log: Path | None, seconds: float = 0.0, poison: frozenset[int] = frozenset()) -> xr.Dataset:
    """
    240 chunks.

    log      a file in which each chunk notes its number as it is computed
    seconds  that each takes
    poison   chunks that kill the process that computes them
    """
    values = da.arange(ROWS * COLUMNS * 8, chunks=8, dtype="i8").reshape(ROWS, COLUMNS * 8)
    values = values.rechunk((1, 8))
    # By name, so that two calls have arrays of one name.
    noted = values.map_blocks(
        note, str(log) if log else "", seconds, poison, dtype="i8", meta=np.zeros((0, 0), "i8")
    )
    return xr.Dataset(
        {"t2m": (("time", "cell"), noted), "mask": ("cell", np.arange(COLUMNS * 8))},
        coords={"time": np.arange(ROWS)},
    )


def note(block: Any, log: str, seconds: float, poison: frozenset[int]) -> Any:
    """The block; called on workers."""
    number = int(block.flat[0]) // 8
    if number in poison:
        time.sleep(0.5)  # a nanny gives up on a worker that dies as it starts
        os._exit(1)
    time.sleep(seconds)
    if log:
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(file, f"{number}\n".encode())
        os.close(file)
    return block


def computed(log: Path) -> Counter[int]:
    """How often each chunk was computed."""
    return Counter(int(line) for line in log.read_text().splitlines()) if log.exists() else Counter()


def small_batches() -> None:
    """Batches of `BATCH` chunks, and several parts of the tree."""
    batches.BATCH_BYTES = BATCH * 64
    batches.SMALL_BATCH_BLOCKS = batches.SMALL_BATCH_BYTES = 1
    stages.part_count = lambda _: 8


class SlowPacks(PackCAS):
    """Packs of which every task needs a moment, so that there is time to kill its worker."""

    SECONDS = 0.1

    def writer(self) -> Writer:
        time.sleep(self.SECONDS)
        return super().writer()


@contextmanager
def cluster(workers: int = 2, threads: int = 1) -> Iterator[Client]:
    """A cluster of processes that are replaced, however often they die."""
    # Dask's local cluster gives up a worker that is being replaced 15 seconds after another death of it.
    with dask.config.set({"distributed.deploy.lost-worker-timeout": "1 day"}):
        made = LocalCluster(
            n_workers=workers,
            threads_per_worker=threads,
            dashboard_address=":0",
            silence_logs=logging.CRITICAL,
        )
        with made, Client(made) as client:
            yield client


def processes(client: Client) -> list[int]:
    """The process ids of the workers that are alive."""
    return [nanny.pid for nanny in client.cluster.workers.values() if nanny.pid is not None]
