"""
The CPU time that a Dask block costs the driver, and that it costs no more when there are millions of them.

The driver's part of a build runs as it does on a cluster, with nobody to do the work: windows are cut and
serialised as distributed's Client does it, each batch is answered with a manifest as a worker would
send it, and the parts of the index stage are cut and serialised.

    plan        xarray and zarr check the dataset and write its metadata
    cut         the graphs of all batches
    serialise   them
    results     manifests are read from their messages
    index       manifests are cut into parts, and serialised
"""

import pickle
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import xarray as xr
from dask._expr import LLGExpr
from distributed.protocol.serialize import serialize, to_serialize

from benchmarks.data import grid, pieces
from benchmarks.measure import Seconds, peak_memory, reset_peak_memory
from benchmarks.report import Row, at_most, record, run
from hamt_bulk import InMemoryCAS
from hamt_bulk.block import identify
from hamt_bulk.bulk import Base, Target
from hamt_bulk.dask.runner import Window
from hamt_bulk.dask.stages import index_windows, part_count, part_ranges
from hamt_bulk.layout import BUCKET_SIZE
from hamt_bulk.manifest import Manifest, blake3_hashfn
from hamt_bulk.xarray.plan import ZarrOptions, plan
from hamt_bulk.xarray.write import WriteStage
from hamt_bulk.zarr.recording import RecordingStore

LIMIT = 1.5
WORKERS = 8
POINTER = identify(b"a chunk")

SOURCES: dict[str, Callable[[int], xr.Dataset]] = {
    "one array": lambda blocks: grid(blocks // 1000 or 1, 1000),
    "open_mfdataset": lambda blocks: pieces(blocks // 1000 or 1, 1000),
}
"""Datasets of about so many Dask blocks: of one Blockwise layer, and of files one after the other."""


@dataclass(frozen=True, slots=True)
class Size:
    """So many Dask blocks, and so many more."""

    few: int
    many: int


SIZES = {"tiny": Size(1000, 2000), "small": Size(10**5, 3 * 10**5), "full": Size(10**5, 3 * 10**6)}


class Phases:
    """Seconds of CPU by phase."""

    def __init__(self) -> None:
        self.seconds: dict[str, Seconds] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.process_time()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0) + time.process_time() - start


@dataclass(frozen=True, slots=True)
class Driven:
    """What `blocks` Dask blocks cost the driver."""

    blocks: int
    seconds: dict[str, Seconds]
    sent: int
    peak: int

    def microseconds(self, phase: str | None = None) -> float:
        """The time of a Dask block, in one phase or in all."""
        return 1e6 * (self.total if phase is None else self.seconds[phase]) / self.blocks

    @property
    def total(self) -> Seconds:
        return sum(self.seconds.values())

    @property
    def note(self) -> str:
        phases = ", ".join(f"{phase} {self.microseconds(phase):.1f}" for phase in self.seconds)
        sent, peak = self.sent / self.blocks, self.peak / 1e6
        return f"{self.total:.1f} s: {phases} µs; {sent:.0f} B of graphs each; peak {peak:.0f} MB"


def drive(dataset: xr.Dataset) -> Driven:
    """The driver's part of storing `dataset`, whose chunks are one Dask block each."""
    opened = reset_peak_memory()
    phase, sent = Phases(), 0
    target = Target.of(InMemoryCAS(), BUCKET_SIZE, blake3_hashfn, None)
    record_store = RecordingStore()
    with phase("plan"):
        options = ZarrOptions(
            group=None,
            mode=None,
            append_dim=None,
            region=None,
            encoding=None,
            safe_chunks=True,
            align_chunks=False,
            write_empty_chunks=None,
            zarr_format=None,
            consolidated=None,
        )
        sources = plan(dataset, record_store, options, lambda key, value: None)
        count = sum(source.array.npartitions for source in sources)
        nothing = np.zeros(count, bool)
        stage = WriteStage(target, sources, record_store, WORKERS, nothing, lambda blocks, manifest: None)
    manifests: list[Manifest] = []
    blocks = 0
    while True:
        with phase("cut"):
            window = next(stage.windows, None)
        if window is None:
            break
        with phase("serialise"):
            sent += _serialised(window)
        for count in window.results.values():
            message = _answer(blocks, count)
            blocks += count
            with phase("results"):
                manifests.append(pickle.loads(message))
        del window
    with phase("index"):
        ranges = part_ranges(part_count(blocks))
        for window in index_windows(target, Base.of(target, None), manifests, ranges, WORKERS):
            sent += _serialised(window)
    return Driven(blocks, phase.seconds, sent, peak_memory() - opened)


def _serialised(window: Window) -> int:
    """The bytes of a window as `Client.get` sends it."""
    _header, frames = serialize(to_serialize(LLGExpr(window.graph)), on_error="raise")
    return sum(memoryview(frame).nbytes for frame in frames)


def _answer(first: int, count: int) -> bytes:
    """The manifest of a batch, as it comes from a worker."""
    keys = (f"number/c/{number // 1000}/{number % 1000}" for number in range(first, first + count))
    return pickle.dumps(Manifest.of((key, POINTER) for key in keys), protocol=5)


def rows(size: Size) -> Iterator[Row]:
    """For each source the time of a Dask block among few and among many, and their ratio."""
    drive(grid(1, 1000))
    for name, dataset in SOURCES.items():
        few, many = (drive(dataset(count)) for count in (size.few, size.many))
        yield at_most(
            f"{name}, a Dask block of {many.blocks:,} / of {few.blocks:,}",
            many.microseconds() / few.microseconds(),
            LIMIT,
            " ×",
        )
        for driven in (few, many):
            of = f"{name}, a Dask block of {driven.blocks:,}"
            yield record(of, driven.microseconds(), " µs", driven.note)


if __name__ == "__main__":
    run("Scale: the driver's time for a Dask block", rows, SIZES)
