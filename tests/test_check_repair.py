"""`check(…, repair_from=…)`: what one store lost another one gives back, and nothing else is written."""

import os
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
from copied import Kept, Shuffling, Small, blocks_of
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from trees_made import crowded_hashfn

from hamt_bulk import CarCAS, GatewayCAS, InMemoryCAS, PackCAS, build, check, copy
from hamt_bulk.block import DAG_PB, identify, parse, text, to_bytes
from hamt_bulk.cas import LocalCAS, Receipt
from hamt_bulk.errors import BlockNotFound, CASError, InvalidInput, ReadOnly
from hamt_bulk.integrity import Report
from hamt_bulk.xarray import to_hamt

FULL = os.environ.get("HAMT_BULK_FULL") == "1"

LONG = b"".join(n.to_bytes(4, "big") for n in range(600_000))
"""A value of three leaves and the node of its file."""


@pytest.fixture(scope="module")
def small() -> Small:
    return Small()


def memory(blocks: dict[bytes, bytes]) -> Shuffling:
    """A store that writes over what it has, as packs do in effect."""
    cas = Shuffling()
    cas.blocks = dict(blocks)
    return cas


def packs(path: Path, blocks: dict[bytes, bytes]) -> PackCAS:
    cas = PackCAS(path)
    with cas.writer() as writer:
        writer.save_many([*zip(blocks, blocks.values(), strict=True)])
        writer.flush()
    return cas


def alter(cas: PackCAS, cid: bytes, data: bytes) -> None:
    """Another byte in the place of the last one of a block, in its pack."""
    for path in cas.path.glob("packs/*/*.car"):
        pack = path.read_bytes()
        if cid + data in pack:
            path.write_bytes(pack.replace(cid + data, cid + data[:-1] + bytes((data[-1] ^ 1,))))


def repaired(root: bytes, cas: LocalCAS, other: LocalCAS, **options) -> Report:
    return check(root, cas, repair_from=other, hash_fn=crowded_hashfn, **options)


def test_every_block_that_is_lost_or_altered_is_healed(small):
    """One after the other: nodes of the tree and of files, leaves, values."""
    whole = check(small.root, small.cas, hash_fn=crowded_hashfn)
    assert whole.ok
    assert {parse(cid).codec for cid in small.cas.blocks} == {0x55, DAG_PB, 0x71}
    for cid, data in small.cas.blocks.items():
        for damage in (None, data[:-1] + b"?" + data[-1:]):
            cas = memory({other: block for other, block in small.cas.blocks.items() if other != cid})
            if damage is not None:
                cas.blocks[cid] = damage
            report = repaired(small.root, cas, small.cas)
            assert report.ok, str(report)
            assert report.repaired == Receipt(1, len(data))
            assert cas.blocks == small.cas.blocks
            assert (report.nodes, report.blocks, report.bytes) == (whole.nodes, whole.blocks, whole.bytes)
            assert repaired(small.root, cas, small.cas) == whole


def test_every_block_in_packs_is_healed(small, tmp_path):
    """A sound copy in a new pack counts for more than the damaged one."""
    for number, (cid, data) in enumerate(list(small.cas.blocks.items())[:: 1 if FULL else 5]):
        lost = packs(tmp_path / f"lost{number}", {k: v for k, v in small.cas.blocks.items() if k != cid})
        altered = packs(tmp_path / f"altered{number}", small.cas.blocks)
        alter(altered, cid, data)
        for cas in (lost, altered):
            assert not check(small.root, PackCAS(cas.path), hash_fn=crowded_hashfn).ok
            report = repaired(small.root, cas, small.cas)
            assert (report.ok, report.repaired) == (True, Receipt(1, len(data)))
            for again in (cas, PackCAS(cas.path)):
                assert repaired(small.root, again, small.cas).repaired == Receipt()


