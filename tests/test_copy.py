"""`copy`: what the target lacks and nothing else, from and to every kind of store."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import pytest
from car_files import version_1
from copied import BLOCKS, ITEMS, KINDS, ROOT, WHOLE, blocks_of, empty, holding, reachable
from multiformats import CID
from stored import in_tree

from hamt_bulk import CarCAS, InMemoryCAS, PackCAS, build, check, copy
from hamt_bulk.block import DAG_PB, RAW, identify, parse, text, to_bytes, to_cid
from hamt_bulk.errors import CASError, InvalidInput, ReadOnly
from hamt_bulk.progress import BuildProgress


@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize("of", KINDS)
def test_a_copy_has_every_block_and_no_other(of: str, to: str, tmp_path: Path) -> None:
    source, target = holding(of, tmp_path), empty(to, tmp_path)
    copied = copy(ROOT, source, target)
    assert blocks_of(target) == BLOCKS
    opened = CarCAS(target) if isinstance(target, Path) else target
    assert check(ROOT, opened).ok
    assert in_tree(ROOT, opened) == ITEMS
    if to != "values":  # where a file is one block
        size = sum(map(len, BLOCKS.values()))
        assert (copied.root, copied.blocks, copied.copied_blocks) == (text(ROOT), len(BLOCKS), len(BLOCKS))
        assert copied.copied_bytes == size
        # A store of values gives files whole, all equal leaves of `zeros` included, and never their nodes.
        whole = (2 << 20) - sum(len(data) for cid, data in BLOCKS.items() if parse(cid).codec == DAG_PB)
        assert copied.bytes == size + whole * (of == "values")
    again = copy(ROOT, source, target)
    assert (again.copied_blocks, again.copied_bytes, again.blocks) == (0, 0, copied.blocks)


def test_the_reachable_blocks_are_those_that_a_build_made() -> None:
    """So the test above compares with the right ones."""
    some = {cid: data for cid, data in BLOCKS.items() if parse(cid).codec != RAW}
    assert reachable(ROOT, some) == some.keys()
    assert reachable(ROOT, BLOCKS) == BLOCKS.keys()
    assert len(some) > 5


@pytest.mark.parametrize("form", [text, to_cid, lambda root: f"ipfs://{text(root)}"])
def test_roots_and_stores_come_in_every_form(form: Callable[[bytes], object], tmp_path: Path) -> None:
    root = to_bytes(build({"a": b"1"}, str(tmp_path / "source")))
    copied = copy(form(root), str(tmp_path / "source"), tmp_path / "target")
    assert copied.root == text(root)
    assert in_tree(root, PackCAS(tmp_path / "target")) == {"a": b"1"}


def test_a_copy_of_an_appended_root_copies_what_is_new(tmp_path: Path) -> None:
    build(ITEMS, source := PackCAS(tmp_path / "source"))
    copy(ROOT, source, target := PackCAS(tmp_path / "target"))
    before = blocks_of(target)
    root = to_bytes(build({"air/c/new": b"new", "air/c/7": b"changed", "air/c/8": None}, source, base=ROOT))
    copied = copy(root, source, target)
    new = reachable(root, blocks_of(source)) - before.keys()
    assert blocks_of(target).keys() - before.keys() == new
    assert copied.copied_blocks == len(new) < 10
    assert check(root, target).ok


async def test_what_was_saved_on_the_target_and_not_flushed_lasts(tmp_path: Path) -> None:
    """It is there for whoever asks the object, so it is not copied."""
    target = PackCAS(tmp_path)
    await target.save(b"value 8", "raw")
    copied = copy(ROOT, WHOLE, target)
    assert copied.copied_blocks == len(BLOCKS) - 1
    assert blocks_of(target) == BLOCKS


def test_progress_goes_from_nothing_to_all() -> None:
    steps: list[BuildProgress] = []
    copy(ROOT, WHOLE, InMemoryCAS(), progress=steps.append)
    nodes = sum(parse(cid).codec != RAW for cid in BLOCKS)
    for stage in ("copy", "nodes"):
        own = [step for step in steps if step.stage == stage]
        assert own[0].done in (1, 2)  # the root alone, or the nodes of two files
        assert (own[-1].done, own[-1].total) == (nodes, nodes)
        assert all(one.done < other.done for one, other in pairwise(own))
        assert all(step.done <= step.total for step in own)
    assert [step.stage for step in steps] == sorted(step.stage for step in steps)


def test_the_store_is_tidied_up_and_may_fail_to_be(tmp_path: Path) -> None:
    class Untidy(InMemoryCAS):
        def finish(self):
            raise CASError("no space for an index")

    with pytest.warns(UserWarning, match="copy is complete, .*no space for an index") as caught:
        copy(ROOT, WHOLE, target := Untidy())
    assert caught[0].filename == __file__
    assert target.blocks == BLOCKS
    copy(ROOT, WHOLE, PackCAS(tmp_path))
    assert list((tmp_path / "index").iterdir())


def test_a_target_that_is_read_only_or_lives_elsewhere_says_so() -> None:
    class Closed(InMemoryCAS):
        def writer(self):
            raise ReadOnly("a gateway is read only")

    with pytest.raises(ReadOnly, match="gateway"):
        copy(ROOT, WHOLE, Closed())
    with pytest.raises(InvalidInput, match="no store of kind 'ftp'"):
        copy(ROOT, WHOLE, "ftp://host")


def test_without_a_root_the_one_of_a_car_file_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "file.car"
    copy(ROOT, WHOLE, path)
    copied = copy(None, path, target := InMemoryCAS())
    assert (copied.root, target.blocks) == (text(ROOT), BLOCKS)
    for roots, said in (([], "0 roots"), ([ROOT, identify(b"x")], f"2 roots, expected one: {text(ROOT)}")):
        path.write_bytes(version_1([], roots))
        with pytest.raises(InvalidInput, match=said):
            copy(None, path, target)
    with pytest.raises(InvalidInput, match="names no root"):
        copy(None, WHOLE, target)


def test_a_cid_is_public_as_text() -> None:
    copied = copy(CID.decode(ROOT), WHOLE, InMemoryCAS())
    assert copied.root == text(ROOT)
