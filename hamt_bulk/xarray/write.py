"""The write stage: batches of Dask blocks, encoded by zarr and saved."""

import pickle
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, TypeAlias

import cloudpickle
import numpy as np
from dask._task_spec import List, TaskRef

from hamt_bulk.bulk import Target
from hamt_bulk.dask.batches import DaskBlock, batches_of
from hamt_bulk.dask.graphs import BatchGraphs, Subgraph
from hamt_bulk.dask.layers import Key
from hamt_bulk.dask.parcel import Parcel, SealedParcel
from hamt_bulk.dask.runner import Stage, Window
from hamt_bulk.dask.stages import fresh, task
from hamt_bulk.manifest import TOMBSTONE, Manifest
from hamt_bulk.xarray.plan import Source, ZarrArray
from hamt_bulk.zarr.recording import RecordingStore


class Step(NamedTuple):
    """Where a Dask block goes: the number of its Zarr array in the batch, and the region."""

    array: int
    region: tuple[slice, ...]


Work: TypeAlias = tuple[list[Step], Subgraph]
"""The tasks that lead to a batch, and where their results go."""


def write_batch(
    target: Target, arrays: bytes, work: Parcel[Work] | SealedParcel, outside: Sequence[Any]
) -> Manifest:
    """
    The edits of a batch: computes its Dask blocks one at a time, and saves their chunks, durably.

    arrays   pickled Zarr arrays over one `RecordingStore`, which is this call's own
    outside  the values of what the subgraph needs from outside
    """
    steps, subgraph = work.open()
    store, targets = pickle.loads(arrays)
    edits: list[tuple[str, bytes]] = []
    blocks = subgraph.results(dict(zip(subgraph.outside, outside, strict=True)))
    with target.cas.writer() as writer:
        for step, block in zip(steps, blocks, strict=True):
            if block is None or np.size(block) == 0:
                continue
            # zarr encodes on its one loop thread and calls `set` there, which only records. Saving is for
            # this thread: a store that blocked in `set` would stop every other task of the process.
            targets[step.array][step.region] = block
            for key, value in store.take_chunks():
                edits.append((key, TOMBSTONE if value is None else writer.save(value)))
        writer.flush()
    return Manifest.of(edits, target.hash_fn)


def write_stage(target: Target, sources: Sequence[Source], store: RecordingStore, workers: int) -> Stage:
    """The write stage for `sources`, cut for so many worker threads."""
    total = sum(source.array.npartitions for source in sources)
    return Stage("write", total, _windows(target, sources, store, workers))


def _windows(
    target: Target, sources: Sequence[Source], store: RecordingStore, workers: int
) -> Iterator[Window]:
    if not sources:
        return
    arrays = [source.array for source in sources]
    graphs = BatchGraphs(arrays)
    name = fresh("hamt-write")
    number = 0

    @lru_cache(64)
    def pickled(used: tuple[int, ...]) -> bytes:
        targets: list[ZarrArray] = [sources[at].target for at in used]
        data: bytes = cloudpickle.dumps((store, targets), protocol=5)
        return data

    for window in graphs.windows(batches_of(arrays, workers), workers):
        subgraphs, graph = graphs.cut(window)
        results: dict[Key, int] = {}
        for batch, subgraph in zip(window, subgraphs, strict=True):
            used = tuple(sorted({block.source for block in batch}))
            steps = [_step(block, sources[block.source], used.index(block.source)) for block in batch]
            key = (name, number)
            outside = List(*map(TaskRef, subgraph.outside))
            graph[key] = task(key, write_batch, target, pickled(used), Parcel((steps, subgraph)), outside)
            results[key] = len(batch)
            number += 1
        yield Window(graph, results)


def _step(block: DaskBlock, source: Source, array: int) -> Step:
    region = tuple(
        slice((part.start or 0) + own.start, (part.start or 0) + own.stop)
        for part, own in zip(source.region, block.slices, strict=True)
    )
    return Step(array, region)
