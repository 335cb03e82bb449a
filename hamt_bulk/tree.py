"""
The tree, without I/O: look up, list, build and edit.

    A subtree is a node exactly when it holds more than `max_bucket_size` entries.
    The root is always a node.

So the root is a function of the entries alone. A build and an edit are one function: on an empty slot
`update_slots` builds, on a stored one it edits. What no edit touches is a link that is carried along
unread, with the one exception in `_underfull`.
"""

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hamt_bulk.block import Block, Data, text
from hamt_bulk.errors import DepthExceeded, MalformedNode
from hamt_bulk.layout import WIDTH, Bucket, Pieces, PyHamt, Slot
from hamt_bulk.manifest import HashFn, Manifest, blake3_hashfn, digests_of, encode_key, override
from hamt_bulk.ragged import Bytes, Ints, Ragged, row_order
from hamt_bulk.reads import Reads

Emit: TypeAlias = Callable[[list[Block]], None]
"""Takes the blocks of new nodes, children before parents."""

EMPTY_ROOT: list[Slot] = [{} for _ in range(WIDTH)]


def lookup(root: bytes, key: str, layout: PyHamt, hash_fn: HashFn = blake3_hashfn) -> Reads[bytes | None]:
    """The CID of the value stored under `key`, or `None`. One node a level."""
    digest = hash_fn(encode_key(key))
    slot: Slot = root
    for byte in digest:
        assert isinstance(slot, bytes)
        [data] = yield [slot]
        slot = layout.decode(slot, data)[byte]
        if isinstance(slot, dict):
            return slot.get(key)
    raise DepthExceeded(f"the tree goes on below all {len(digest)} bytes of the hash of {key!r}")


class Found(list[tuple[str, bytes]]):
    """Entries that `entries` came upon."""


def entries(
    root: bytes, layout: PyHamt, batch: int = 256
) -> Generator["list[bytes] | Found", Sequence[Data] | None, None]:
    """
    All entries of a tree, depth first, in order of their hashes within each batch.

    Yields lists of CIDs, `batch` at most, and is sent their bytes; and `Found` lists of (key, CID), for
    which it is sent `None`. No more than `batch` nodes a level are held.
    """
    waiting = [root]
    while waiting:
        wanted = waiting[-batch:]
        del waiting[-batch:]
        blocks = yield wanted
        assert blocks is not None
        found = Found()
        for cid, data in zip(wanted, blocks, strict=True):
            slots = layout.decode(cid, data)
            links = [slot for slot in slots if isinstance(slot, bytes)]
            if len(set(links)) < len(links):
                raise MalformedNode(f"{text(cid)} links one child twice: no two slots can hold the same keys")
            waiting += links
            for slot in slots:
                if slot and isinstance(slot, dict):
                    found += slot.items()
        if found:
            yield found


def update(
    root: bytes | None, edits: Manifest, layout: PyHamt, emit: Emit, hash_fn: HashFn = blake3_hashfn
) -> Reads[bytes]:
    """The root after `edits`. `None` is the empty tree, so this also builds."""
    slots = yield from root_slots(root, layout)
    changed = yield from update_slots(slots, edits, layout, emit, hash_fn)
    return assemble(slots, changed, layout, emit)


def root_slots(root: bytes | None, layout: PyHamt) -> Reads[list[Slot]]:
    """The 256 slots of a root. `None` is the empty tree."""
    if root is None:
        return EMPTY_ROOT
    [data] = yield [root]
    slots = layout.decode(root, data)
    layout.refuse_larger_buckets(root, slots)
    return slots


def assemble(slots: Sequence[Slot], changed: dict[int, Slot], layout: PyHamt, emit: Emit) -> bytes:
    """The CID of the root that has `slots`, of which some `changed`."""
    block = layout.encode_slots([changed.get(number, slot) for number, slot in enumerate(slots)])
    emit([block])
    return block.cid


