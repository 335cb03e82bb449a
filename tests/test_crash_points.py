"""
Packs, their index, their merging and journals when the process or the power ends at any point.

Afterwards there is the old state or the new: what was promised is readable, what was not is there whole or not at all,
and the next build works.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from crashing import at_every_crash
from simulated import Entries, Said, Sync, Write
from stored import in_tree

from hamt_bulk import InMemoryCAS, PackCAS, build
from hamt_bulk.block import Block, identify
from hamt_bulk.errors import BlockNotFound, HamtError
from hamt_bulk.journal.file import Journal, contents_of, opening
from hamt_bulk.journal.records import Batch, Build
from hamt_bulk.manifest import Manifest, blake3_hashfn

ITEMS = {f"key {number}": b"value %d" % number for number in range(12)}
ROOT = build(ITEMS, InMemoryCAS())
MERGED = 4
"""How many packs of a size are merged here."""


def blocks(name: str, codec: int, count: int = 4) -> list[Block]:
    data = [f"{name} {number} ".encode() * 3 for number in range(count)]
    return [Block(identify(one, codec), one) for one in data]


OLD = [blocks(f"old {number}", 0x55, 2) for number in range(2)]
SMALL = [blocks(f"small {number}", 0x55, 1) for number in range(MERGED)]
BATCHES = {name: (blocks(name, 0x71), blocks(name, 0x55)) for name in ("first", "second")}


def put(store: Path, several: Sequence[Sequence[Block]]) -> None:
    for some in several:
        with PackCAS(store).writer() as writer:
            writer.save_many(some)
            writer.flush()


def write(root: Path, say: Callable[[str], None]) -> None:
    """Two flushes of one writer, each of nodes and values; then what the end of a build does."""
    cas = PackCAS(root / "a" / "store")
    with cas.writer() as writer:
        for name, (nodes, values) in BATCHES.items():
            writer.save_many(nodes[:2])
            writer.save_many(values)
            writer.save_many(nodes[2:])
            writer.flush()
            say(name)
    cas.finish()
    say("finished")


def old(root: Path) -> None:
    put(root / "a" / "store", OLD)
    PackCAS(root / "a" / "store").finish()


def many(root: Path) -> None:
    old(root)
    put(root / "a" / "store", SMALL)


def readable(cas: PackCAS, some: Sequence[Block]) -> bool:
    """Whether these blocks are there: all or none."""
    cids = [cid for cid, _ in some]
    there = cas.has_many(cids)
    assert len({*there}) == 1
    if there[0]:
        assert cas.load_many(cids) == [data for _, data in some]
        assert cas.size_many(cids) == [len(data) for _, data in some]
    else:
        with pytest.raises(BlockNotFound):
            cas.load_many(cids)
    return there[0]


def check_store(root: Path, said: Sequence[str], before: Sequence[Sequence[Block]]) -> None:
    store = root / "a" / "store"
    cas = PackCAS(store)
    for some in before:
        assert readable(cas, some)
    for name, kinds in BATCHES.items():
        for some in kinds:
            assert readable(cas, some) or name not in said
    assert cas._index.damaged() == []
    assert build(ITEMS, PackCAS(store)) == ROOT
    cas = PackCAS(store)
    assert in_tree(ROOT, cas) == ITEMS
    assert cas.load_many([cid for some in before for cid, _ in some]) == [
        data for some in before for _, data in some
    ]


@pytest.mark.parametrize(
    ("prepare", "before"),
    [(lambda root: None, []), (many, [*OLD, *SMALL])],
    ids=["no store yet", "packs to be merged"],
)
def test_packs_are_there_whole_once_they_were_promised_and_else_not_at_all(
    tmp_path, monkeypatch, prepare, before
) -> None:
    monkeypatch.setattr("hamt_bulk.cas.packmerge.MERGED_PACKS", MERGED)
    crashes = at_every_crash(tmp_path, write, lambda root, said: check_store(root, said, before), prepare)
    kinds = [type(step) for step in crashes.steps]
    assert {*kinds} == {Write, Entries, Sync, Said}
    # The index was written, and with many packs they were merged.
    assert any("mpi" in repr(step) for step in crashes.steps)
    removed = [step for step in crashes.steps if isinstance(step, Entries) and ".car', None" in repr(step)]
    assert len(removed) >= (MERGED if prepare is many else 0)
    assert crashes.disks > 60


def without_syncing(what: str) -> Callable[[Path, Callable[[str], None]], None]:
    """`write` by a program that does not sync its files, or its folders."""

    def act(root: Path, say: Callable[[str], None]) -> None:
        sync = os.fsync

        def fsync(file: int) -> None:
            if os.path.isdir(f"/proc/self/fd/{file}") == (what == "files"):
                sync(file)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", fsync)
            write(root, say)

    return act


@pytest.mark.parametrize("what", ["files", "folders"])
def test_a_program_that_does_not_sync_is_found_out(tmp_path: Path, what: str) -> None:
    """So the other tests can fail."""
    with pytest.raises((AssertionError, HamtError)):
        at_every_crash(tmp_path, without_syncing(what), lambda root, said: check_store(root, said, OLD), old)


def test_a_folder_that_was_made_and_is_not_named_durably_by_its_parent_is_found_out(tmp_path: Path) -> None:
    def act(root: Path, say: Callable[[str], None]) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(
                "hamt_bulk.cas.packfolder.make_folder", lambda path: path.mkdir(parents=True, exist_ok=True)
            )
            write(root, say)

    with pytest.raises(AssertionError):
        at_every_crash(tmp_path, act, lambda root, said: check_store(root, said, []))


def test_writes_that_the_shim_does_not_see_are_reported(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"\['x'\] were changed otherwise than by the calls open"):
        at_every_crash(tmp_path, lambda root, say: (root / "x").write_bytes(b"1"), lambda root, said: None)


BUILD = Build({"grid": {"t2m": b"1"}})
NOTED = [Manifest.of([(f"{number}/{n}", identify(b"%d" % n)) for n in range(3)]) for number in range(3)]


def test_a_journal_has_the_batches_that_were_noted_and_perhaps_the_one_under_way(tmp_path: Path) -> None:
    def act(root: Path, say: Callable[[str], None]) -> None:
        with Journal.open(root / "store" / "journals" / "a", BUILD, opening({}, {})) as journal:
            for number, manifest in enumerate(NOTED):
                journal.add(Batch.of([(number, number + 1)], manifest))
                say(str(number))
            say("removing")
            journal.remove()
            say("removed")

    def check(root: Path, said: Sequence[str]) -> None:
        path = root / "store" / "journals" / "a"
        if "removing" in said:
            assert not path.exists() or "removed" not in said
            return
        assert path.exists() or not said
        batches = contents_of(path).batches if path.exists() else []
        assert len(said) <= len(batches) <= len(said) + 1
        for batch, manifest in zip(batches, NOTED, strict=False):
            assert list(batch.manifest(blake3_hashfn).keys) == list(manifest.keys)
        with Journal.open(path, BUILD, opening({}, {})) as journal:
            journal.add(Batch.of([(7, 8)], NOTED[0]))
        assert len(contents_of(path).batches) == len(batches) + 1

    crashes = at_every_crash(tmp_path, act, check)
    assert crashes.disks > 25
