"""
Batches: many Dask blocks as one opaque task.

A task costs the scheduler 1 to 2 ms. So the tasks that lead to one batch alone are taken into it and
run there one Dask block at a time; what several batches share stays a task of its own.
"""

import math
import uuid
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from heapq import heappop, heappush
from itertools import chain, islice, product
from typing import Any, Generic, TypeAlias, TypeVar

import dask.array as da
import numpy as np
from dask._task_spec import Alias, DataNode, GraphNode, convert_legacy_graph
from dask.blockwise import Blockwise, fuse_roots, optimize_blockwise
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer
from distributed import Future
from distributed.protocol import pickle

T = TypeVar("T")

Key: TypeAlias = Any
"""A Dask key: text, or a tuple that starts with it."""

Index: TypeAlias = tuple[int, ...]

BATCH_BYTES = 128 << 20
"""Decoded bytes of a batch, and so about the size of a pack before compression."""

MAX_BATCH_BLOCKS = 2_000
"""A bound for what is lost when a worker dies and for how long a batch shows no progress."""

BATCHES_PER_WORKER = 4
"""How many batches a small build is cut into for each worker thread, so that none waits long at the end."""

SMALL_BATCH_BYTES = 8 << 20
SMALL_BATCH_BLOCKS = 64
"""Batches below both are not cut further than into one for each worker thread: each is a pack."""

WINDOW_BLOCKS = 10_000
"""Dask blocks whose graph is built and held at a time; a window ends at the next batch."""

MAX_COMPRESSED_BYTES = 8 << 20
"""
Parcels up to this size are compressed: the tasks of a batch differ in a few bytes, so of 150 bytes a Dask
block 16 are left. Above it they hold data, on which the time is wasted.
"""

MAX_SHARED = 0.25
"""The share of a window's tasks that another may need as well. Each window computes them anew, so arrays
with more, such as `x - x.mean()`, are written in one window."""

OUTER = -1
"""The owner of a task that is not taken into a batch."""


@dataclass(frozen=True, slots=True)
class DaskBlock:
    """One Dask block of one of the arrays of a build."""

    source: int
    index: Index
    slices: tuple[slice, ...]
    nbytes: int


@dataclass(frozen=True, slots=True)
class Subgraph:
    """
    The tasks that lead to a batch.

    nodes    by key; what they need and is not here comes from outside
    outputs  the keys of the Dask blocks, in order
    outside  the keys of tasks that stay outside
    """

    nodes: dict[Key, GraphNode]
    outputs: list[Key]
    outside: list[Key]

    def results(self, values: Mapping[Key, Any]) -> Iterator[Any]:
        """The Dask blocks in order, one at a time; what no later one needs is let go of."""
        uses = Counter(key for node in self.nodes.values() for key in node.dependencies)
        uses.update(self.outputs)
        known = dict(values)
        for output in self.outputs:
            stack = [output]
            while stack:
                key = stack[-1]
                if key in known:
                    stack.pop()
                    continue
                node = self.nodes[key]
                missing = [needed for needed in node.dependencies if needed not in known]
                if missing:
                    stack += missing
                    continue
                known[key] = node({needed: known[needed] for needed in node.dependencies})
                for needed in node.dependencies:
                    uses[needed] -= 1
                    if not uses[needed]:
                        del known[needed]
            result = known[output]
            uses[output] -= 1
            if not uses[output]:
                del known[output]
            yield result


class Parcel(Generic[T]):
    """
    An argument of a task that is pickled when it is first sent, and opened where it is used.

    The scheduler passes its bytes on. Tasks inside it would be unpickled there, pickled again, and kept:
    distributed remembers the last 1,000 messages to each worker, 1 KB a Dask block. And Dask tokenizes
    what it sends, which takes ten times as long as pickling. In one process nothing is pickled.
    """

    def __init__(self, content: T) -> None:
        self._content = content
        self._sealed: SealedParcel | None = None
        self._token = uuid.uuid4().hex

    def open(self) -> T:
        """What is in it."""
        return self._content

    def __reduce__(self) -> tuple[Any, ...]:
        if self._sealed is None:
            data = pickle.dumps(self._content)
            small = len(data) <= MAX_COMPRESSED_BYTES
            self._sealed = SealedParcel(self._token, zlib.compress(data, 1) if small else data, small)
        return self._sealed.__reduce__()

    def __dask_tokenize__(self) -> str:
        return self._token


