"""The stages of a conversion as windows of Dask tasks."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hamt_bulk.bulk import Base
from hamt_bulk.conversion.parts import Job, Part, convert_part
from hamt_bulk.conversion.verifying import (
    MASK,
    Total,
    expected_entries,
    found_entries,
    refuse_other_entries,
    result_total,
    source_total,
)
from hamt_bulk.dask.halt import halt_of
from hamt_bulk.dask.layers import Key
from hamt_bulk.dask.stage import Stage, Stages, Window
from hamt_bulk.dask.stages import ValuesStage, fresh, part_ranges, task
from hamt_bulk.layout import Slot
from hamt_bulk.manifest import Manifest
from hamt_bulk.nodes import Tree

PARTS_IN_WINDOW = 64

MAX_RANGES = 64
"""Into how many ranges of slots the new root is cut to be looked at."""


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


def verify_stages(
    job: Job, parts: Sequence[Part], root: bytes, saved: Sequence[tuple[str, bytes]]
) -> Stages[int]:
    """
    How many keys the new root has, which are those of the source. Raises `BlockMismatch` when they are not.

    saved  names that are new, and what they have
    """
    target = job.target
    slots = Base.of(target, root).slots
    ranges = part_ranges(min(len(parts), MAX_RANGES) or 1, target.layout.first_bytes)
    first_byte = target.layout.first_byte
    own = [
        [slot for at, slot in enumerate(slots) if slot and first <= first_byte(at) <= last]
        for first, last in ranges
    ]
    totals: list[Total] = yield Stage("verify", len(parts) + len(own), _verify_windows(job, parts, root, own))
    wanted = [total for total in totals if total.side == "source"]
    found = [total for total in totals if total.side == "result"]
    wanted.append(Total("source").with_entries(saved))
    if _sum(wanted) != _sum(found):
        expected = dict(entry for part in parts for entry in expected_entries(job, part)) | dict(saved)
        tree = Tree(root, target.cas, target.layout, target.hash_fn)
        refuse_other_entries(
            root, expected, {name: what for name, _, what in found_entries(job, tree, slots)}
        )
    return _sum(found)[0]


def _verify_windows(
    job: Job, parts: Sequence[Part], root: bytes, ranges: Sequence[list[Slot]]
) -> Iterator[Window]:
    name = fresh("hamt-verify")
    halt = halt_of(name)
    calls: list[tuple[Callable[..., Total], tuple[Any, ...]]] = [
        *((source_total, (job, part, halt)) for part in parts),
        *((result_total, (job, root, slots, halt)) for slots in ranges),
    ]
    for start in range(0, len(calls), PARTS_IN_WINDOW):
        graph = {
            (name, number): task((name, number), call, *arguments)
            for number, (call, arguments) in enumerate(calls[start : start + PARTS_IN_WINDOW], start)
        }
        yield Window(graph, dict.fromkeys(graph, 1))


def _sum(totals: Sequence[Total]) -> tuple[int, int]:
    return sum(total.count for total in totals), sum(total.total for total in totals) & MASK
