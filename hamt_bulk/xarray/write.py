"""The write stage: batches of Dask blocks, encoded by zarr and saved."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple, TypeAlias

import cloudpickle
import dask.array as da
import numpy as np
from dask._task_spec import List, TaskRef
from distributed import Variable
from numpy.typing import NDArray

from hamt_bulk.bulk import Target
from hamt_bulk.crypto import Encryption
from hamt_bulk.crypto.edits import edit
from hamt_bulk.dask.batches import DaskBlock, batches_of
from hamt_bulk.dask.failures import noted
from hamt_bulk.dask.graphs import BatchGraphs, Subgraph
from hamt_bulk.dask.halt import Halt, halt_of, is_task
from hamt_bulk.dask.layers import Key
from hamt_bulk.dask.parcel import Parcel, SealedParcel
from hamt_bulk.dask.stage import Window
from hamt_bulk.dask.stages import ValuesStage, fresh, task
from hamt_bulk.errors import InvalidInput
from hamt_bulk.manifest import Manifest
from hamt_bulk.xarray.plan import Source, ZarrArray
from hamt_bulk.zarr.recording import RecordingStore


class Step(NamedTuple):
    """A Dask block, and where it goes: the number of its Zarr array in the batch, and the region."""

    number: int
    array: int
    region: tuple[slice, ...]


Work: TypeAlias = tuple[list[Step], Subgraph]
"""The tasks that lead to a batch, and where their results go."""


MAX_PICKLES = 64
"""Sets of Zarr arrays whose pickled form is kept: batches of one array follow each other."""


def write_batch(
    target: Target,
    arrays: bytes,
    work: Parcel[Work] | SealedParcel,
    outside: Sequence[Any],
    halt: Halt,
    spot: str | None,
    encryption: Encryption | None,
) -> Manifest:
    """
    The edits of a batch: computes its Dask blocks one at a time, and saves their chunks, durably.

    arrays      pickled Zarr arrays over one `RecordingStore`, which is this call's own
    outside     the values of what the subgraph needs from outside
    spot        the name of a `Variable` on the cluster, for the number of the Dask block that is computed
    encryption  of what is saved. It is an argument of its own so that a graph which waits keeps its key
    """
    steps, subgraph = work.open()
    store, targets = pickle.loads(arrays)
    edits: list[tuple[str, bytes]] = []
    blocks = subgraph.results(dict(zip(subgraph.outside, outside, strict=True)))
    with target.cas.writer() as writer:
        for step in steps:
            halt.heed()
            if spot is not None:
                Variable(spot).set(step.number)
            failed: BaseException | None = None
            try:
                block = next(blocks)
                _refuse_other_shape(block, step.region)
                # zarr encodes on its one loop thread and calls `set` there, which only records. Saving is for
                # this thread: a store that blocked in `set` would stop every other task of the process.
                targets[step.array][step.region] = block
            except KeyboardInterrupt:
                raise
            except BaseException as error:
                where = f"in {_where(targets[step.array], step.region)}"
                failed = noted(error, where, travels=isinstance(work, SealedParcel) or is_task())
            if failed is not None:
                raise failed
            for key, value in store.take_chunks():
                edits.append(edit(encryption, key, value, writer.save))
        writer.flush()
    return Manifest.of(edits, target.hash_fn)


def _refuse_other_shape(block: Any, region: tuple[slice, ...]) -> None:
    """Zarr would repeat what is too small, cut off what is too large, and leave out what is nothing."""
    expected = tuple(part.stop - part.start for part in region)
    if block is None or np.shape(block) != expected:
        found = "None" if block is None else f"{type(block).__name__} of shape {np.shape(block)}"
        raise InvalidInput(
            f"a Dask block is {found}, and its array says that it has the shape {expected}: let what computes it give what "
            "the array's chunks say"
        )


class WriteStage(ValuesStage):
    """
    The write stage for `sources`, cut for so many worker threads.

    store     what the targets of the sources write to
    finished  whether each Dask block is
    note      called with the numbers of the Dask blocks of each batch, and what became of them
    encryption  of what is saved
    """

    def __init__(
        self,
        target: Target,
        sources: Sequence[Source],
        store: RecordingStore,
        workers: int,
        finished: NDArray[np.bool_],
        note: Callable[[Sequence[int], Manifest], None],
        encryption: Encryption | None = None,
    ) -> None:
        super().__init__("write", len(finished), self._windows(workers), target.cas, int(finished.sum()))
        self._target = target
        self._sources = sources
        self._store = store
        self._finished = finished
        self._note = note
        self._encryption = encryption
        self._name = fresh("hamt-write")
        self._halt = halt_of(self._name)
        self._batches: dict[Key, list[DaskBlock]] = {}
        self._count = 0
        self._pickles: dict[tuple[int, ...], bytes] = {}

    def finished(self, key: Key, result: Manifest) -> None:
        super().finished(key, result)
        self._note([block.number for block in self._batches.pop(key)], result)

    def again(self, key: Key, spot: str | None) -> Window | None:
        return self._window([self._batches.pop(key)], spot)

    def without(self, key: Key, number: int, spot: str) -> tuple[str, Window | None]:
        batch = self._batches[key]
        others = [block for block in batch if block.number != number]
        if len(others) == len(batch):
            return self.describe(key), None
        del self._batches[key]
        [block] = (block for block in batch if block.number == number)
        return self._where(block), self._window([others], spot) if others else None

    def describe(self, key: Key) -> str:
        first, *others = self._batches[key]
        where = self._where(first)
        return f"{where} or one of {len(others)} other Dask blocks" if others else where

    def _where(self, block: DaskBlock) -> str:
        source = self._sources[block.source]
        return _where(source.target, _region(block, source))

    def halt(self) -> None:
        self._halt.give()

    def _windows(self, workers: int) -> Iterator[Window]:
        if self._sources:
            batches = batches_of(self._arrays, workers, self._finished)
            for window in self._graphs.windows(batches, workers):
                yield self._window(window)

    @cached_property
    def _arrays(self) -> list[da.Array]:
        return [source.array for source in self._sources]

    @cached_property
    def _graphs(self) -> BatchGraphs:
        return BatchGraphs(self._arrays)

    def _window(self, batches: Sequence[list[DaskBlock]], spot: str | None = None) -> Window:
        subgraphs, graph = self._graphs.cut(batches)
        results: dict[Key, int] = {}
        for batch, subgraph in zip(batches, subgraphs, strict=True):
            used = tuple(sorted({block.source for block in batch}))
            steps = [
                Step(block.number, used.index(block.source), _region(block, self._sources[block.source]))
                for block in batch
            ]
            key = (self._name, self._count)
            self._count += 1
            self._batches[key] = batch
            outside = List(*map(TaskRef, subgraph.outside))
            work = Parcel((steps, subgraph))
            arguments = self._pickled(used), work, outside, self._halt, spot, self._encryption
            graph[key] = task(key, write_batch, self._target, *arguments)
            results[key] = len(batch)
        return Window(graph, results)

    def _pickled(self, used: tuple[int, ...]) -> bytes:
        if used not in self._pickles:
            if len(self._pickles) == MAX_PICKLES:
                self._pickles.clear()
            targets: list[ZarrArray] = [self._sources[at].target for at in used]
            self._pickles[used] = cloudpickle.dumps((self._store, targets), protocol=5)
        return self._pickles[used]


def _region(block: DaskBlock, source: Source) -> tuple[slice, ...]:
    """Where a Dask block goes in its Zarr array."""
    return tuple(
        slice((part.start or 0) + own.start, (part.start or 0) + own.stop)
        for part, own in zip(source.region, block.slices, strict=True)
    )


def _where(array: ZarrArray, region: tuple[slice, ...]) -> str:
    """A Dask block in words: its variable, the Zarr chunks that it covers, and its elements."""
    sizes = getattr(array, "shards", None) or array.chunks
    chunks = tuple(part.start // max(size, 1) for part, size in zip(region, sizes, strict=True))
    dims = getattr(array.metadata, "dimension_names", None) or [None] * len(region)
    elements = ", ".join(
        f"{dim or axis}={part.start}:{part.stop}"
        for axis, (dim, part) in enumerate(zip(dims, region, strict=True))
    )
    return f"variable {array.path!r}, chunk {chunks}" + (f" ({elements})" if elements else "")