class SealedParcel:
    """A `Parcel` in another process."""

    def __init__(self, token: str, data: bytes, compressed: bool) -> None:
        self._token = token
        self._data = data
        self._compressed = compressed

    def open(self) -> Any:
        """What is in it."""
        return pickle.loads(zlib.decompress(self._data) if self._compressed else self._data)

    def __reduce__(self) -> tuple[Any, ...]:
        return SealedParcel, (self._token, self._data, self._compressed)

    def __dask_tokenize__(self) -> str:
        return self._token


def blocks_of(sources: Sequence[da.Array]) -> Iterator[DaskBlock]:
    """The Dask blocks of all arrays, in the order in which their chunks lie in the arrays."""
    for number, source in enumerate(sources):
        itemsize = source.dtype.itemsize
        # Arrays, since an axis may have millions of blocks.
        ends = [np.cumsum(sizes) for sizes in source.chunks]
        for index in product(*map(range, source.numblocks)):
            sizes = [axis[at] for axis, at in zip(source.chunks, index, strict=True)]
            stops = [int(axis[at]) for axis, at in zip(ends, index, strict=True)]
            slices = tuple(slice(stop - size, stop) for stop, size in zip(stops, sizes, strict=True))
            yield DaskBlock(number, index, slices, math.prod(sizes) * itemsize)


def batches_of(sources: Sequence[da.Array], workers: int) -> Iterator[list[DaskBlock]]:
    """The Dask blocks in batches for so many worker threads: large, but enough of them for all."""
    total = sum(int(source.nbytes) for source in sources)
    limit = _share(total, workers, BATCH_BYTES, SMALL_BATCH_BYTES)
    count = sum(source.npartitions for source in sources)
    most = _share(count, workers, MAX_BATCH_BLOCKS, SMALL_BATCH_BLOCKS)
    batch: list[DaskBlock] = []
    size = 0
    for block in blocks_of(sources):
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
    batches: Iterable[list[DaskBlock]], limit: int = WINDOW_BLOCKS
) -> Iterator[list[list[DaskBlock]]]:
    """Batches in windows of about `limit` Dask blocks."""
    window: list[list[DaskBlock]] = []
    count = 0
    for batch in batches:
        window.append(batch)
        count += len(batch)
        if count >= limit:
            yield window
            window, count = [], 0
    if window:
        yield window


class BatchGraphs:
    """Cuts the graphs of batches out of the graph of the arrays, at the cost of what is cut."""

    def __init__(self, sources: Sequence[da.Array]) -> None:
        self._names = [source.name for source in sources]
        graph = HighLevelGraph.merge(*(_high_level(source) for source in sources))
        # One key of each array is enough: it keeps the layer from being fused into another.
        keys = [(source.name, *(0,) * source.ndim) for source in sources]
        graph = fuse_roots(optimize_blockwise(graph, keys=keys), keys=keys)
        order = list(TopologicalSorter(graph.dependencies).static_order())
        self._layers = _Layers([graph.layers[name] for name in reversed(order) if name in graph.layers])

    def cut(self, batches: Sequence[Sequence[DaskBlock]]) -> tuple[list[Subgraph], dict[Key, Any]]:
        """The subgraph of each batch, and the tasks outside that they need."""
        outputs = self._keys(batches)
        graph = self._layers.cull(key for batch in outputs for key in batch)
        owners = _owners(graph, outputs)
        nodes: list[dict[Key, GraphNode]] = [{} for _ in batches]
        outer: dict[Key, Any] = {}
        for key, owner in owners.items():
            (outer if owner == OUTER else nodes[owner])[key] = graph[key]
        return [
            Subgraph(inner, keys, sorted(_needed(inner, keys), key=str))
            for inner, keys in zip(nodes, outputs, strict=True)
        ], outer

    def windows(self, batches: Iterable[list[DaskBlock]]) -> Iterator[list[list[DaskBlock]]]:
        """Batches in windows; all in one where windows would do the same work again and again."""
        windows = windows_of(batches)
        start = list(islice(windows, 2))
        if len(start) == 2 and self._shared(*start) > MAX_SHARED:
            yield [batch for window in chain(start, windows) for batch in window]
        else:
            yield from chain(start, windows)

    def _shared(self, window: Sequence[Sequence[DaskBlock]], other: Sequence[Sequence[DaskBlock]]) -> float:
        """The share of the tasks of `window` that the `other` needs too."""
        tasks, others = (
            {
                key
                for key, task in self._layers.cull(
                    key for keys in self._keys(batches) for key in keys
                ).items()
                if isinstance(task, GraphNode) and not isinstance(task, (DataNode, Alias))
            }
            for batches in (window, other)
        )
        return len(tasks & others) / max(len(tasks), 1)

    def _keys(self, batches: Sequence[Sequence[DaskBlock]]) -> list[list[Key]]:
        return [[(self._names[block.source], *block.index) for block in batch] for batch in batches]


