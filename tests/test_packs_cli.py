"""`hamt-bulk packs`: what is said, and how every call ends."""

import os
import re
from pathlib import Path

import pytest
from packs_made import age, alter, blocks_in, contents, items_of, packs_in, readable, snapshot, tree, write
from typer.testing import CliRunner, Result

from hamt_bulk.block import identify, text
from hamt_bulk.cli import app

pytestmark = pytest.mark.usefixtures("no_fsync")


def call(*arguments: str | os.PathLike[str]) -> Result:
    return CliRunner().invoke(app, ["packs", *map(os.fspath, arguments)])


CAUTION = (
    "--older-than 0: what is being written key by key now (HAMT, a Zarr store), and is older, is dropped "
)


def worked(result: Result, status: int = 0, said: str = "") -> str:
    assert result.exit_code == status, (result.stdout, result.stderr, result.exception)
    assert result.stderr.startswith(said) and bool(result.stderr) == bool(said)
    return result.stdout


def test_without_an_option_it_lists(store: Path) -> None:
    [pack] = write(store, [b"one"])
    said = worked(call(store))
    assert f"values/{pack.name}  sound" in said
    assert said.endswith(f"1 pack: 1 block, {pack.stat().st_size} B\n")


def test_verify_ends_with_1_when_a_block_is_lost(store: Path) -> None:
    [pack] = write(store, [b"one", b"two"])
    assert worked(call(store, "--verify")).endswith("sound\n")
    alter(pack, blocks_in(pack)[identify(b"one")][0])
    assert text(identify(b"one")) in worked(call(store, "--verify"), 1)
    write(store, [b"one"])
    assert "a sound copy is in" in worked(call(store, "--verify"))


def test_verify_and_index_together_end_with_0_when_nothing_was_lost(store: Path) -> None:
    [pack] = write(store, [b"one", b"two"])
    alter(pack, blocks_in(pack)[identify(b"one")][0] - 37)
    worked(call(store, "--verify"), 1)
    assert "nothing lost" in worked(call(store, "--verify", "--index"))
    worked(call(store, "--verify"))


def test_all_at_once(store: Path) -> None:
    kept = tree(store, items_of("kept", 30))
    tree(store, items_of("gone", 30))
    write(store, [b"half dead", *list(items_of("kept", 3).values())])
    [cut] = write(store, [b"cut %d" % n for n in range(9)])
    os.truncate(cut, blocks_in(cut)[identify(b"cut 6")][0])
    before = contents(store, kept)
    said = worked(
        call(store, "--verify", "--index", "--drop", "--keep", text(kept), "--older-than", "0", "--merge"),
        1,
        CAUTION,
    )
    order = [said.index(part) for part in ("lost", "the index is made anew", "dropped, ", "packs before")]
    assert order == sorted(order)
    assert contents(store, kept) == before
    assert len(packs_in(store)) == 2
    worked(call(store, "--verify"))


def test_a_dry_run_changes_nothing_and_says_what_a_run_does(store: Path) -> None:
    kept = tree(store, items_of("kept", 30))
    tree(store, items_of("gone", 30))
    age(store, 25)
    before = snapshot(store)
    arguments = [store, "--drop", "--keep", f"ipfs://{text(kept)}"]
    said = worked(call(*arguments, "--dry-run"))
    assert "2 packs would be removed" in said
    assert snapshot(store) == before
    assert worked(call(*arguments)) == said.replace("would be ", "")
    assert "0 blocks dropped" in worked(call(*arguments))


def test_a_damaged_root_refuses_the_drop_in_one_line(store: Path) -> None:
    kept = tree(store, items_of("kept", 3))
    write(store, [b"dead"])
    [pack] = [path for path in packs_in(store) if kept in blocks_in(path)]
    alter(pack, blocks_in(pack)[kept][0])
    age(store, 25)
    result = call(store, "--drop", "--keep", text(kept))
    assert (result.exit_code, result.stdout) == (1, "")
    assert re.fullmatch(
        rf"error: {text(kept)} cannot be walked to its end, so nothing was dropped: .*\n", result.stderr
    )
    assert readable(store, [identify(b"dead")])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--drop"], "give each root that is to stay as --keep"),
        (["--drop", "--keep", "nonsense"], "not a CID"),
        (["--keep", "ROOT"], "they go with --drop"),
        (["--verify", "--older-than", "3"], "they go with --drop"),
        (["--merge", "--dry-run"], "they go with --drop"),
        (["--drop", "--keep", "ROOT", "--dry-run", "--merge"], "leave them out"),
        (["--drop", "--keep", "ROOT", "--dry-run", "--index"], "leave them out"),
        (["--drop", "--keep", "ROOT", "--older-than", "-1"], "expected 0 or more hours"),
    ],
)
def test_contradictions_are_refused(store: Path, options: list[str], said: str) -> None:
    kept = text(tree(store, {"a": b"1"}))
    before = snapshot(store)
    result = call(store, *(kept if option == "ROOT" else option for option in options))
    assert (result.exit_code, result.stdout) == (2, "")
    assert said in " ".join(re.sub("[│╭╮╰╯─]", " ", result.stderr).split())
    assert snapshot(store) == before


def test_what_is_no_store_is_said_to_be_none(tmp_path: Path) -> None:
    for options in ([], ["--verify"], ["--index"], ["--merge"]):
        result = call(tmp_path / "nowhere", *options)
        assert (result.exit_code, result.stdout) == (1, "")
        assert "there is no pack store" in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_limit_of_less_than_an_hour_is_warned_of_and_no_longer_one(store: Path) -> None:
    kept = text(tree(store, {"a": b"1"}))
    worked(call(store, "--drop", "--keep", kept, "--older-than", "0"), said=CAUTION)
    worked(call(store, "--drop", "--keep", kept, "--older-than", "0.9"), said="--older-than 0.9: ")
    worked(call(store, "--drop", "--keep", kept, "--older-than", "1"))
    worked(call(store, "--drop", "--keep", kept))


@pytest.mark.parametrize("left", [0, 1, 51])
def test_a_pack_that_was_cut_and_has_no_index_is_said_to_have_lost_blocks(store: Path, left: int) -> None:
    [pack] = write(store, [b"one", b"two"])
    os.truncate(pack, left)
    said = worked(call(store, "--verify"), 1)
    assert said.endswith("1 pack damaged: in 1 pack blocks are lost: how many is not known\n")
    assert "0 blocks saved, blocks are lost: how many is not known; the damaged file" in worked(
        call(store, "--index")
    )
