"""
How fast a dataset is stored, against xarray's own writer on the same data and scheduler.

`to_hamt` returns when its blocks are durable, `to_zarr` when the system has them in memory. So it is
compared with `to_zarr` and a sync of the file system after it, and with `to_zarr` alone.
"""

import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import dask
import xarray as xr
from zarr.storage import LocalStore

from benchmarks.data import KINDS, Kind, maps
from benchmarks.measure import (
    Ratio,
    Seconds,
    alternate,
    cluster,
    cpu_seconds,
    files_below,
    fresh_folder,
    sync_file_system,
)
from benchmarks.report import Row, ratio_at_most, record, run
from hamt_bulk import PackCAS
from hamt_bulk.xarray import to_hamt


@dataclass(frozen=True, slots=True)
class Size:
    """`chunks` of `side` x `side` values of four bytes; how many pairs, and on which schedulers."""

    chunks: int
    side: int
    pairs: int
    schedulers: tuple[str, ...] = ("threads", "distributed")


SIZES = {"tiny": Size(8, 16, 1, ("threads",)), "small": Size(256, 512, 3), "full": Size(1024, 512, 5)}


@dataclass(frozen=True, slots=True)
class Stored:
    """
    One run.

    returned  until the call returned
    durable   until all was on the disk
    cpu       of all processes, until `durable`
    """

    returned: Seconds
    durable: Seconds
    cpu: Seconds
    files: int
    bytes: int


def by_to_hamt(dataset: xr.Dataset) -> Stored:
    """The dataset in a folder of packs."""
    with fresh_folder() as folder:
        cpu, start = cpu_seconds(), time.perf_counter()
        to_hamt(dataset, PackCAS(folder / "store"), progress=False)
        durable = time.perf_counter() - start
        return Stored(durable, durable, cpu_seconds() - cpu, *_count(folder))


def by_to_zarr(dataset: xr.Dataset) -> Stored:
    """The dataset in a folder of Zarr's, and the file system synced after it."""
    with fresh_folder() as folder:
        cpu, start = cpu_seconds(), time.perf_counter()
        dataset.to_zarr(LocalStore(folder / "store"))
        returned = time.perf_counter() - start
        sync_file_system(folder)
        durable = time.perf_counter() - start
        return Stored(returned, durable, cpu_seconds() - cpu, *_count(folder))


def _count(folder: Any) -> tuple[int, int]:
    files = files_below(folder)
    return len(files), sum(path.stat().st_size for path in files)


def rows(size: Size) -> Iterator[Row]:
    """A line for each scheduler, kind of data and peer."""
    for scheduler in size.schedulers:
        local = dask.config.set(scheduler=scheduler, num_workers=2)
        with cluster() if scheduler == "distributed" else nullcontext(), local:
            for kind in KINDS:
                yield from _compare(scheduler, kind, size)


def _compare(scheduler: str, kind: Kind, size: Size) -> Iterator[Row]:
    dataset = maps(size.chunks, size.side, kind)
    taken = alternate(lambda: by_to_hamt(dataset), lambda: by_to_zarr(dataset), size.pairs)
    ours, peers = [run for run, _ in taken], [run for _, run in taken]
    times = [run.durable for run in ours]
    synced, unsynced = (
        Ratio(times, [getattr(run, until) for run in peers]) for until in ("durable", "returned")
    )
    name = f"{scheduler}, {kind}"
    if kind == "smooth":
        yield ratio_at_most(f"{name}, to_zarr + sync", synced, 1.1)
        yield ratio_at_most(f"{name}, to_zarr alone", unsynced, 1.25)
    else:
        yield record(f"{name}, to_zarr + sync", synced.median, " ×", synced.note)
        yield record(f"{name}, to_zarr alone", unsynced.median, " ×", unsynced.note)
    mebibytes = dataset.nbytes / 2**20
    cpus = [median(run.cpu for run in runs) for runs in (ours, peers)]
    yield record(
        f"{name}, rate",
        mebibytes / median(times),
        " MiB/s",
        f"{mebibytes:.0f} MiB in {size.chunks} chunks, stored {ours[0].bytes / dataset.nbytes:.3f} of it; "
        f"files {ours[0].files} / {peers[0].files}; CPU {cpus[0]:.2f} s / {cpus[1]:.2f} s",
    )


if __name__ == "__main__":
    run("Throughput: to_hamt into PackCAS / to_zarr into LocalStore", rows, SIZES)
