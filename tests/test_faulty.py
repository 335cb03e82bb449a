"""`FaultyCAS`: a store with faults that strike when they are told to, and no others."""

import asyncio
import errno
import pickle
from collections.abc import Sequence
from pathlib import Path

import dask
import dask.bag
import pytest
from distributed import Client, LocalCluster
from stored import in_tree
from test_cas_custom import DictCAS

from hamt_bulk import InMemoryCAS, PackCAS, build, check, copy
from hamt_bulk.block import Block, identify, to_bytes
from hamt_bulk.cas import BlockCAS, ContentAddressedStore, Receipt
from hamt_bulk.dask import build as build_on_dask
from hamt_bulk.errors import BlockMismatch, BlockNotFound, CASError, InvalidInput
from hamt_bulk.testing import CALLS, Alter, Delay, Disconnect, DiskFull, Drop, Fail, Fault, FaultyCAS
from hamt_bulk.testing.contract import CASContract, Value, cid_of

ITEMS = {f"key {number}": b"value %d" % number * 20 for number in range(600)}
ROOT = build(ITEMS, InMemoryCAS())
VALUES = [b"value %d" % number for number in range(40)]
CIDS = [identify(value) for value in VALUES]


class TestFaultyPackCAS(CASContract):
    """Without faults it is the store within, one of single blocks."""

    def fresh(self, folder: Path) -> FaultyCAS:
        return FaultyCAS(PackCAS(folder / "store"), seed=3)

    def corrupt(self, cas: ContentAddressedStore, cid: bytes) -> None:
        assert isinstance(cas, FaultyCAS) and isinstance(cas, BlockCAS)
        for path in cas.inner.path.glob("packs/*/*.car"):
            data = bytearray(path.read_bytes())
            if (at := bytes(data).find(cid)) >= 0:
                data[at + len(cid)] ^= 1
                path.write_bytes(data)
        cas.close()

    def test_its_repr_names_it(self, folder: Path) -> None:
        assert repr(self.fresh(folder)) == f"FaultyCAS(PackCAS('{folder}/store', 'blake3'), seed=3)"


class TestFaultyDictCAS(CASContract):
    """The same around a store that has nothing but `save` and `load`."""

    portable = True
    drops_unflushed = counts_saves = checks_ranges = False

    def fresh(self, folder: Path) -> FaultyCAS:
        return FaultyCAS(DictCAS())

    def holding(self, folder: Path, stored: Sequence[Value]) -> ContentAddressedStore:
        cas = super().holding(folder, stored)
        assert isinstance(cas, FaultyCAS) and not isinstance(cas, BlockCAS)
        cas.inner.hasher = "blake3"  # in the object, so that its token can be compared
        return cas

    def another(self, cas: ContentAddressedStore) -> ContentAddressedStore:
        return cas

    def leaf(self, value: bytes, hasher: str) -> bytes:
        return cid_of(value, hasher=hasher)

    def corrupt(self, cas: FaultyCAS, cid: bytes) -> None:
        data = cas.inner.values[cid]
        cas.inner.values[cid] = bytes([data[0] ^ 1]) + data[1:]


def holding(*faults: Fault, seed: int = 0) -> FaultyCAS:
    """A store with `VALUES`, whose faults strike from now on."""
    inner = InMemoryCAS()
    inner.blocks = dict(zip(CIDS, VALUES, strict=True))
    return FaultyCAS(inner, *faults, seed=seed)


def outcomes(cas: ContentAddressedStore) -> list[bool]:
    """Which of `VALUES`, loaded one after the other, came."""
    found = []
    for cid, value in zip(CIDS, VALUES, strict=True):
        try:
            assert cas.load_many([cid]) == [value]
            found.append(True)
        except (CASError, BlockMismatch):
            found.append(False)
    return found


def test_the_nth_call_is_struck_and_with_lasting_all_after_it() -> None:
    assert outcomes(holding(Fail(nth=3))) == [number != 2 for number in range(40)]
    assert outcomes(holding(Fail(nth=3, lasting=True))) == [number < 2 for number in range(40)]
    assert outcomes(holding(Fail(nth=3, on="load_range"))) == [True] * 40
    cas = holding(Fail(nth=2, on=("has_many", "size_many")))
    assert cas.has_many(CIDS) == [True] * 40
    with pytest.raises(CASError, match="cannot size_many InMemoryCAS: the disk or the network failed"):
        cas.size_many(CIDS)
    assert (cas.calls, cas.struck) == ({"has_many": 1, "size_many": 1}, 1)


def test_a_share_is_struck_the_same_for_the_same_seed() -> None:
    first = outcomes(holding(Fail(rate=0.3)))
    assert 5 < first.count(False) < 20
    assert outcomes(holding(Fail(rate=0.3))) == first
    assert len({tuple(outcomes(holding(Fail(rate=0.3), seed=seed))) for seed in range(8)}) == 8
    assert outcomes(holding(Fail(rate=0.0))) == [True] * 40
    assert outcomes(holding(Fail(rate=1.0))) == [False] * 40
    # One fault does not change when another strikes.
    assert outcomes(holding(Fail(rate=0.3), Delay(rate=0.5, seconds=0.0001))) == first


