"""
An IPLD HashMap: the layout of js ipld-hashmap, IAMap and py-hamt 1.

    root    = {"hamt": node, "hashAlg": uint, "bucketSize": uint}
    child   = node
    node    = [map: bytes of 2**bit_width / 8, data: [element, …]]    an element for each bit that is set in map
    element = link | bucket
    bucket  = [[key: bytes, value], …]                                1 to bucketSize entries, in the order of their bytes
    value   = link | any IPLD value

Slot i is bit `1 << (i & 7)` of byte `i >> 3` of the map; elements are in the order of their slots. py-hamt 1 wrote keys
as text as well, and the root's three in the order hashAlg, bucketSize, hamt, before that as hash_alg and bucket_size. js
leaves empty buckets behind when keys are deleted. All that is read, and not written.

Sources: IPLD's HashMap specification; js ipld-hashmap 3.0.4 and iamap 3.0.6, whose roots are vectors of the tests; the
code of py-hamt 1.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import pairwise

import numpy as np

from hamt_bulk.block import DAG_CBOR, HASH_CODES, MAX_BLOCK_BYTES, Block, Data, identify, parse, text
from hamt_bulk.errors import InvalidInput, MalformedNode
from hamt_bulk.foreign import from_cbor
from hamt_bulk.hashers import KeyHasher, hasher_of
from hamt_bulk.keys import any_key
from hamt_bulk.layout.base import Bucket, Layout, Pieces, Slot, refuse_oversized
from hamt_bulk.layout.cbor import ARRAY, BYTES, TEXT, end_of, head, head_lengths, read_head
from hamt_bulk.layout.placing import Placement
from hamt_bulk.layout.rows import Rows, cbor_link_head
from hamt_bulk.layout.seen import described
from hamt_bulk.pointers import INLINE, is_inline
from hamt_bulk.ragged import fill_rows, offsets_of, rows_by_length

ROOT_HEAD = b"\xa3\x64hamt"
HASH_ALG = b"\x67hashAlg"
BUCKET_SIZE_KEY = b"\x6abucketSize"

_ROOT_KEYS = {
    b"\x64hamt": "hamt",
    HASH_ALG: "hashAlg",
    BUCKET_SIZE_KEY: "bucketSize",
    b"\x68hash_alg": "hashAlg",
    b"\x6bbucket_size": "bucketSize",
}
"""What the keys of roots say, in any of their spellings."""

LINK36 = cbor_link_head(36) + b"\x01"
"""What links to the CIDs that are in use begin with. One that begins with 00 would be taken for a value."""


@dataclass(frozen=True, slots=True)
class HashMap:
    """
    The shape of an IPLD HashMap.

        build(items, cas, layout=HashMap(bit_width=5, bucket_size=3, hasher="sha2-256"))

    bit_width    a node has 2**bit_width slots: 3 to 16
    bucket_size  entries of a bucket; js takes 2 and more
    hasher       places the keys: a name, a multicodec code or a `KeyHasher`. js ipld-hashmap finds keys by sha2-256 alone,
                 whatever a root says
    text_keys    whether keys are written as text, as py-hamt 1 did, instead of bytes
    """

    bit_width: int = 8
    bucket_size: int = 3
    hasher: "KeyHasher | str | int" = "sha2-256"
    text_keys: bool = False

    def __post_init__(self) -> None:
        if (
            isinstance(self.bit_width, bool)
            or not isinstance(self.bit_width, int)
            or not 3 <= self.bit_width <= 16
        ):
            raise InvalidInput(f"bit_width={self.bit_width!r}: an IPLD HashMap has 3 to 16")
        if (
            isinstance(self.bucket_size, bool)
            or not isinstance(self.bucket_size, int)
            or self.bucket_size < 1
        ):
            raise InvalidInput(f"bucket_size={self.bucket_size!r}: expected a number from 1 on")
        object.__setattr__(self, "hasher", hasher_of(self.hasher))

    @property
    def key_hasher(self) -> KeyHasher:
        """What places the keys."""
        assert isinstance(self.hasher, KeyHasher)
        return self.hasher

    @property
    def placement(self) -> Placement:
        """The `hash_fn` of the tree."""
        return Placement(self.key_hasher, self.bit_width)

    def __str__(self) -> str:
        text_keys = ", text_keys=True" if self.text_keys else ""
        return (
            f"HashMap(bit_width={self.bit_width}, bucket_size={self.bucket_size}, "
            f"hasher={self.key_hasher.name!r}{text_keys})"
        )


@dataclass(frozen=True, slots=True)
class HashMapNodes(Layout):
    """The nodes of an IPLD HashMap, named with `hasher`."""

    shape: HashMap
    hasher: str = "blake3"
    max_bucket_size: int = field(init=False)
    width: int = field(init=False)
    step: int = field(init=False)
    keeps_values: bool = field(init=False, default=True)
    any_keys: bool = field(init=False, default=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "max_bucket_size", self.shape.bucket_size)
        object.__setattr__(self, "width", 1 << self.shape.bit_width)
        object.__setattr__(self, "step", 1 if self.shape.bit_width <= 8 else 2)

    @property
    def empty_nodes(self) -> frozenset[bytes]:  # type: ignore[override]
        return _empty_nodes(self.width)

    @property
    def _head(self) -> bytes:
        """What every node begins with, up to its map."""
        return b"\x82" + head(BYTES, self.width // 8)

    @property
    def _key_major(self) -> int:
        return TEXT if self.shape.text_keys else BYTES

    def encode(self, count: int, pieces: Pieces) -> list[Block]:
        if self.shape.text_keys:
            _refuse_other_text(pieces.keys)
        if self.shape.text_keys and pieces.keys.data.size and pieces.keys.data.max() >= 0x80:
            refuse_no_text(pieces.keys)
        rows = Rows.of(pieces, cbor_link_head, by_length=False, pair=1, keeps_values=True)
        piece_heads = np.where(pieces.entries > 0, head_lengths(pieces.entries), 0)
        piece_at = offsets_of(piece_heads + np.diff(rows.within[rows.first]))
        elements = np.bincount(pieces.node, minlength=count).astype(np.int64)
        first_piece = offsets_of(elements)
        before = len(self._head) + self.width // 8 + head_lengths(elements)
        starts = offsets_of(before + np.diff(piece_at[first_piece]))
        refuse_oversized(int(np.diff(starts).max(initial=0)), pieces.keys, self.width)

        data = np.zeros(starts[-1], np.uint8)
        fill_rows(data, starts[:-1], self._head)
        maps = np.zeros((count, self.width // 8), np.uint8)
        np.bitwise_or.at(maps, (pieces.node, pieces.slot >> 3), (1 << (pieces.slot & 7)).astype(np.uint8))
        map_at = starts[:-1] + len(self._head)
        data[(map_at[:, None] + np.arange(maps.shape[1])).ravel()] = maps.ravel()
        for number, alike in rows_by_length(elements):
            fill_rows(data, map_at[alike] + maps.shape[1], head(ARRAY, number))
        at = (starts[:-1] + before - piece_at[first_piece[:-1]])[pieces.node] + piece_at[:-1]
        for number, group in rows_by_length(pieces.entries):
            if number:
                fill_rows(data, at[group], head(ARRAY, number))
        row_at = (
            np.repeat(at + piece_heads - rows.within[rows.first[:-1]], np.diff(rows.first)) + rows.within[:-1]
        )
        rows.write(data, row_at, cbor_link_head, self._key_major, b"\x82")
        view, ends = memoryview(data.tobytes()), starts.tolist()
        nodes = [view[start:end] for start, end in pairwise(ends)]
        return [Block(self.identify(node), node) for node in nodes]

    def encode_slots(self, slots: Sequence[Slot], *, is_root: bool = False) -> Block:
        bitmap, parts, count = bytearray(self.width // 8), [b""], 0
        for number, slot in enumerate(slots):
            if not slot:
                continue
            bitmap[number >> 3] |= 1 << (number & 7)
            count += 1
            if isinstance(slot, bytes):
                parts += (cbor_link_head(len(slot)), slot)
                continue
            parts.append(head(ARRAY, len(slot)))
            if self.shape.text_keys:
                _refuse_other_text(map(any_key, slot))
            for key, pointer in sorted((key.encode("utf-8", "surrogateescape"), slot[key]) for key in slot):
                parts += (b"\x82", head(self._key_major, len(key)), key, _value(pointer))
        parts[0] = self._head + bytes(bitmap) + head(ARRAY, count)
        if is_root:
            parts.insert(0, ROOT_HEAD)
            parts += (HASH_ALG, head(0, self.shape.key_hasher.code))
            parts += (BUCKET_SIZE_KEY, head(0, self.shape.bucket_size))
        data = b"".join(parts)
        keys = (any_key(key) for slot in slots if isinstance(slot, dict) for key in slot)
        refuse_oversized(len(data), keys, self.width)
        return Block(self.identify(data), data)

    def decode(self, cid: bytes, data: Data | list[Slot], *, is_root: bool = False) -> list[Slot]:
        if isinstance(data, list):
            return data
        if is_root:
            found, slots = read_root(cid, data)
            if found != self._recorded:
                raise InvalidInput(
                    f"the root {text(cid)} is that of a HashMap of bit_width {found[0]}, bucket_size {found[1]} and hash "
                    f"code {found[2]:#x}, and was opened as one of {self._recorded[0]}, {self._recorded[1]} and "
                    f"{self._recorded[2]:#x}: leave out layout="
                )
            return slots
        slots, at = _read_node(cid, data, 0)
        _refuse_more(cid, data, at)
        if len(slots) != self.width:
            raise MalformedNode(f"{text(cid)}: a node of {len(slots)} slots, the root has {self.width}")
        return slots

    @property
    def _recorded(self) -> tuple[int, int, int]:
        return self.shape.bit_width, self.shape.bucket_size, self.shape.key_hasher.code


def refuse_no_text(keys: Iterable[bytes]) -> None:
    """Raises `InvalidInput` for a key that cannot be written as text."""
    for key in keys:
        try:
            key.decode()
        except UnicodeDecodeError:
            raise InvalidInput(f"the key {key!r} is no text, and the HashMap has text_keys=True") from None


def read_root(cid: bytes, data: Data) -> tuple[tuple[int, int, int], list[Slot]]:
    """Bit width, bucket size and hash code that a root says, and its slots. Raises `MalformedNode` for what is none."""
    if not is_hashmap(data):
        try:
            seen = described(from_cbor(data)) if len(data) <= MAX_BLOCK_BYTES else f"{len(data)} bytes"
        except ValueError as error:
            seen = f"no dag-cbor ({error})"
        raise MalformedNode(f"{text(cid)} is not the root of an IPLD HashMap: {seen}")
    at, slots, numbers = 1, list[Slot](), dict[str, int]()
    for _ in range(3):
        name, at = _root_key(data, at)
        if name == "hamt" and not slots:
            slots, at = _read_node(cid, data, at)
            continue
        if name is None or name in numbers or name == "hamt":
            raise MalformedNode(
                f"{text(cid)}: the root of an IPLD HashMap has something else at {at}, expected its hamt, hashAlg and "
                "bucketSize, each once"
            )
        try:
            major, numbers[name], at = read_head(data, at)
        except ValueError as error:
            raise MalformedNode(f"{text(cid)}: {error}") from None
        if major:
            raise MalformedNode(f"{text(cid)}: {name!r} is not a number")
    _refuse_more(cid, data, at)
    if numbers["bucketSize"] < 1:
        raise MalformedNode(f"{text(cid)}: the root of an IPLD HashMap with buckets of 0 entries")
    return (len(slots).bit_length() - 1, numbers["bucketSize"], numbers["hashAlg"]), slots


def is_hashmap(data: Data) -> bool:
    """Whether a block begins as the root of an IPLD HashMap does."""
    name, at = _root_key(data, 1)
    first = data[at] if len(data) > at else 0xFF
    return (
        data[0:1] == b"\xa3"
        and name is not None
        and (first == ARRAY | 2 if name == "hamt" else first < BYTES)
    )


def _root_key(data: Data, at: int) -> tuple[str | None, int]:
    """What the key of a root at `at` says, and where it ends; `None` for another key."""
    for key, name in _ROOT_KEYS.items():
        if data[at : at + len(key)] == key:
            return name, at + len(key)
    return None, at


def has_text_keys(data: Data) -> bool:
    """Whether the first key of a node, or root, which was decoded before, is written as text."""
    at = 0
    if is_hashmap(data):
        name, at = _root_key(data, 1)
        while name != "hamt":
            name, at = _root_key(data, end_of(data, at))
    _, length, at = read_head(data, at + 1)
    _, count, at = read_head(data, at + length)
    for _ in range(count):
        major, entries, after = read_head(data, at)
        if major == ARRAY and entries:
            return read_head(data, after + 1)[0] == TEXT
        at = end_of(data, at)
    return False


def _refuse_other_text(keys: Iterable[bytes]) -> None:
    """Raises `InvalidInput` for a key that is no UTF-8: nobody could read the node."""
    for key in keys:
        try:
            key.decode()
        except UnicodeDecodeError:
            raise InvalidInput(
                f"the key {key!r} is no text, and this HashMap has text_keys=True: convert it to one without, or delete "
                "that key"
            ) from None


def _value(pointer: bytes) -> bytes:
    return pointer[1:] if is_inline(pointer) else cbor_link_head(len(pointer)) + pointer


def _read_node(cid: bytes, data: Data, at: int) -> tuple[list[Slot], int]:
    """The slots of the node that begins at `at`, and where it ends. Raises `MalformedNode`."""
    if len(data) > MAX_BLOCK_BYTES:
        raise MalformedNode(f"{text(cid)}: {len(data)} bytes, a node has at most {MAX_BLOCK_BYTES}")
    data = bytes(data)
    try:
        major, length, at = read_head(data, at)
        if (major, length) != (ARRAY, 2):
            raise ValueError("not a list of a map and its elements")
        major, length, at = read_head(data, at)
        bitmap = data[at : at + length]
        if major != BYTES or not 1 <= length <= 1 << 13 or length & (length - 1) or len(bitmap) < length:
            raise ValueError("its map is not 1 to 8192 bytes, a power of two")
        used = np.flatnonzero(np.unpackbits(np.frombuffer(bitmap, np.uint8), bitorder="little")).tolist()
        major, count, at = read_head(data, at + length)
        if (major, count) != (ARRAY, len(used)):
            raise ValueError(f"{count} elements where {len(used)} bits of its map are set")
        slots: list[Slot] = [_EMPTY] * (8 * length)
        for number in used:
            slots[number], at = _read_element(data, at)
    except ValueError as error:
        raise MalformedNode(f"{text(cid)} is not a node of an IPLD HashMap: {error}") from None
    return slots, at


def _read_element(data: bytes, at: int) -> tuple[Slot, int]:
    if data[at : at + 6] == LINK36 and len(data) >= at + 41:
        return data[at + 5 : at + 41], at + 41
    major, count, after = read_head(data, at)
    if major != ARRAY:
        pointer, after = read_value(data, at)
        if is_inline(pointer):
            raise ValueError(f"the element at {at} is neither a link nor a bucket")
        return pointer, after
    bucket: Bucket = {}
    for _ in range(count):
        if data[after : after + 1] != b"\x82":
            raise ValueError(f"the entry at {after} is not a pair")
        major, length, start = read_head(data, after + 1)
        if major not in (BYTES, TEXT) or start + length > len(data):
            raise ValueError(f"the key at {after + 1} is neither bytes nor text")
        key = data[start : start + length].decode("utf-8", "strict" if major == TEXT else "surrogateescape")
        if key in bucket:
            raise ValueError(f"the key {key!r} comes twice")
        bucket[key], after = read_value(data, start + length)
    return bucket, after


def read_value(data: bytes, at: int) -> tuple[bytes, int]:
    """The pointer that the item at `at` is, and where it ends."""
    if data[at : at + 6] == LINK36 and len(data) >= at + 41:
        return data[at + 5 : at + 41], at + 41
    end = end_of(data, at)
    item = data[at:end]
    value = from_cbor(item)
    if item[:2] == b"\xd8\x2a":
        parse(value)
        return value, end
    return INLINE + item, end


def _refuse_more(cid: bytes, data: Data, at: int) -> None:
    if at != len(data):
        raise MalformedNode(f"{text(cid)}: {len(data) - at} bytes more than the node has")


_EMPTY: Bucket = {}


@lru_cache(16)
def _empty_nodes(width: int) -> frozenset[bytes]:
    data = b"\x82" + head(BYTES, width // 8) + bytes(width // 8) + b"\x80"
    return frozenset(identify(data, DAG_CBOR, hasher) for hasher in HASH_CODES)
