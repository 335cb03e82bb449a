"""A user's store, which has nothing but `save` and `load`."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import dask.bag
import pytest
import xarray as xr
from multiformats import CID

from hamt_bulk import InMemoryCAS
from hamt_bulk.block import AnyCID, Block, identify, text, to_bytes, to_cid
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.cas.base import blocks_of
from hamt_bulk.cas.loop import AT_ONCE
from hamt_bulk.dask import build
from hamt_bulk.errors import BlockMismatch, BlockNotFound, CASError, InvalidInput, NotPortable
from hamt_bulk.testing.contract import CASContract, Value, cid_of
from hamt_bulk.xarray import to_hamt


class DictCAS(ContentAddressedStore):
    """Values, whole, in a dict."""

    def __init__(self) -> None:
        self.values: dict[bytes, bytes] = {}

    async def save(self, data: bytes, codec: Any) -> CID:
        await asyncio.sleep(0)
        cid, _ = blocks_of(data, codec, self.hasher)
        self.values[cid] = data
        return to_cid(cid)

    async def load(
        self, id: AnyCID, offset: int | None = None, length: int | None = None, suffix: int | None = None
    ) -> bytes:
        await asyncio.sleep(0)
        try:
            value = self.values[to_bytes(id)]
        except KeyError:
            raise BlockNotFound(f"no {text(to_bytes(id))}") from None
        start = max(len(value) - suffix, 0) if suffix is not None else offset or 0
        return value[start:] if length is None else value[start : start + length]


class TestDictCAS(CASContract):
    drops_unflushed = False
    counts_saves = False
    checks_ranges = False

    def fresh(self, folder: Path) -> DictCAS:
        return DictCAS()

    def another(self, cas: ContentAddressedStore) -> ContentAddressedStore:
        return cas

    def leaf(self, value: bytes, hasher: str) -> bytes:
        return cid_of(value, hasher=hasher)

    def corrupt(self, cas: DictCAS, cid: bytes) -> None:
        data = cas.values[cid]
        cas.values[cid] = bytes([data[0] ^ 1]) + data[1:]

    def holding(self, folder: Path, stored: Sequence[Value]) -> ContentAddressedStore:
        cas = super().holding(folder, stored)
        cas.hasher = "blake3"  # in the object, so that its token can be compared
        return cas


class Counting(DictCAS):
    """Knows how many calls are under way, and how many were begun."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = self.begun = 0
        self.fails_at: int | None = None

    async def load(self, id: AnyCID, *args: Any, **kwargs: Any) -> bytes:
        number, self.begun = self.begun, self.begun + 1
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            await asyncio.sleep(0.001)
            if number == self.fails_at:
                raise CASError("the server went away")
            return await super().load(id, *args, **kwargs)
        finally:
            self.now -= 1


def test_a_batch_does_not_flood_the_store() -> None:
    cas = Counting()
    with cas.writer() as writer:
        cids = [writer.save(b"%d" % i) for i in range(200)]
    assert cas.load_many(cids) == [b"%d" % i for i in range(200)]
    assert cas.most == AT_ONCE


def test_the_first_failure_ends_a_batch() -> None:
    cas = Counting()
    with cas.writer() as writer:
        cids = [writer.save(b"%d" % i) for i in range(1000)]
    cas.fails_at = 3
    with pytest.raises(CASError, match="went away"):
        cas.load_many(cids)
    assert cas.begun < 200


class Wrong(DictCAS):
    """Answers what it likes."""

    answer: Any = identify(b"something else")

    async def save(self, data: bytes, codec: Any) -> CID:
        await super().save(data, codec)
        return self.answer


def test_a_store_that_answers_another_cid_is_found_out() -> None:
    with Wrong().writer() as writer:
        with pytest.raises(BlockMismatch, match=r"Wrong\.save answered .*, expected .*hasher"):
            writer.save(b"value")
        with pytest.raises(BlockMismatch, match="attribute `hasher`"):
            writer.save_many([Block(identify(b"value"), b"value")])


@pytest.mark.parametrize("answer", [None, "baf", b"", 7], ids=repr)
def test_a_store_that_answers_no_cid_is_found_out(answer: Any) -> None:
    cas = Wrong()
    cas.answer = answer
    with cas.writer() as writer, pytest.raises(InvalidInput, match="not a CID"):
        writer.save(b"value")


def test_blocks_of_another_hasher_are_not_lost() -> None:
    """The store would give them CIDs that nobody asks for."""
    block = Block(identify(b"value", hasher="sha2-256"), b"value")
    with DictCAS().writer() as writer, pytest.raises(BlockMismatch, match="hasher"):
        writer.save_many([block])


def test_blocks_of_an_unknown_codec_are_refused() -> None:
    with DictCAS().writer() as writer, pytest.raises(InvalidInput, match="codec 0x129"):
        writer.save_many([Block(bytes.fromhex("01a902") + identify(b"{}")[2:], b"{}")])


class Asking(DictCAS):
    """Calls, in its `load`, a method that waits for `load`."""

    async def load(self, id: AnyCID, *args: Any, **kwargs: Any) -> bytes:
        self.size_many([id])
        return b""


def test_a_store_that_waits_for_itself_is_told_so() -> None:
    with pytest.raises(InvalidInput, match="await"):
        Asking().load_many([identify(b"value")])


class Copied(DictCAS):
    """A store that pickles what it holds, so that every worker writes to a copy of its own."""

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (), {"values": dict(self.values)}


def test_values_that_went_to_a_copy_of_the_store_are_missed(tmp_path: Path) -> None:
    ds = xr.Dataset({"a": ("x", da.arange(100, chunks=10))})
    with (
        dask.config.set(scheduler="processes", num_workers=2),
        pytest.raises(NotPortable, match=r"was saved by a task and is not in .*: its tasks work on a copy"),
    ):
        to_hamt(ds, Copied())
    pairs = dask.bag.from_sequence([(f"key {number}", b"value") for number in range(10)])
    with (
        dask.config.set(scheduler="processes", num_workers=2),
        pytest.raises(NotPortable, match="work on a copy"),
    ):
        build(pairs, Copied())
    with dask.config.set(scheduler="threads"):
        assert to_hamt(ds, Copied()) == to_hamt(ds, InMemoryCAS())
