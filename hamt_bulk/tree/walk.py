"""Reading a tree: one key, or all entries."""

from collections.abc import Generator, Sequence
from typing import TypeAlias

from hamt_bulk.block import Data
from hamt_bulk.errors import DepthExceeded
from hamt_bulk.keys import any_key
from hamt_bulk.layout import Layout, Slot
from hamt_bulk.manifest import HashFn, blake3_hashfn, encode_key
from hamt_bulk.pointers import is_inline
from hamt_bulk.reads import Reads
from hamt_bulk.tree.guards import Once, links_of, refuse_no_cid


def lookup(root: bytes, key: str, layout: Layout, hash_fn: HashFn = blake3_hashfn) -> Reads[bytes | None]:
    """What the tree holds under `key`, or `None`. One node a level."""
    way = hash_fn(any_key(key) if layout.any_keys else encode_key(key))
    slot: Slot = root
    for depth, number in enumerate(layout.numbers_of(way)):
        assert isinstance(slot, bytes)
        [data] = yield [slot]
        node, slots = slot, layout.decode(slot, data, is_root=not depth)
        slot = slots[number]
        if isinstance(slot, dict):
            found = slot.get(key)
            if found is not None and not (layout.keeps_values and is_inline(found)):
                refuse_no_cid(found, node, f"the value of {key!r}")
            return found
        refuse_no_cid(slot, node, "a child")
    raise DepthExceeded(f"the tree goes on below all {len(way)} bytes of the hash of {key!r}")


FOUND_AT_ONCE = 1 << 17
"""About how many entries are handed out together. A node of 1 MiB may have 10^5, and one that a build makes a thousand."""


class Found(list[tuple[str, bytes]]):
    """Entries that `entries` came upon."""


Walk: TypeAlias = Generator["list[bytes] | Found", Sequence[Data] | None, None]


def entries(root: bytes, layout: Layout, batch: int = 256) -> Walk:
    """
    All entries of a tree, depth first, in order of their hashes within each batch.

    Yields lists of CIDs, `batch` at most, and is sent their bytes; and `Found` lists of (key, pointer), for
    which it is sent `None`. No more than `batch` nodes a level are held. Raises `MalformedNode` where nodes are
    linked from several places, by which a few of them could keep a walk going for ever.
    """
    return _entries([root], root, layout, batch)


def entries_below(nodes: Sequence[bytes], layout: Layout, batch: int = 256) -> Walk:
    """As `entries`, for those below some nodes that are no roots."""
    return _entries(list(nodes), None, layout, batch)


def together(layout: Layout, batch: int) -> int:
    """How many nodes of those that may be held at once, `batch` of 256 slots, are as much as that."""
    return max(batch * 256 // max(layout.width, 256), 1)


def _entries(waiting: list[bytes], root: bytes | None, layout: Layout, batch: int) -> Walk:
    once = Once()
    batch = together(layout, batch)
    while waiting:
        wanted = waiting[-batch:]
        del waiting[-batch:]
        blocks = yield wanted
        assert blocks is not None
        found = Found()
        for cid, data in zip(wanted, blocks, strict=True):
            slots = layout.decode(cid, data, is_root=cid == root)
            if links := links_of(cid, slots, layout):
                once.add(cid)
                waiting += links
            for slot in slots:
                if slot and type(slot) is dict:
                    found += slot.items()
            if len(found) >= FOUND_AT_ONCE:
                yield found
                found = Found()
        if found:
            yield found