@settings(max_examples=200 if FULL else 20)
@given(data=st.data())
def test_any_blocks_are_healed_and_the_second_repair_does_nothing(small, data):
    """All that is lost is below nodes that are lost too, where the root is one of them."""
    order = sorted(small.cas.blocks)
    lost = data.draw(st.sets(st.sampled_from(order)) | st.just(set(order)))
    altered = data.draw(st.sets(st.sampled_from(order), max_size=4)) - lost
    cas = memory({cid: block for cid, block in small.cas.blocks.items() if cid not in lost})
    cas.blocks |= {cid: small.cas.blocks[cid] + b"?" for cid in altered}
    report = repaired(small.root, cas, small.cas)
    faulty = lost | altered
    assert (report.ok, report.repaired.blocks) == (True, len(faulty))
    assert report.repaired.bytes == sum(len(small.cas.blocks[cid]) for cid in faulty)
    assert cas.blocks == small.cas.blocks
    cas.flushes = 0
    assert repaired(small.root, cas, small.cas).repaired == Receipt()
    assert cas.flushes == 0


def test_only_what_is_faulty_and_belongs_to_the_root_is_written(small):
    other = memory(small.cas.blocks)
    other.blocks[identify(b"else")] = b"else"
    leaf = next(cid for cid in small.cas.blocks if parse(cid).codec == 0x55)
    cas = memory({cid: block for cid, block in small.cas.blocks.items() if cid != leaf})
    cas.left = 1
    assert repaired(small.root, cas, other).repaired.blocks == 1
    assert cas.left == 0
    assert identify(b"else") not in cas.blocks


def hierarchy(cas: LocalCAS) -> bytes:
    values = np.arange(2400.0).reshape(400, 6) // 9
    ds = xr.Dataset({"t": (("x", "y"), values)}, {"x": np.arange(400)}).chunk(x=1, y=2)
    return to_bytes(build({"t/c/0/9": b"stray", "long": LONG, "again": LONG}, cas, base=to_hamt(ds, cas)))


@pytest.fixture(scope="module")
def tree() -> tuple[bytes, InMemoryCAS]:
    made, cas = InMemoryCAS(), InMemoryCAS()
    root = hierarchy(made)
    copy(root, made, cas)  # without the nodes of roots on the way to this one
    return root, cas


@pytest.mark.parametrize("seed", range(3))
def test_repairs_on_a_cluster_are_those_of_one_process(threads, tree, seed):
    root, source = tree
    order = np.random.default_rng(seed).permutation(sorted(source.blocks)).tolist()
    damaged = dict(source.blocks)
    for cid in map(bytes, order[:20]):
        del damaged[cid]
    for cid in map(bytes, order[20:30]):
        damaged[cid] += b"?"
    reports = []
    for scheduler in (None, "synchronous"):
        cas = memory(damaged)
        with dask.config.set({} if scheduler is None else {"scheduler": scheduler}):
            reports.append(check(root, cas, repair_from=source))
        assert {cid: bytes(data) for cid, data in cas.blocks.items()} == source.blocks
    assert reports[0] == reports[1]
    assert reports[0].repaired.blocks == 30
    assert {problem.kind for problem in reports[0].problems} == {"unaccounted"}
    assert reports[0].arrays == check(root, source).arrays


def test_repairs_in_processes_are_in_the_store(tree, tmp_path):
    root, source = tree
    other = packs(tmp_path / "other", source.blocks)
    lost = sorted(source.blocks)[::50]
    cas = packs(tmp_path / "cas", {cid: data for cid, data in source.blocks.items() if cid not in lost})
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster),
    ):
        report = check(root, cas, repair_from=other)
    assert report.repaired.blocks == len(lost)
    assert blocks_of(PackCAS(cas.path)) == source.blocks
    assert "repaired: " in str(report)


def test_workers_that_repair_a_copy_of_their_own_are_found_out(tree, tmp_path):
    """A dict that was pickled is another dict."""
    items = {f"k{n}": b"%d" % n for n in range(2000)}
    cas, other = Kept(), Kept()
    root = build(items, cas)
    other.values = dict(cas.values)
    del cas.values[identify(b"7")]
    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address="127.0.0.1:0") as cluster,
        Client(cluster),
        pytest.raises(
            CASError, match=r"1 of 1 blocks .* workers wrote to a store of their own. Repair it in one"
        ),
    ):
        check(root, cas, repair_from=other)
    with dask.config.set(scheduler="synchronous"):
        assert check(root, cas, repair_from=other).repaired == Receipt(1, 1)


