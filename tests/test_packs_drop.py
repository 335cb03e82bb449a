"""`drop`: what no root reaches goes, in a dry run as for real, and nothing else."""

import os
from pathlib import Path

import pytest
from packs_made import (
    LEAF_BYTES,
    blocks_in_all,
    contents,
    dropped,
    is_file,
    items_of,
    packs_in,
    readable,
    tree,
    write,
)

from hamt_bulk import build
from hamt_bulk.block import RAW, identify, to_bytes, to_cid
from hamt_bulk.cas import PackCAS
from hamt_bulk.errors import HamtError
from hamt_bulk.layout import EMPTY_NODES
from hamt_bulk.packs import drop, packs

pytestmark = pytest.mark.usefixtures("no_fsync")


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
