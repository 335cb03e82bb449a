"""
The layout of py-hamt 2, which is read and no longer written.

    node    = {"B": {slot: bucket, …}, "L": {slot: pointer, …}}      slots are decimal text, such as "13"
    bucket  = [{key: pointer}, …]                                    in the order in which they were set
    pointer = a link to the value's block, whose bytes are dag-cbor; the first releases kept values inline

The slot at depth d is byte d + 1 of blake3 of the key: the first byte places nothing.

Source: the code of py-hamt 2, `hamt.py`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from hamt_bulk.block import DAG_CBOR, HASH_CODES, MAX_BLOCK_BYTES, Block, Data, identify, text
from hamt_bulk.errors import InvalidInput, MalformedNode
from hamt_bulk.foreign import from_cbor
from hamt_bulk.hashers import blake3_hashfn
from hamt_bulk.layout.base import Bucket, Layout, OtherLayout, Pieces, Slot
from hamt_bulk.layout.cbor import ARRAY, MAP, TEXT, read_head
from hamt_bulk.layout.hashmap import read_value
from hamt_bulk.layout.seen import described, is_other_root
from hamt_bulk.pointers import is_inline

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
        data = bytes(data)
        try:
            seen = from_cbor(data)  # it knows the rules of dag-cbor, but takes links for bytes
            if not (isinstance(seen, dict) and seen.keys() == {"B", "L"}):
                kind = OtherLayout if is_root and is_other_root(seen) else MalformedNode
                raise kind(f"{text(cid)} is not a node of py-hamt 2: {described(seen)}")
            slots: list[Slot] = [_EMPTY] * WIDTH
            links = _fill(slots, data, len(b"\xa2\x61B"), _read_bucket)
            _fill(slots, data, links + len(b"\x61L"), _read_link)
        except MalformedNode:
            raise
        except ValueError as error:
            raise MalformedNode(f"{text(cid)} is not a node of py-hamt 2: {error}") from None
        return slots


def _fill(slots: list[Slot], data: bytes, at: int, read: Callable[[bytes, int], tuple[Slot, int]]) -> int:
    """Puts what a map from slots has into `slots`. Where the map ends."""
    count, at = _expect(MAP, data, at, "a map from slots")
    for _ in range(count):
        slot, at = _read_text(data, at)
        if not (slot.isascii() and slot.isdecimal() and len(slot) < 4 and str(int(slot)) == slot):
            raise ValueError(f"{slot!r:.40} is not the number of a slot")
        number = int(slot)
        if number >= WIDTH:
            raise ValueError(f"slot {number} of {WIDTH}")
        if slots[number]:
            raise ValueError(f"slot {number} is both a bucket and a link")
        slots[number], at = read(data, at)
    return at


def _read_bucket(data: bytes, at: int) -> tuple[Bucket, int]:
    bucket: Bucket = {}
    count, at = _expect(ARRAY, data, at, "a bucket, a list of maps of one key")
    for _ in range(count):
        keys, at = _expect(MAP, data, at, "a map of one key")
        if keys != 1:
            raise ValueError(f"an entry of a bucket has {keys} keys, expected one")
        key, at = _read_text(data, at)
        if key in bucket:
            raise ValueError(f"the key {key!r:.80} comes twice")
        bucket[key], at = read_value(data, at)
    return bucket, at


def _read_link(data: bytes, at: int) -> tuple[bytes, int]:
    pointer, end = read_value(data, at)
    if is_inline(pointer):
        raise ValueError(f"no link at {at}, where one to a child should be")
    return pointer, end


def _read_text(data: bytes, at: int) -> tuple[str, int]:
    length, at = _expect(TEXT, data, at, "text")
    return data[at : at + length].decode(), at + length


def _expect(major: int, data: bytes, at: int, what: str) -> tuple[int, int]:
    """The number in a head of this type, and where the head ends."""
    found, number, end = read_head(data, at)
    if found != major:
        raise ValueError(f"no {what.removeprefix('a ')} at {at}")
    return number, end


def _refuse_to_write() -> NoReturn:
    raise InvalidInput(
        "trees of py-hamt 2 are read, and not written: hamt_bulk.convert makes one of another kind of them"
    )


_EMPTY: Bucket = {}