def test_what_an_error_is_can_be_chosen() -> None:
    for _ in range(2):
        with pytest.raises(RuntimeError, match="mine") as raised:
            holding(Fail(error=RuntimeError("mine"))).load_many(CIDS)
        assert raised.value.__cause__ is None
    with pytest.raises(CASError, match="permission denied") as refused:
        holding(Fail(error=errno.EACCES)).load_many(CIDS)
    assert isinstance(refused.value.__cause__, OSError) and refused.value.__cause__.errno == errno.EACCES
    with pytest.raises(CASError, match=r"[Cc]onnection reset"):
        holding(Disconnect()).load_many(CIDS)


@pytest.mark.parametrize("call", CALLS)
async def test_every_call_can_be_struck(tmp_path: Path, call: str) -> None:
    cas = FaultyCAS(PackCAS(tmp_path), Fail(on=call))
    root = build({"a": b"1"}, PackCAS(tmp_path))

    async def save() -> object:
        return await cas.save(b"value", "raw")

    calls = {
        "load": lambda: asyncio.run(cas.load(root)),
        "save": lambda: asyncio.run(save()),
        "load_many": lambda: cas.load_many([root]),
        "load_range": lambda: cas.load_range(root, 0, 2),
        "load_blocks": lambda: cas.load_blocks([to_bytes(root)]),
        "load_ipld_path": lambda: cas.load_ipld_path(root, ["0"]),
        "has_many": lambda: cas.has_many([root]),
        "size_many": lambda: cas.size_many([root]),
        "has_blocks": lambda: cas.has_blocks([to_bytes(root)]),
        "size_blocks": lambda: cas.size_blocks([to_bytes(root)]),
        "flush": cas.flush,
        "writer": cas.writer,
    }
    for name, make in calls.items():
        if name == call:
            with pytest.raises(CASError, match=f"cannot {call} PackCAS"):
                await asyncio.to_thread(make)
        else:
            await asyncio.to_thread(make)
    if call != "writer":
        with cas.writer() as writer:
            for name, make in {"save_many": lambda: writer.save(b"x"), "flush": writer.flush}.items():
                if call == f"writer.{name}":
                    with pytest.raises(CASError, match=f"cannot {call} PackCAS"):
                        make()
                else:
                    make()
    assert cas.struck == 1


def test_lost_answers_leave_what_was_done() -> None:
    for after in (False, True):
        cas = FaultyCAS(inner := InMemoryCAS(), Disconnect(on="writer.flush", nth=1, after=after))
        with cas.writer() as writer:
            writer.save(b"value")
            with pytest.raises(CASError):
                writer.flush()
        assert inner.has_many([identify(b"value")]) == [after]


def test_altered_bytes_are_noticed_where_a_store_verifies_and_given_where_it_does_not() -> None:
    cas = holding(Alter(nth=1))
    with pytest.raises(BlockMismatch, match="FaultyCAS"):
        cas.load_many(CIDS)
    assert cas.load_many(CIDS) == VALUES
    plain = DictCAS()
    plain.values = dict(zip(CIDS, VALUES, strict=True))
    faulty = FaultyCAS(plain, Alter(nth=1))
    assert not faulty.verifies
    found = faulty.load_many(CIDS)
    [(altered, value)] = [pair for pair in zip(found, VALUES, strict=True) if pair[0] != pair[1]]
    assert sum((one ^ other).bit_count() for one, other in zip(altered, value, strict=True)) == 1
    assert asyncio.run(faulty.load(CIDS[3])) == VALUES[3]
    # Readers hash what such a store gives them.
    root = build(ITEMS, source := DictCAS())
    with pytest.raises(BlockMismatch):
        copy(root, FaultyCAS(source, Alter(rate=1.0)), InMemoryCAS())


def test_what_was_dropped_was_acknowledged_and_is_found_missing() -> None:
    cas = FaultyCAS(InMemoryCAS(), Drop(nth=5))
    with cas.writer() as writer:
        writer.save_many(map(Block, CIDS, VALUES))
        assert writer.flush() == Receipt(40, sum(map(len, VALUES)))
    assert cas.has_many(CIDS) == [number != 4 for number in range(40)]
    saving = FaultyCAS(InMemoryCAS(), Drop(nth=2))
    for value in VALUES[:3]:
        assert to_bytes(asyncio.run(saving.save(value, "raw"))) == identify(value)
    assert saving.has_many(CIDS[:3]) == [True, False, True]


