"""
The contract of every content-addressed store, and what those in this process share.

`ContentAddressedStore` keeps py-hamt's `save` and `load` and adds what bulk work needs. A subclass may
stop at those two; `LocalCAS` is for stores that reach their blocks without waiting for a network.
"""

# ruff: noqa: B027  (methods that do nothing are those that a store need not have)

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import islice
from operator import index

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
    parse,
    text,
    to_bytes,
    to_cid,
    verify,
)
from hamt_bulk.cas.loop import gather, run_sync
from hamt_bulk.cas.writer import CodecInput, Receipt, Writer, as_bytes, blocks_of
from hamt_bulk.errors import BlockMismatch, BlockNotFound, InvalidInput
from hamt_bulk.reads import drive

__all__ = ["CodecInput", "ContentAddressedStore", "LocalCAS", "Receipt", "Writer", "blocks_of"]


MAX_INLINE_BYTES = 64 << 10
"""Up to here a value that is in memory is hashed where it is asked for: a thread would cost more."""

_GROUP = 1024  # blocks that wait for one another where a store takes them one by one


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

    in_memory = False
    """Whether a block is there without waiting, so that nobody needs a thread for it."""

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
        return run_sync(gather(partial(self.load, cid) for cid in several(cids)))

    def load_range(self, cid: AnyCID, start: int, stop: int | None) -> bytes:
        """Bytes `start` to `stop` (exclusive; `None`: the end) of the value that `cid` names."""
        start, stop = _bounds(start, stop)
        return run_sync(self.load(cid, start, None if stop is None else stop - start))

    def has_many(self, cids: Sequence[AnyCID]) -> list[bool]:
        """Whether each block is there."""

        async def has(cid: AnyCID) -> bool:
            try:
                await self.load(cid)
            except BlockNotFound:
                return False
            return True

        return run_sync(gather(partial(has, cid) for cid in several(cids)))

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
    """For a store that has nothing but `save`: what it is given is there at once, flushed or not."""

    def __init__(self, cas: ContentAddressedStore) -> None:
        super().__init__(cas.hasher)
        self._cas = cas
        self._saved: dict[bytes, int] = {}

    def save(self, data: Data, codec: CodecInput = "raw") -> bytes:
        data = as_bytes(data)
        cid, _ = blocks_of(data, codec, self.hasher)
        self._put([(cid, data, codec)])
        return cid

    def save_many(self, blocks: Iterable[Block]) -> None:
        waiting = iter(blocks)
        while group := list(islice(waiting, _GROUP)):
            self._put([(cid, as_bytes(data), _codec_of(cid)) for cid, data in group])

    def _put(self, values: Sequence[tuple[bytes, Data, CodecInput]]) -> None:
        answers = run_sync(gather(partial(self._cas.save, bytes(data), codec) for _, data, codec in values))
        for (cid, data, _), answer in zip(values, answers, strict=True):
            refuse_other_answer(self._cas, to_bytes(answer), cid)
            self._saved[cid] = len(data)

    def flush(self) -> Receipt:
        self._cas.flush()
        saved, self._saved = self._saved, {}
        return Receipt(len(saved), sum(saved.values()))

    def close(self) -> None:
        self._saved = {}


def refuse_other_answer(cas: ContentAddressedStore, answer: bytes, expected: bytes) -> None:
    """Raises `BlockMismatch` when `save` of a store answered another CID than the value has."""
    if answer != expected:
        raise BlockMismatch(
            f"{type(cas).__name__}.save answered {text(answer)}, expected {text(expected)}: give "
            f"its hasher (here {cas.hasher!r}) as the attribute `hasher`, and split raw values at 1 MiB"
        )


def _codec_of(cid: bytes) -> CodecInput:
    codec = parse(cid).codec
    for name, code in CODECS.items():
        if code == codec:
            return name  # type: ignore[return-value]  # dag-pb too, for stores that take it
    raise InvalidInput(f"{text(cid)}: codec {codec:#x}, and `save` takes {', '.join(CODECS)}")


def several(cids: Iterable[AnyCID]) -> list[bytes]:
    """The binary form of each. Raises `InvalidInput` for a single CID, or what is none."""
    if isinstance(cids, (str, bytes, CID)) or not isinstance(cids, Iterable):
        raise InvalidInput(f"{str(cids)[:80]!r}: expected several CIDs, such as a list")
    return [to_bytes(cid) for cid in cids]


def _bounds(start: int, stop: int | None) -> tuple[int, int | None]:
    """The bounds of a range, whose end is not before its start."""
    start, stop = _count("start", start), None if stop is None else _count("stop", stop)
    return start, None if stop is None else max(start, stop)


def range_of(offset: int | None, length: int | None, suffix: int | None) -> tuple[int, int | None]:
    """The bounds of a range; where `suffix` is given the whole. Raises `InvalidInput` for what is none."""
    if suffix is not None:
        if offset is not None or length is not None:
            raise InvalidInput("suffix goes without offset and length")
        _count("suffix", suffix)
    start = 0 if offset is None else _count("offset", offset)
    return start, None if length is None else start + _count("length", length)


def _count(name: str, value: int) -> int:
    try:
        count = index(value)
    except TypeError:
        count = -1
    if count < 0:
        raise InvalidInput(f"{name}={value!r}, expected a whole number of bytes, 0 or more")
    return count


class LocalCAS(ContentAddressedStore):
    """
    A store that reaches its blocks without waiting for a network.

    Subclasses give `read_blocks`, `has_blocks` and `writer`; everything else, verification included, is
    here.
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

    def size_blocks(self, cids: Sequence[bytes]) -> list[int]:
        """The length of each block."""
        return [len(data) for data in self.load_blocks(cids)]

    def load_range(self, cid: AnyCID, start: int, stop: int | None) -> bytes:
        binary = to_bytes(cid)
        start, stop = _bounds(start, stop)
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

    @abstractmethod
    def _implicit_writer(self) -> Writer:
        """The writer behind `save`, for all threads; `flush` covers it."""
