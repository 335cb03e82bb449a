"""The stages of a build as windows of Dask tasks."""

import math
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

from dask._task_spec import List, Task, TaskRef

from hamt_bulk.block import text, to_cid
from hamt_bulk.bulk import Base, Target, conclude, index_part, write_root
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.cas.wrap import translated
from hamt_bulk.dask.layers import Key
from hamt_bulk.dask.stage import Stage, Stages, Window
from hamt_bulk.dask.workers import require_versions, versions
from hamt_bulk.errors import NotPortable
from hamt_bulk.layout import Slot
from hamt_bulk.manifest import Manifest
from hamt_bulk.pointers import is_inline

LOOK_SECONDS = 1.0
"""Between two looks for a value that has not been seen yet."""

KEYS_PER_PART = 50_000
"""About how many edits a part of the index stage has: 0.1 s of work."""

MAX_PARTS = 64
PARTS_IN_WINDOW = 4
"""
Or as many as there are worker threads. It bounds the manifests that are handed out at a time, of which the
driver, the scheduler and the connections between hold several copies.
"""

PARTS_OF_ONE_GRAPH = 16
"""In one graph each part takes all manifests, so parts times batches is the number of edges."""


def fresh(name: str) -> str:
    """A name for the tasks of one stage of one build. A name that is used again could return old results."""
    return f"{name}-{uuid.uuid4().hex}"


def task(key: Key, call: Callable[..., Any], *arguments: Any) -> Task:
    """A task of a build. On a worker with other versions than the driver's it fails before it does anything."""
    return Task(key, _checked, call, versions(), *arguments)


def _checked(call: Callable[..., Any], expected: dict[str, str], *arguments: Any) -> Any:
    require_versions(expected)
    return call(*arguments)


class ValuesStage(Stage):
    """
    A stage whose results are manifests of values that tasks saved.

    are_saved  `False` where they may be those that others saved before
    """

    def __init__(
        self,
        name: str,
        total: int,
        windows: Iterator[Window],
        cas: ContentAddressedStore,
        done: int = 0,
        *,
        are_saved: bool = True,
    ) -> None:
        super().__init__(name, total, windows, done)
        self._cas = cas
        self._arrived = not are_saved

    def finished(self, key: Key, result: Manifest) -> None:
        """Raises `NotPortable` when the first value that comes is not in the store that the driver has."""
        if not self._arrived and (cid := next(filter(_is_saved, result.pointers), None)) is not None:
            self._arrived = self._sees(cid)
            if not self._arrived:
                raise NotPortable(
                    f"{text(cid)} was saved by a task and is not in {self._cas!r} here: its tasks work on a copy, such as a "
                    "dict that was pickled. A store for workers keeps its blocks outside of the object"
                )

    def _sees(self, cid: bytes) -> bool:
        """Whether a value that a task has saved is there, or will be before long."""
        deadline = time.monotonic() + self._cas.unseen_seconds
        while True:
            with translated(self._cas, [cid]):
                [there] = self._cas.has_many([cid])
            if there or time.monotonic() >= deadline:
                return there
            time.sleep(LOOK_SECONDS)


def _is_saved(pointer: bytes) -> bool:
    return bool(pointer) and not is_inline(pointer)


def tree_stages(
    target: Target, write: Stage, saved: Sequence[Manifest], base: Base, workers: int
) -> Stages[bytes]:
    """
    All stages of a build: `write` gives manifests, parts of them are indexed, the root is assembled.

    saved    of what the driver saved itself, or an earlier call
    workers  how many threads the index stage is cut for
    """
    manifests: list[Manifest] = yield write
    manifests += saved
    count = len(base.cleared) + sum(map(len, manifests))
    ranges = part_ranges(part_count(count), target.layout.first_bytes)
    changed = yield Stage("index", len(ranges), index_windows(target, base, manifests, ranges, workers))
    return write_root(target, base, changed)


def part_count(edits: int) -> int:
    """How many parts are worth a task each."""
    return min(max(math.ceil(edits / KEYS_PER_PART), 1), MAX_PARTS)


def part_ranges(parts: int, first_bytes: int = 256) -> list[tuple[int, int]]:
    """The first bytes of ways in as many ranges, or in as many as there are bytes, first and last included."""
    parts = min(parts, first_bytes)
    bounds = [round(number * first_bytes / parts) for number in range(parts + 1)]
    return [(first, after - 1) for first, after in pairwise(bounds)]


def index_windows(
    target: Target,
    base: Base,
    manifests: Sequence[Manifest],
    ranges: Sequence[tuple[int, int]],
    workers: int,
) -> Iterator[Window]:
    """The index stage. Manifests are cut when their window is made, so few of the pieces exist at a time."""
    name = fresh("hamt-index")
    together = max(PARTS_IN_WINDOW, workers)
    for start in range(0, len(ranges), together):
        graph: dict[Key, Any] = {}
        for number, (first, last) in enumerate(ranges[start : start + together], start):
            edits, own = _parts(manifests, first, last), base.part(first, last, target.layout)
            if edits or len(own.cleared):
                key = (name, number)
                graph[key] = task(key, index_part, target, own, edits)
        if graph:
            yield Window(graph, dict.fromkeys(graph, 1))


def _parts(manifests: Sequence[Manifest], first: int, last: int) -> list[Manifest]:
    """What each manifest has for a range of first hash bytes, if it has anything."""
    return [part for manifest in manifests if len(part := manifest.part(first, last))]


def whole_graph(
    target: Target, write: Stage, saved: Sequence[Manifest], base: Base
) -> tuple[dict[Key, Any], Key]:
    """One graph of all stages and the key of the root, for `compute=False`."""
    graph: dict[Key, Any] = {}
    results: list[Key] = []
    for window in write.windows:
        graph |= window.graph
        results += window.results
    name = fresh("hamt-index")
    parts = []
    ranges = part_ranges(min(max(len(results), 1), PARTS_OF_ONE_GRAPH), target.layout.first_bytes)
    for number, (first, last) in enumerate(ranges):
        key = (name, number)
        manifests = List(*map(TaskRef, results))
        own = base.part(first, last, target.layout)
        graph[key] = task(key, _index_of_all, target, own, first, last, list(saved), manifests)
        parts.append(key)
    root = fresh("hamt-root")
    graph[root] = task(root, _root_of_all, target, base, List(*map(TaskRef, parts)))
    return graph, root


def _index_of_all(
    target: Target, base: Base, first: int, last: int, own: list[Manifest], manifests: list[Manifest]
) -> dict[int, Slot]:
    edits = _parts([*own, *manifests], first, last)
    return index_part(target, base, edits) if edits or len(base.cleared) else {}


def _root_of_all(target: Target, base: Base, changed: list[dict[int, Slot]]) -> Any:
    root = write_root(target, base, changed)
    conclude(target, root, base.root)
    return to_cid(root)
