"""`drop` refuses what it cannot walk whole, and leaves alone what is damaged."""

import os
from pathlib import Path

import pytest
from car_files import version_1
from packs_made import (
    alter,
    blocks_in,
    blocks_in_all,
    dropped,
    items_of,
    packs_in,
    pointers_of,
    readable,
    snapshot,
    tree,
    write,
)

from hamt_bulk import build
from hamt_bulk.block import DAG_CBOR, RAW, Block, identify, text, to_bytes
from hamt_bulk.cas import PackCAS
from hamt_bulk.errors import BlockMismatch, BlockNotFound, HamtError, InvalidInput, MalformedNode
from hamt_bulk.packs import drop

pytestmark = pytest.mark.usefixtures("no_fsync")


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
