"""The shape of a tree: which items make a node, a bucket or a link, and the blocks of the nodes."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hamt_bulk.block import Block, text
from hamt_bulk.errors import DepthExceeded, MalformedNode
from hamt_bulk.layout import Pieces, PyHamt, Slot
from hamt_bulk.ragged import Ints, Ragged
from hamt_bulk.tree.items import Items

Emit: TypeAlias = Callable[[list[Block]], None]
"""Takes the blocks of new nodes, children before parents."""


@dataclass(frozen=True, slots=True, eq=False)
class Level:
    """
    The runs of items that share a path of one depth: each a node, a bucket, or a link.

    depth    length of the path
    start    int64: each run's first item
    count    int64: and how many it has
    parent   int64: the number of the node it is in, among those of the level above
    is_node  bool
    """

    depth: int
    start: Ints
    count: Ints
    parent: Ints
    is_node: NDArray[np.bool_]


def settle(items: Items, bucket_size: int) -> tuple[list[Level], list[int]]:
    """The shape of the tree from depth 1 down; and links to read first, since they may be too small."""
    count, width = items.digests.shape
    shared = np.full(count, -1, np.int64)
    if count > 1:
        differ = items.digests[1:] != items.digests[:-1]
        shared[1:] = np.where(differ.any(axis=1), differ.argmax(axis=1), width)
    active = np.arange(count)
    parent_of_item = np.zeros(count, np.int64)
    levels: list[Level] = []
    underfull: list[int] = []
    depth = 1
    while len(active):
        start = np.flatnonzero(shared[active] < depth)
        first = active[start]
        counts = np.diff(np.append(start, len(active)))
        depths = items.depths[active]
        entry_count = np.add.reduceat((depths == 0).astype(np.int64), start)
        has_links = np.maximum.reduceat(depths, start) > depth
        is_link = items.depths[first] == depth
        _refuse_shared_links(items, first[is_link & (counts > 1)])
        is_node = (entry_count > bucket_size) | has_links
        underfull += _underfull(items, first, counts, has_links & (entry_count <= bucket_size))
        if depth == width and is_node.any():
            run = int(np.flatnonzero(is_node)[0])
            shown = [items.keys[int(first[run]) + row].decode() for row in range(min(int(counts[run]), 5))]
            raise DepthExceeded(
                f"more than {bucket_size} keys share all {width} bytes of their hash: {shown}"
            )
        levels.append(Level(depth, first, counts, parent_of_item[start], is_node))
        number = np.cumsum(is_node) - 1
        inside = np.repeat(is_node, counts)
        parent_of_item = np.repeat(number, counts)[inside]
        active = active[inside]
        depth += 1
    return levels, sorted(set(underfull))


def _underfull(items: Items, first: Ints, counts: Ints, suspects: NDArray[np.bool_]) -> list[int]:
    """
    A link to read for each run that, as far as is known, holds no more than a bucket would.

    In a canonical tree every link stands for more than a bucket of entries, and one read settles it.
    py-hamt up to 3.3 left nodes that are too small behind after deletes.
    """
    rows = []
    for run in np.flatnonzero(suspects):
        start = int(first[run])
        rows.append(start + int(np.flatnonzero(items.depths[start : start + int(counts[run])])[0]))
    return rows


def _refuse_shared_links(items: Items, rows: Ints) -> None:
    if len(rows):
        row = int(rows[0])
        path = items.digests[row, : items.depths[row]].tobytes()
        raise MalformedNode(
            f"entries lie beside the node {text(items.pointers[row])} at {path.hex()}, not in it"
        )


def encode(items: Items, levels: list[Level], layout: PyHamt, emit: Emit) -> Iterator[tuple[int, Slot]]:
    """The slots of the root, after the nodes below them were emitted, the deepest first."""
    nodes = Ragged.of([])
    for level, above in zip(reversed(levels[1:]), reversed(levels[:-1]), strict=True):
        blocks = layout.encode(int(above.is_node.sum()), _pieces(items, level, nodes))
        emit(blocks)
        nodes = Ragged.of([block.cid for block in blocks])
    if not levels:
        return
    top = levels[0]
    numbers = items.digests[top.start, 0].tolist()
    cids = iter(nodes)
    for number, start, count, is_node in zip(
        numbers, top.start.tolist(), top.count.tolist(), top.is_node.tolist(), strict=True
    ):
        if is_node:
            yield number, next(cids)
        elif items.depths[start]:
            yield number, items.pointers[start]
        else:
            rows = range(start, start + count)
            yield number, dict(sorted((items.keys[row].decode(), items.pointers[row]) for row in rows))


def _pieces(items: Items, level: Level, nodes: Ragged) -> Pieces:
    """The slots of the nodes above `level`, whose own nodes have these CIDs."""
    is_link = level.is_node | (items.depths[level.start] > 0)
    rows_of_run = np.where(level.is_node, 1, level.count)
    first_row = np.cumsum(rows_of_run) - rows_of_run
    rows = np.repeat(level.start - first_row, rows_of_run) + np.arange(rows_of_run.sum())
    rows[np.repeat(level.is_node, rows_of_run)] = len(items.keys) + np.arange(len(nodes))
    return Pieces(
        node=level.parent,
        slot=items.digests[level.start, level.depth - 1].astype(np.int64),
        entries=np.where(is_link, 0, level.count),
        rows=rows,
        keys=items.keys,
        pointers=items.pointers,
        children=nodes,
    )
