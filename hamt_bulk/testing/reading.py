"""The half of the contract that read-only stores keep: see `hamt_bulk.testing.contract`."""

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
from hamt_bulk.block import CODECS, MAX_BLOCK_BYTES, AnyCID, identify, text, to_cid
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.cas.base import CodecInput
from hamt_bulk.cas.wrap import verified
from hamt_bulk.errors import BlockMismatch, BlockNotFound, InvalidInput, NotPortable

Value: TypeAlias = tuple[bytes, CodecInput]
"""Bytes and the codec that they are saved with."""

ABSENT = identify(b"nobody has this")
LARGE = bytes(range(251)) * 10_000 + b"a tail"  # three leaves, no two of them alike
CODEC_NAMES: tuple[CodecInput, ...] = ("raw", "dag-cbor")

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
        stored: list[Value] = [(LARGE[:size], codec) for size in sizes[:5] for codec in CODEC_NAMES]
        stored += [(LARGE[: sizes[5]], "raw"), (LARGE, "raw")]
        cas = self.holding(folder, stored)
        cids = [cid_of(*value, cas.hasher) for value in stored]
        assert cas.load_many(cids) == [value for value, _ in stored]
        assert cas.size_many(cids) == [len(value) for value, _ in stored]
        assert [await cas.load(cid) for cid in cids] == [value for value, _ in stored]

    async def test_every_form_of_a_cid_is_taken(self, folder: Path) -> None:
        cas = self.holding(folder, [(b"value", "raw")])
        cid = cid_of(b"value", hasher=cas.hasher)
        forms: list[AnyCID] = [cid, to_cid(cid), text(cid), f"ipfs://{text(cid)}", CID.decode(cid)]
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
            small: list[Value] = [
                (LARGE[:size], codec) for size in (0, 7, MAX_BLOCK_BYTES) for codec in CODEC_NAMES
            ]
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
        stored: list[Value] = [(b"%d" % i, CODEC_NAMES[i % 2]) for i in range(50)] + [(LARGE, "raw")]
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
                call(to_cid(ABSENT))  # type: ignore[arg-type]
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
        stored: list[Value] = [(b"%d" % i, "raw") for i in range(40)] + [(LARGE, "raw")]
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


_kept: dict[type, ContentAddressedStore] = {}
