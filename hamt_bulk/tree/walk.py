"""Reading a tree: one key, or all entries."""

from collections.abc import Generator, Sequence

from hamt_bulk.block import Data
from hamt_bulk.errors import DepthExceeded
from hamt_bulk.layout import PyHamt, Slot
from hamt_bulk.manifest import HashFn, blake3_hashfn, encode_key
from hamt_bulk.reads import Reads
from hamt_bulk.tree.guards import Once, links_of, refuse_no_cid


def lookup(root: bytes, key: str, layout: PyHamt, hash_fn: HashFn = blake3_hashfn) -> Reads[bytes | None]:
    """The CID of the value stored under `key`, or `None`. One node a level."""
    digest = hash_fn(encode_key(key))
    slot: Slot = root
    for byte in digest:
        assert isinstance(slot, bytes)
        [data] = yield [slot]
        node, slot = slot, layout.decode(slot, data)[byte]
        if isinstance(slot, dict):
            if (found := slot.get(key)) is not None:
                refuse_no_cid(found, node, f"the value of {key!r}")
            return found
        refuse_no_cid(slot, node, "a child")
    raise DepthExceeded(f"the tree goes on below all {len(digest)} bytes of the hash of {key!r}")


class Found(list[tuple[str, bytes]]):
    """Entries that `entries` came upon."""


def entries(
    root: bytes, layout: PyHamt, batch: int = 256
) -> Generator["list[bytes] | Found", Sequence[Data] | None, None]:
    """
    All entries of a tree, depth first, in order of their hashes within each batch.

    Yields lists of CIDs, `batch` at most, and is sent their bytes; and `Found` lists of (key, CID), for
    which it is sent `None`. No more than `batch` nodes a level are held. Raises `MalformedNode` where nodes are
    linked from several places, by which a few of them could keep a walk going for ever.
    """
    waiting = [root]
    once = Once()
    while waiting:
        wanted = waiting[-batch:]
        del waiting[-batch:]
        blocks = yield wanted
        assert blocks is not None
        found = Found()
        for cid, data in zip(wanted, blocks, strict=True):
            slots = layout.decode(cid, data)
            if links := links_of(cid, slots):
                once.add(cid)
                waiting += links
            for slot in slots:
                if slot and isinstance(slot, dict):
                    found += slot.items()
        if found:
            yield found
