"""Subtrees from their entries, a level at a time, as columns."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hamt_bulk.block import Block
from hamt_bulk.errors import DepthExceeded
from hamt_bulk.layout import Layout, Pieces, Slot
from hamt_bulk.manifest import Manifest
from hamt_bulk.ragged import Ints, Ragged

Emit: TypeAlias = Callable[[list[Block]], None]
"""Takes the blocks of new nodes, children before parents."""


def build_slots(entries: Manifest, depth: int, layout: Layout, emit: Emit) -> dict[bytes, Slot]:
    """
    The slots at `depth` that hold `entries`, by the hash bytes that lead to them.

    Nodes below them are emitted, the deepest first.
    """
    levels = _levels(entries, depth, layout)
    nodes = Ragged.of([])
    for level, above in zip(reversed(levels[1:]), reversed(levels[:-1]), strict=True):
        blocks = layout.encode(int(above.is_node.sum()), _pieces(entries, level, nodes, layout))
        emit(blocks)
        nodes = Ragged.of([block.cid for block in blocks])
    slots: dict[bytes, Slot] = {}
    if not levels:
        return slots
    top = levels[0]
    cids = iter(nodes)
    runs = zip(top.start.tolist(), top.count.tolist(), top.is_node.tolist(), strict=True)
    for start, count, is_node in runs:
        rows = range(start, start + count)
        slots[entries.digests[start, : depth * layout.step].tobytes()] = (
            next(cids)
            if is_node
            else dict(sorted((entries.decoded_key(row), entries.pointers[row]) for row in rows))
        )
    return slots


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
    """
    The runs of entries that share a path of one depth: each a node or a bucket.

    depth    levels of the path
    start    int64: each run's first entry
    count    int64: and how many it has
    parent   int64: the number of the node it is in, among those of the level above
    is_node  bool
    """

    depth: int
    start: Ints
    count: Ints
    parent: Ints
    is_node: NDArray[np.bool_]


def _levels(entries: Manifest, depth: int, layout: Layout) -> list[_Level]:
    """The shape of the tree from `depth` down."""
    count, width = entries.digests.shape
    bucket_size, width = layout.max_bucket_size, width // layout.step
    shared = np.full(count, -1, np.int64)
    if count > 1:
        differ = entries.digests[1:] != entries.digests[:-1]
        shared[1:] = np.where(differ.any(axis=1), differ.argmax(axis=1) // layout.step, width)
    active = np.arange(count)
    parent_of_entry = np.zeros(count, np.int64)
    levels: list[_Level] = []
    while len(active):
        start = np.flatnonzero(shared[active] < depth)
        first = active[start]
        counts = np.diff(np.append(start, len(active)))
        is_node = counts > bucket_size
        if depth == width and is_node.any():
            run = int(np.flatnonzero(is_node)[0])
            rows = range(int(first[run]), int(first[run]) + min(int(counts[run]), 5))
            raise DepthExceeded(
                f"more than {bucket_size} keys share all {width * layout.step} bytes of their hash: "
                f"{[entries.decoded_key(row) for row in rows]}"
            )
        levels.append(_Level(depth, first, counts, parent_of_entry[start], is_node))
        number = np.cumsum(is_node) - 1
        inside = np.repeat(is_node, counts)
        parent_of_entry = np.repeat(number, counts)[inside]
        active = active[inside]
        depth += 1
    return levels


def _pieces(entries: Manifest, level: _Level, nodes: Ragged, layout: Layout) -> Pieces:
    """The slots of the nodes above `level`, whose own nodes have these CIDs."""
    rows_of_run = np.where(level.is_node, 1, level.count)
    first_row = np.cumsum(rows_of_run) - rows_of_run
    rows = np.repeat(level.start - first_row, rows_of_run) + np.arange(rows_of_run.sum())
    rows[np.repeat(level.is_node, rows_of_run)] = len(entries) + np.arange(len(nodes))
    return Pieces(
        node=level.parent,
        slot=layout.numbers(entries.digests[level.start], level.depth - 1),
        entries=np.where(level.is_node, 0, level.count),
        rows=rows,
        keys=entries.keys,
        pointers=entries.pointers,
        children=nodes,
    )
