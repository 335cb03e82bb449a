"""`copy` writes children first: wherever it ends, no block links to one that is not there."""

from pathlib import Path

import pytest
from checked import put as put_node
from copied import BLOCKS, ROOT, WHOLE, Kept, Shuffling, Small, assert_no_holes, blocks_of

from hamt_bulk import InMemoryCAS, PackCAS, build, copy, unixfs
from hamt_bulk.block import to_bytes
from hamt_bulk.errors import CASError
from hamt_bulk.roots import transfer
from hamt_bulk.testing import Fail, FaultyCAS


def test_a_copy_goes_where_another_one_was_begun() -> None:
    """A node that is there does not prove that what is below it is."""
    small = Small()
    for lost in small.cas.blocks:
        target = InMemoryCAS()
        target.blocks |= {cid: data for cid, data in small.cas.blocks.items() if cid != lost}
        copied = copy(small.root, small.cas, target)
        assert (copied.copied_blocks, copied.copied_bytes) == (1, len(small.cas.blocks[lost]))
        assert target.blocks == small.cas.blocks


def test_wherever_a_copy_is_interrupted_no_block_links_to_one_that_is_not_there() -> None:
    """The target may write the blocks of a flush in any order. A second call completes it."""
    small = Small()
    steps = 0
    while True:
        target = Shuffling()
        target.left = steps
        try:
            copy(small.root, small.cas, target)
        except CASError:
            steps += 1
        else:
            break
        assert_no_holes(target.blocks, small.below)
        assert small.root not in target.blocks
        target.left = None
        copy(small.root, small.cas, target)
        assert target.blocks == small.cas.blocks
    assert steps >= len(small.cas.blocks)


def test_wherever_a_copy_to_a_users_store_is_interrupted_no_block_links_to_one_that_is_not_there() -> None:
    small = Small()
    source = small.whole()
    below = {cid: {other for other in source.values if other in data} for cid, data in source.values.items()}
    steps = 0
    while True:
        target = FaultyCAS(kept := Kept(), Fail(on="save", nth=steps + 1, lasting=True))
        try:
            copy(small.whole_root, source, target)
        except CASError:
            steps += 1
        else:
            break
        assert_no_holes(kept.values, below)
        assert small.whole_root not in kept.values
        target.mend()
        copy(small.whole_root, source, target)
        assert kept.values == source.values
    assert steps == len(source.values)


def test_wherever_files_of_a_store_of_values_are_interrupted_their_nodes_have_their_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With nodes of two levels, and flushes in between."""
    data = [bytes(range(start, start + 45)) for start in range(0, 225, 45)]
    split, small = unixfs.split, {"leaf_bytes": 10, "max_links": 2}
    monkeypatch.setattr(unixfs, "split", lambda value, hasher, **_: split(value, hasher, **small))
    monkeypatch.setattr("hamt_bulk.roots.files.HELD", 5)
    build({f"{n}": value for n, value in enumerate(data)}, source := Kept())
    root = to_bytes(build({f"{n}": value for n, value in enumerate(data)}, whole := InMemoryCAS()))
    below = {cid: {other for other in whole.blocks if other in data} for cid, data in whole.blocks.items()}
    steps = 0
    while True:
        target = Shuffling()
        target.left = steps
        try:
            copy(root, source, target)
        except CASError:
            steps += 1
        else:
            break
        assert_no_holes(target.blocks, below)
    assert target.blocks == whole.blocks
    assert steps == len(whole.blocks)
    assert target.flushes > 3 * len(data)  # each file has more nodes than may wait


@pytest.mark.parametrize("limit", [{"UNFLUSHED_BYTES": 2 << 20}, {"UNFLUSHED_BLOCKS": 200}], ids=str)
def test_much_is_flushed_before_all_is_there(
    limit: dict[str, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So that an interrupted copy of much does not begin again."""
    for name, value in limit.items():
        monkeypatch.setattr(transfer, name, value)
    copied = copy(ROOT, WHOLE, target := PackCAS(tmp_path))
    assert blocks_of(target) == BLOCKS
    assert copied.copied_blocks == len(BLOCKS)
    assert len(list(tmp_path.glob("packs/values/*"))) > 2


def test_a_node_at_two_depths_is_written_after_what_it_links_to() -> None:
    """Nobody builds such a tree, but an interrupted copy of one has no holes either."""
    cas = InMemoryCAS()
    leaf = put_node(cas, {1: {"k": to_bytes(build({}, cas))}})
    middle = put_node(cas, {2: leaf, 3: {"k": leaf}})
    root = put_node(cas, {0: middle, 1: put_node(cas, {0: middle, 1: put_node(cas, {4: middle, 5: leaf})})})
    below = {cid: {other for other in cas.blocks if other in data} for cid, data in cas.blocks.items()}
    for steps in range(len(cas.blocks)):
        target = Shuffling()
        target.left = steps
        with pytest.raises(CASError):
            copy(root, cas, target)
        assert_no_holes(target.blocks, below)
