"""`RetryingCAS`: over a store of which calls fail, what is built is what a sound store would have."""

import asyncio
import errno
import multiprocessing
import os
import pickle
import random
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from test_cas_custom import DictCAS

from hamt_bulk import InMemoryCAS, PackCAS, RetryingCAS, build
from hamt_bulk.block import Block, identify, text, to_bytes
from hamt_bulk.cas import Receipt, Retries, Writer, retries, rewriting
from hamt_bulk.cas.retries import may_pass
from hamt_bulk.errors import BlockMismatch, BlockNotFound, CASError, InvalidInput
from hamt_bulk.testing import CALLS, LOADS, Alter, Disconnect, DiskFull, Fail, FaultyCAS

FULL = os.environ.get("HAMT_BULK_FULL") == "1"
ITEMS = {f"key {number}": b"value %d" % number * 20 for number in range(600)}
ROOT = build(ITEMS, InMemoryCAS())
QUICK = Retries(max_retries=12, initial_delay=0.0005, backoff_factor=1.3)
"""Enough where one call in ten fails: a writer that begins again needs three calls, and fails 13 times once in 10^7."""


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds that were waited, of which none passes."""
    waited: list[float] = []
    monkeypatch.setattr(retries.time, "sleep", waited.append)
    return waited


# What is tried again, how often, and what is not.


def test_delays_are_those_of_the_policy(waits: list[float]) -> None:
    cas = RetryingCAS(FaultyCAS(InMemoryCAS(), Fail()), Retries(4, 2.0, 3.0, jitter=0))
    with pytest.raises(
        CASError, match=r"the disk or the network failed.* \(attempt 5, and the last\)"
    ) as raised:
        cas.has_many([identify(b"")])
    assert waits == [2.0, 6.0, 18.0, 54.0]
    assert isinstance(raised.value.__cause__, CASError)
    with pytest.raises(CASError, match="failed") as raised:
        RetryingCAS(FaultyCAS(InMemoryCAS(), Fail()), Retries(0)).load_many([identify(b"")])
    assert "attempt" not in str(raised.value) and len(waits) == 4


@pytest.mark.parametrize(
    ("number", "passes"),
    [
        *[(number, False) for number in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS)],
        *[
            (number, True)
            for number in (errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.EMFILE, errno.ENOENT)
        ],
    ],
    ids=lambda value: errno.errorcode.get(value, value) if not isinstance(value, bool) else str(value),
)
def test_what_stays_is_not_tried_again(number: int, passes: bool, waits: list[float]) -> None:
    cas = RetryingCAS(FaultyCAS(InMemoryCAS(), Fail(nth=2, on=("has_many", "writer.flush"), error=number)))
    assert cas.has_many([identify(b"")]) == [False]
    with cas.writer() as writer:
        writer.save(b"value")
        if passes:
            assert writer.flush() == Receipt(1, 5)
        else:
            with pytest.raises(CASError):
                writer.flush()
    assert len(waits) == passes


def test_the_chain_of_an_error_tells_whether_it_may_pass() -> None:
    full = OSError(errno.ENOSPC, "No space left on device")
    for error in (full, CASError(errno.EROFS, "read-only")):
        assert not may_pass(error)
    wrapped = CASError("outer")
    wrapped.__cause__ = CASError("inner")
    assert may_pass(wrapped)
    wrapped.__cause__.__cause__ = full
    assert not may_pass(wrapped)


@pytest.mark.parametrize(
    "error",
    [
        BlockNotFound("gone"),
        InvalidInput("no"),
        RuntimeError("broken"),
        KeyError("k"),
        BlockMismatch("in a save"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_only_what_the_outside_does_is_tried_again(error: Exception, waits: list[float]) -> None:
    faulty = FaultyCAS(InMemoryCAS(), Fail(error=error, nth=1, on=("has_many", "writer.save_many")))
    cas = RetryingCAS(faulty)
    if not isinstance(error, BlockMismatch):
        with pytest.raises(type(error)):
            cas.has_many([identify(b"")])
    else:
        with cas.writer() as writer, pytest.raises(BlockMismatch):
            writer.save(b"value")
    assert (waits, faulty.struck) == ([], 1)


def test_altered_bytes_are_read_once_more(waits: list[float]) -> None:
    inner = InMemoryCAS()
    root = build(ITEMS, inner)
    for fault in (Alter(nth=1), Alter(nth=2, on="load_many")):
        cas = RetryingCAS(FaultyCAS(inner, fault))
        assert [cas.load_many([root]), cas.load_many([root])] == [[inner.blocks[to_bytes(root)]]] * 2
    assert len(waits) == 2
    with pytest.raises(BlockMismatch, match="attempt 2, and the last"):
        RetryingCAS(FaultyCAS(inner, Alter())).load_many([root])
    assert len(waits) == 3


async def test_altered_bytes_of_a_store_that_does_not_verify_are_noticed_and_read_once_more() -> None:
    root = build(ITEMS, plain := DictCAS())
    cas = RetryingCAS(FaultyCAS(plain, Alter(nth=1, on="load")), QUICK)
    assert cas.verifies and not cas.inner.inner.verifies
    assert await cas.load(root) == plain.values[to_bytes(root)]
    assert cas.inner.inner.struck == 1


@pytest.mark.parametrize("seed", range(3))
async def test_loads_in_every_form_come_through(tmp_path: Path, seed: int) -> None:
    build(ITEMS, PackCAS(tmp_path))
    faults = Fail(rate=0.2, on=CALLS), Disconnect(rate=0.1, on=CALLS, after=True), Alter(rate=0.1, on=LOADS)
    cas = RetryingCAS(FaultyCAS(PackCAS(tmp_path), *faults, seed=seed), Retries(60, 0.0001, 1.0))
    values = list(ITEMS.values())[:50]
    cids = list(map(identify, values))
    done = 0
    for _ in range(40):
        try:
            assert await asyncio.to_thread(cas.load_many, cids) == values
            assert [await cas.load(cid) for cid in cids[:10]] == values[:10]
            assert await asyncio.to_thread(cas.load_range, cids[0], 1, 4) == values[0][1:4]
            assert cas.load_ipld_path(ROOT, ["0"])[0].cid == to_bytes(ROOT)
            done += 1
        except BlockMismatch:
            continue  # altered twice in a row
        assert cas.has_many(cids) == cas.has_blocks(cids) == [True] * 50
        assert cas.size_many(cids) == cas.size_blocks(cids) == [len(value) for value in values]
    assert done > 20


# Writers that lost what they were given.


class Forgetting(InMemoryCAS):
    """Its writers, once they have failed, refuse, as those of packs do; it knows how many there were."""

    writers = 0
    fails: Callable[[int], bool] = staticmethod(lambda call: False)
    count = 0

    def writer(self) -> Writer:
        self.writers += 1
        return _ForgettingWriter(self, super().writer())


class _ForgettingWriter(Writer):
    def __init__(self, cas: Forgetting, inner: Writer) -> None:
        super().__init__(cas.hasher)
        self._cas, self._inner, self._failed = cas, inner, False

    def _call(self) -> None:
        self._cas.count += 1
        if self._failed or self._cas.fails(self._cas.count):
            self._failed = True
            raise CASError("this writer failed before, and what it held is lost")

    def save_many(self, blocks: Iterable[Block]) -> None:
        self._inner.save_many(blocks)
        self._call()

    def flush(self) -> Receipt:
        self._call()
        return self._inner.flush()

    def close(self) -> None:
        self._inner.close()


VALUES = [b"value %d" % number for number in range(10)]


@pytest.mark.parametrize("nth", range(1, 13))
def test_what_a_failed_writer_held_is_given_to_another(nth: int, waits: list[float]) -> None:
    """Whichever call fails; what was flushed before is not given again."""
    inner = Forgetting()
    inner.fails = lambda call: call == nth
    cas = RetryingCAS(inner)
    with cas.writer() as writer:
        for value in VALUES[:4]:
            writer.save(value)
        assert writer.flush() == Receipt(4, 28)
        writer.save_many([Block(identify(value), value) for value in VALUES[4:]])
        writer.save(b"last")
        assert writer.flush() == Receipt(7, 46)
    assert sorted(inner.blocks.values()) == sorted([*VALUES, b"last"])
    assert (inner.writers, len(waits)) == ((2, 1) if nth <= 8 else (1, 0))


def test_buffers_that_the_caller_changes_are_given_again_as_they_were(waits: list[float]) -> None:
    inner = Forgetting()
    inner.fails = lambda call: call == 3
    buffer = bytearray(b"before")
    with RetryingCAS(inner).writer() as writer:
        first = writer.save(buffer)
        second = writer.save(memoryview(buffer)[:3])
        buffer[:] = b"after!"
        writer.flush()
    assert inner.load_many([first, second]) == [b"before", b"bef"]
    assert inner.writers == 2


def test_no_more_than_64_mib_are_kept(monkeypatch: pytest.MonkeyPatch, waits: list[float]) -> None:
    """Then the writer flushes by itself, and the receipt is that of all."""
    monkeypatch.setattr(rewriting, "KEPT_BYTES", 1000)
    inner = Forgetting()
    inner.fails = lambda call: call % 7 == 0
    values = [b"%d" % number * 50 for number in range(100)]
    with RetryingCAS(inner, QUICK).writer() as writer:
        for number, value in enumerate(values):
            writer.save(value)
            assert sum(map(len, values[: number + 1])) - sum(map(len, inner.blocks.values())) <= 1000
        assert writer.flush() == Receipt(100, sum(map(len, values)))
    assert sorted(inner.blocks.values()) == sorted(values)
    assert inner.writers > 10


def test_a_writer_that_gave_up_goes_on_once_the_store_is_well(tmp_path: Path, waits: list[float]) -> None:
    """What it was given before is not lost to a full disk."""
    faulty = FaultyCAS(PackCAS(tmp_path), DiskFull(after_bytes=500))
    with RetryingCAS(faulty).writer() as writer:
        first = writer.save(bytes(400))
        for _ in range(2):
            with pytest.raises(CASError, match="the disk is full"):
                writer.save(b"1" * 400)
            with pytest.raises(CASError, match="the disk is full"):
                writer.flush()
        faulty.mend()
        second = writer.save(b"2" * 400)
        assert writer.flush() == Receipt(2, 800)
    assert PackCAS(tmp_path).load_many([first, second]) == [bytes(400), b"2" * 400]
    assert PackCAS(tmp_path).has_many([identify(b"1" * 400)]) == [False]
    assert waits == []
    assert list((tmp_path / "tmp").iterdir()) == []


def test_a_lost_answer_to_a_flush_is_no_harm(tmp_path: Path) -> None:
    faulty = FaultyCAS(PackCAS(tmp_path), Disconnect(nth=1, on="writer.flush", after=True))
    with RetryingCAS(faulty, QUICK).writer() as writer:
        cid = writer.save(b"value")
        assert writer.flush() == Receipt(1, 5)
    assert PackCAS(tmp_path).load_many([cid]) == [b"value"]
    assert len(list(tmp_path.glob("packs/*/*.car"))) == 1  # the same blocks, the same name


# `save`.


@pytest.mark.parametrize("seed", range(3))
async def test_saves_at_once_lose_nothing_to_a_store_that_forgets(
    tmp_path: Path, monkeypatch, seed: int
) -> None:
    """The writer behind `save` of a pack store loses all that waits when one write fails."""
    drawn = random.Random(seed)
    real = os.writev

    def writev(file: int, views: Any) -> int:
        if drawn.random() < 0.05:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return real(file, views)

    monkeypatch.setattr(os, "writev", writev)
    cas = RetryingCAS(PackCAS(tmp_path), QUICK)
    values = [b"%d " % number * 20 for number in range(300)]

    async def save(value: bytes) -> bytes:
        cid = to_bytes(await cas.save(value, "raw"))
        assert await cas.load(cid) == value
        return cid

    cids = await asyncio.gather(*map(save, values))
    await asyncio.to_thread(cas.flush)
    monkeypatch.undo()
    assert PackCAS(tmp_path).load_many(cids) == values
    assert cas._unflushed.now() == {} and cas._unflushed.size == 0
    cas.close()


async def test_what_waits_is_not_lost_to_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pack store alone refuses until it is closed, and has lost it."""
    cas = RetryingCAS(PackCAS(tmp_path))
    first = await cas.save(b"first", "raw")
    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        for _ in range(2):
            with pytest.raises(CASError, match="the disk is full"):
                await cas.save(b"second", "raw")
            with pytest.raises(CASError, match="the disk is full"):
                cas.flush()
    third = await cas.save(b"third", "raw")
    assert cas.flush().blocks == 2
    assert PackCAS(tmp_path).load_many([first, third]) == [b"first", b"third"]


