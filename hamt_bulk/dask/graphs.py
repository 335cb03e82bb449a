"""
The graph of a batch: the tasks that lead to it alone are taken into it, and run there one Dask block at a
time; what several batches share stays a task of its own.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from itertools import chain, islice
from typing import Any

import dask.array as da
from dask._task_spec import Alias, DataNode, GraphNode
from dask.blockwise import fuse_roots, optimize_blockwise
from dask.highlevelgraph import HighLevelGraph

from hamt_bulk.dask.batches import DaskBlock, windows_of
from hamt_bulk.dask.layers import Key, Layers, dependencies

MAX_SHARED = 0.25
"""The share of a window's tasks that another may need as well. Each window computes them anew, so arrays
with more, such as `x - x.mean()`, are written in one window."""

OUTER = -1
"""The owner of a task that is not taken into a batch."""


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


class BatchGraphs:
    """Cuts the graphs of batches out of the graph of the arrays, at the cost of what is cut."""

    def __init__(self, sources: Sequence[da.Array]) -> None:
        self._names = [source.name for source in sources]
        graph = HighLevelGraph.merge(*(_high_level(source) for source in sources))
        # One key of each array is enough: it keeps the layer from being fused into another.
        keys = [(source.name, *(0,) * source.ndim) for source in sources]
        graph = fuse_roots(optimize_blockwise(graph, keys=keys), keys=keys)
        order = list(TopologicalSorter(graph.dependencies).static_order())
        self._layers = Layers([graph.layers[name] for name in reversed(order) if name in graph.layers])

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

    def windows(self, batches: Iterable[list[DaskBlock]], workers: int) -> Iterator[list[list[DaskBlock]]]:
        """Batches in windows; all in one where windows would do the same work again and again."""
        windows = windows_of(batches, workers)
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


def _high_level(source: da.Array) -> HighLevelGraph:
    graph = source.__dask_graph__()
    if isinstance(graph, HighLevelGraph):
        return graph
    return HighLevelGraph.from_collections(source.name, graph, dependencies=())


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
            work += ((needed, owner) for needed in dependencies(task))
    return owners


def _needed(nodes: Mapping[Key, GraphNode], outputs: Sequence[Key]) -> set[Key]:
    needed = {key for node in nodes.values() for key in node.dependencies}
    return needed.union(outputs).difference(nodes)
