"""
Trees as py-hamt up to 3.3 left them behind.

Its `delete` took the entry out and unlinked nodes that had become empty, but never put what was left of a
node back into a bucket. Such a tree reads well; its root is not that of a rebuild.
"""

from collections.abc import Callable, Iterable, Mapping

from hamt_bulk import InMemoryCAS, build
from hamt_bulk.block import to_bytes
from hamt_bulk.layout import PyHamt, Slot


def left_by_py_hamt_3_3(
    items: Mapping[str, bytes],
    deleted: Iterable[str],
    cas: InMemoryCAS,
    hash_fn: Callable[[bytes], bytes],
    max_bucket_size: int,
) -> bytes:
    """The root of `items` after those `deleted` were taken out as py-hamt 3.3 did. They have to be there."""
    root = to_bytes(build(items, cas, max_bucket_size=max_bucket_size, hash_fn=hash_fn))
    layout = PyHamt(max_bucket_size, cas.hasher)
    for key in deleted:
        slots = _without(root, key, hash_fn(key.encode()), cas, layout)
        root = _stored(slots, cas, layout)
    return root


def subtree_sizes(
    root: bytes, key: str, cas: InMemoryCAS, hash_fn: Callable[[bytes], bytes], layout: PyHamt
) -> list[int]:
    """How many entries the nodes on the way to `key` hold with all below them, without the root."""
    sizes: list[int] = []
    slot: Slot = root
    for byte in hash_fn(key.encode()):
        slot = layout.decode(slot, cas.blocks[slot])[byte]
        if isinstance(slot, dict):
            break
        sizes.append(_size(slot, cas, layout))
    return sizes


def _without(cid: bytes, key: str, path: bytes, cas: InMemoryCAS, layout: PyHamt) -> list[Slot]:
    """The slots of a node after `key` was taken out below it; `path` is the rest of the key's hash."""
    slots = layout.decode(cid, cas.blocks[cid])
    slot = slots[path[0]]
    if isinstance(slot, dict):
        slots[path[0]] = {other: pointer for other, pointer in slot.items() if other != key}
        assert slots[path[0]] != slot
    else:
        below = _without(slot, key, path[1:], cas, layout)
        slots[path[0]] = _stored(below, cas, layout) if any(below) else {}
    return slots


def _stored(slots: list[Slot], cas: InMemoryCAS, layout: PyHamt) -> bytes:
    block = layout.encode_slots(slots)
    cas.blocks[block.cid] = bytes(block.data)
    return block.cid


def _size(slot: Slot, cas: InMemoryCAS, layout: PyHamt) -> int:
    if isinstance(slot, dict):
        return len(slot)
    return sum(_size(below, cas, layout) for below in layout.decode(slot, cas.blocks[slot]))
