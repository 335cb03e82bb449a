"""Stores that give blocks one by one, and so verify each and read any part of a file."""

import asyncio
from abc import abstractmethod
from collections.abc import Sequence

from multiformats import CID

from hamt_bulk import unixfs
from hamt_bulk.block import DAG_PB, AnyCID, Data, Hasher, hash_code, parse, to_bytes, to_cid, verify
from hamt_bulk.cas.base import ContentAddressedStore, bounds, range_of, several
from hamt_bulk.cas.writer import CodecInput, Writer, as_bytes
from hamt_bulk.reads import drive

MAX_INLINE_BYTES = 64 << 10
"""Up to here a value that is in memory is hashed where it is asked for: a thread would cost more."""


class BlockCAS(ContentAddressedStore):
    """
    A store that gives blocks as they were written, each compared with its CID.

    Subclasses give `load_blocks`, `has_blocks`, `size_blocks`, `writer` and the writer behind `save`; what
    concerns values is here.
    """

    verifies = True

    def __init__(self, hasher: Hasher) -> None:
        hash_code(hasher)
        self.hasher = hasher

    @abstractmethod
    def load_blocks(self, cids: Sequence[bytes]) -> list[Data]:
        """The blocks, each compared with its CID. Raises `BlockNotFound` or `BlockMismatch`."""

    @abstractmethod
    def has_blocks(self, cids: Sequence[bytes]) -> list[bool]:
        """Whether each block is there."""

    @abstractmethod
    def size_blocks(self, cids: Sequence[bytes]) -> list[int]:
        """The length of each block, without loading it where the store can tell."""

    @abstractmethod
    def writer(self) -> Writer: ...

    @abstractmethod
    def _implicit_writer(self) -> Writer:
        """The writer behind `save`, for all threads; `flush` covers it."""

    def load_range(self, cid: AnyCID, start: int, stop: int | None) -> bytes:
        binary = to_bytes(cid)
        start, stop = bounds(start, stop)
        if parse(binary).codec == DAG_PB:
            return drive(unixfs.read(binary, start, stop), self.load_blocks)
        [data] = self.load_blocks([binary])
        return bytes(data) if start == 0 and stop is None else bytes(memoryview(data)[start:stop])

    def load_many(self, cids: Sequence[AnyCID]) -> list[bytes]:
        names = several(cids)
        files = {cid for cid in names if parse(cid).codec == DAG_PB}
        whole = iter(self.load_blocks([cid for cid in names if cid not in files]))
        return [self.load_range(cid, 0, None) if cid in files else bytes(next(whole)) for cid in names]

    def has_many(self, cids: Sequence[AnyCID]) -> list[bool]:
        return self.has_blocks(several(cids))

    def size_many(self, cids: Sequence[AnyCID]) -> list[int]:
        names = several(cids)
        files = {cid for cid in names if parse(cid).codec == DAG_PB}
        whole = iter(self.size_blocks([cid for cid in names if cid not in files]))
        return [drive(unixfs.size(cid), self.load_blocks) if cid in files else next(whole) for cid in names]

    async def save(self, data: bytes, codec: CodecInput) -> CID:
        return to_cid(await self.save_value(data, codec))

    async def save_value(self, data: Data, codec: CodecInput) -> bytes:
        """As `save`, with the CID's bytes, which cost much less to make."""
        if self.in_memory and len(as_bytes(data)) <= MAX_INLINE_BYTES:
            return self._implicit_writer().save(data, codec)
        return await asyncio.to_thread(self._implicit_writer().save, data, codec)

    async def load(
        self, id: AnyCID, offset: int | None = None, length: int | None = None, suffix: int | None = None
    ) -> bytes:
        return await asyncio.to_thread(self._load, id, offset, length, suffix)

    def _load(self, id: AnyCID, offset: int | None, length: int | None, suffix: int | None) -> bytes:
        start, stop = range_of(offset, length, suffix)
        if suffix is not None:
            start = max(self.size_many([id])[0] - suffix, 0)
        return self.load_range(id, start, stop)


class LocalCAS(BlockCAS):
    """A store that reaches its blocks without waiting for a network: it gives `read_blocks`."""

    @abstractmethod
    def read_blocks(self, cids: Sequence[bytes]) -> list[Data]:
        """The blocks as they are stored, not yet verified. Raises `BlockNotFound`."""

    def load_blocks(self, cids: Sequence[bytes]) -> list[Data]:
        blocks = self.read_blocks(cids)
        for cid, data in zip(cids, blocks, strict=True):
            verify(cid, data)
        return blocks

    def size_blocks(self, cids: Sequence[bytes]) -> list[int]:
        return [len(data) for data in self.load_blocks(cids)]
