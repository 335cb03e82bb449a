"""
The contract of every content-addressed store, and what those in this process share.

`ContentAddressedStore` keeps py-hamt's `save` and `load` and adds what bulk work needs. A subclass may
stop at those two; `LocalCAS` is for stores that reach their blocks without waiting for a network.
"""

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self, TypeAlias

from multiformats import CID

from hamt_bulk import unixfs
from hamt_bulk.block import (
    CODECS,
    DAG_PB,

    AnyCID,
    Block,
    Data,
    Hasher,
    hash_code,
    identify,
    parse,
    text,
    to_bytes,
    to_cid,
    verify,
)
from hamt_bulk.cas.loop import run_sync
from hamt_bulk.errors import BlockMismatch, BlockNotFound, InvalidInput
from hamt_bulk.reads import drive

CodecInput: TypeAlias = Literal["raw", "dag-cbor"]


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a `flush` made durable: blocks that were not there before, and their bytes."""

    blocks: int = 0
    bytes: int = 0

    def __add__(self, other: "Receipt") -> "Receipt":
        return Receipt(self.blocks + other.blocks, self.bytes + other.bytes)


class Writer(ABC):
    """
    Blocks on their way into a store.

    Belongs to one thread and one task. What it was given is durable and visible to others once `flush`
    has returned; leaving the `with` block drops what was not flushed. A write that failed is raised by
    the next call.
    """

    def __init__(self, hasher: str) -> None:
        self.hasher = hasher

    @abstractmethod
    def save_many(self, blocks: Iterable[Block]) -> None:
        """Takes blocks, none above 2 MiB. Their CIDs are believed: the caller made them."""

    @abstractmethod
    def flush(self) -> Receipt:
        """Makes durable all that was saved since the last `flush`."""

    @abstractmethod
    def close(self) -> None:
        """Drops what was not flushed."""

    def save(self, data: Data, codec: CodecInput = "raw") -> bytes:
        """The CID of `data`, which may be of any length when raw: above 1 MiB it becomes a UnixFS file."""
        cid, blocks = blocks_of(data, codec, self.hasher)
        self.save_many(blocks)
        return cid

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def blocks_of(data: Data, codec: CodecInput, hasher: str) -> tuple[bytes, list[Block]]:
    """The CID of a value and the blocks it consists of; the same for every store."""
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InvalidInput(f"a value must be bytes, found {type(data).__name__}: encode it first")
    if codec == "raw":
        return unixfs.split(data, hasher)
    if codec not in CODECS:
        raise InvalidInput(f"codec={codec!r}, expected 'raw' or 'dag-cbor'")
    cid = identify(data, CODECS[codec], hasher)
    return cid, [Block(cid, data)]


class ContentAddressedStore(ABC):
    """
    Blocks by CID.

    A CID names its bytes, so a value never changes: saving one twice is a no-op and readers may cache
    without end. `load` raises `BlockNotFound` for a block that is not there, and `CASError` when the
    outside failed. After `save` returns, the same object can `load` the value.

    Travels to workers as its configuration, and says so with `NotPortable` when it cannot.
    """

    hasher: Hasher = "blake3"

    verifies = False
    """Whether `load` compares every block with its CID. Readers hash what other stores give them."""

    @abstractmethod
    async def save(self, data: bytes, codec: CodecInput) -> CID:
        """The CID of `data`, which is now in the store."""

    @abstractmethod
    async def load(
        self, id: AnyCID, offset: int | None = None, length: int | None = None, suffix: int | None = None
    ) -> bytes:
        """
        The value that `id` names, UnixFS files put together.

        offset  first byte, from the start
        length  how many bytes from `offset`, or fewer at the end
        suffix  the last bytes instead, as many
        """

    def writer(self) -> Writer:
        """A new writer, for one task."""
        return _SavingWriter(self)

    def load_many(self, cids: Sequence[AnyCID]) -> list[bytes]:
        """The values that `cids` name, in order."""

        async def load() -> list[bytes]:
            return list(await asyncio.gather(*(self.load(cid) for cid in cids)))

        return run_sync(load())

    def load_range(self, cid: AnyCID, start: int, stop: int | None) -> bytes:
        """Bytes `start` to `stop` (exclusive; `None`: the end) of the value that `cid` names."""
        return run_sync(self.load(cid, start, None if stop is None else stop - start))

    def has_many(self, cids: Sequence[AnyCID]) -> list[bool]:
        """Whether each block is there."""

        async def has(cid: AnyCID) -> bool:
            try:
                await self.load(cid)
            except BlockNotFound:
                return False
            return True

        async def ask() -> list[bool]:
            return list(await asyncio.gather(*(has(cid) for cid in cids)))

        return run_sync(ask())

    def size_many(self, cids: Sequence[AnyCID]) -> list[int]:
        """The length of each value in bytes, without loading it where the store can tell."""
        return [len(value) for value in self.load_many(cids)]

    def flush(self) -> Receipt:
        """Makes durable what `save` was given on this object."""
        return Receipt()

    def finish(self) -> None:
        """Called once, by the driver, when a build is complete: a store may tidy up."""

    def refuse_other_processes(self) -> None:
        """Raises `NotPortable` when the store can only be used in this process."""

    def announce(self) -> str:
        """Called by the driver before a build on workers; what it returns is given to their `preflight`."""
        return ""

    def preflight(self, token: str) -> None:
        """Called on every worker before a build. Raises `CASError` when blocks would not arrive."""

    def retract(self, token: str) -> None:
        """Called by the driver after the workers' `preflight`."""

    def close(self) -> None:
        """Lets go of files and connections. The object may be used again."""