def update_slots(
    slots: Sequence[Slot], edits: Manifest, layout: PyHamt, emit: Emit, hash_fn: HashFn = blake3_hashfn
) -> Reads[dict[int, Slot]]:
    """
    The slots of a root that `edits` touch, by number, as they are afterwards.

    slots  the 256 slots of the root before
    edits  tombstones delete; those of absent keys do nothing

    Slots share nothing, so edits may be cut by first hash byte and given to as many calls.
    """
    items, known = yield from _gather(slots, edits, layout, hash_fn)

    def emit_new(blocks: list[Block]) -> None:
        new = [block for block in blocks if block.cid not in known] if known else blocks
        if new:
            emit(new)

    while True:
        levels, underfull = _settle(items, layout.max_bucket_size)
        if not underfull:
            break
        items = yield from _expand(items, underfull, layout, hash_fn)
        known.update(items.pointers[row] for row in underfull)
    changed: dict[int, Slot] = {
        int(number): {} for number in np.flatnonzero(np.bincount(edits.digests[:, 0]))
    }
    changed.update(_encode(items, levels, layout, emit_new))
    return changed


@dataclass(frozen=True, slots=True, eq=False)
class _Items:
    """
    What subtrees are made of, in the order of hashes: entries, and links to nodes that stay as they are.

    digests   uint8 (n, width); a link's is its path, filled up with zeros
    keys      UTF-8; empty for a link
    pointers  the CID of a value or of a child node
    depths    int64: 0 for an entry, else the depth of the node that is linked
    """

    digests: Bytes
    keys: Ragged
    pointers: Ragged
    depths: Ints

    @classmethod
    def of(cls, entries: Manifest, links: "_Links") -> "_Items":
        width = entries.digests.shape[1]
        if not links.rows:
            return cls(entries.digests, entries.keys, entries.pointers, np.zeros(len(entries), np.int64))
        paths = [path.ljust(width, b"\0") for path, _ in links.rows]
        digests = np.concatenate(
            [entries.digests, np.frombuffer(b"".join(paths), np.uint8).reshape(-1, width)]
        )
        keys = Ragged.concat([entries.keys, Ragged.of([b""] * len(paths))])
        pointers = Ragged.concat([entries.pointers, Ragged.of([cid for _, cid in links.rows])])
        depths = np.zeros(len(digests), np.int64)
        depths[len(entries) :] = [len(path) for path, _ in links.rows]
        return cls(digests, keys, pointers, depths).take(row_order(digests))

    def take(self, rows: Ints) -> "_Items":
        return _Items(self.digests[rows], self.keys.take(rows), self.pointers.take(rows), self.depths[rows])


@dataclass(slots=True)
class _Links:
    """Links that are carried along: the path to each, as hash bytes, and its CID."""

    rows: list[tuple[bytes, bytes]] = field(default_factory=list)


@dataclass(slots=True)
class _Kept:
    """Entries of nodes that were read."""

    keys: list[bytes] = field(default_factory=list)
    pointers: list[bytes] = field(default_factory=list)
    paths: list[bytes] = field(default_factory=list)

    def add(self, bucket: Bucket, path: bytes) -> None:
        self.keys += (key.encode() for key in bucket)
        self.pointers += bucket.values()
        self.paths += [path] * len(bucket)

    def manifest(self, hash_fn: HashFn, width: int) -> Manifest:
        if not self.keys:
            return Manifest.empty(width)
        digests = digests_of(self.keys, hash_fn)
        for key, path, digest in zip(self.keys, self.paths, digests, strict=True):
            if digest[: len(path)].tobytes() != path:
                raise MalformedNode(
                    f"{key.decode()!r} hashes to {digest[:4].tobytes().hex()}… but lies below {path.hex()}: the "
                    "tree was damaged by its writer, or was built with another hash_fn; rebuild it from its entries"
                )
        return Manifest.from_columns(digests, self.keys, self.pointers)


