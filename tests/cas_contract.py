"""
The contract of every content-addressed store, as tests that a store's test class inherits.

    class TestMine(CASContract):
        def fresh(self, folder): return MyCAS(folder)

`ReadContract` is the half that read-only stores keep.
"""

import asyncio
import pickle
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any, TypeAlias

import pytest
from dask.base import tokenize
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from multiformats import CID

from hamt_bulk import unixfs
from hamt_bulk.block import CODECS, MAX_BLOCK_BYTES, Block, identify, text, to_bytes, to_cid
from hamt_bulk.cas import ContentAddressedStore, Receipt
from hamt_bulk.cas.wrap import verified
from hamt_bulk.errors import BlockMismatch, BlockNotFound, HamtError, InvalidInput, NotPortable

Value: TypeAlias = tuple[bytes, str]
"""Bytes and the codec that they are saved with."""

ABSENT = identify(b"nobody has this")
LARGE = bytes(range(251)) * 10_000 + b"a tail"  # three leaves, no two of them alike
CODEC_NAMES = ("raw", "dag-cbor")

values = st.lists(st.tuples(st.binary(max_size=200), st.sampled_from(CODEC_NAMES)), max_size=20)
bounds = st.none() | st.integers(0, 12) | st.integers(MAX_BLOCK_BYTES - 3, MAX_BLOCK_BYTES + 3)

inherited = settings(
    max_examples=25,
    deadline=None,
    # The classes that inherit a test share nothing but its text.
    suppress_health_check=[HealthCheck.differing_executors, HealthCheck.too_slow],
)


def cid_of(value: bytes, codec: str = "raw", hasher: str = "blake3") -> bytes:
    """The CID that every store has to give `value`."""
    return unixfs.split(value, hasher)[0] if codec == "raw" else identify(value, CODECS[codec], hasher)


