"""
What an append costs, the first and the last of many: a real model run, one step after the other.

The root after all of them is that of the run stored at once. The last appends of a large tree are measured
as they are of a small one, with the blocks that they read and write counted.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from statistics import median

import dask
import numpy as np
import xarray as xr

from benchmarks.measure import files_below, fresh_folder
from benchmarks.report import Row, at_most, record, run
from hamt_bulk import InMemoryCAS, PackCAS, Receipt, build
from hamt_bulk.block import DAG_CBOR, Data
from hamt_bulk.xarray import to_hamt

FLAT = 1.3
"""How much longer the last appends may take than the first; the machine's own spread is about that."""

BLOCKS_READ = 120
"""Documents, and the three nodes on the way to each key that is looked for; the plan, tasks and the index each read."""

FILE = "E1_north_america.nc"
ENCODING = {"time": {"chunks": (512,)}, "air_temperature": {"chunks": (8, 37, 49)}}


@dataclass(frozen=True, slots=True)
class Size:
    """So many appends; and so many chunks of the large tree."""

    steps: int
    chunks: int


SIZES = {"tiny": Size(12, 300), "small": Size(120, 30_000), "full": Size(365, 1_000_000)}


class CountingCAS(InMemoryCAS):
    """Counts the blocks that are read and written."""

    def __init__(self) -> None:
        super().__init__()
        self.read = self.written = 0

    def read_blocks(self, cids: Sequence[bytes]) -> list[Data]:
        self.read += len(cids)
        return super().read_blocks(cids)

    def _put(self, blocks: dict[bytes, bytes]) -> Receipt:
        receipt = super()._put(blocks)
        self.written += receipt.blocks
        return receipt


def model_run(steps: int) -> xr.Dataset:
    """A model run of 240 real steps, again from its start after them, on a time axis of as many days."""
    path = Path(import_module("iris_sample_data").path) / FILE
    with closing(xr.open_dataset(path, decode_times=False)) as source:
        field = source["air_temperature"].load()
    days = np.arange(steps)
    values = field.values[days % field.sizes["time"]]
    time_axis = ("time", days, {"units": "days since 2020-01-01"})
    ds = xr.Dataset(
        {"air_temperature": (("time", "latitude", "longitude"), values)},
        coords={"time": time_axis, "latitude": field.latitude, "longitude": field.longitude},
    )
    return xr.decode_cf(ds)


def rows(size: Size) -> Iterator[Row]:
    """Appends to packs on a disk, with the local scheduler; and one append to a large tree."""
    ds = model_run(size.steps + 8)
    with fresh_folder() as folder, dask.config.set(scheduler="threads"):
        cas = PackCAS(folder / "store")
        root = to_hamt(ds.isel(time=slice(8)).chunk(time=8), cas, encoding=ENCODING, progress=False)
        taken = []
        for step in range(8, size.steps + 8):
            start = time.perf_counter()
            day = ds.isel(time=slice(step, step + 1)).chunk(time=1)
            root = to_hamt(day, cas, base=root, append_dim="time", progress=False)
            taken.append(time.perf_counter() - start)
        fifth = max(len(taken) // 5, 1)
        first, last = median(taken[:fifth]), median(taken[-fifth:])
        note = f"{last * 1000:.0f} ms / {first * 1000:.0f} ms"
        yield at_most(f"{size.steps} daily appends: the last / the first", last / first, FLAT, " ×", note)
        yield record("files after them", len(files_below(folder)))
        at_once = to_hamt(ds.chunk(time=8), PackCAS(folder / "once"), encoding=ENCODING, progress=False)
        differ = int(at_once != root)
        yield at_most("roots that are not that of the run stored at once", differ, 0)
    yield from _large(ds, size.chunks)


def _large(ds: xr.Dataset, chunks: int) -> Iterator[Row]:
    """An append beside many chunks of another variable."""
    cas = CountingCAS()
    root = to_hamt(ds.isel(time=slice(8)).chunk(time=8), cas, encoding=ENCODING, progress=False)
    others = ((f"other/c/{number // 1000}/{number % 1000}", b"%d" % number) for number in range(chunks))
    root = build(others, cas, base=root)
    nodes = sum(cid[1] == DAG_CBOR for cid in cas.blocks)
    cas.read = cas.written = 0
    start = time.process_time()
    to_hamt(ds.isel(time=slice(8, 9)).chunk(time=1), cas, base=root, append_dim="time", progress=False)
    seconds = time.process_time() - start
    name = f"one day more beside {chunks:,} chunks"
    yield at_most(f"{name}: blocks read", cas.read, BLOCKS_READ, note=f"of a tree of {nodes:,} nodes")
    yield at_most(f"{name}: blocks written", cas.written, 40)
    yield record(f"{name}: CPU", seconds * 1000, " ms")


if __name__ == "__main__":
    run("Appends: a day more", rows, SIZES)
