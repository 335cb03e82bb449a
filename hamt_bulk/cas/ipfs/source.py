"""What blocks are read from: one server each."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from hamt_bulk.block import Block, text
from hamt_bulk.cas.ipfs.health import Health
from hamt_bulk.cas.ipfs.server import Server
from hamt_bulk.errors import BlockMismatch, BlockNotFound

MAX_BLOCK_ANSWER_BYTES = 32 << 20
"""As for sections of CAR files: far above what IPFS exchanges."""


class Source(ABC):
    """
    One server that gives blocks, each compared with its CID.

    gives_paths  whether it gives all blocks on a path in one answer; `False` once it turned out not to
    """

    gives_paths = False
    hedges = True
    """Whether it is worth asking beside another that takes long."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.health = Health()

    @abstractmethod
    async def block(self, cid: bytes) -> bytes:
        """Raises `BlockNotFound`, `BlockMismatch` or `CASError`, which names the server and what it answered."""

    @abstractmethod
    async def size(self, cid: bytes) -> int:
        """The length of a block as the server says. Raises `BlockNotFound` or `CASError`."""

    async def path(self, root: bytes, segments: Sequence[str]) -> list[Block]:
        """
        The blocks on the way from `root`, as far as they came: perhaps none, where it turned out not to give paths.

        Raises as `block` does.
        """
        return [Block(root, await self.block(root))]

    def not_found(self, cid: bytes, what: str) -> BlockNotFound:
        """The error for a block that this server says it has not."""
        return BlockNotFound(
            f"{self.server.address} has no block {text(cid)} ({self.server.credentials.redacted(what)})"
        )

    def altered(self, error: BlockMismatch) -> BlockMismatch:
        """The error that says whose copy of a block is damaged."""
        return BlockMismatch(f"{self.server.address} gave other bytes: {error}")