class ReadContract(ABC):
    """
    What every store owes its readers.

    portable       whether it can be unpickled in another process
    checks_ranges  whether it refuses offsets and lengths that are none
    """

    portable = True
    checks_ranges = True

    @abstractmethod
    def holding(self, folder: Path, stored: Sequence[Value]) -> ContentAddressedStore:
        """A store with these values, and its own files in the new `folder`."""

    @abstractmethod
    def corrupt(self, cas: ContentAddressedStore, cid: bytes) -> None:
        """Changes a byte of the block that `cid` names, behind the store's back."""

    def leaf(self, value: bytes, hasher: str) -> bytes:
        """The block in which the second MiB of `value` is kept."""
        return unixfs.split(value, hasher)[1][1].cid

    @pytest.fixture
    def folder(self, tmp_path_factory: pytest.TempPathFactory) -> Path:
        return tmp_path_factory.mktemp("cas")

    async def test_values_of_any_length_are_loaded(self, folder: Path) -> None:
        sizes = (0, 1, 2048, 5000, MAX_BLOCK_BYTES, MAX_BLOCK_BYTES + 1)
        stored = [(LARGE[:size], codec) for size in sizes[:5] for codec in CODEC_NAMES]
        stored += [(LARGE[: sizes[5]], "raw"), (LARGE, "raw")]
        cas = self.holding(folder, stored)
        cids = [cid_of(*value, cas.hasher) for value in stored]
        assert cas.load_many(cids) == [value for value, _ in stored]
        assert cas.size_many(cids) == [len(value) for value, _ in stored]
        assert [await cas.load(cid) for cid in cids] == [value for value, _ in stored]

    async def test_every_form_of_a_cid_is_taken(self, folder: Path) -> None:
        cas = self.holding(folder, [(b"value", "raw")])
        cid = cid_of(b"value", hasher=cas.hasher)
        forms = [cid, to_cid(cid), text(cid), f"ipfs://{text(cid)}", CID.decode(cid)]
        assert cas.load_many(forms) == [b"value"] * 5
        assert [await cas.load(form) for form in forms] == [b"value"] * 5

    @inherited
    @given(st.sampled_from([0, 7, MAX_BLOCK_BYTES, len(LARGE)]), st.sampled_from(CODEC_NAMES), bounds, bounds)
    @example(len(LARGE), "raw", MAX_BLOCK_BYTES - 1, 2)
    @example(len(LARGE), "raw", len(LARGE), 1)
    def test_a_range_is_the_slice(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        size: int,
        codec: str,
        first: int | None,
        second: int | None,
    ) -> None:
        value = LARGE[:size]
        codec = "raw" if size > MAX_BLOCK_BYTES else codec
        cas = self._ranges(tmp_path_factory)
        cid = cid_of(value, codec, cas.hasher)
        start = first or 0

        async def load() -> list[bytes]:
            return [
                await cas.load(cid, first, second),
                await cas.load(cid, offset=first),
                await cas.load(cid, length=second),
                await cas.load(cid, suffix=start),
            ]

        end = None if second is None else start + second
        assert asyncio.run(load()) == [
            value[start:end],
            value[start:],
            value[:second],
            value[max(len(value) - start, 0) :],
        ]
        assert cas.load_range(cid, start, second) == value[start:second]

    def _ranges(self, folders: pytest.TempPathFactory) -> ContentAddressedStore:
        """One store for all examples, since none changes it."""
        kept: dict[type, ContentAddressedStore] = _kept
        if type(self) not in kept:
            small = [(LARGE[:size], codec) for size in (0, 7, MAX_BLOCK_BYTES) for codec in CODEC_NAMES]
            kept[type(self)] = self.holding(folders.mktemp("ranges"), [*small, (LARGE, "raw")])
        return kept[type(self)]

    async def test_what_is_absent_is_not_found(self, folder: Path) -> None:
        cas = self.holding(folder, [(b"value", "raw")])
        there = cid_of(b"value", hasher=cas.hasher)
        calls: list[Callable[[], object]] = [
            lambda: cas.load_many([ABSENT]),
            lambda: cas.load_many([there, ABSENT, there]),
            lambda: cas.load_range(ABSENT, 0, None),
            lambda: cas.load_range(ABSENT, 1, 3),
            lambda: cas.size_many([there, ABSENT]),
        ]
        for call in calls:
            with pytest.raises(BlockNotFound, match=text(ABSENT)):
                call()
        for range_ in ({}, {"offset": 1}, {"suffix": 2}):
            with pytest.raises(BlockNotFound, match=text(ABSENT)):
                await cas.load(ABSENT, **range_)
        assert cas.has_many([ABSENT, there, ABSENT]) == [False, True, False]

    def test_many_come_in_order_and_as_often_as_asked(self, folder: Path) -> None:
        stored = [(b"%d" % i, CODEC_NAMES[i % 2]) for i in range(50)] + [(LARGE, "raw")]
        cas = self.holding(folder, stored)
        asked = [*reversed(stored), *stored[::7], stored[3], stored[3]]
        cids = [cid_of(*value, cas.hasher) for value in asked]
        assert cas.load_many(cids) == [value for value, _ in asked]
        assert cas.size_many(cids) == [len(value) for value, _ in asked]
        assert cas.has_many(cids) == [True] * len(cids)
        assert (cas.load_many([]), cas.has_many([]), cas.size_many([])) == ([], [], [])
        assert cas.load_many(tuple(cids[:2])) == [value for value, _ in asked[:2]]

    @pytest.mark.parametrize("value", [b"some bytes", LARGE], ids=["block", "file"])
    async def test_changed_bytes_are_a_mismatch(self, folder: Path, value: bytes) -> None:
        """Whole or in ranges, alone or among others; a store that does not hash itself, behind `verified`."""
        store = self.holding(folder, [(value, "raw"), (b"other", "raw")])
        cas, cid = verified(store), cid_of(value, hasher=store.hasher)
        damaged = cid if len(value) < MAX_BLOCK_BYTES else self.leaf(value, store.hasher)
        self.corrupt(store, damaged)
        middle = len(value) // 2
        for call in (
            lambda: cas.load_many([cid]),
            lambda: cas.load_range(cid, 0, None),
            lambda: cas.load_range(cid, middle, middle + 1),
        ):
            with pytest.raises(BlockMismatch):
                call()
        for range_ in ({}, {"suffix": middle + 1}, {"offset": middle, "length": 2}):
            with pytest.raises(BlockMismatch):
                await cas.load(cid, **range_)
        other = cid_of(b"other", hasher=store.hasher)
        assert cas.load_many([other]) == [b"other"]
        with pytest.raises(BlockMismatch):
            cas.load_many([other, cid])

    def test_it_travels_or_says_why_not(self, folder: Path) -> None:
        cas = self.holding(folder, [(b"value", "raw")])
        cid = cid_of(b"value", hasher=cas.hasher)
        again = pickle.loads(pickle.dumps(cas))
        assert again.load_many([cid]) == [b"value"]
        assert again.hasher == cas.hasher
        if self.portable:
            cas.refuse_other_processes()
        else:
            with pytest.raises(NotPortable, match="PackCAS"):
                cas.refuse_other_processes()

    def test_its_token_is_its_configuration(self, folder: Path) -> None:
        cas = self.holding(folder / "a", [(b"value", "raw")])
        other = self.holding(folder / "b", [(b"another", "raw")])
        assert tokenize(cas) == tokenize(cas) == tokenize(pickle.loads(pickle.dumps(cas)))
        assert tokenize(cas) != tokenize(other)

    def test_its_repr_names_it(self, folder: Path) -> None:
        cas = self.holding(folder, [])
        assert type(cas).__name__ in repr(cas)

    @pytest.mark.parametrize("wrong", [None, 5, "", "not a cid", b"", b"\x01", object()], ids=type)
    async def test_what_is_no_cid_is_refused(self, folder: Path, wrong: Any) -> None:
        cas = self.holding(folder, [(b"value", "raw")])
        for call in (cas.load_many, cas.has_many, cas.size_many):
            with pytest.raises(InvalidInput, match=r"CID"):
                call([wrong])
            with pytest.raises(InvalidInput, match=r"CID"):
                call(wrong)
            with pytest.raises(InvalidInput, match="several"):
                call(to_cid(ABSENT))
        with pytest.raises(InvalidInput):
            cas.load_range(wrong, 0, None)
        with pytest.raises(InvalidInput):
            await cas.load(wrong)

    async def test_what_is_no_range_is_refused(self, folder: Path) -> None:
        cas = self.holding(folder, [(b"value", "raw"), (LARGE, "raw")])
        for cid in (cid_of(b"value", hasher=cas.hasher), cid_of(LARGE, hasher=cas.hasher)):
            for start, stop in ((-1, None), (0, -1), ("0", None), (0.5, 2)):
                with pytest.raises(InvalidInput, match=r"start=|stop="):
                    cas.load_range(cid, start, stop)  # type: ignore[arg-type]
            assert cas.load_range(cid, 3, 2) == b""
            if not self.checks_ranges:
                continue
            ranges: list[dict[str, Any]] = [{"offset": -1}, {"length": -1}, {"suffix": -1}, {"offset": "1"}]
            for range_ in [*ranges, {"offset": 1, "suffix": 1}, {"length": 1, "suffix": 1}]:
                with pytest.raises(InvalidInput):
                    await cas.load(cid, **range_)

    def test_threads_and_event_loops_share_it(self, folder: Path) -> None:
        stored = [(b"%d" % i, "raw") for i in range(40)] + [(LARGE, "raw")]
        cas = self.holding(folder, stored)
        cids = [cid_of(*value, cas.hasher) for value in stored]
        expected = [value for value, _ in stored]
        together = Barrier(8)

        def read(number: int) -> bool:
            async def load() -> list[bytes]:
                return await asyncio.gather(*(cas.load(cid) for cid in cids))

            together.wait()
            found = asyncio.run(load()) if number % 2 else cas.load_many(cids)
            return found == expected and all(cas.has_many(cids))

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(read, range(8)))

    def test_closed_it_opens_again(self, folder: Path) -> None:
        cas = self.holding(folder, [(b"value", "raw")])
        cid = cid_of(b"value", hasher=cas.hasher)
        assert cas.load_many([cid]) == [b"value"]
        cas.close()
        cas.close()
        assert cas.load_many([cid]) == [b"value"]