@pytest.mark.parametrize("seed", range(3))
def test_a_check_finds_exactly_what_a_store_dropped(seed: int) -> None:
    lying = FaultyCAS(inner := InMemoryCAS(), Drop(rate=0.02), seed=seed)
    assert build(ITEMS, lying) == ROOT
    build(ITEMS, whole := InMemoryCAS())
    lost = whole.blocks.keys() - inner.blocks.keys()
    assert len(lost) == lying.struck > 3
    report = check(ROOT, inner, max_problems=1000)
    # What lies below a node that is lost nobody can see.
    missing = {to_bytes(problem.cid) for problem in report.problems}
    assert missing <= lost and missing
    copy(ROOT, whole, inner)
    assert check(ROOT, inner).ok


def test_a_full_disk_takes_no_more_until_there_is_space(tmp_path: Path) -> None:
    cas = FaultyCAS(PackCAS(tmp_path), DiskFull(after_bytes=1000))
    with cas.writer() as writer:
        writer.save(bytes(900))
        writer.flush()
        with pytest.raises(CASError, match="the disk is full: make space and call again") as raised:
            writer.save(bytes(200))
        assert isinstance(raised.value.__cause__, OSError) and raised.value.__cause__.errno == errno.ENOSPC
        with pytest.raises(CASError, match="the disk is full"):
            writer.flush()
    with pytest.raises(CASError, match="the disk is full"):
        build(ITEMS, cas)
    assert cas.load_many([identify(bytes(900))]) == [bytes(900)]
    cas.mend()
    assert build(ITEMS, cas) == ROOT


def test_delays_come_before_the_store_hears(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    cas = holding(Delay(seconds=7.0, nth=2), Delay(seconds=1.0))
    assert outcomes(cas) == [True] * 40
    assert slept == [1.0, 8.0, *[1.0] * 38]
    assert not cas.in_memory and holding().in_memory


def test_what_is_unpickled_shares_the_counts_of_its_process() -> None:
    cas = holding(Fail(nth=3))
    again = pickle.loads(pickle.dumps(cas))
    assert cas.load_many(CIDS) == again.load_many(CIDS) == VALUES
    with pytest.raises(CASError):
        pickle.loads(pickle.dumps(again)).load_many(CIDS)
    assert cas.calls == again.calls == {"load_many": 3}
    assert holding(Fail(nth=3)).calls == {}


def test_workers_are_struck_on_their_own_count(tmp_path: Path) -> None:
    """A build fails with the error of the store, and a later one, on the store itself, is whole."""
    cas = FaultyCAS(PackCAS(tmp_path), Fail(nth=2, on="writer.flush"))
    pieces = dask.bag.from_sequence(ITEMS.items(), npartitions=8)
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
    with cluster, Client(cluster) as client:
        with pytest.raises(CASError, match=r"cannot writer\.flush PackCAS: the disk or the network failed"):
            build_on_dask(pieces, cas)
        found = client.run(_calls, cas)
    assert cas.calls.get("writer.flush", 0) == 0
    assert max(calls.get("writer.flush", 0) for calls in found.values()) >= 2
    assert build(ITEMS, PackCAS(tmp_path)) == ROOT
    assert in_tree(ROOT, PackCAS(tmp_path)) == ITEMS


def _calls(cas: FaultyCAS) -> dict[str, int]:
    return cas.calls


@pytest.mark.parametrize("seed", range(4))
def test_a_build_that_a_faulty_store_ends_leaves_no_root_and_nothing_wrong(tmp_path: Path, seed: int) -> None:
    cas = FaultyCAS(PackCAS(tmp_path), Fail(rate=0.3), seed=seed)
    pieces = [dask.delayed(list)(list(ITEMS.items())[start::5]) for start in range(5)]
    with (
        dask.config.set(scheduler="threads"),
        pytest.raises(CASError, match="the disk or the network failed"),
    ):
        build_on_dask(pieces, cas)
    reader = PackCAS(tmp_path)
    with pytest.raises(BlockNotFound):
        reader.load_many([ROOT])
    there = [identify(value) for value in ITEMS.values()]
    held = [cid for cid, is_there in zip(there, reader.has_many(there), strict=True) if is_there]
    assert reader.load_many(held) == [value for value in ITEMS.values() if identify(value) in held]
    assert build(ITEMS, reader) == ROOT and in_tree(ROOT, PackCAS(tmp_path)) == ITEMS


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Fail(on="lode"), "on='lode': expected some of load, load_many"),
        (lambda: Fail(on=("load", "x")), "on='x'"),
        (lambda: Fail(nth=0), "nth=0: expected a number from 1"),
        (lambda: Alter(rate=1.5), "rate=1.5: expected a share"),
        (lambda: Drop(nth=1, rate=0.5), "give one of them"),
        (lambda: FaultyCAS(InMemoryCAS(), "fail"), "not a fault: 'fail'"),
    ],
)
def test_what_is_no_fault_is_refused(make, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        make()