class _SavingWriter(Writer):
    """For a store that has nothing but `save`."""

    def __init__(self, cas: ContentAddressedStore) -> None:
        super().__init__(cas.hasher)
        self._cas = cas
        self._receipt = Receipt()

    def save(self, data: Data, codec: CodecInput = "raw") -> bytes:
        cid, _ = blocks_of(data, codec, self.hasher)
        answered = to_bytes(run_sync(self._cas.save(bytes(data), codec)))
        if answered != cid:
            raise BlockMismatch(
                f"{type(self._cas).__name__}.save answered {text(answered)}, expected {text(cid)}: give its "
                f"hasher (here {self.hasher!r}) as the attribute `hasher`, and split raw values at 1 MiB"
            )
        self._receipt += Receipt(1, len(data))
        return cid

    def save_many(self, blocks: Iterable[Block]) -> None:
        codecs = {code: name for name, code in CODECS.items()}
        for block in blocks:
            self.save(block.data, codecs[parse(block.cid).codec])  # type: ignore[arg-type]

    def flush(self) -> Receipt:
        self._cas.flush()
        receipt, self._receipt = self._receipt, Receipt()
        return receipt

    def close(self) -> None:
        self._receipt = Receipt()


class LocalCAS(ContentAddressedStore):
    """
    A store that reaches its blocks without waiting for a network.

    Subclasses give `read_blocks` and `writer`; everything else, verification included, is here.
    """

    verifies = True

    def __init__(self, hasher: Hasher) -> None:
        hash_code(hasher)
        self.hasher = hasher

    @abstractmethod
    def read_blocks(self, cids: Sequence[bytes]) -> list[Data]:
        """The blocks as they are stored, not yet verified. Raises `BlockNotFound`."""

    @abstractmethod
    def has_blocks(self, cids: Sequence[bytes]) -> list[bool]:
        """Whether each block is there."""

    @abstractmethod
    def writer(self) -> Writer: ...

    def load_blocks(self, cids: Sequence[bytes]) -> list[Data]:
        """The blocks, each compared with its CID. Raises `BlockNotFound` or `BlockMismatch`."""
        blocks = self.read_blocks(cids)
        for cid, data in zip(cids, blocks, strict=True):
            verify(cid, data)
        return blocks

    def load_range(self, cid: AnyCID, start: int, stop: int | None) -> bytes:
        binary = to_bytes(cid)
        if parse(binary).codec == DAG_PB:
            return drive(unixfs.read(binary, start, stop), self.load_blocks)
        [data] = self.load_blocks([binary])
        return bytes(data) if start == 0 and stop is None else bytes(memoryview(data)[start:stop])

    def load_many(self, cids: Sequence[AnyCID]) -> list[bytes]:
        return [self.load_range(cid, 0, None) for cid in cids]

    def has_many(self, cids: Sequence[AnyCID]) -> list[bool]:
        return self.has_blocks([to_bytes(cid) for cid in cids])

    def size_many(self, cids: Sequence[AnyCID]) -> list[int]:
        return [drive(unixfs.size(to_bytes(cid)), self.load_blocks) for cid in cids]

    async def save(self, data: bytes, codec: CodecInput) -> CID:
        return to_cid(await asyncio.to_thread(self._implicit_writer().save, data, codec))

    async def load(
        self, id: AnyCID, offset: int | None = None, length: int | None = None, suffix: int | None = None
    ) -> bytes:
        return await asyncio.to_thread(self._load, id, offset, length, suffix)

    def _load(self, id: AnyCID, offset: int | None, length: int | None, suffix: int | None) -> bytes:
        if suffix is not None:
            if offset is not None or length is not None:
                raise InvalidInput("suffix goes without offset and length")
            return self.load_range(id, max(self.size_many([id])[0] - suffix, 0), None)
        start = offset or 0
        if start < 0 or (length is not None and length < 0):
            raise InvalidInput(f"offset={offset}, length={length}: expected 0 or more")
        return self.load_range(id, start, None if length is None else start + length)

    @abstractmethod
    def _implicit_writer(self) -> Writer:
        """The writer behind `save`, for all threads; `flush` covers it."""



