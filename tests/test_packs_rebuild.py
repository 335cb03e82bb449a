"""`rebuild` and `merge`: what is whole is found again, and nothing readable is lost."""

import os
from pathlib import Path
from random import Random

import pytest
from car_files import version_1
from packs_made import alter, blocks_in, contents, items_of, packs_in, readable, snapshot, tree, write

from hamt_bulk.block import Block, identify
from hamt_bulk.cas import PackCAS
from hamt_bulk.errors import CASError
from hamt_bulk.packs import drop, merge, packs, rebuild, verify

VALUES = [b"value %d " % n * (1 + n % 5) for n in range(12)]
CIDS = [identify(value) for value in VALUES]


pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture
def pack(store: Path) -> Path:
    [path] = write(store, VALUES)
    return path


def aside(store: Path) -> list[str]:
    return sorted(os.listdir(store / "damaged")) if (store / "damaged").exists() else []


def test_a_sound_store_has_its_index_made_anew_and_no_more(store: Path, pack: Path) -> None:
    write(store, [b"another"])
    before = snapshot(store)
    rebuilt = rebuild(store)
    assert (rebuilt.packs, rebuilt.blocks, rebuilt.rebuilt, rebuilt.no_packs) == (2, 13, (), ())
    after = snapshot(store)
    [index] = after.keys() - before.keys()
    assert index.endswith(".mpi")
    (store / index).write_bytes(b"damaged")
    (store / "index" / "other.mpi").write_bytes(b"foreign")
    rebuild(store)
    assert snapshot(store).keys() == after.keys()
    assert snapshot(store)[index][1] == after[index][1]
    assert "2 packs, 13 blocks" in str(rebuilt)


def test_of_a_pack_whose_index_is_damaged_nothing_is_lost(store: Path, pack: Path) -> None:
    alter(pack, pack.stat().st_size - 40)
    assert len(readable(store, CIDS)) == 11
    [done] = rebuild(store).rebuilt
    assert (done.name, done.saved, done.lost, done.aside) == (f"values/{pack.name}", 12, 0, None)
    assert done.packs == (done.name,)
    assert readable(store, CIDS) == set(CIDS)
    assert verify(store).damaged == ()
    assert aside(store) == []
    assert "nothing lost" in str(done)


def test_a_pack_that_was_cut_short_is_written_again_and_kept_aside(store: Path, pack: Path) -> None:
    start, length = blocks_in(pack)[CIDS[7]]
    os.truncate(pack, start + length)
    cut = pack.read_bytes()
    reader = PackCAS(store)
    assert reader.has_many(CIDS) == [True] * 8 + [False] * 4
    [done] = rebuild(store).rebuilt
    assert (done.saved, done.aside) == (8, f"damaged/values-{pack.name}")
    assert (store / done.aside).read_bytes() == cut
    assert [path.name for path in packs_in(store)] == [done.packs[0].removeprefix("values/")]
    assert verify(store).damaged == ()
    for cas in (reader, PackCAS(store)):
        assert cas.load_many(CIDS[:8]) == VALUES[:8]
        assert cas.has_many(CIDS[8:]) == [False] * 4
    assert f"the damaged file is kept as {done.aside}" in str(done)
    assert packs(store).aside == (done.aside,)
    assert f"never read: {done.aside}" in str(packs(store))
    # It comes back, cut once more, and is kept under another name.
    pack.write_bytes(cut)
    rebuild(store)
    assert len(aside(store)) == 2


def test_an_altered_block_alone_is_no_reason_to_write_a_pack_again(store: Path, pack: Path) -> None:
    alter(pack, blocks_in(pack)[CIDS[3]][0])
    assert rebuild(store).rebuilt == ()
    assert readable(store, CIDS) == {*CIDS} - {CIDS[3]}


def test_a_block_behind_a_damaged_head_is_readable_again(store: Path, pack: Path) -> None:
    alter(pack, blocks_in(pack)[CIDS[3]][0] - 37)
    assert CIDS[3] not in readable(store, CIDS)
    [done] = rebuild(store).rebuilt
    assert (done.lost, done.aside) == (0, None)
    assert readable(store, CIDS) == set(CIDS)


def test_what_is_no_pack_stays_and_a_pack_of_which_nothing_is_left_is_kept_aside(
    store: Path, pack: Path
) -> None:
    foreign = [Block(identify(b"foreign %d" % n), b"foreign %d" % n) for n in range(5)]
    folder = pack.parent
    (folder / "foreign.car").write_bytes(version_1(foreign, [foreign[2].cid]))
    (folder / "text.car").write_text("not a CAR file, whatever it is called\n" * 10)
    pack.write_bytes(b"")
    rebuilt = rebuild(store)
    assert rebuilt.no_packs == ("values/text.car",)
    [done] = rebuilt.rebuilt
    assert (done.saved, done.packs, done.aside) == (0, (), f"damaged/values-{pack.name}")
    assert {path.name for path in packs_in(store)} == {"foreign.car", "text.car"}
    assert readable(store, [block.cid for block in foreign]) == {block.cid for block in foreign}


