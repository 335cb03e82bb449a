"""
What can be said of one node without fetching another: how py-hamt 3 encodes it.

    node    = [item × 256]                    dag-cbor list: 99 01 00 and the items
    item    = {}                              a0            empty bucket
            | {key: pointer, …}               a1 … a4       bucket: UTF-8 length first, then bytes
            | [pointer]                       81            link to a child node
    pointer = tag 42 over 00 and the CID      d8 2a 58 25 00 <36 bytes>

Source: py-hamt 3.6, `hamt.py` (`Node.serialize`); dag-cbor's specification for the order in maps.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NoReturn, TypeAlias

import libipld
import numpy as np

from hamt_bulk.block import DAG_CBOR, HASH_CODES, MAX_BLOCK_BYTES, Block, Data, identify, text
from hamt_bulk.errors import InvalidInput, MalformedNode
from hamt_bulk.foreign import from_cbor
from hamt_bulk.ragged import Bytes, Ints, Ragged, copy_rows, fill_rows, offsets_of, rows_by_length

WIDTH = 256
"""Slots in a node: one for each value of a hash byte."""

BUCKET_SIZE = 4
"""How many entries a bucket holds before it becomes a child node, unless the tree says otherwise."""

Bucket: TypeAlias = dict[str, bytes]
"""Keys and the CIDs of their values."""

Slot: TypeAlias = "Bucket | bytes"
"""One place in a node: a bucket, or the CID of a child node."""

HEAD = b"\x99\x01\x00"
EMPTY = 0xA0
LINK = 0x81

EMPTY_NODES = frozenset(identify(HEAD + bytes([EMPTY]) * WIDTH, DAG_CBOR, hasher) for hasher in HASH_CODES)
"""The CIDs of the node without entries. Only a root should be one, but py-hamt up to 3.3 may link to it."""


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """
    The slots of a row of nodes that are not empty, in the order of node and slot.

    node     int64: the number of the node in its row
    slot     int64: 0 to 255
    entries  int64: how many `rows` belong here; 0 for a link, which has one
    rows     int64: numbers of rows of `keys` and `pointers`, in any order within a piece; from
             `len(keys)` on, those of `children`
    keys     the keys
    pointers the CIDs of values
    children the CIDs of child nodes
    """

    node: Ints
    slot: Ints
    entries: Ints
    rows: Ints
    keys: Ragged
    pointers: Ragged
    children: Ragged


@dataclass(frozen=True, slots=True)
class PyHamt:
    """How py-hamt 3 writes nodes. `hasher` names the blocks."""

    max_bucket_size: int = BUCKET_SIZE
    hasher: str = "blake3"

    def __post_init__(self) -> None:
        # 23 is the last size whose map head is one byte; py-hamt itself sets no limit.
        if not 1 <= self.max_bucket_size <= 23:
            raise InvalidInput(f"max_bucket_size={self.max_bucket_size}: expected 1 to 23")

    def identify(self, data: Data) -> bytes:
        """The CID of a node's block."""
        return identify(data, DAG_CBOR, self.hasher)

    def way(self, digest: bytes) -> list[str]:
        """The IPLD path from a node to the child that bytes of a key's hash lead to: a link is a list of one item."""
        return [segment for byte in digest for segment in (str(byte), "0")]

    def pointer_head(self, length: int) -> bytes:
        """The CBOR bytes before a CID of `length` bytes."""
        return b"\xd8\x2a" + _head(0x40, length + 1) + b"\x00"

    def encode(self, count: int, pieces: Pieces) -> list[Block]:
        """The blocks of `count` nodes, from all their slots at once."""
        rows_of_piece = np.maximum(pieces.entries, 1)
        rows = _in_map_order(pieces, rows_of_piece)
        items = len(pieces.keys)
        child = np.flatnonzero(rows >= items)
        own = np.flatnonzero(rows < items) if len(child) else slice(None)
        key_lengths = np.zeros(len(rows), np.int64)
        key_lengths[own] = pieces.keys.lengths[rows[own]]
        pointer_lengths = np.empty(len(rows), np.int64)
        pointer_lengths[own] = pieces.pointers.lengths[rows[own]]
        pointer_lengths[child] = pieces.children.lengths[rows[child] - items]
        entry = np.repeat(pieces.entries > 0, rows_of_piece)
        key_heads = np.where(entry, _head_lengths(key_lengths), 0)
        pointer_heads = np.empty(len(rows), np.int64)
        for length, group in rows_by_length(pointer_lengths):
            pointer_heads[group] = len(self.pointer_head(length))
        within = offsets_of(key_heads + key_lengths + pointer_heads + pointer_lengths)
        first_row = offsets_of(rows_of_piece)
        piece_extra = np.diff(within[first_row])

        # An empty slot is one byte, and the buffer starts out as nothing but empty slots.
        extra = np.bincount(pieces.node, piece_extra, count).astype(np.int64)
        starts = offsets_of(len(HEAD) + WIDTH + extra)
        largest = int(np.diff(starts).max(initial=0))
        if largest > MAX_BLOCK_BYTES:
            _refuse_oversized(largest, pieces.keys)
        data = np.full(starts[-1], EMPTY, np.uint8)
        fill_rows(data, starts[:-1], HEAD)
        # Before a piece lie the heads and empty slots of its node, and all rows of the pieces before it.
        at = len(HEAD) + (len(HEAD) + WIDTH) * pieces.node + pieces.slot + within[first_row[:-1]]
        data[at] = np.where(pieces.entries == 0, LINK, EMPTY + pieces.entries)

        row_at = np.repeat(at + 1 - within[first_row[:-1]], rows_of_piece) + within[:-1]
        for length, group in rows_by_length(np.where(entry, key_lengths, -1)):
            if length >= 0:
                fill_rows(data, row_at[group], _head(0x60, length))
        row_at += key_heads
        copy_rows(data, row_at[own], pieces.keys.data, pieces.keys.offsets[rows[own]], key_lengths[own])
        row_at += key_lengths
        for length, group in rows_by_length(pointer_lengths):
            fill_rows(data, row_at[group], self.pointer_head(length))
        row_at += pointer_heads
        for column, group, source in (
            (pieces.pointers, own, rows[own]),
            (pieces.children, child, rows[child] - items),
        ):
            copy_rows(data, row_at[group], column.data, column.offsets[source], pointer_lengths[group])
        return self._blocks(data, starts)

    def _blocks(self, data: Bytes, starts: Ints) -> list[Block]:
        view, ends = memoryview(data.tobytes()), starts.tolist()
        nodes = [view[start:end] for start, end in pairwise(ends)]
        return [Block(self.identify(node), node) for node in nodes]

    def encode_slots(self, slots: Sequence[Slot]) -> Block:
        """The block of one node."""
        # libipld tags bytes that are a CID, and in a node all are.
        data = libipld.encode_dag_cbor([[slot] if isinstance(slot, bytes) else slot for slot in slots])
        if len(data) > MAX_BLOCK_BYTES:
            _refuse_oversized(
                len(data), [key.encode() for slot in slots if isinstance(slot, dict) for key in slot]
            )
        return Block(self.identify(data), data)

    def decode(self, cid: bytes, data: Data | list[Slot]) -> list[Slot]:
        """
        The 256 slots of a node of any bucket size. Raises `MalformedNode` when the block is something else.

        That its bytes hash to `cid` is the store's care. A node that a cache decoded passes through.
        """
        if isinstance(data, list):
            return data
        if len(data) > MAX_BLOCK_BYTES:
            raise MalformedNode(f"{text(cid)}: {len(data)} bytes, a node has at most {MAX_BLOCK_BYTES}")
        try:
            node = from_cbor(data)
        except ValueError as error:
            raise MalformedNode(f"{text(cid)} is not dag-cbor, so not a node: {error}") from None
        if not isinstance(node, list) or len(node) != WIDTH:
            raise MalformedNode(f"{text(cid)} is not a node of py-hamt 3: {_what(node)}")
        for number, item in enumerate(node):
            # Most slots of most nodes are empty, so that comes first and costs least.
            if type(item) is dict:
                for pointer in item.values():
                    if type(pointer) is not bytes or not pointer:
                        raise MalformedNode(f"{text(cid)}, slot {number}: a bucket's values must be CIDs")
            elif type(item) is list and len(item) == 1 and type(item[0]) is bytes and item[0]:
                node[number] = item[0]
            else:
                raise MalformedNode(
                    f"{text(cid)}, slot {number}: {_what(item)}, expected a map or a list of one link"
                )
        return node

    def refuse_larger_buckets(self, cid: bytes, slots: Sequence[Slot]) -> None:
        """Raises `InvalidInput` when a bucket proves that the tree was built with another size."""
        for slot in slots:
            if isinstance(slot, dict) and len(slot) > self.max_bucket_size:
                raise InvalidInput(
                    f"node {text(cid)} has a bucket of {len(slot)} entries, so this tree was built with a "
                    f"max_bucket_size above {self.max_bucket_size}: pass that one"
                )