async def test_saves_are_flushed_when_too_much_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hamt_bulk.cas.retrying.KEPT_BYTES", 1000)
    cas = RetryingCAS(FaultyCAS(PackCAS(tmp_path), Fail(rate=0.1)), QUICK)
    cids = [await cas.save(b"%d" % number * 50, "raw") for number in range(100)]
    assert sum(PackCAS(tmp_path).has_many(cids)) > 80
    assert cas._unflushed.size <= 1300


async def test_a_value_that_is_refused_is_not_tried_again(tmp_path: Path) -> None:
    faulty = FaultyCAS(PackCAS(tmp_path))
    cas = RetryingCAS(faulty)
    with pytest.raises(InvalidInput, match="codec"):
        await cas.save(b"value", "dag-json")  # type: ignore[arg-type]
    assert faulty.calls == {"save": 1}
    assert cas.flush() == Receipt()


@pytest.mark.skipif(sys.platform != "linux", reason="fork is for Linux")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_leaves_what_waits_to_its_parent(tmp_path: Path) -> None:
    cas = RetryingCAS(PackCAS(tmp_path))
    cid = asyncio.run(cas.save(b"parent's", "raw"))
    process = multiprocessing.get_context("fork").Process(target=_save_in_child, args=(cas,))
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert cas.flush() == Receipt(1, 8)
    assert PackCAS(tmp_path).load_many([cid, identify(b"child's")]) == [b"parent's", b"child's"]