class _Layers:
    """
    The layers of a graph, each before those that it depends on, and which of them may hold a key.

    A dataset of thousands of files has thousands of layers, and an array of millions of Dask blocks
    millions of tasks. So `HighLevelGraph.cull`, which copies whole layers (2.4 s for each window of 3 million
    blocks), will not do, nor will asking each layer for each key.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = layers
        named: dict[Key, dict[int, None]] = {}
        others: list[int] = []
        for place, layer in enumerate(layers):
            if isinstance(layer, Blockwise):
                named.setdefault(layer.output, {})[place] = None
            elif isinstance(layer, MaterializedLayer):
                for key in layer.mapping:
                    named.setdefault(_name(key), {})[place] = None
            else:
                others.append(place)
        self._places = {name: tuple(sorted([*places, *others])) for name, places in named.items()}
        self._others = tuple(others)

    def places(self, key: Key) -> Sequence[int]:
        """The numbers of the layers that may hold `key`."""
        return self._places.get(_name(key), self._others)

    def __contains__(self, key: Key) -> bool:
        layers = (self._layers[place] for place in self.places(key))
        return any(_holds(layer, key) for layer in layers)

    def cull(self, keys: Iterable[Key]) -> dict[Key, Any]:
        """The tasks that lead to `keys`, none of the old form. Futures stay what they are."""
        graph: dict[Key, Any] = {}
        wanted: dict[int, set[Key]] = {}
        order: list[int] = []

        def want(key: Key) -> None:
            for place in self.places(key):
                if place not in wanted:
                    wanted[place] = set()
                    heappush(order, place)
                wanted[place].add(key)

        for key in keys:
            want(key)
        while order:
            place = heappop(order)
            found = self._found(self._layers[place], wanted.pop(place).difference(graph))
            graph.update(found)
            for task in found.values():
                for needed in _dependencies(task):
                    if needed not in graph:
                        want(needed)
        return graph

    def _found(self, layer: Layer, keys: set[Key]) -> dict[Key, Any]:
        """The tasks of `keys` that are in `layer`."""
        if isinstance(layer, MaterializedLayer):
            found = {key: layer.mapping[key] for key in keys if key in layer.mapping}
        else:
            culled, _ = layer.cull(keys, ())
            found = dict(culled)
        tuples = {key: task for key, task in found.items() if not isinstance(task, GraphNode | Future)}
        return found | convert_legacy_graph(tuples, self) if tuples else found


def _name(key: Key) -> Key:
    return key[0] if isinstance(key, tuple) and key else key


def _holds(layer: Layer, key: Key) -> bool:
    if isinstance(layer, Blockwise):  # asked for a key, it would make all its tasks
        return isinstance(key, tuple) and len(key) == 1 + len(layer.output_indices)
    return key in layer


def _high_level(source: da.Array) -> HighLevelGraph:
    graph = source.__dask_graph__()
    if isinstance(graph, HighLevelGraph):
        return graph
    return HighLevelGraph.from_collections(source.name, graph, dependencies=())


def _dependencies(task: Any) -> Iterable[Key]:
    # What is no task is a result on the cluster already: a persisted array holds futures.
    return task.dependencies if isinstance(task, GraphNode) else ()


def _owners(graph: Mapping[Key, Any], outputs: Sequence[Sequence[Key]]) -> dict[Key, int]:
    """Which batch each task is taken into: the only one that needs it, if there is only one."""
    owners: dict[Key, int] = {}
    for number, keys in enumerate(outputs):
        work = [(key, number) for key in keys]
        while work:
            key, owner = work.pop()
            before = owners.get(key)
            if before in (owner, OUTER):
                continue
            task = graph[key]
            if before is not None or not isinstance(task, GraphNode):
                owner = OUTER
            owners[key] = owner
            work += ((needed, owner) for needed in _dependencies(task))
    return owners


def _needed(nodes: Mapping[Key, GraphNode], outputs: Sequence[Key]) -> set[Key]:
    needed = {key for node in nodes.values() for key in node.dependencies}
    return needed.union(outputs).difference(nodes)