def test_what_both_lack_is_a_problem_that_remains(tree):
    root, source = tree
    node = next(cid for cid in sorted(source.blocks) if parse(cid).codec == 0x71 and cid != root)
    gone, odd, leaf = identify(b"stray"), identify(LONG[: 1 << 20]), identify(LONG[1 << 20 : 2 << 20])
    cas = memory({cid: data for cid, data in source.blocks.items() if cid not in (gone, leaf, node)})
    cas.blocks[odd] = b"?"
    other = memory({cid: data for cid, data in source.blocks.items() if cid not in (gone, odd)})
    other.blocks[leaf] = b"?"
    report = check(root, cas, repair_from=other)
    found = {(problem.kind, problem.cid, problem.where): problem.message for problem in report.problems}
    assert {key for key in found if key[0] != "unaccounted"} == {
        ("missing", text(gone), "t/c/0/9"),
        *(("altered", text(odd), key) for key in ("long", "again")),
        *(("missing", text(leaf), key) for key in ("long", "again")),
    }
    assert found["missing", text(gone), "t/c/0/9"].startswith("missing in both stores: no block")
    assert found["altered", text(odd), "long"].startswith("altered here and missing there: ")
    assert found["missing", text(leaf), "long"].startswith("missing here and faulty there: ")
    assert report.repaired == Receipt(1, len(source.blocks[node]))
    assert not report.ok


class Silent(CarCAS):
    """Nothing is to be read of it."""

    def load_blocks(self, cids):
        raise AssertionError("the walk has begun")


def test_a_store_that_is_read_only_is_refused_before_the_walk(tree, tmp_path):
    root, source = tree
    copy(root, source, tmp_path / "x.car")
    with pytest.raises(
        ReadOnly, match=r"repair_from writes to the store .* is a CAR file, which is read only"
    ):
        check(root, Silent(tmp_path / "x.car"), repair_from=source)
    with pytest.raises(ReadOnly, match="repair_from writes to the store that is checked"):
        check(root, GatewayCAS("http://127.0.0.1:9"), repair_from=source)
    assert check(root, str(tmp_path / "x.car")).arrays


def test_stores_that_cannot_be_meant_are_refused(tree, tmp_path):
    root, source = tree
    cas = packs(tmp_path / "store", source.blocks)
    with pytest.raises(
        InvalidInput, match=r"repair_from is PackCAS.*, the store that is checked: give one that has a"
    ):
        check(root, cas, repair_from=str(tmp_path / "store"))
    with pytest.raises(
        InvalidInput, match=r"is not there: to make a copy of a whole root call hamt_bulk.copy"
    ):
        check(root, tmp_path.as_posix() + "/sotre", repair_from=cas)
    assert not (tmp_path / "sotre").exists()
    with pytest.raises(InvalidInput, match="not a store: int"):
        check(root, cas, repair_from=3)


class Flaky(InMemoryCAS):
    """Goes away after `left` requests."""

    left = 0

    def load_blocks(self, cids):
        self.left -= 1
        if self.left < 0:
            raise ConnectionError("the line is dead")
        return super().load_blocks(cids)


def test_what_was_repaired_stays_when_the_other_store_goes_away(tree, tmp_path):
    root, source = tree
    lost = sorted(source.blocks)[::40]
    cas = packs(tmp_path, {cid: data for cid, data in source.blocks.items() if cid not in lost})
    other = Flaky()
    other.blocks, other.left = dict(source.blocks), 5
    with (
        dask.config.set(scheduler="synchronous"),
        pytest.raises(
            CASError, match=r"other store is out of reach: .*the line is dead.*stays.*call again"
        ) as error,
    ):
        check(root, cas, repair_from=other)
    stayed = int(str(error.value).split("stays, ")[1].split()[0])
    assert 5 <= stayed < len(lost)
    assert len(blocks_of(PackCAS(tmp_path))) == len(source.blocks) - len(lost) + stayed
    assert check(root, PackCAS(tmp_path), repair_from=source).repaired.blocks == len(lost) - stayed


def test_a_store_that_keeps_what_is_damaged_is_told_of():
    source = InMemoryCAS()
    root = build({"a": b"1", "b": b"2", "c": b"3"}, source)
    cas = InMemoryCAS()
    cas.blocks = dict(source.blocks)
    cas.blocks[identify(b"1")] = cas.blocks[identify(b"2")] = b"?"
    del cas.blocks[identify(b"3")]
    report = check(root, cas, repair_from=source)
    assert {(problem.kind, problem.where) for problem in report.problems} == {
        ("altered", "a"),
        ("altered", "b"),
    }
    assert all("does not take the sound copy: remove the block there" in str(one) for one in report.problems)
    assert report.repaired == Receipt(1, 1)
    for value in (b"1", b"2"):
        del cas.blocks[identify(value)]
    assert check(root, cas, repair_from=source).ok