def _save_in_child(cas: RetryingCAS) -> None:
    asyncio.run(cas.save(b"child's", "raw"))
    assert cas.flush() == Receipt(1, 7)


def test_it_travels_with_its_policy(tmp_path: Path) -> None:
    cas = RetryingCAS(FaultyCAS(PackCAS(tmp_path), Fail(rate=0.1)), QUICK)
    again = pickle.loads(pickle.dumps(cas))
    assert (again.retries, again.inner.faults, repr(again)) == (QUICK, cas.inner.faults, repr(cas))
    assert again.journals == tmp_path / "journals"
    assert again.load_many([build(ITEMS, again)]) == cas.load_many([ROOT])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("store",), "not a store: str"),
        ((InMemoryCAS(), 3), "retries=3: expected Retries"),
    ],
)
def test_what_is_no_store_or_policy_is_refused(arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        RetryingCAS(*arguments)


@pytest.mark.parametrize("jitter", [-0.1, 1.0, "0", None, float("nan")])
def test_a_jitter_that_is_none_is_refused(jitter: Any) -> None:
    with pytest.raises(InvalidInput, match="jitter="):
        Retries(jitter=jitter)


def test_what_was_not_there_is_named_at_once(waits: list[float]) -> None:
    absent = identify(b"nobody has this")
    with pytest.raises(BlockNotFound, match=text(absent)):
        RetryingCAS(InMemoryCAS()).load_many([absent])
    assert waits == []