def _gather(
    slots: Sequence[Slot], edits: Manifest, layout: PyHamt, hash_fn: HashFn
) -> Reads[tuple[_Items, set[bytes]]]:
    """Everything below the slots that `edits` touch, after the edits; and the CIDs that were read."""
    kept, links = _Kept(), _Links()
    known: set[bytes] = set()
    # Each is a node to read, the path to it and the rows of the edits that go there.
    touched: list[tuple[bytes, bytes, int, int]] = []

    def visit(slots: Sequence[Slot], path: bytes, start: int, stop: int) -> None:
        depth = len(path)
        if depth == edits.digests.shape[1]:
            raise DepthExceeded(f"the tree goes on below the whole hash {path.hex()}")
        bounds = (start + np.searchsorted(edits.digests[start:stop, depth], np.arange(WIDTH + 1))).tolist()
        for number, slot in enumerate(slots):
            below = path + bytes((number,))
            edited = bounds[number] < bounds[number + 1]
            if isinstance(slot, dict):
                # Below the root only what is edited is looked at; a node that was read is written anew.
                if slot and (edited or depth):
                    kept.add(slot, below)
            elif edited:
                touched.append((slot, below, bounds[number], bounds[number + 1]))
            elif depth:
                links.rows.append((below, slot))

    visit(slots, b"", 0, len(edits))
    while touched:
        level, touched = touched, []
        blocks = yield [cid for cid, *_ in level]
        for (cid, path, start, stop), data in zip(level, blocks, strict=True):
            node = layout.decode(cid, data)
            layout.refuse_larger_buckets(cid, node)
            known.add(cid)
            visit(node, path, start, stop)
    before = kept.manifest(hash_fn, edits.digests.shape[1])
    after = override(before, edits) if len(before) else edits
    return _Items.of(after.without_tombstones(), links), known


def _expand(items: _Items, rows: list[int], layout: PyHamt, hash_fn: HashFn) -> Reads[_Items]:
    """`items` with the links of these rows replaced by what is in their nodes."""
    kept, links = _Kept(), _Links()
    cids = [items.pointers[row] for row in rows]
    blocks = yield cids
    for row, cid, data in zip(rows, cids, blocks, strict=True):
        path = items.digests[row, : items.depths[row]].tobytes()
        for number, slot in enumerate(layout.decode(cid, data)):
            below = path + bytes((number,))
            if isinstance(slot, bytes):
                links.rows.append((below, slot))
            else:
                kept.add(slot, below)
    added = _Items.of(kept.manifest(hash_fn, items.digests.shape[1]), links)
    rest = items.take(np.setdiff1d(np.arange(len(items.keys)), rows))
    digests = np.concatenate([rest.digests, added.digests])
    return _Items(
        digests,
        Ragged.concat([rest.keys, added.keys]),
        Ragged.concat([rest.pointers, added.pointers]),
        np.concatenate([rest.depths, added.depths]),
    ).take(row_order(digests))


@dataclass(frozen=True, slots=True, eq=False)
class _Level:
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


def _settle(items: _Items, bucket_size: int) -> tuple[list[_Level], list[int]]:
    """The shape of the tree from depth 1 down; and links to read first, since they may be too small."""
    count, width = items.digests.shape
    shared = np.full(count, -1, np.int64)
    if count > 1:
        differ = items.digests[1:] != items.digests[:-1]
        shared[1:] = np.where(differ.any(axis=1), differ.argmax(axis=1), width)
    active = np.arange(count)
    parent_of_item = np.zeros(count, np.int64)
    levels: list[_Level] = []
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
        levels.append(_Level(depth, first, counts, parent_of_item[start], is_node))
        number = np.cumsum(is_node) - 1
        inside = np.repeat(is_node, counts)
        parent_of_item = np.repeat(number, counts)[inside]
        active = active[inside]
        depth += 1
    return levels, sorted(set(underfull))


def _underfull(items: _Items, first: Ints, counts: Ints, suspects: NDArray[np.bool_]) -> list[int]:
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


def _refuse_shared_links(items: _Items, rows: Ints) -> None:
    if len(rows):
        row = int(rows[0])
        path = items.digests[row, : items.depths[row]].tobytes()
        raise MalformedNode(
            f"entries lie beside the node {text(items.pointers[row])} at {path.hex()}, not in it"
        )


def _encode(items: _Items, levels: list[_Level], layout: PyHamt, emit: Emit) -> Iterator[tuple[int, Slot]]:
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


def _pieces(items: _Items, level: _Level, nodes: Ragged) -> Pieces:
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
