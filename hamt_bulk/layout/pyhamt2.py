"""
The layout of py-hamt 2, which is read and no longer written.

    node    = {"B": {slot: bucket, …}, "L": {slot: pointer, …}}      slots are decimal text, such as "13"
    bucket  = [{key: pointer}, …]                                    in the order in which they were set
    pointer = a link to the value's block, whose bytes are dag-cbor; the first releases kept values inline

The slot at depth d is byte d + 1 of blake3 of the key: the first byte places nothing.

Source: the code of py-hamt 2, `hamt.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import dag_cbor
from multiformats import CID

from hamt_bulk.block import DAG_CBOR, HASH_CODES, MAX_BLOCK_BYTES, Block, Data, identify, text
from hamt_bulk.errors import InvalidInput, MalformedNode
from hamt_bulk.foreign import from_cbor
from hamt_bulk.hashers import blake3_hashfn
from hamt_bulk.layout.base import Bucket, Layout, OtherLayout, Pieces, Slot
from hamt_bulk.layout.seen import described, is_other_root
from hamt_bulk.pointers import inline_pointer

WIDTH = 256

EMPTY_NODES = frozenset(identify(b"\xa2aB\xa0aL\xa0", DAG_CBOR, hasher) for hasher in HASH_CODES)


def py_hamt_2_hashfn(key: bytes) -> bytes:
    """What places keys in a tree of py-hamt 2: the bytes of blake3 after the first."""
    return blake3_hashfn(key)[1:]


@dataclass(frozen=True, slots=True)
class PyHamt2(Layout):
    """How py-hamt 2 wrote nodes."""

    max_bucket_size: int = 4
    hasher: str = "blake3"

    @property
    def empty_nodes(self) -> frozenset[bytes]:  # type: ignore[override]
        return EMPTY_NODES

    @property
    def keeps_values(self) -> bool:  # type: ignore[override]
        return True

    def encode(self, count: int, pieces: Pieces) -> list[Block]:
        _refuse_to_write()

    def encode_slots(self, slots: Sequence[Slot], *, is_root: bool = False) -> Block:
        _refuse_to_write()

    def decode(self, cid: bytes, data: Data | list[Slot], *, is_root: bool = False) -> list[Slot]:
        if isinstance(data, list):
            return data
        if len(data) > MAX_BLOCK_BYTES:
            raise MalformedNode(f"{text(cid)}: {len(data)} bytes, a node has at most {MAX_BLOCK_BYTES}")
        try:
            seen = from_cbor(data)  # it is fast, and knows limits, but takes links for bytes
            if not (isinstance(seen, dict) and seen.keys() == {"B", "L"}):
                kind = OtherLayout if is_root and is_other_root(seen) else MalformedNode
                raise kind(f"{text(cid)} is not a node of py-hamt 2: {described(seen)}")
            node: Any = dag_cbor.decode(bytes(data))
            slots: list[Slot] = [_EMPTY] * WIDTH
            for number, entries in _numbered(node["B"]):
                slots[number] = _bucket(entries)
            for number, link in _numbered(node["L"]):
                if slots[number]:
                    raise ValueError(f"slot {number} is both a bucket and a link")
                if not isinstance(link, CID):
                    raise ValueError(f"slot {number}: a link is {described(link)}")
                slots[number] = bytes(link)
        except MalformedNode:
            raise
        except Exception as error:  # dag_cbor's errors share no base with ours
            raise MalformedNode(f"{text(cid)} is not a node of py-hamt 2: {error}") from None
        return slots


def _numbered(entries: Any) -> list[tuple[int, Any]]:
    if not isinstance(entries, dict):
        raise ValueError(f"{described(entries)}, expected a map from slots")
    found = []
    for slot, value in entries.items():
        if not (slot.isascii() and slot.isdecimal() and str(int(slot)) == slot and int(slot) < WIDTH):
            raise ValueError(f"{slot!r} is not the number of a slot")
        found.append((int(slot), value))
    return found


def _bucket(entries: Any) -> Bucket:
    if not isinstance(entries, list):
        raise ValueError(f"a bucket is {described(entries)}")
    bucket: Bucket = {}
    for entry in entries:
        if not isinstance(entry, dict) or len(entry) != 1:
            raise ValueError(f"an entry of a bucket is {described(entry)}, expected a map of one key")
        [(key, value)] = entry.items()
        if key in bucket:
            raise ValueError(f"the key {key!r} comes twice")
        bucket[key] = bytes(value) if isinstance(value, CID) else inline_pointer(value)
    return bucket


def _refuse_to_write() -> NoReturn:
    raise InvalidInput(
        "trees of py-hamt 2 are read, and not written: hamt_bulk.convert makes one of another kind of them"
    )


_EMPTY: Bucket = {}
