"""
The contract of every content-addressed store.

`ContentAddressedStore` keeps py-hamt's `save` and `load` and adds what bulk work needs. A subclass may
stop at those two; `BlockCAS` is for stores that give single blocks.
"""

# ruff: noqa: B027  (methods that do nothing are those that a store need not have)

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from itertools import islice
from operator import index
from pathlib import Path
from typing import Self

from multiformats import CID

from hamt_bulk.block import (
    CODECS,
    AnyCID,
    Block,
    Data,
    Hasher,
    parse,
    text,
    to_bytes,
)
from hamt_bulk.cas.loop import gather, run_sync
from hamt_bulk.cas.writer import CodecInput, Receipt, Writer, as_bytes, blocks_of
from hamt_bulk.errors import BlockMismatch, BlockNotFound, InvalidInput

__all__ = ["CodecInput", "ContentAddressedStore", "Receipt", "Writer", "blocks_of"]


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

    loads_paths = False
    """Whether `load_ipld_path` gives more than one block for one request."""

    in_memory = False
    """Whether a block is there without waiting, so that nobody needs a thread for it."""

    unseen_seconds: float = 0.0
    """How long a block that another process has flushed may not be seen here yet."""

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
        start, stop = bounds(start, stop)
        return run_sync(self.load(cid, start, None if stop is None else stop - start))

    def load_ipld_path(self, root: AnyCID, segments: Sequence[str]) -> list[Block]:
        """
        The blocks on the way from `root` along an IPLD path, as far as they came: at least the first.

        segments  of the path, such as ["13", "0"]: the item 0 of the item 13 of the root
        """
        [data] = self.load_many([root])
        return [Block(to_bytes(root), data)]

    def has_many(self, cids: Sequence[AnyCID]) -> list[bool]:
        """Whether each block is there."""

        async def has(cid: AnyCID) -> bool:
            try:
                await self.load(cid)
            except BlockNotFound:
                return False
            return True

        return run_sync(gather(partial(has, cid) for cid in several(cids)))

    def claim_many(self, cids: Sequence[AnyCID]) -> list[bool]:
        """
        As `has_many`, for who will link to what is there and not write it again.

        A store that may let go of old blocks takes these for new ones.
        """
        return self.has_many(cids)

    def size_many(self, cids: Sequence[AnyCID]) -> list[int]:
        """The length of each value in bytes, without loading it where the store can tell."""
        return [len(value) for value in self.load_many(cids)]

    def flush(self) -> Receipt:
        """Makes durable what `save` was given on this object."""
        return Receipt()

    def begin(self) -> Self:
        """The store as one build has it, from the first block to `finish`: what it writes is kept meanwhile."""
        return self

    def started(self, base: bytes | None) -> None:
        """Called by the driver as a build begins to write: it may link all that lies below `base` until it has ended."""

    def copying(self) -> AbstractContextManager[None]:
        """Within it, what is written and claimed is kept, however long that takes."""
        return nullcontext()

    def check_pin(self, name: str | None) -> None:
        """Raises `InvalidInput` for what cannot be the name of a pin."""

    def secure(self, root: bytes, name: str | None, base: bytes | None) -> None:
        """
        Called once, by the driver, with the root of a complete build: pins it under `name`, where the store needs that.

        base  the root that it was made from. When that is pinned under the same name, the pin moves

        Raises `BlockNotFound` or `CASError` when the root is not complete, or cannot be pinned.
        """

    def finish(self) -> None:
        """Called once, by the driver, when a build is complete and secured: a store may tidy up."""

    def abandon(self) -> None:
        """Called instead when a build has failed."""

    def leave(self) -> None:
        """Called instead when a build has failed and its journal says how to go on: what it wrote is kept until then."""

    @property
    def lease(self) -> str:
        """What the store knows this build's blocks by, for the journal; empty where nothing needs to keep them."""
        return ""

    def take_over(self, leases: Sequence[str], cids: Sequence[AnyCID]) -> list[bool]:
        """
        As `claim_many`, of what builds that were left have written; what they kept is this build's from now on.

        leases  of those builds
        """
        return self.claim_many(cids)

    @property
    def journals(self) -> Path | None:
        """The folder for the journals of builds into this store, where it has one."""
        return None

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


def bounds(start: int, stop: int | None) -> tuple[int, int | None]:
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
