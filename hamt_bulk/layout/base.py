"""What every layout says of one node: what its slots are, how it is encoded and decoded."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

from hamt_bulk.block import DAG_CBOR, MAX_BLOCK_BYTES, Block, Data, identify, text
from hamt_bulk.errors import InvalidInput, MalformedNode
from hamt_bulk.ragged import Bytes, Ints, Ragged

Bucket: TypeAlias = dict[str, bytes]
"""Keys and the pointers of their values."""

Slot: TypeAlias = "Bucket | bytes"
"""One place in a node: a bucket, or the CID of a child node."""


class OtherLayout(MalformedNode):
    """This block is a node, of another layout than it was opened with."""


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """
    The slots of a row of nodes that are not empty, in the order of node and slot.

    node     int64: the number of the node in its row
    slot     int64: 0 to the layout's `width` - 1
    entries  int64: how many `rows` belong here; 0 for a link, which has one
    rows     int64: numbers of rows of `keys` and `pointers`, in any order within a piece; from
             `len(keys)` on, those of `children`
    keys     the keys
    pointers what the tree holds for them
    children the CIDs of child nodes
    """

    node: Ints
    slot: Ints
    entries: Ints
    rows: Ints
    keys: Ragged
    pointers: Ragged
    children: Ragged


class Layout(ABC):
    """
    How nodes are encoded. All layouts are split by one rule: a subtree is a node when it holds more entries than a
    bucket.

    The way to a key is the bytes that the tree's `hash_fn` gives for it; each level of the tree takes `step` of them, the
    number of a slot.
    """

    max_bucket_size: int
    hasher: str
    """Names the blocks."""

    width: int = 256
    """Slots in a node."""

    step: int = 1
    """How many bytes of a way a level takes."""

    keeps_values: bool = False
    """Whether a pointer may be a value itself."""

    any_keys: bool = False
    """Whether keys may be any bytes. In memory those that are no UTF-8 have escapes (PEP 383) for the rest."""

    empty_nodes: frozenset[bytes]
    """The CIDs of the node without entries. Only a root should be one, but some writers link to it."""

    def identify(self, data: Data) -> bytes:
        """The CID of a node's block."""
        return identify(data, DAG_CBOR, self.hasher)

    def way(self, digest: bytes) -> list[str]:
        """The IPLD path from a node to the child that bytes of a key's hash lead to; empty when a node's own bytes decide it."""
        return []

    @abstractmethod
    def encode(self, count: int, pieces: Pieces) -> list[Block]:
        """The blocks of `count` nodes below the root, from all their slots at once."""

    @abstractmethod
    def encode_slots(self, slots: Sequence[Slot], *, is_root: bool = False) -> Block:
        """The block of one node."""

    @abstractmethod
    def decode(self, cid: bytes, data: "Data | list[Slot]", *, is_root: bool = False) -> list[Slot]:
        """
        The slots of a node of any bucket size. Raises `MalformedNode` when the block is something else.

        That its bytes hash to `cid` is the store's care. A node that a cache decoded passes through.
        """

    def refuse_larger_buckets(self, cid: bytes, slots: Sequence[Slot]) -> None:
        """Raises `InvalidInput` when a bucket proves that the tree was built with another size."""
        for slot in slots:
            if isinstance(slot, dict) and len(slot) > self.max_bucket_size:
                raise InvalidInput(
                    f"node {text(cid)} has a bucket of {len(slot)} entries, so this tree was built with a "
                    f"max_bucket_size above {self.max_bucket_size}: pass that one"
                )

    @property
    def first_bytes(self) -> int:
        """How many values the first byte of a way has."""
        return self.width >> 8 * (self.step - 1)

    def first_byte(self, number: int) -> int:
        """The first byte of the ways that lead to a slot of the root."""
        return number >> 8 * (self.step - 1)

    def path(self, number: int) -> bytes:
        """The bytes of a way that lead to a slot."""
        return number.to_bytes(self.step, "big")

    def number(self, way: bytes, depth: int) -> int:
        """The slot that a way leads to in a node at `depth`."""
        return int.from_bytes(way[depth * self.step : (depth + 1) * self.step], "big")

    def numbers_of(self, way: bytes) -> Sequence[int]:
        """The slots that a way leads to, from the root down."""
        if self.step == 1:
            return way
        return [self.number(way, depth) for depth in range(len(way) // self.step)]

    def numbers(self, ways: Bytes, depth: int) -> Ints:
        """As `number`, for a row of ways."""
        column = ways[:, depth * self.step].astype("int64")
        return column if self.step == 1 else column << 8 | ways[:, depth * self.step + 1]


def refuse_oversized(size: int, keys: Iterable[bytes], width: int = 256) -> None:
    """Raises `InvalidInput` when a node of `width` slots is too large for a block."""
    if size > MAX_BLOCK_BYTES:
        _oversized(size, keys, width)


def _oversized(size: int, keys: Iterable[bytes], width: int) -> NoReturn:
    longest = max(keys, key=len, default=b"")
    wide = (
        f"{width} slots are too many for so many keys, take a smaller bit_width; or " if width > 256 else ""
    )
    raise InvalidInput(
        f"a node of {size} bytes, at most {MAX_BLOCK_BYTES} travel as one block on IPFS: {wide}the keys are too "
        f"long, the longest has {len(longest)} bytes: {longest[:60]!r}…"
    )