def _what(node: object) -> str:
    match node:
        case {"hamt": _, "hashAlg": _, "bucketSize": _}:
            return "it is the root of an IPLD HashMap, which this version does not read"
        case {"B": _, "L": _}:
            return "it is a node of py-hamt 2, which this version does not read"
        case dict():
            return f"a map of {len(node)} keys"
        case [bytes(), list()]:
            return "a list of 2, expected 256: it is a child node of an IPLD HashMap, not a root"
        case list():
            return f"a list of {len(node)}, expected {WIDTH}"
        case _:
            return f"a {type(node).__name__}"


def _refuse_oversized(size: int, keys: Iterable[bytes]) -> NoReturn:
    longest = max(keys, key=len)
    raise InvalidInput(
        f"a node of {size} bytes, at most {MAX_BLOCK_BYTES} travel as one block on IPFS: the keys are too "
        f"long, the longest has {len(longest)} bytes: {longest[:60]!r}…"
    )


def _in_map_order(pieces: Pieces, rows_of_piece: Ints) -> Ints:
    """The rows of `pieces` with those of each bucket in dag-cbor's order: length first, then bytes."""
    piece = np.repeat(np.arange(len(pieces.entries)), rows_of_piece)
    crowded = np.flatnonzero(pieces.entries[piece] > 1)
    if not len(crowded):
        return pieces.rows
    keys = pieces.keys.take(pieces.rows[crowded])
    longest = int(keys.lengths.max())
    if longest <= 256:
        padded = np.zeros(len(crowded) * longest or 1, np.uint8)
        copy_rows(padded, np.arange(len(crowded)) * longest, keys.data, keys.offsets[:-1], keys.lengths)
        # Padding never decides: keys of different lengths are told apart by the length before it.
        words = np.ndarray(len(crowded), f"S{longest or 1}", padded)
        order = np.lexsort((words, keys.lengths, piece[crowded]))
    else:
        texts = list(keys)
        order = np.array(
            sorted(range(len(texts)), key=lambda i: (piece[crowded[i]], len(texts[i]), texts[i]))
        )
    rows = pieces.rows.copy()
    rows[crowded] = pieces.rows[crowded[order]]
    return rows


def _head(major: int, value: int) -> bytes:
    """A CBOR head: the major type in the high bits and a number in its shortest form."""
    if value < 24:
        return bytes((major | value,))
    if value < 1 << 8:
        return bytes((major | 24, value))
    if value < 1 << 16:
        return bytes((major | 25,)) + value.to_bytes(2, "big")
    return bytes((major | 26,)) + value.to_bytes(4, "big")


def _head_lengths(values: Ints) -> Ints:
    return 1 + (values >= 24) + (values >= 1 << 8) + 2 * (values >= 1 << 16)
