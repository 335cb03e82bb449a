"""Building and editing: down along the edits, then up again from the slots that they change."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hamt_bulk.errors import DepthExceeded
from hamt_bulk.keys import any_key
from hamt_bulk.layout import Bucket, Layout, Slot
from hamt_bulk.manifest import HashFn, Manifest, blake3_hashfn, digests_of, override
from hamt_bulk.ragged import Ints
from hamt_bulk.reads import Reads, side_by_side
from hamt_bulk.tree.build import Emit, build_slots
from hamt_bulk.tree.guards import links_of, refuse_misplaced, refuse_no_cid, refuse_other_root, sample

__all__ = ["Emit", "assemble", "empty_slots", "root_slots", "update", "update_slots"]


def empty_slots(layout: Layout) -> list[Slot]:
    """The slots of the root of the empty tree."""
    return [{} for _ in range(layout.width)]


def update(
    root: bytes | None, edits: Manifest, layout: Layout, emit: Emit, hash_fn: HashFn = blake3_hashfn
) -> Reads[bytes]:
    """
    The root after `edits`. `None` is the empty tree, so this also builds.

    Nothing is emitted when the edits change nothing.
    """
    slots = yield from root_slots(root, layout, hash_fn)
    changed = yield from update_slots(slots, edits, layout, emit, hash_fn)
    return assemble(root, slots, changed, layout, emit)


def root_slots(root: bytes | None, layout: Layout, hash_fn: HashFn) -> Reads[list[Slot]]:
    """The slots of a root that is to be changed. `None` is the empty tree."""
    if root is None:
        return empty_slots(layout)
    [data] = yield [root]
    slots = layout.decode(root, data, is_root=True)
    layout.refuse_larger_buckets(root, slots)
    refuse_other_root(root, slots, layout, hash_fn)
    return slots


def assemble(
    root: bytes | None, slots: Sequence[Slot], changed: dict[int, Slot], layout: Layout, emit: Emit
) -> bytes:
    """The CID of the root that has `slots`, of which some `changed`. It was `root` before."""
    if root is not None and all(slots[number] == slot for number, slot in changed.items()):
        return root
    block = layout.encode_slots(
        [changed.get(number, slot) for number, slot in enumerate(slots)], is_root=True
    )
    emit([block])
    return block.cid


def update_slots(
    slots: Sequence[Slot], edits: Manifest, layout: Layout, emit: Emit, hash_fn: HashFn = blake3_hashfn
) -> Reads[dict[int, Slot]]:
    """
    The slots of a root that `edits` touch, by number, as they are afterwards.

    slots  the slots of the root before
    edits  tombstones delete; those of absent keys do nothing

    Slots share nothing, so edits may be cut by first hash byte and given to as many calls.
    """
    path = yield from _descend(slots, edits, layout, hash_fn)
    new: dict[bytes, Slot] = {}
    for depth, buckets in path.buckets.items():
        entries = buckets.after(edits.take(np.flatnonzero(path.depths == depth)), hash_fn)
        new |= build_slots(entries, depth, layout, emit)
    small: dict[bytes, Bucket] = {}
    deepest = edits.digests.shape[1] // layout.step
    for level in reversed(path.levels):
        yield from _ascend(level, new, small, layout, deepest, emit)
    numbers = np.flatnonzero(np.bincount(layout.numbers(edits.digests, 0)))
    return {number: new.get(layout.path(number), {}) for number in numbers.tolist()}


@dataclass(slots=True)
class _Node:
    """A stored node that edits go through: the path to it, and the numbers of the slots they go to."""

    cid: bytes
    path: bytes
    slots: list[Slot]
    touched: list[int]


@dataclass(slots=True)
class _Buckets:
    """The entries of buckets of one depth that edits go to, and the paths to the buckets."""

    keys: list[bytes] = field(default_factory=list)
    pointers: list[bytes] = field(default_factory=list)
    paths: list[bytes] = field(default_factory=list)

    def add(self, bucket: Bucket, path: bytes) -> None:
        self.keys += (any_key(key) for key in bucket)
        self.pointers += bucket.values()
        self.paths += [path] * len(bucket)

    def after(self, edits: Manifest, hash_fn: HashFn) -> Manifest:
        """The entries after `edits`. Raises `MalformedNode` when one was not where its hash says."""
        if self.keys:
            digests = digests_of(self.keys, hash_fn)
            for key, path, digest in zip(self.keys, self.paths, digests, strict=True):
                refuse_misplaced(key, path, digest.tobytes())
            edits = override(Manifest.from_columns(digests, self.keys, self.pointers), edits)
        return edits.without_tombstones()


@dataclass(slots=True)
class _Paths:
    """
    Where edits lead to.

    levels   the nodes they go through below the root, by depth
    buckets  the buckets they end in, by depth; absent ones are empty
    depths   int64: the depth of the bucket that each edit ends in
    """

    levels: list[list[_Node]]
    buckets: dict[int, _Buckets]
    depths: Ints


def _descend(slots: Sequence[Slot], edits: Manifest, layout: Layout, hash_fn: HashFn) -> Reads[_Paths]:
    """The way of all edits through the tree, a level at a time."""
    count, width = edits.digests.shape
    step = layout.step
    found = _Paths([], {}, np.zeros(count, np.int64))
    # Each is a node to read, the path to it and the rows of the edits that go there.
    waiting: list[tuple[bytes, bytes, int, int]] = []

    def visit(cid: bytes, slots: Sequence[Slot], path: bytes, start: int, stop: int) -> list[int]:
        depth = len(path) // step
        if len(path) == width:
            raise DepthExceeded(f"the tree goes on below the whole hash {path.hex()}")
        for number, key in sample(slots, 1):
            # One of each node, since what no edit goes to is not hashed.
            refuse_misplaced(key, path + layout.path(number), hash_fn(key))
        column = layout.numbers(edits.digests[start:stop], depth)
        bounds = [0, *(np.flatnonzero(column[1:] != column[:-1]) + 1).tolist(), stop - start]
        numbers: list[int] = column[bounds[:-1]].tolist()
        for number, first, last in zip(numbers, bounds, bounds[1:], strict=False):
            slot, below = slots[number], path + layout.path(number)
            if isinstance(slot, bytes):
                refuse_no_cid(slot, cid, "a child")
                waiting.append((slot, below, start + first, start + last))
                continue
            found.depths[start + first : start + last] = depth + 1
            buckets = found.buckets.setdefault(depth + 1, _Buckets())
            if slot:
                buckets.add(slot, below)
        return numbers

    if count:
        visit(b"", slots, b"", 0, count)
    while waiting:
        level, waiting = waiting, []
        found.levels.append([])
        cids = list(dict.fromkeys(cid for cid, *_ in level))
        nodes = dict(zip(cids, (yield cids), strict=True))
        for cid, path, start, stop in level:
            node = layout.decode(cid, nodes[cid])
            layout.refuse_larger_buckets(cid, node)
            found.levels[-1].append(_Node(cid, path, node, visit(cid, node, path, start, stop)))
    return found


def _ascend(
    level: list[_Node],
    new: dict[bytes, Slot],
    small: dict[bytes, Bucket],
    layout: Layout,
    deepest: int,
    emit: Emit,
) -> Reads[None]:
    """
    Adds to `new` what the nodes of one level have become, from what is below them; emits those that changed.

    small    what is below nodes that were found to be too small, by their CIDs; it is added to
    deepest  how many levels hashes lead to
    """
    slots_of = [_edited(node, new, layout) for node in level]
    suspects = [
        number
        for number, (node, slots) in enumerate(zip(level, slots_of, strict=True))
        # A link that edits went through leads to a node that was found to be large enough.
        if not any(isinstance(slots[touched], bytes) for touched in node.touched)
    ]
    collapsed = yield from side_by_side(
        [
            _collapsed(slots_of[number], len(level[number].path) // layout.step, deepest, small, layout)
            for number in suspects
        ]
    )
    buckets = {
        number: bucket for number, bucket in zip(suspects, collapsed, strict=True) if bucket is not None
    }
    blocks = []
    for number, (node, slots) in enumerate(zip(level, slots_of, strict=True)):
        if number in buckets:
            new[node.path] = buckets[number]
        elif slots == node.slots:
            new[node.path] = node.cid
        else:
            block = layout.encode_slots(slots)
            new[node.path] = block.cid
            blocks.append(block)
    if blocks:
        emit(blocks)


def _edited(node: _Node, new: dict[bytes, Slot], layout: Layout) -> list[Slot]:
    """The slots of `node` with those that edits went to as they are now, taken out of `new`."""
    slots = list(node.slots)
    for number in node.touched:
        slots[number] = new.pop(node.path + layout.path(number), {})
    return slots


def _collapsed(
    slots: list[Slot], depth: int, deepest: int, small: dict[bytes, Bucket], layout: Layout
) -> Reads[Bucket | None]:
    """
    The bucket that a node at `depth` has to become, or `None` when it has too many entries for that.

    In a canonical tree every link stands for more than a bucket of entries, so reading one settles it. py-hamt
    up to 3.3 left nodes that are too small behind after deletes; in `slots` they become buckets. Each is read once,
    and kept in `small`: a few without entries, linked again and again, could keep a walk going for ever.
    """
    if depth == deepest:
        raise DepthExceeded(f"the tree goes on below all {deepest} levels that its hashes lead to")
    room = layout.max_bucket_size
    together: Bucket = {}
    for slot in slots:
        if isinstance(slot, dict):
            together |= slot
            if len(together) > room:
                return None
    for number, slot in enumerate(slots):
        if isinstance(slot, bytes):
            bucket = small.get(slot)
            if bucket is None:
                [data] = yield [slot]
                child = list(layout.decode(slot, data))
                layout.refuse_larger_buckets(slot, child)
                links_of(slot, child, layout)
                bucket = yield from _collapsed(child, depth + 1, deepest, small, layout)
                if bucket is None:
                    return None
                small[slot] = bucket
            slots[number] = bucket
            together |= bucket
            if len(together) > room:
                return None
    return dict(sorted(together.items()))
