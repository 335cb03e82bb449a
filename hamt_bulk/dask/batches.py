"""
Batches: many Dask blocks as one opaque task.

A task costs the scheduler 1 to 2 ms, and each batch is one pack on disk, so batches are large; but there
are enough of them for all workers.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TypeAlias

import dask.array as da
import numpy as np
from numpy.typing import NDArray

Index: TypeAlias = tuple[int, ...]

BATCH_BYTES = 128 << 20
"""Decoded bytes of a batch, and so about the size of a pack before compression."""

MAX_BATCH_BLOCKS = 5_000
"""A bound for what is lost when a worker dies and for how long a batch shows no progress."""

MIN_BATCH_BLOCKS = 500
"""On clusters of many workers batches are smaller, so that a window has one for each; but not below this."""

BATCHES_PER_WORKER = 3
"""How many batches a small build is cut into for each worker thread, so that none waits long at the end."""

SMALL_BATCH_BYTES = 8 << 20
SMALL_BATCH_BLOCKS = 64
"""Batches below both are not cut further than into one for each worker thread: each is a pack."""

WINDOW_BLOCKS = 10_000
"""Dask blocks whose graph is built and held at a time; a window ends at the next batch."""


@dataclass(frozen=True, slots=True)
class DaskBlock:
    """One Dask block of one of the arrays of a build. `number`: among those of all arrays."""

    number: int
    source: int
    index: Index
    slices: tuple[slice, ...]
    nbytes: int


def blocks_of(sources: Sequence[da.Array]) -> Iterator[DaskBlock]:
    """The Dask blocks of all arrays, in the order in which their chunks lie in the arrays."""
    count = 0
    for place, source in enumerate(sources):
        itemsize = source.dtype.itemsize
        # Arrays, since an axis may have millions of blocks.
        ends = [np.cumsum(sizes) for sizes in source.chunks]
        for index in product(*map(range, source.numblocks)):
            sizes = [axis[at] for axis, at in zip(source.chunks, index, strict=True)]
            stops = [int(axis[at]) for axis, at in zip(ends, index, strict=True)]
            slices = tuple(slice(stop - size, stop) for stop, size in zip(stops, sizes, strict=True))
            yield DaskBlock(count, place, index, slices, math.prod(sizes) * itemsize)
            count += 1


def batches_of(
    sources: Sequence[da.Array], workers: int, finished: NDArray[np.bool_]
) -> Iterator[list[DaskBlock]]:
    """
    The Dask blocks that are not `finished`, in batches for so many worker threads: large, but enough of them for all.
    """
    total = sum(int(source.nbytes) for source in sources)
    limit = _share(total, workers, BATCH_BYTES, SMALL_BATCH_BYTES)
    count = sum(source.npartitions for source in sources)
    each = max(2 * WINDOW_BLOCKS // workers, MIN_BATCH_BLOCKS)
    most = _share(count, workers, min(MAX_BATCH_BLOCKS, each), SMALL_BATCH_BLOCKS)
    batch: list[DaskBlock] = []
    size = 0
    for block in blocks_of(sources):
        if finished[block.number]:
            continue
        if batch and (size + block.nbytes > limit or len(batch) == most):
            yield batch
            batch, size = [], 0
        batch.append(block)
        size += block.nbytes
    if batch:
        yield batch


def _share(total: int, workers: int, most: int, small: int) -> int:
    """How much a batch has: `BATCHES_PER_WORKER` for each, or one each where those would be small."""
    several = math.ceil(total / (BATCHES_PER_WORKER * workers))
    return min(most, max(several, min(small, math.ceil(total / workers))))


def windows_of(
    batches: Iterable[list[DaskBlock]], workers: int, limit: int = WINDOW_BLOCKS
) -> Iterator[list[list[DaskBlock]]]:
    """Batches in windows of about `limit` Dask blocks, and of at least one batch for each worker thread."""
    window: list[list[DaskBlock]] = []
    count = 0
    for batch in batches:
        window.append(batch)
        count += len(batch)
        if count >= limit and len(window) >= workers:
            yield window
            window, count = [], 0
    if window:
        yield window
