"""The stages of a conversion as windows of Dask tasks."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from hamt_bulk.bulk import Base, Target
from hamt_bulk.conversion.parts import Job, Part, convert_part, verify_part
from hamt_bulk.dask.halt import halt_of
from hamt_bulk.dask.layers import Key
from hamt_bulk.dask.stage import Stage, Stages, Window
from hamt_bulk.dask.stages import ValuesStage, fresh, part_count, part_ranges, task, tree_stages
from hamt_bulk.manifest import Manifest

PARTS_IN_WINDOW = 64


class ConvertStage(ValuesStage):
    """
    The stage that gives the edits of each part of the source.

    finished  whether each part is, by an earlier call
    note      called with the number of each part, and what became of it
    """

    def __init__(
        self,
        job: Job,
        parts: Sequence[Part],
        finished: NDArray[np.bool_],
        note: Callable[[Sequence[int], Manifest], None],
    ) -> None:
        left = np.flatnonzero(~finished).tolist()
        windows = (
            self._window(left[start : start + PARTS_IN_WINDOW])
            for start in range(0, len(left), PARTS_IN_WINDOW)
        )
        done = len(parts) - len(left)
        super().__init__("convert", len(parts), windows, job.target.cas, done, are_saved=False)
        self._job = job
        self._parts = parts
        self._note = note
        self._name = fresh("hamt-convert")
        self._halt = halt_of(self._name)
        self._numbers: dict[Key, int] = {}

    def finished(self, key: Key, result: Manifest) -> None:
        super().finished(key, result)
        self._note([self._numbers.pop(key)], result)

    def again(self, key: Key, spot: str | None) -> Window | None:
        return self._window([self._numbers.pop(key)])

    def describe(self, key: Key) -> str:
        return f"part {self._numbers[key]} of {len(self._parts)} of the source"

    def halt(self) -> None:
        self._halt.give()

    def _window(self, numbers: Sequence[int]) -> Window:
        graph, results = {}, {}
        for number in numbers:
            key = (fresh(self._name), number)
            graph[key] = task(key, convert_part, self._job, self._parts[number], self._halt)
            self._numbers[key] = number
            results[key] = 1
        return Window(graph, results)


def conversion_stages(
    write: ConvertStage, saved: Manifest, target: Target, workers: int
) -> Stages[tuple[bytes, list[Manifest]]]:
    """The root of a new tree, and the edits that it was made of."""
    kept: list[Manifest] = [saved]

    def keep(manifests: list[Manifest]) -> list[Manifest]:
        kept.extend(manifests)
        return manifests

    stages = tree_stages(target, write, [saved], Base.of(target, None), workers)
    stage = next(stages)
    results = yield stage
    keep(results)
    try:
        while True:
            results = yield stages.send(results)
    except StopIteration as stop:
        return stop.value, kept


def verify_stages(target: Target, root: bytes, edits: Sequence[Manifest], workers: int) -> Stages[int]:
    """How many keys the new root has, which are all those of the `edits`."""
    slots = Base.of(target, root).slots
    name = fresh("hamt-verify")
    halt = halt_of(name)
    ranges = part_ranges(part_count(sum(map(len, edits))), target.layout.first_bytes)
    graph = {}
    for number, (first, last) in enumerate(ranges):
        key = (name, number)
        own = [slot for at, slot in enumerate(slots) if first <= target.layout.first_byte(at) <= last]
        expected = [part for manifest in edits if len(part := manifest.part(first, last))]
        if own or expected:
            graph[key] = task(key, verify_part, target, root, own, expected, halt)
    counts: list[int] = yield Stage(
        "verify", len(graph), iter([Window(graph, dict.fromkeys(graph, 1))] if graph else [])
    )
    return sum(counts)
