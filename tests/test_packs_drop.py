"""`drop`: what no root reaches goes, in a dry run as for real, and nothing else."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from car_files import version_1
from packs_made import (
    LEAF_BYTES,
    age,
    alter,
    blocks_in,
    contents,
    is_file,
    items_of,
    packs_in,
    pointers_of,
    readable,
    snapshot,
    tree,
    write,
)

import hamt_bulk.packs.dropping as dropping
from hamt_bulk import HAMT, build, copy
from hamt_bulk.block import DAG_CBOR, RAW, Block, identify, text, to_bytes, to_cid
from hamt_bulk.cas import PackCAS
from hamt_bulk.errors import BlockMismatch, BlockNotFound, HamtError, InvalidInput, MalformedNode
from hamt_bulk.layout import EMPTY_NODES
from hamt_bulk.packs import Dropped, drop, packs

pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


def dropped(store: Path, *keep: bytes, hours: float = 0) -> Dropped:
    """Drops, after a dry run that has to say the same and change nothing; a second drop has nothing to do."""
    before = snapshot(store)
    said = drop(store, keep, older_than_hours=hours, dry_run=True)
    assert snapshot(store) == before
    done = drop(store, keep, older_than_hours=hours)
    assert replace(said, dry_run=False) == done
    again, left = drop(store, keep, older_than_hours=hours), snapshot(store)
    assert (again.removed, again.rewritten, again.temporary, again.blocks, again.bytes) == ((), (), (), 0, 0)
    assert again.kept == done.kept
    assert {name: data for name, (_, data) in snapshot(store).items()} == {
        name: data for name, (_, data) in left.items()
    }
    return done


def test_packs_without_a_live_block_are_removed(store: Path) -> None:
    kept, gone = tree(store, items_of("kept", 300)), tree(store, items_of("gone", 300))
    before = contents(store, kept)
    names, size = (
        {path.name for path in packs_in(store)},
        sum(path.stat().st_size for path in packs_in(store)),
    )
    done = dropped(store, kept)
    assert contents(store, kept) == before
    assert len(done.removed) == 2
    assert {path.name for path in packs_in(store)} == names - {
        pack.name.partition("/")[2] for pack in done.removed
    }
    assert done.bytes == size - sum(path.stat().st_size for path in packs_in(store))
    assert done.live == packs(store).blocks
    with pytest.raises(HamtError):
        contents(store, gone)
    assert "2 packs removed" in str(done)
    assert f"{done.blocks} blocks dropped" in str(done)


def test_packs_of_which_a_quarter_is_dead_are_written_again_and_others_stay(store: Path) -> None:
    cas = PackCAS(store)
    shares = {}
    pointers: dict[str, bytes] = {}
    for dead in (0, 24, 25, 60):
        values = [f"{dead} {n:03d}".encode() for n in range(100)]
        [pack] = write(store, values)
        shares[dead] = f"values/{pack.name}"
        pointers |= {f"{dead}/{n}": identify(value) for n, value in enumerate(values[dead:])}
    root = to_bytes(build({key: to_cid(cid) for key, cid in pointers.items()}, cas))
    before = contents(store, root)
    done = dropped(store, root)
    assert {pack.name: pack.dead_blocks for pack in done.rewritten} == {shares[25]: 25, shares[60]: 60}
    assert [(pack.name, pack.dead_blocks) for pack in done.kept] == [(shares[24], 24)]
    assert done.dead_bytes == 24 * 6
    assert contents(store, root) == before
    assert len(readable(store, [identify(b"24 %03d" % n) for n in range(100)])) == 100
    assert len(readable(store, [identify(b"60 %03d" % n) for n in range(100)])) == 40
    assert "144 B of dead blocks stay in 1 pack" in str(done)


def test_a_large_dead_block_is_worth_it_too(store: Path) -> None:
    values = [b"%d" % n for n in range(20)]
    [pack] = write(store, [b"large" * 100, *values], leaf_bytes=1 << 20)
    root = to_bytes(build({f"{n}": value for n, value in enumerate(values)}, PackCAS(store)))
    assert [one.name for one in dropped(store, root).rewritten] == [f"values/{pack.name}"]
    assert len(contents(store, root)) == 20


def test_all_blocks_of_files_stay(store: Path) -> None:
    """Of several levels, of nodes that two files share, and of parts that are values of their own."""
    cas = PackCAS(store)
    value = bytes(range(256)) * 400
    with cas.writer() as writer:
        writer.leaf_bytes = LEAF_BYTES
        pointers = {
            name: writer.save(value[start:]) for name, start in (("a", 0), ("b", 64), ("c", 64 * 174))
        }
        pointers["leaf"] = writer.save(value[:LEAF_BYTES])
        writer.save(os.urandom(100 * LEAF_BYTES))
        writer.flush()
    assert is_file(pointers["a"])
    root = to_bytes(build({key: to_cid(cid) for key, cid in pointers.items()}, cas))
    done = dropped(store, root)
    assert done.blocks == 101
    assert contents(store, root)["c"] == value[64 * 174 :]


def test_a_block_is_what_its_bytes_are_whatever_its_codec(store: Path) -> None:
    """The same bytes as a node here and a value there; and a value that was seen first does not hide a node."""
    inner = tree(store, items_of("inner", 40))
    node = PackCAS(store).load_blocks([inner])[0]
    as_value = identify(node, RAW)
    [file] = [cid for cid in blocks_in_all(store) if is_file(cid)][:1] or [None]
    assert file is not None
    values = {"node": to_cid(as_value), "file": to_cid(b"\x01\x55" + file[2:])}
    write(store, [bytes(node)])
    outer = to_bytes(build(values, PackCAS(store)))
    before = contents(store, outer), contents(store, inner)
    drop(store, [outer, inner], older_than_hours=0)
    assert (contents(store, outer), contents(store, inner)) == before
    # The root of the inner tree stays as a value, although what it links to does not.
    drop(store, [outer], older_than_hours=0)
    assert contents(store, outer) == before[0]


def blocks_in_all(store: Path) -> list[bytes]:
    return [cid for path in packs_in(store) for cid in blocks_in(path)]


def test_several_roots_and_the_history_of_one(store: Path) -> None:
    first = tree(store, items_of("tree", 200))
    cas = PackCAS(store)
    second = to_bytes(build({"tree/1": b"changed", "tree/2": None}, cas, base=first))
    third = to_bytes(build({"tree/3": b"changed as well"}, cas, base=second))
    before = {root: contents(store, root) for root in (first, third)}
    dropped(store, first, third)
    assert {root: contents(store, root) for root in (first, third)} == before


def test_what_was_saved_on_the_store_itself_counts(store: Path) -> None:
    cas = PackCAS(store)
    root = tree(store, items_of("tree", 20))
    done = drop(cas, [to_cid(root)], older_than_hours=24)
    assert len(done.young) == 2


def test_the_empty_tree_is_a_root_and_an_empty_child_is_no_hindrance(store: Path) -> None:
    root = tree(store, {})
    write(store, [b"dead"])
    assert root in EMPTY_NODES
    assert dropped(store, root).blocks == 1
    assert contents(store, root) == {}


# What is refused.


def test_at_least_one_root_is_to_be_kept(store: Path) -> None:
    tree(store, {"a": b"1"})
    with pytest.raises(InvalidInput, match="at least one root"):
        drop(store, [], older_than_hours=0)
    with pytest.raises(InvalidInput, match="expected several roots"):
        drop(store, text(identify(b"x")))
    for hours in (-1, float("inf"), float("nan")):
        with pytest.raises(InvalidInput, match="expected 0 or more hours"):
            drop(store, [identify(b"x")], older_than_hours=hours)


def test_what_is_no_root_of_a_tree_is_refused(store: Path) -> None:
    root = tree(store, items_of("tree", 2000))
    cas = PackCAS(store)
    child = next(cid for cid in blocks_in_all(store) if cid[1] == DAG_CBOR and cid != root)
    value = pointers_of(cas, root)["tree/1"]
    before = snapshot(store)
    with pytest.raises(InvalidInput, match="not the root of a tree but a child node"):
        drop(store, [root, child], older_than_hours=0)
    with pytest.raises(MalformedNode, match=f"{text(value)} cannot be walked"):
        drop(store, [root, value], older_than_hours=0)
    with pytest.raises(BlockNotFound, match=text(identify(b"absent", DAG_CBOR))):
        drop(store, [root, identify(b"absent", DAG_CBOR)], older_than_hours=0)
    with pytest.raises(InvalidInput, match="there is no pack store"):
        drop(store / "nowhere", [root])
    assert snapshot(store) == before


def every_block(store: Path, root: bytes) -> set[bytes]:
    """All that a root reaches, where a store holds nothing else."""
    return set(blocks_in_all(store))


@pytest.mark.parametrize("how", ["altered", "missing"])
def test_a_block_that_is_missing_or_damaged_refuses_all(tmp_path: Path, how: str) -> None:
    """Each of them, and the message names it. Values are looked for, and not read."""
    items = items_of("tree", 30)
    refused = 0
    for number, cid in enumerate(sorted(every_block(tmp_path / "first", tree(tmp_path / "first", items)))):
        store = tmp_path / str(number)
        root = tree(store, items)
        write(store, [b"dead"])
        pack, (start, _) = next(
            (pack, found[cid]) for pack in packs_in(store) if cid in (found := blocks_in(pack))
        )
        if how == "altered":
            alter(pack, start)
            if cid[1] == RAW:
                drop(store, [root], older_than_hours=0)
                assert not readable(store, [identify(b"dead")])
                continue
            error: type[HamtError] = BlockMismatch
        else:
            blocks = [
                Block(one, pack.read_bytes()[at : at + size])
                for one, (at, size) in blocks_in(pack).items()
                if one != cid
            ]
            pack.unlink()
            with PackCAS(store).writer() as writer:
                writer.save_many(blocks)
                writer.flush()
            error = BlockNotFound
        before = snapshot(store)
        with pytest.raises(error, match=text(cid)) as raised:
            drop(store, [root], older_than_hours=0)
        assert text(root) in str(raised.value)
        assert "nothing was dropped" in str(raised.value)
        assert snapshot(store) == before
        refused += 1
    assert refused > 3


def test_a_value_that_was_cut_off_is_missing_whatever_an_older_index_says(store: Path) -> None:
    root = tree(store, items_of("tree", 30))
    write(store, [b"another"])
    PackCAS(store).finish()
    [pack] = [path for path in packs_in(store) if len(blocks_in(path)) > 20]
    last, (start, _) = max(blocks_in(pack).items(), key=lambda item: item[1])
    os.truncate(pack, start + 1)
    with pytest.raises(BlockNotFound, match=text(last)):
        drop(store, [root], older_than_hours=0)


def test_a_tree_with_another_hash_is_kept_with_it(store: Path) -> None:
    def other(data: bytes) -> bytes:
        return identify(b"salt" + data)[4:]

    root = to_bytes(build({f"{n}": b"%d" % n for n in range(50)}, PackCAS(store), hash_fn=other))
    with pytest.raises(MalformedNode, match="another hash_fn"):
        drop(store, [root], older_than_hours=0)
    assert drop(store, [root], older_than_hours=0, hash_fn=other).blocks == 0


# Damage elsewhere.


def test_damaged_packs_are_left_alone(store: Path) -> None:
    root = tree(store, items_of("kept", 50))
    [cut] = write(store, [b"cut %d" % n for n in range(9)])
    os.truncate(cut, cut.stat().st_size - 7)
    [headless] = write(store, [b"head %d" % n for n in range(9)])
    alter(headless, min(blocks_in(headless).values())[0] - 5)
    done = dropped(store, root)
    assert {pack.name for pack in done.damaged} == {f"values/{cut.name}", f"values/{headless.name}"}
    assert cut.exists() and headless.exists()
    assert "is damaged and left alone" in str(done)


def test_a_pack_with_a_damaged_block_that_is_needed_is_not_written_again(store: Path) -> None:
    """There may be no other copy of what can be saved of it."""
    values = [b"value %d" % n for n in range(20)]
    [pack] = write(store, values)
    root = to_bytes(build({f"{n}": value for n, value in enumerate(values[:10])}, PackCAS(store)))
    alter(pack, blocks_in(pack)[identify(values[3])][0])
    [damaged] = [one for one in dropped(store, root).damaged]
    assert (damaged.name, damaged.damage) == (
        f"values/{pack.name}",
        "a block of it that is needed is damaged",
    )
    assert pack.exists()


def test_foreign_cars_go_when_their_blocks_are_sound_and_dead(store: Path) -> None:
    root = tree(store, items_of("kept", 10))
    folder = store / "packs/values"
    for name, data in (("sound", b"foreign"), ("damaged", b"other")):
        block = Block(identify(data), data)
        whole = version_1([block], [block.cid])
        (folder / f"{name}.car").write_bytes(whole if name == "sound" else whole.replace(data, b"OTHER"))
    (folder / "text.car").write_text("not a CAR file")
    done = dropped(store, root)
    assert [pack.name for pack in done.removed] == ["values/sound.car"]
    assert {pack.name for pack in done.damaged} == {"values/damaged.car", "values/text.car"}


# What is young, and what others do meanwhile.


def test_young_packs_and_files_are_not_touched(store: Path) -> None:
    root = tree(store, {"a": b"1"})
    write(store, [b"old and dead"])
    age(store, 25)
    write(store, [b"young and dead"])
    (store / "tmp" / f"other-host-1-{'a' * 16}").write_bytes(b"young")
    done = dropped(store, root, hours=24)
    assert (len(done.young), done.blocks, done.temporary) == (1, 1, ())
    assert readable(store, [identify(b"young and dead")])
    age(store, 24)
    done = dropped(store, root, hours=24)
    assert done.blocks == 1
    assert done.temporary == (f"other-host-1-{'a' * 16}",)
    assert done.temporary_bytes == 5
    assert list((store / "tmp").iterdir()) == []


def test_the_file_of_a_running_writer_stays_however_old(store: Path) -> None:
    root = tree(store, {"a": b"1"})
    with PackCAS(store).writer() as writer:
        writer.save(b"on its way")
        dead = store / "tmp" / f"{socket.gethostname()}-{2**22 + 1}-{'b' * 16}"
        dead.write_bytes(b"of a process that is gone")
        (store / "tmp" / "folder").mkdir()
        done = drop(store, [root], older_than_hours=0)
        assert done.temporary == (dead.name,)
        writer.flush()
    assert readable(store, [identify(b"on its way")])


def test_what_journals_name_is_kept(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(store, {"a": b"1"})
    finished = write(store, [b"finished", b"file " * 40])
    write(store, [b"dead"])
    files = [cid for cid in blocks_in(finished[0]) if is_file(cid)]
    named = [identify(b"finished"), *files, identify(b"lost"), identify(b"lost file", 0x70)]
    asked: list[Path] = []

    def live_of_journals(folder: Path) -> Iterator[bytes]:
        asked.append(folder)
        yield from named

    monkeypatch.setattr(dropping, "live_of_journals", live_of_journals)
    cids = list(blocks_in(finished[0]))
    done = dropped(store, root)
    assert (done.blocks, done.absent) == (1, 3)
    assert "3 blocks that journals name are not there" in str(done)
    assert readable(store, cids) == set(cids)
    assert set(asked) == {store / "journals"}


@contextmanager
def meanwhile(monkeypatch: pytest.MonkeyPatch, name: str, act) -> Iterator[None]:
    """`act` is called before the first call of `os.NAME` within."""
    real, acts = getattr(os, name), [act]

    def call(*arguments, **named):
        if acts:
            acts.pop()()
        return real(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, call)
        yield
    assert acts == []


@pytest.mark.parametrize("call", ["rename", "unlink"])
def test_a_pack_that_is_written_once_more_meanwhile_stays(
    store: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """As late as between the last look and the move. Once it is out of the way, a writer makes a new file."""
    root = tree(store, {"a": b"1"})
    write(store, [b"dead", b"again"])
    age(store, 25)
    with meanwhile(monkeypatch, call, lambda: write(store, [b"dead", b"again"])):
        drop(store, [root])
    assert readable(store, [identify(b"dead"), identify(b"again")]) == {identify(b"dead"), identify(b"again")}
    assert list((store / "tmp").iterdir()) == []


def test_a_pack_that_is_merged_meanwhile_is_no_hindrance(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hamt_bulk.packs import merge

    root = tree(store, {"a": b"1"})
    for n in range(3):
        write(store, [b"dead %d" % n])
    age(store, 25)
    with meanwhile(monkeypatch, "rename", lambda: merge(store)):
        drop(store, [root])
    assert contents(store, root) == {"a": b"1"}


async def test_a_tree_that_is_edited_meanwhile_loses_nothing(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was made from is kept, and what it writes is young."""
    root = tree(store, items_of("tree", 100))
    write(store, [b"dead"])
    age(store, 25)
    hamt = await HAMT.build(cas=PackCAS(store), root_node_id=to_cid(root), values_are_bytes=True)
    await hamt.set("new", b"value")
    await hamt.make_read_only()
    drop(store, [root])
    assert contents(store, to_bytes(hamt.root_node_id)) == contents(store, root) | {"new": b"value"}


@pytest.mark.parametrize("call", ["stat", "rename", "unlink"])
def test_blocks_that_a_copy_counts_on_stay(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A copy leaves out what is there, dead or not, and will link to it: those packs are new from then on."""
    kept, root = tree(store, {"a": b"1"}), tree(store, items_of("copied", 30))
    source = tmp_path / "source"
    assert tree(source, items_of("copied", 30)) == root
    age(store, 25)
    target = PackCAS(store)
    with meanwhile(monkeypatch, call, lambda: copy(root, PackCAS(source), target)):
        drop(store, [kept])
    assert contents(store, root) == items_of("copied", 30)
    assert contents(store, kept) == {"a": b"1"}


def test_a_pack_that_cannot_be_claimed_is_written_once_more(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, [b"1"])
    cas, cids = PackCAS(store), [identify(b"1"), identify(b"absent")]
    assert cas.claim_many(cids) == [True, False]

    def denied(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", denied)
    assert PackCAS(store).claim_many(cids) == [False, False]
    assert PackCAS(store).has_many(cids) == [True, False]
