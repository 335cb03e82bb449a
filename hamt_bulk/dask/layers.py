"""Layers of a graph, out of which the tasks for a few keys are cut."""

from collections.abc import Iterable, Sequence
from heapq import heappop, heappush
from typing import Any, TypeAlias

from dask._task_spec import GraphNode, convert_legacy_graph
from dask.blockwise import Blockwise
from dask.highlevelgraph import Layer, MaterializedLayer
from distributed import Future

Key: TypeAlias = Any
"""A Dask key: text, or a tuple that starts with it."""


class Layers:
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
                for needed in dependencies(task):
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


def dependencies(task: Any) -> Iterable[Key]:
    """The keys that a task needs."""
    # What is no task is a result on the cluster already: a persisted array holds futures.
    return task.dependencies if isinstance(task, GraphNode) else ()