class CASContract(ReadContract):
    """
    What every store owes its users.

    drops_unflushed  whether what a writer was given is not to be seen before its `flush`
    counts_saves     whether `flush` tells how many blocks `save` was given
    """

    drops_unflushed = True
    counts_saves = True

    @abstractmethod
    def fresh(self, folder: Path) -> ContentAddressedStore:
        """An empty store."""

    def holding(self, folder: Path, stored: Sequence[Value]) -> ContentAddressedStore:
        cas = self.fresh(folder)
        with cas.writer() as writer:
            for value, codec in stored:
                writer.save(value, codec)
            writer.flush()
        return cas

    def another(self, cas: ContentAddressedStore) -> ContentAddressedStore:
        """The same store as another object, as a reader elsewhere has it."""
        return pickle.loads(pickle.dumps(cas))

    @inherited
    @given(values)
    @example([(b"", "raw"), (b"", "dag-cbor"), (LARGE, "raw")])
    def test_what_is_saved_is_loaded(
        self, tmp_path_factory: pytest.TempPathFactory, stored: list[Value]
    ) -> None:
        """Under the CID that the bytes alone give, before and after the flush."""
        cas = self.fresh(tmp_path_factory.mktemp("saved"))

        async def save_and_load() -> None:
            for value, codec in stored:
                cid = await cas.save(value, codec)
                assert isinstance(cid, CID)
                assert to_bytes(cid) == cid_of(value, codec, cas.hasher)
                assert await cas.load(cid) == value

        asyncio.run(save_and_load())
        cids = [cid_of(*value, cas.hasher) for value in stored]
        assert cas.load_many(cids) == [value for value, _ in stored]
        cas.flush()
        assert self.another(cas).load_many(cids) == [value for value, _ in stored]

    async def test_many_are_saved_at_once(self, folder: Path) -> None:
        cas = self.fresh(folder)
        stored = [(b"value %d" % i, CODEC_NAMES[i % 2]) for i in range(200)]
        cids = await asyncio.gather(*(cas.save(*value) for value in stored))
        assert list(map(to_bytes, cids)) == [cid_of(*value, cas.hasher) for value in stored]
        assert await asyncio.gather(*map(cas.load, cids)) == [value for value, _ in stored]
        receipt = cas.flush()
        if self.counts_saves:
            assert receipt == Receipt(200, sum(len(value) for value, _ in stored))
        assert cas.flush() == Receipt()
        assert self.another(cas).load_many(cids) == [value for value, _ in stored]

    def test_a_writer_gives_the_cids_of_the_bytes(self, folder: Path) -> None:
        cas = self.fresh(folder)
        numbers = memoryview(bytes(range(24)))
        with cas.writer() as writer:
            assert writer.save(LARGE) == cid_of(LARGE, hasher=cas.hasher)
            assert writer.save(b"x", "dag-cbor") == cid_of(b"x", "dag-cbor", cas.hasher)
            assert writer.save(bytearray(b"y")) == cid_of(b"y", hasher=cas.hasher)
            # Their length is not that of their bytes.
            wide, strided = numbers.cast("I"), numbers[::2]
            cids = [writer.save(wide), writer.save(strided), writer.save(numbers.cast("B", (4, 6)))]
            writer.flush()
        assert cas.load_many(cids) == [bytes(range(24)), bytes(range(0, 24, 2)), bytes(range(24))]
        assert cas.load_many([cid_of(LARGE, hasher=cas.hasher)]) == [LARGE]

    def test_blocks_are_taken_as_they_are_named(self, folder: Path) -> None:
        cas = self.fresh(folder)
        blocks = [Block(identify(b"%d" % i, 0x71, cas.hasher), b"%d" % i) for i in range(3000)]
        with cas.writer() as writer:
            writer.save_many(iter(blocks))
            writer.save_many([])
            assert writer.flush() == Receipt(3000, sum(len(block.data) for block in blocks))
        assert cas.load_many([block.cid for block in blocks]) == [block.data for block in blocks]

    def test_a_changed_buffer_changes_nothing(self, folder: Path) -> None:
        cas, buffer = self.fresh(folder), bytearray(b"before")
        with cas.writer() as writer:
            cid = writer.save(buffer)
            small = writer.save(memoryview(buffer)[:3])
            buffer[:] = b"after!"
            writer.flush()
        assert cas.load_many([cid, small]) == [b"before", b"bef"]

    def test_a_buffer_is_not_kept_when_the_blocks_fail(self, folder: Path) -> None:
        cas, buffer = self.fresh(folder), bytearray(b"before")
        cid = identify(bytes(buffer), hasher=cas.hasher)

        def blocks() -> Any:
            yield Block(cid, buffer)
            raise ZeroDivisionError

        with cas.writer() as writer:
            with pytest.raises(ZeroDivisionError):
                writer.save_many(blocks())
            buffer[:] = b"after!"
            writer.flush()
        if cas.has_many([cid]) == [True]:
            assert cas.load_many([cid]) == [b"before"]

    def test_flush_makes_it_visible_elsewhere(self, folder: Path) -> None:
        cas = self.fresh(folder)
        reader = self.another(cas)
        with cas.writer() as writer:
            cid = writer.save(b"value")
            file = writer.save(LARGE)
            if self.drops_unflushed:
                assert reader.has_many([cid, file]) == [False, False]
            writer.flush()
            assert reader.load_many([cid, file]) == [b"value", LARGE]

    def test_what_was_not_flushed_is_dropped(self, folder: Path) -> None:
        cas = self.fresh(folder)
        with cas.writer() as writer:
            cids = [writer.save(b"value"), writer.save(b"node", "dag-cbor"), writer.save(LARGE)]
        assert cas.flush() == Receipt()
        if self.drops_unflushed:
            assert cas.has_many(cids) == [False] * 3
            assert self.another(cas).has_many(cids) == [False] * 3
        with pytest.raises(ZeroDivisionError), cas.writer() as writer:
            cid = writer.save(b"before the failure")
            raise ZeroDivisionError
        if self.drops_unflushed:
            assert cas.has_many([cid]) == [False]

    def test_receipts_count_distinct_blocks(self, folder: Path) -> None:
        cas = self.fresh(folder)
        with cas.writer() as writer:
            for value in (b"a", b"bb", b"a", b"ccc"):
                writer.save(value)
            assert writer.flush() == Receipt(3, 6)
            assert writer.flush() == Receipt()
            writer.save(b"dddd")
            writer.save(b"", "dag-cbor")
            assert writer.flush() == Receipt(2, 4)

    def test_a_writer_is_used_again(self, folder: Path) -> None:
        cas = self.fresh(folder)
        writer = cas.writer()
        cids = []
        for i in range(3):
            with writer:
                cids += [writer.save(b"%d" % i), writer.save(b"%d" % i, "dag-cbor")]
                writer.flush()
        assert cas.load_many(cids) == [b"0", b"0", b"1", b"1", b"2", b"2"]

    def test_writers_work_at_once(self, folder: Path) -> None:
        cas = self.fresh(folder)
        together = Barrier(8)

        def write(number: int) -> list[bytes]:
            together.wait()
            with cas.writer() as writer:
                cids = [writer.save(b"%d %d" % (number, i)) for i in range(50)]
                cids += [writer.save(b"shared %d" % i) for i in range(50)]
                writer.flush()
            return cids

        with ThreadPoolExecutor(8) as pool:
            for cids in pool.map(write, range(8)):
                assert self.another(cas).has_many(cids) == [True] * 100
        assert cas.load_many([cid_of(b"7 49", hasher=cas.hasher)]) == [b"7 49"]

    @pytest.mark.parametrize("wrong", [None, "text", 5, [b"bytes"], object()], ids=type)
    async def test_what_is_no_bytes_is_refused(self, folder: Path, wrong: Any) -> None:
        cas = self.fresh(folder)
        with cas.writer() as writer:
            with pytest.raises(InvalidInput, match="bytes"):
                writer.save(wrong)
            with pytest.raises(InvalidInput, match="bytes"):
                writer.save_many([Block(ABSENT, wrong)])
            assert writer.flush() == Receipt()
        with pytest.raises(InvalidInput, match="bytes"):
            await cas.save(wrong, "raw")

    @pytest.mark.parametrize("wrong", [None, "dag-json", 0x55, ["raw"]], ids=repr)
    async def test_what_is_no_codec_is_refused(self, folder: Path, wrong: Any) -> None:
        cas = self.fresh(folder)
        with cas.writer() as writer, pytest.raises(InvalidInput, match="codec"):
            writer.save(b"value", wrong)
        with pytest.raises(InvalidInput, match="codec"):
            await cas.save(b"value", wrong)

    def test_a_node_too_large_to_travel_is_refused(self, folder: Path) -> None:
        cas = self.fresh(folder)
        with cas.writer() as writer, pytest.raises(InvalidInput, match="2097153 bytes"):
            writer.save(bytes((2 << 20) + 1), "dag-cbor")

    def test_every_failure_is_one_of_ours(self, folder: Path) -> None:
        """Nothing that zarr would take for a chunk that is not there."""
        cas = self.fresh(folder)
        with pytest.raises(HamtError) as raised:
            cas.load_many([ABSENT])
        assert not isinstance(raised.value, (LookupError, FileNotFoundError))


_kept: dict[type, ContentAddressedStore] = {}