def test_a_block_that_only_the_multi_pack_index_leads_to_is_saved(store: Path) -> None:
    """Its CID is of a kind that nobody looks for, behind a head that is damaged, and the pack's index is lost."""
    unknown = Block(b"\x01\xa9\x02" + identify(b"a value")[2:], b"a value")  # codec 0x129
    with PackCAS(store).writer() as writer:
        writer.save(b"first")
        writer.save_many([unknown])
        writer.flush()
        [pack] = writer.paths
    write(store, [b"another"])
    PackCAS(store).finish()
    data = bytearray(pack.read_bytes())
    data[69] = 0xFF
    del data[-100:]
    pack.write_bytes(data)
    assert readable(store, [unknown.cid]) == {unknown.cid}
    rebuild(store)
    assert readable(store, [unknown.cid]) == {unknown.cid}


def test_a_pack_that_may_not_be_written_changes_nothing(
    store: Path, pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.truncate(pack, pack.stat().st_size // 2)
    before, found = snapshot(store), readable(store, CIDS)
    writev = os.writev

    def full(file: int, views: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "writev", full)
    with pytest.raises(CASError, match="the disk is full"):
        rebuild(store)
    monkeypatch.setattr(os, "writev", writev)
    assert snapshot(store) == before
    assert readable(store, CIDS) == found


@pytest.mark.parametrize("indexed", [False, True], ids=["own index", "multi-pack index"])
@pytest.mark.parametrize("seed", range(12))
def test_whatever_happened_to_packs_no_readable_block_is_lost(store: Path, seed: int, indexed: bool) -> None:
    random = Random(seed)
    values = [random.randbytes(random.randrange(60)) for _ in range(40)]
    cids = [identify(value) for value in values]
    for start in range(0, 40, 10):
        write(store, values[max(start - 3, 0) : start + 10])
    if indexed:
        PackCAS(store).finish()
    for path in packs_in(store):
        data = bytearray(path.read_bytes())
        for _ in range(random.randrange(4)):
            at = random.randrange(len(data))
            match random.randrange(3):
                case 0:
                    data[at] ^= 1 << random.randrange(8)
                case 1:
                    data[at : at + 30] = bytes(len(data[at : at + 30]))
                case 2 if at > 60:
                    del data[at:]
        path.write_bytes(data)
    before = readable(store, cids)
    rebuild(store)
    after = readable(store, cids)
    assert after >= before
    assert {pack.name for pack in packs(store).packs if pack.damage} == set()
    again = snapshot(store)
    assert rebuild(store).rebuilt == ()
    assert snapshot(store).keys() == again.keys()
    assert readable(store, cids) == after


# Merging.


def test_all_small_packs_of_a_kind_become_one(store: Path) -> None:
    roots = [tree(store, items_of(f"tree {n}", 12)) for n in range(3)]
    large = write(store, [Random(n).randbytes(1 << 20) for n in range(5)], leaf_bytes=1 << 20)
    before = {root: contents(store, root) for root in roots}
    count = len(packs_in(store))
    merged = merge(store)
    assert (merged.before, merged.after, len(merged.gone)) == (count, 3, count - 1)
    assert large[0] in packs_in(store)
    assert {root: contents(store, root) for root in roots} == before
    assert len(list(store.glob("index/*.mpi"))) == 1
    assert f"{count} packs before, 3 now" in str(merged)
    again = snapshot(store)
    assert merge(store).gone == ()
    assert snapshot(store) == again


def test_damaged_packs_are_not_merged(store: Path, pack: Path) -> None:
    write(store, [b"one"])
    write(store, [b"two"])
    alter(pack, blocks_in(pack)[CIDS[3]][0])
    before = readable(store, CIDS)
    assert len(merge(store).gone) == 2
    assert pack.exists()
    assert readable(store, CIDS) == before


@pytest.mark.parametrize("codec", ["raw", "dag-cbor"])
def test_a_digest_of_no_bytes_is_damage_as_any_and_the_packs_after_it_are_mended(
    store: Path, codec: str
) -> None:
    paths = [write(store, [b"%d" % n], codec)[0] for n in range(6)]
    cids = {cid for path in paths for cid in blocks_in(path)}
    root = tree(store, {"a": b"1"})
    first, *_, last = sorted(paths)
    alter(last, last.stat().st_size - 40)
    data = bytearray(first.read_bytes())
    [cid] = blocks_in(first)
    data[data.index(cid) + 3] ^= 0x20
    first.write_bytes(data)
    assert packs(store).packs
    assert not verify(store).ok
    if codec == "raw":
        assert [pack.name for pack in drop(store, [root], older_than_hours=0, dry_run=True).damaged]
    merge(store)
    assert {done.name for done in rebuild(store).rebuilt} >= {f"{first.parent.name}/{first.name}"}
    assert readable(store, cids) == cids
    assert verify(store).ok


def test_of_a_pack_of_which_nothing_tells_what_is_gone_that_is_said(store: Path, pack: Path) -> None:
    start, length = blocks_in(pack)[CIDS[2]]
    os.truncate(pack, start + length)
    rebuilt = rebuild(store)
    [done] = rebuilt.rebuilt
    assert (done.saved, done.lost, done.is_less) == (3, 0, True)
    assert f"3 blocks saved, now in {done.packs[0]}, blocks are lost: how many is not known; " in str(rebuilt)
