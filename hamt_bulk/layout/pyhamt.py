"""
What can be said of one node without fetching another: how py-hamt 3 encodes it.

    node    = [item × 256]                    dag-cbor list: 99 01 00 and the items
    item    = {}                              a0            empty bucket
            | {key: pointer, …}               a1 … a4       bucket: UTF-8 length first, then bytes
            | [pointer]                       81            link to a child node
    pointer = tag 42 over 00 and the CID      d8 2a 58 25 00 <36 bytes>

Source: py-hamt 3.6, `hamt.py` (`Node.serialize`); dag-cbor's specification for the order in maps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import libipld
import numpy as np

from hamt_bulk.block import DAG_CBOR, HASH_CODES, MAX_BLOCK_BYTES, Block, Data, identify, text
from hamt_bulk.errors import InvalidInput, MalformedNode
from hamt_bulk.foreign import from_cbor
from hamt_bulk.layout.base import Layout, OtherLayout, Pieces, Slot, refuse_oversized
from hamt_bulk.layout.cbor import TEXT
from hamt_bulk.layout.hashmap import is_hashmap
from hamt_bulk.layout.rows import Rows, cbor_link_head
from hamt_bulk.layout.seen import described, is_other_root
from hamt_bulk.ragged import Bytes, Ints, fill_rows, offsets_of

WIDTH = 256
"""Slots in a node: one for each value of a hash byte."""

BUCKET_SIZE = 4
"""How many entries a bucket holds before it becomes a child node, unless the tree says otherwise."""

HEAD = b"\x99\x01\x00"
EMPTY = 0xA0
LINK = 0x81

EMPTY_NODES = frozenset(identify(HEAD + bytes([EMPTY]) * WIDTH, DAG_CBOR, hasher) for hasher in HASH_CODES)
"""The CIDs of the node without entries. Only a root should be one, but py-hamt up to 3.3 may link to it."""


@dataclass(frozen=True, slots=True)
class PyHamt(Layout):
    """How py-hamt 3 writes nodes. `hasher` names the blocks."""

    max_bucket_size: int = BUCKET_SIZE
    hasher: str = "blake3"

    def __post_init__(self) -> None:
        # 23 is the last size whose map head is one byte; py-hamt itself sets no limit.
        if not 1 <= self.max_bucket_size <= 23:
            raise InvalidInput(f"max_bucket_size={self.max_bucket_size}: expected 1 to 23")

    @property
    def empty_nodes(self) -> frozenset[bytes]:  # type: ignore[override]
        return EMPTY_NODES

    def way(self, digest: bytes) -> list[str]:
        """The IPLD path from a node to the child that bytes of a key's hash lead to: a link is a list of one item."""
        return [segment for byte in digest for segment in (str(byte), "0")]

    def pointer_head(self, length: int) -> bytes:
        """The CBOR bytes before a CID of `length` bytes."""
        return cbor_link_head(length)

    def encode(self, count: int, pieces: Pieces) -> list[Block]:
        rows = Rows.of(pieces, self.pointer_head, by_length=True, pair=0, keeps_values=False)
        piece_extra = np.diff(rows.within[rows.first])

        # An empty slot is one byte, and the buffer starts out as nothing but empty slots.
        extra = np.bincount(pieces.node, piece_extra, count).astype(np.int64)
        starts = offsets_of(len(HEAD) + WIDTH + extra)
        refuse_oversized(int(np.diff(starts).max(initial=0)), pieces.keys)
        data = np.full(starts[-1], EMPTY, np.uint8)
        fill_rows(data, starts[:-1], HEAD)
        # Before a piece lie the heads and empty slots of its node, and all rows of the pieces before it.
        before = rows.within[rows.first[:-1]]
        at = len(HEAD) + (len(HEAD) + WIDTH) * pieces.node + pieces.slot + before
        data[at] = np.where(pieces.entries == 0, LINK, EMPTY + pieces.entries)
        row_at = np.repeat(at + 1 - before, np.diff(rows.first)) + rows.within[:-1]
        rows.write(data, row_at, self.pointer_head, TEXT, b"")
        return self._blocks(data, starts)

    def _blocks(self, data: Bytes, starts: Ints) -> list[Block]:
        view, ends = memoryview(data.tobytes()), starts.tolist()
        nodes = [view[start:end] for start, end in pairwise(ends)]
        return [Block(self.identify(node), node) for node in nodes]

    def encode_slots(self, slots: Sequence[Slot], *, is_root: bool = False) -> Block:
        # libipld tags bytes that are a CID, and in a node all are.
        data = libipld.encode_dag_cbor([[slot] if isinstance(slot, bytes) else slot for slot in slots])
        refuse_oversized(
            len(data), (key.encode() for slot in slots if isinstance(slot, dict) for key in slot)
        )
        return Block(self.identify(data), data)

    def decode(self, cid: bytes, data: Data | list[Slot], *, is_root: bool = False) -> list[Slot]:
        if isinstance(data, list):
            return data
        if len(data) > MAX_BLOCK_BYTES:
            raise MalformedNode(f"{text(cid)}: {len(data)} bytes, a node has at most {MAX_BLOCK_BYTES}")
        try:
            node = from_cbor(data)
        except ValueError as error:
            if is_root and is_hashmap(
                data
            ):  # py-hamt 1 wrote the keys of its roots in an order that is not dag-cbor's
                raise OtherLayout(
                    f"{text(cid)} is not a node of py-hamt 3: it is the root of an IPLD HashMap"
                ) from None
            raise MalformedNode(f"{text(cid)} is not dag-cbor, so not a node: {error}") from None
        if not isinstance(node, list) or len(node) != WIDTH:
            kind = OtherLayout if is_root and is_other_root(node) else MalformedNode
            raise kind(f"{text(cid)} is not a node of py-hamt 3: {described(node)}")
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
                    f"{text(cid)}, slot {number}: {described(item)}, expected a map or a list of one link"
                )
        return node
