"""Writing blocks: what every store's writer owes, and the blocks that a value consists of."""

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, TypeAlias

from hamt_bulk import unixfs
from hamt_bulk.block import CODECS, Block, Data, identify
from hamt_bulk.errors import InvalidInput

CodecInput: TypeAlias = Literal["raw", "dag-cbor"]

MAX_TRANSFER_BYTES = 2 << 20
"""The largest block that IPFS nodes exchange, and so the largest that is taken whole."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a `flush` made durable: distinct blocks, and their bytes. A store may leave out those it had."""

    blocks: int = 0
    bytes: int = 0

    def __add__(self, other: "Receipt") -> "Receipt":
        return Receipt(self.blocks + other.blocks, self.bytes + other.bytes)


class Writer(ABC):
    """
    Blocks on their way into a store.

    Belongs to one thread and one task. What it was given is durable and visible to others once `flush`
    has returned; leaving the `with` block drops what was not flushed, where the store can. A write that
    fails after its call has returned is raised by the next one; `flush` never leaves it out silently.
    """

    def __init__(self, hasher: str, leaf_bytes: int = unixfs.LEAF_BYTES) -> None:
        self.hasher = hasher
        self.leaf_bytes = leaf_bytes

    @abstractmethod
    def save_many(self, blocks: Iterable[Block]) -> None:
        """Takes blocks, none above 2 MiB. Their CIDs are believed: the caller made them."""

    @abstractmethod
    def flush(self) -> Receipt:
        """Makes durable all that was saved since the last `flush`."""

    @abstractmethod
    def close(self) -> None:
        """Drops what was not flushed. The writer may be used again."""

    def save(self, data: Data, codec: CodecInput = "raw") -> bytes:
        """The CID of `data`, which may be of any length when raw: above 1 MiB it becomes a UnixFS file."""
        cid, blocks = blocks_of(data, codec, self.hasher, self.leaf_bytes)
        self.save_many(blocks)
        return cid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def blocks_of(
    data: Data, codec: CodecInput, hasher: str, leaf_bytes: int = unixfs.LEAF_BYTES
) -> tuple[bytes, list[Block]]:
    """The CID of a value and the blocks it consists of; the same for every store, unless it splits otherwise."""
    data = as_bytes(data)
    if codec == "raw":
        return unixfs.split(data, hasher, leaf_bytes=leaf_bytes)
    if not isinstance(codec, str) or codec not in CODECS:
        raise InvalidInput(f"codec={codec!r}, expected 'raw' or 'dag-cbor'")
    if len(data) > MAX_TRANSFER_BYTES:
        raise InvalidInput(
            f"a {codec} block of {len(data)} bytes, at most {MAX_TRANSFER_BYTES} can travel: only raw values "
            "are split, so save large bytes as raw and link to them"
        )
    cid = identify(data, CODECS[codec], hasher)
    return cid, [Block(cid, data)]


def as_bytes(data: Data) -> Data:
    """`data`, its length that of its bytes. Raises `InvalidInput` for what is no bytes."""
    if isinstance(data, (bytes, bytearray)):
        return data
    if isinstance(data, memoryview):
        plain = data.ndim == 1 and data.format in ("B", "b", "c") and data.c_contiguous
        return data if plain else data.tobytes()
    raise InvalidInput(f"a value must be bytes, found {type(data).__name__}: encode it first")
