"""A store with faults around it."""

import asyncio
import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import Any, Self, TypeVar

from multiformats import CID

from hamt_bulk.block import AnyCID, Block, Data, text, to_bytes, to_cid
from hamt_bulk.cas.base import CodecInput, ContentAddressedStore, Receipt, Writer, blocks_of
from hamt_bulk.cas.blocks import BlockCAS
from hamt_bulk.cas.wrap import save_value
from hamt_bulk.cas.wrapping import WrappingBlockCAS, WrappingCAS, configuration, has_writer, innermost
from hamt_bulk.cas.writer import as_bytes
from hamt_bulk.errors import BlockMismatch, InvalidInput
from hamt_bulk.testing.faults import Delay, Fault
from hamt_bulk.testing.strikes import Strike, Tally, tally_of

T = TypeVar("T")


class FaultyCAS(WrappingCAS):
    """
    A store of which some calls fail, or worse.

        cas = FaultyCAS(PackCAS("store"), Fail(rate=0.1), seed=1)
        cas = FaultyCAS(InMemoryCAS(), Fail(nth=3, on="writer.flush"), Alter(rate=0.01))

    The same calls in the same order are struck by the same faults: `seed` decides what is random. The store travels;
    each other process counts its own calls, and mixes its number into the seed. What one process unpickles shares
    its counts. A store that has nothing but `save` and `load` has writers that save: strike its `save`.

    calls   how often each call was made, in this process
    struck  how many faults struck, in this process
    """

    def __new__(cls, inner: ContentAddressedStore, *faults: Fault, **options: Any) -> Self:
        if cls is FaultyCAS and isinstance(inner, BlockCAS):
            return super().__new__(_FaultyBlockCAS)  # type: ignore[return-value]
        return super().__new__(cls)

    def __init__(
        self, inner: ContentAddressedStore, *faults: Fault, seed: int = 0, token: str | None = None
    ) -> None:
        if wrong := [fault for fault in faults if not isinstance(fault, Fault)]:
            raise InvalidInput(
                f"not a fault: {wrong[0]!r}; give faults of hamt_bulk.testing, such as Fail(nth=3)"
            )
        super().__init__(inner)
        self.faults = faults
        self.seed = seed
        self.in_memory = inner.in_memory and not any(isinstance(fault, Delay) for fault in faults)
        # By which other processes, and other copies in this one, know whose calls they count.
        self._token = token or f"{os.getpid()} {uuid.uuid4().hex}"

    @property
    def _tally(self) -> Tally:
        return tally_of(self._token, self.faults, self.seed)

    @property
    def calls(self) -> dict[str, int]:
        return dict(self._tally.calls)

    @property
    def struck(self) -> int:
        return self._tally.struck

    def arm(self, *faults: Fault) -> None:
        """From now on these faults strike, counted anew, in this process."""
        _refuse_others(faults)
        self._tally.arm(faults)

    def mend(self) -> None:
        """From now on no fault strikes, in this process."""
        self.arm()

    def _strike(self, call: str) -> Strike:
        return self._tally.strike(call, type(innermost(self)).__name__)

    def _do(self, name: str, call: Callable[[], T]) -> T:
        strike = self._strike(name)
        _wait(strike.delay)
        return strike.around(call)

    def _values(self, name: str, cids: Sequence[AnyCID], call: Callable[[], list[T]]) -> list[T]:
        """As `_do`, for a call that gives bytes, of which one may be altered."""
        strike = self._strike(name)
        _wait(strike.delay)
        values = strike.around(call)
        return self._altered(strike, cids, values)

    def _altered(self, strike: Strike, cids: Sequence[AnyCID], values: list[T]) -> list[T]:
        places = [number for number, value in enumerate(values) if value]
        if strike.alters is None or not places:
            return values
        number = places[int(strike.alters * len(places))]
        if self.verifies:
            raise BlockMismatch(f"{text(to_bytes(cids[number]))}: one bit of it was altered by a FaultyCAS")
        value = bytearray(values[number])  # type: ignore[call-overload]
        bit = int(strike.alters * 1e9) % (8 * len(value))
        value[bit // 8] ^= 1 << bit % 8
        return [*values[:number], bytes(value), *values[number + 1 :]]  # type: ignore[list-item]

    async def load(
        self, id: AnyCID, offset: int | None = None, length: int | None = None, suffix: int | None = None
    ) -> bytes:
        strike = self._strike("load")
        if strike.delay:
            await asyncio.sleep(strike.delay)
        strike.before()
        value = await self.inner.load(id, offset, length, suffix)
        strike.after()
        return self._altered(strike, [id], [value])[0]

    def load_many(self, cids: Sequence[AnyCID]) -> list[bytes]:
        return self._values("load_many", cids, lambda: self.inner.load_many(cids))

    def load_range(self, cid: AnyCID, start: int, stop: int | None) -> bytes:
        return self._values("load_range", [cid], lambda: [self.inner.load_range(cid, start, stop)])[0]

    def load_ipld_path(self, root: AnyCID, segments: Sequence[str]) -> list[Block]:
        strike = self._strike("load_ipld_path")
        _wait(strike.delay)
        blocks = strike.around(lambda: self.inner.load_ipld_path(root, segments))
        names = [block.cid for block in blocks]
        return list(map(Block, names, self._altered(strike, names, [block.data for block in blocks])))

    def has_many(self, cids: Sequence[AnyCID]) -> list[bool]:
        return self._do("has_many", lambda: self.inner.has_many(cids))

    def claim_many(self, cids: Sequence[AnyCID]) -> list[bool]:
        return self._do("has_many", lambda: self.inner.claim_many(cids))

    def size_many(self, cids: Sequence[AnyCID]) -> list[int]:
        return self._do("size_many", lambda: self.inner.size_many(cids))

    async def save(self, data: bytes, codec: CodecInput) -> CID:
        return to_cid(await self.save_value(data, codec))

    async def save_value(self, data: Data, codec: CodecInput) -> bytes:
        """As `save`, with the CID's bytes."""
        strike = self._strike("save")
        if strike.delay:
            await asyncio.sleep(strike.delay)
        strike.before()
        self._tally.take("save", len(as_bytes(data)))
        if self._tally.drops("save"):
            return blocks_of(data, codec, self.hasher)[0]
        cid = await save_value(self.inner, data, codec)
        strike.after()
        return cid

    def flush(self) -> Receipt:
        def call() -> Receipt:
            self._tally.take("flush", 0)
            return self.inner.flush()

        return self._do("flush", call)

    def writer(self) -> Writer:
        def make() -> Writer:
            if not has_writer(self.inner):
                return super(WrappingCAS, self).writer()  # by `save`, which may be struck itself
            return _FaultyWriter(self, self._tally, self.inner.writer())

        return self._do("writer", make)

    def begin(self) -> Self:
        return self._do("begin", super().begin)

    def secure(self, root: bytes, name: str | None, base: bytes | None) -> None:
        self._do("secure", lambda: self.inner.secure(root, name, base))

    def finish(self) -> None:
        self._do("finish", self.inner.finish)

    def abandon(self) -> None:
        self._do("abandon", self.inner.abandon)

    def announce(self) -> str:
        return self._do("announce", self.inner.announce)

    def preflight(self, token: str) -> None:
        self._do("preflight", lambda: self.inner.preflight(token))

    def retract(self, token: str) -> None:
        self._do("retract", lambda: self.inner.retract(token))

    def close(self) -> None:
        self._do("close", self.inner.close)

    def __reduce__(self) -> tuple[Any, ...]:
        again = partial(FaultyCAS, seed=self.seed, token=self._token)
        return again, (self.inner, *self.faults)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return "FaultyCAS", configuration(self.inner), self._token

    def __repr__(self) -> str:
        return f"FaultyCAS({', '.join(map(repr, (self.inner, *self.faults)))}, seed={self.seed})"


class _FaultyBlockCAS(FaultyCAS, WrappingBlockCAS):
    """As `FaultyCAS`, around a store that gives single blocks."""

    def load_blocks(self, cids: Sequence[bytes]) -> list[Data]:
        return self._values("load_blocks", cids, lambda: self.inner.load_blocks(cids))

    def has_blocks(self, cids: Sequence[bytes]) -> list[bool]:
        return self._do("has_blocks", lambda: self.inner.has_blocks(cids))

    def size_blocks(self, cids: Sequence[bytes]) -> list[int]:
        return self._do("size_blocks", lambda: self.inner.size_blocks(cids))


class _FaultyWriter(Writer):
    """A writer whose calls may be struck; what is dropped counts in its receipts."""

    def __init__(self, cas: FaultyCAS, tally: Tally, inner: Writer) -> None:
        super().__init__(inner.hasher, inner.leaf_bytes)
        self._cas = cas
        self._tally = tally
        self._inner = inner
        self._dropped: dict[bytes, int] = {}

    def save(self, data: Data, codec: CodecInput = "raw") -> bytes:
        def call() -> bytes:
            self._tally.take("writer.save_many", len(as_bytes(data)))
            if not self._tally.drops("writer.save_many"):
                return self._inner.save(data, codec)
            cid, _ = blocks_of(data, codec, self.hasher, self.leaf_bytes)
            self._dropped[cid] = len(data)
            return cid

        return self._cas._do("writer.save_many", call)

    def save_many(self, blocks: Iterable[Block]) -> None:
        self._cas._do("writer.save_many", lambda: self._inner.save_many(self._taken(blocks)))

    def _taken(self, blocks: Iterable[Block]) -> Iterator[Block]:
        for cid, data in blocks:
            self._tally.take("writer.save_many", len(as_bytes(data)))
            if self._tally.drops("writer.save_many"):
                self._dropped[cid] = len(data)
            else:
                yield Block(cid, data)

    def flush(self) -> Receipt:
        def call() -> Receipt:
            self._tally.take("writer.flush", 0)
            dropped, self._dropped = self._dropped, {}
            return self._inner.flush() + Receipt(len(dropped), sum(dropped.values()))

        return self._cas._do("writer.flush", call)

    def close(self) -> None:
        self._dropped = {}
        self._inner.close()


def _refuse_others(faults: Sequence[Fault]) -> None:
    if wrong := [fault for fault in faults if not isinstance(fault, Fault)]:
        raise InvalidInput(
            f"not a fault: {wrong[0]!r}; give faults of hamt_bulk.testing, such as Fail(nth=3)"
        )


def _wait(seconds: float) -> None:
    if seconds:
        time.sleep(seconds)