class Forgetful(Shuffling):
    """Says that it has taken what it drops."""

    def write(self, block):
        pass


def test_what_does_not_arrive_is_no_repair(tree):
    root, source = tree
    cas = Forgetful()
    cas.blocks = {cid: data for cid, data in source.blocks.items() if cid != identify(b"stray")}
    with pytest.raises(CASError, match="was written, and the store does not give it back"):
        check(root, cas, repair_from=source)


def test_stores_of_whole_values_are_repaired_and_repair():
    items = {f"k{n}": b"%d" % n for n in range(20)} | {"long": LONG}
    whole = Kept()
    root = build(items, whole)
    blocks = InMemoryCAS()
    assert build(items, blocks) == root
    [file] = [cid for cid in blocks.blocks if parse(cid).codec == DAG_PB]
    for lost in (identify(b"7"), file, to_bytes(root)):
        cas = Kept()
        cas.values = {cid: value for cid, value in whole.values.items() if cid != lost}
        report = check(root, cas, repair_from=blocks)
        assert (report.ok, report.repaired) == (True, Receipt(1, len(whole.values[lost])))
        assert cas.values == whole.values
        target = memory({cid: data for cid, data in blocks.blocks.items() if cid != lost})
        report = check(root, target, repair_from=whole)
        assert (report.ok, report.repaired.blocks) == (True, 1)
        assert target.blocks == blocks.blocks


def test_a_block_inside_a_file_needs_a_store_that_has_blocks():
    whole, blocks = Kept(), InMemoryCAS()
    root = build({"long": LONG}, whole)
    build({"long": LONG}, blocks)
    leaf = identify(LONG[: 1 << 20])
    cas = memory({cid: data for cid, data in blocks.blocks.items() if cid != leaf})
    [problem] = check(root, cas, repair_from=whole).problems
    assert (problem.kind, problem.cid, problem.where) == ("missing", text(leaf), "long")
    assert problem.message.endswith("The other store gives files only whole, so no block inside them")


def test_what_no_copy_repairs_is_said_with_what_does():
    source = InMemoryCAS()
    root = build({"a": b"1", "b": b"2"}, source, hash_fn=crowded_hashfn)
    cas = memory({cid: data for cid, data in source.blocks.items() if cid != identify(b"1")})
    report = check(root, cas, repair_from=source)
    assert {problem.kind for problem in report.problems} == {"misplaced"}
    assert report.repaired == Receipt(1, 1)
    lines = str(report).splitlines()
    assert "repaired: 1 block of 1 bytes" in lines
    assert any(line.startswith("misplaced, not canonical: no copy repairs these") for line in lines)


def test_advice_on_misplaced_keys_works():
    """`build` of the entries, which takes the CIDs of values."""
    from hamt_bulk.block import to_cid
    from hamt_bulk.nodes import Tree

    cas = InMemoryCAS()
    root = build({f"{n}": b"%d" % n for n in range(50)}, cas, hash_fn=crowded_hashfn)
    assert not check(root, cas).ok
    entries = {key: to_cid(pointer) for key, pointer in Tree(to_bytes(root), cas).entries()}
    assert check(build(entries, cas), cas).ok


def test_a_document_that_was_lost_counts_its_chunks_once_it_is_back(tree):
    root, source = tree
    whole = check(root, source)
    nodes = [cid for cid in sorted(source.blocks) if parse(cid).codec == 0x71]
    cas = memory(
        {cid: data for cid, data in source.blocks.items() if cid not in nodes and b"zarr_format" not in data}
    )
    report = check(root, cas, repair_from=source)
    assert report.arrays == whole.arrays
    assert report.problems == whole.problems


def test_a_root_that_nobody_has_is_missing_in_both(tree):
    absent = identify(b"absent", 0x71)
    [problem] = check(absent, memory({}), repair_from=tree[1]).problems
    assert (problem.kind, problem.where) == ("missing", "/")
    assert problem.message.startswith("missing in both stores")
    with pytest.raises(BlockNotFound):
        tree[1].load_blocks([absent])
