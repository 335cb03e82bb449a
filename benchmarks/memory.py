"""
The memory of the driver while an array of very many Dask blocks of one tiny chunk each is stored.

The scheduler of the cluster runs in the driver's process, so its memory counts.
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks.data import grid
from benchmarks.measure import cluster, files_below, fresh_folder, peak_memory, reset_peak_memory
from benchmarks.report import Row, at_most, record, run
from hamt_bulk import PackCAS
from hamt_bulk.progress import BuildProgress
from hamt_bulk.xarray import to_hamt

MEBIBYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Size:
    """An array of `rows` x `columns` Dask blocks."""

    rows: int
    columns: int


SIZES = {"tiny": Size(4, 4), "small": Size(100, 1000), "full": Size(1000, 1000)}


def rows(size: Size) -> Iterator[Row]:
    """The peak and what a Dask block took."""
    blocks = size.rows * size.columns
    with cluster() as client, fresh_folder() as folder:
        dataset = grid(size.rows, size.columns)
        opened = reset_peak_memory()
        peaks: dict[str, int] = {}

        def note_peak(progress: BuildProgress) -> None:
            peaks[progress.stage] = peak_memory() - opened

        start = time.perf_counter()
        to_hamt(dataset, PackCAS(folder / "store"), progress=note_peak)
        taken = time.perf_counter() - start
        peak = peak_memory() - opened
        stages = ", ".join(
            f"{bytes_ / MEBIBYTE:.0f} MiB until the end of {stage}" for stage, bytes_ in peaks.items()
        )
        note = f"{blocks:,} Dask blocks; {opened / MEBIBYTE:.0f} MiB before; {stages}"
        yield at_most("driver's peak above that with the dataset open", peak / 1e6, 400, " MB", note)
        workers = client.run(_peak)
        shown = ", ".join(f"{bytes_ / MEBIBYTE:.0f} MiB" for bytes_ in workers.values())
        yield record(
            "time per Dask block", taken / blocks * 1e6, " µs", f"{taken:.1f} s; peaks of workers {shown}"
        )
        yield record("files", len(files_below(folder)))


def _peak() -> int:
    return peak_memory()


if __name__ == "__main__":
    run("Driver memory: to_hamt of an array of tiny Dask blocks, two worker processes", rows, SIZES)
