"""
Batches: many Dask blocks as one opaque task.

A task costs the scheduler 1 to 2 ms. So the tasks that lead to one batch alone are taken into it and
run there one Dask block at a time; what several batches share stays a task of its own.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import product
from typing import Any, TypeAlias

import dask.array as da
from dask._task_spec import GraphNode, convert_legacy_graph
from dask.blockwise import fuse_roots, optimize_blockwise
from dask.highlevelgraph import HighLevelGraph, Layer, MaterializedLayer
from distributed import Future

Key: TypeAlias = Any
"""A Dask key: text, or a tuple that starts with it."""

Index: TypeAlias = tuple[int, ...]

BATCH_BYTES = 128 << 20
"""Decoded bytes of a batch, and so about the size of a pack before compression."""

MAX_BATCH_BLOCKS = 2_000
"""A bound for what is lost when a worker dies and for how long a batch shows no progress."""

BATCHES_PER_WORKER = 4
"""How many batches a small build is cut into for each worker thread, so that none waits long at the end."""

WINDOW_BLOCKS = 10_000
"""Dask blocks whose graph is built and held at a time; a window ends at the next batch."""

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


def blocks_of(sources: Sequence[da.Array]) -> Iterator[DaskBlock]:
    """The Dask blocks of all arrays, in the order in which their chunks lie in the arrays."""
    for number, source in enumerate(sources):
        itemsize = source.dtype.itemsize
        axes = [
            [(at, slice(end - size, end), size) for at, (size, end) in enumerate(zip(sizes, ends, strict=True))]
            for sizes, ends in ((sizes, _ends(sizes)) for sizes in source.chunks)
        ]
        for place in product(*axes):
            nbytes = math.prod(size for *_, size in place) * itemsize
            yield DaskBlock(number, tuple(at for at, *_ in place), tuple(part for _, part, _ in place), nbytes)


def _ends(sizes: Iterable[int]) -> list[int]:
    total = 0
    return [total := total + size for size in sizes]


def batches_of(sources: Sequence[da.Array], workers: int) -> Iterator[list[DaskBlock]]:
    """The Dask blocks in batches for so many worker threads: large, but enough of them for all."""
    total = sum(source.nbytes for source in sources)
    limit = min(BATCH_BYTES, math.ceil(total / (BATCHES_PER_WORKER * workers)))
    count = sum(source.npartitions for source in sources)
    most = min(MAX_BATCH_BLOCKS, math.ceil(count / (BATCHES_PER_WORKER * workers)))
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


def windows_of(batches: Iterable[list[DaskBlock]], limit: int = WINDOW_BLOCKS) -> Iterator[list[list[DaskBlock]]]:
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
        self._layers = _without_tuples([graph.layers[name] for name in reversed(order) if name in graph.layers])

    def cut(self, batches: Sequence[Sequence[DaskBlock]]) -> tuple[list[Subgraph], dict[Key, Any]]:
        """The subgraph of each batch, and the tasks outside that they need."""
        outputs = [[(self._names[block.source], *block.index) for block in batch] for batch in batches]
        graph = self._cull({key for batch in outputs for key in batch})
        owners = _owners(graph, outputs)
        nodes: list[dict[Key, GraphNode]] = [{} for _ in batches]
        outer: dict[Key, Any] = {}
        for key, owner in owners.items():
            (outer if owner == OUTER else nodes[owner])[key] = graph[key]
        return [
            Subgraph(inner, keys, sorted(_needed(inner, keys), key=str))
            for inner, keys in zip(nodes, outputs, strict=True)
        ], outer

    def _cull(self, keys: set[Key]) -> dict[Key, Any]:
        """
        The tasks that lead to `keys`.

        As `HighLevelGraph.cull`, which copies whole layers: 2.4 s for each window of 3 million blocks.
        """
        wanted, graph = set(keys), {}
        for layer in self._layers:
            if isinstance(layer, MaterializedLayer):
                found: dict[Key, Any] = {}
                work = [key for key in wanted if key in layer]
                while work:
                    key = work.pop()
                    if key not in found:
                        found[key] = layer[key]
                        work += [needed for needed in _dependencies(found[key]) if needed in layer]
            else:
                culled, _ = layer.cull(wanted, ())
                found = dict(culled)
            graph.update(found)
            wanted.difference_update(found)
            wanted.update(
                needed for task in found.values() for needed in _dependencies(task) if needed not in graph
            )
        return graph


def _high_level(source: da.Array) -> HighLevelGraph:
    graph = source.__dask_graph__()
    if isinstance(graph, HighLevelGraph):
        return graph
    return HighLevelGraph.from_collections(source.name, graph, dependencies=())


def _without_tuples(layers: Sequence[Layer]) -> list[Layer]:
    """The layers with tasks of the old form, tuples, made into tasks. Futures stay what they are."""
    old = [layer for layer in layers if layer.has_legacy_tasks]
    tuples = {key: task for layer in old for key, task in layer.items() if not isinstance(task, Future)}
    if not tuples:
        return list(layers)
    every = {key for layer in layers for key in layer}
    tasks = convert_legacy_graph(tuples, every)
    return [
        MaterializedLayer({key: tasks.get(key, task) for key, task in layer.items()}) if layer in old else layer
        for layer in layers
    ]


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
            if before == owner or before == OUTER:
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
