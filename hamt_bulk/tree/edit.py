"""Building and editing."""

from collections.abc import Sequence

import numpy as np

from hamt_bulk.block import Block
from hamt_bulk.errors import DepthExceeded
from hamt_bulk.layout import WIDTH, PyHamt, Slot
from hamt_bulk.manifest import HashFn, Manifest, blake3_hashfn, override
from hamt_bulk.reads import Reads
from hamt_bulk.tree.items import Carried, Items, Touched, first_entry, refuse_misplaced
from hamt_bulk.tree.shape import Emit, encode, settle

__all__ = ["EMPTY_ROOT", "Emit", "assemble", "root_slots", "update", "update_slots"]

EMPTY_ROOT: list[Slot] = [{} for _ in range(WIDTH)]


def update(
    root: bytes | None, edits: Manifest, layout: PyHamt, emit: Emit, hash_fn: HashFn = blake3_hashfn
) -> Reads[bytes]:
    """
    The root after `edits`. `None` is the empty tree, so this also builds.

    Nothing is emitted when the edits change nothing.
    """
    slots = yield from root_slots(root, layout)
    changed = yield from update_slots(slots, edits, layout, emit, hash_fn)
    return assemble(root, slots, changed, layout, emit)


def root_slots(root: bytes | None, layout: PyHamt) -> Reads[list[Slot]]:
    """The 256 slots of a root. `None` is the empty tree."""
    if root is None:
        return EMPTY_ROOT
    [data] = yield [root]
    slots = layout.decode(root, data)
    layout.refuse_larger_buckets(root, slots)
    return slots


def assemble(
    root: bytes | None, slots: Sequence[Slot], changed: dict[int, Slot], layout: PyHamt, emit: Emit
) -> bytes:
    """The CID of the root that has `slots`, of which some `changed`. It was `root` before."""
    if root is not None and all(slots[number] == slot for number, slot in changed.items()):
        return root
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
        levels, underfull = settle(items, layout.max_bucket_size)
        if not underfull:
            break
        known.update(items.pointers[row] for row in underfull)
        items = yield from _expand(items, underfull, layout)
    changed: dict[int, Slot] = {
        int(number): {} for number in np.flatnonzero(np.bincount(edits.digests[:, 0]))
    }
    changed.update(encode(items, levels, layout, emit_new))
    return changed


def _gather(
    slots: Sequence[Slot], edits: Manifest, layout: PyHamt, hash_fn: HashFn
) -> Reads[tuple[Items, set[bytes]]]:
    """Everything below the slots that `edits` touch, after the edits; and the CIDs that were read."""
    before, carried = Touched(), Carried()
    known: set[bytes] = set()
    # Each is a node to read, the path to it and the rows of the edits that go there.
    touched: list[tuple[bytes, bytes, int, int]] = []

    def visit(slots: Sequence[Slot], path: bytes, start: int, stop: int) -> None:
        depth = len(path)
        if depth == edits.digests.shape[1]:
            raise DepthExceeded(f"the tree goes on below the whole hash {path.hex()}")
        if sample := first_entry(slots):
            # One of each node: entries that are carried along are not hashed.
            refuse_misplaced(sample[1], path + bytes((sample[0],)), hash_fn(sample[1]))
        bounds = (start + np.searchsorted(edits.digests[start:stop, depth], np.arange(WIDTH + 1))).tolist()
        for number, slot in enumerate(slots):
            edited = bounds[number] < bounds[number + 1]
            # Below the root only what is edited is looked at; a node that was read is written anew.
            if not slot or not (edited or depth):
                continue
            below = path + bytes((number,))
            if not edited:
                carried.add(slot, below)
            elif isinstance(slot, dict):
                before.add(slot, below)
            else:
                touched.append((slot, below, bounds[number], bounds[number + 1]))

    visit(slots, b"", 0, len(edits))
    while touched:
        level, touched = touched, []
        blocks = yield [cid for cid, *_ in level]
        for (cid, path, start, stop), data in zip(level, blocks, strict=True):
            node = layout.decode(cid, data)
            layout.refuse_larger_buckets(cid, node)
            known.add(cid)
            visit(node, path, start, stop)
    entries = before.manifest(hash_fn, edits.digests.shape[1])
    after = override(entries, edits) if len(entries) else edits
    return Items.of(after.without_tombstones(), carried), known


def _expand(items: Items, rows: list[int], layout: PyHamt) -> Reads[Items]:
    """`items` with the links of these rows replaced by what is in their nodes."""
    carried = Carried()
    cids = [items.pointers[row] for row in rows]
    blocks = yield cids
    for row, cid, data in zip(rows, cids, blocks, strict=True):
        path = items.digests[row, : items.depths[row]].tobytes()
        node = layout.decode(cid, data)
        layout.refuse_larger_buckets(cid, node)
        for number, slot in enumerate(node):
            if slot:
                carried.add(slot, path + bytes((number,)))
    rest = items.take(np.setdiff1d(np.arange(len(items.keys)), rows))
    return rest.joined(carried.items(items.digests.shape[1])) if carried.paths else rest
