"""
The contract of every content-addressed store, as tests that a store's test class inherits.

    import pytest
    pytest.register_assert_rewrite("hamt_bulk.testing.contract", "hamt_bulk.testing.reading")   # in conftest.py

    from hamt_bulk.testing.contract import CASContract

    class TestMine(CASContract):
        def fresh(self, folder): return MyCAS(folder)
        def corrupt(self, cas, cid): ...

`ReadContract` is the half that read-only stores keep. Needs pytest, pytest-asyncio (mode "auto") and hypothesis.
"""

import asyncio
import pickle
from abc import abstractmethod
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multiformats import CID

from hamt_bulk.block import Block, identify, to_bytes
from hamt_bulk.cas import ContentAddressedStore, Receipt
from hamt_bulk.errors import HamtError, InvalidInput
from hamt_bulk.testing.reading import ABSENT, CODEC_NAMES, LARGE, ReadContract, Value, cid_of, inherited

__all__ = ["ABSENT", "LARGE", "CASContract", "ReadContract", "Value", "cid_of"]

values = st.lists(st.tuples(st.binary(max_size=200), st.sampled_from(CODEC_NAMES)), max_size=20)


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
        found: ContentAddressedStore = pickle.loads(pickle.dumps(cas))
        return found

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
