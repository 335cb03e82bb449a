"""Reading a tree: one key, or all entries."""

from collections.abc import Generator, Sequence

from hamt_bulk.block import Data, text
from hamt_bulk.errors import DepthExceeded, MalformedNode
from hamt_bulk.layout import EMPTY_NODES, PyHamt, Slot
from hamt_bulk.manifest import HashFn, blake3_hashfn, encode_key
from hamt_bulk.reads import Reads


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
            links = [slot for slot in slots if isinstance(slot, bytes) and slot not in EMPTY_NODES]
            if len(set(links)) < len(links):
                raise MalformedNode(f"{text(cid)} links one child twice: no two slots can hold the same keys")
            waiting += links
            for slot in slots:
                if slot and isinstance(slot, dict):
                    found += slot.items()
        if found:
            yield found
