"""The journal: what it holds, what it refuses, and what is left of it when something happens to it."""

import fcntl
import os
import threading
from itertools import pairwise
from pathlib import Path

import libipld
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hamt_bulk.block import identify
from hamt_bulk.errors import CASError, InvalidInput, JournalMismatch
from hamt_bulk.journal import Build
from hamt_bulk.journal.file import Journal, contents_of, opening
from hamt_bulk.journal.records import Batch, decode
from hamt_bulk.journal.resuming import ranges_of
from hamt_bulk.manifest import Manifest, blake3_hashfn

BUILD = Build({"grid": {"t2m": b"1", "u10": b"2"}, "base": {"": b""}})
OTHER = Build({"grid": {"t2m": b"1", "u10": b"3"}, "base": {"": b"root"}})
THIS = opening({"zarr": "3"}, {"t2m": "array-1"})


def manifest(name: str, count: int = 3) -> Manifest:
    return Manifest.of((f"{name}/{i}", identify(f"{name} {i}".encode())) for i in range(count))


def rows(manifest: Manifest) -> list[tuple[bytes, bytes, bytes]]:
    digests = [digest.tobytes() for digest in manifest.digests]
    return list(zip(digests, manifest.keys, manifest.pointers, strict=True))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journals" / "a.journal"


def write(path: Path, *names: str) -> None:
    with Journal.open(path, BUILD, THIS) as journal:
        for name in names:
            number = len(contents_of(path).batches)
            journal.add(Batch.of([(number, number + 1)], manifest(name)))


keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
edits = st.dictionaries(keys, st.binary(max_size=40).map(identify) | st.just(b""), max_size=20)
ranges = st.lists(st.integers(0, 2**40), unique=True).map(sorted).map(ranges_of)


@given(edits, ranges)
def test_a_batch_comes_back_as_it_was_noted(tmp_path_factory, edits, blocks):
    path = tmp_path_factory.mktemp("journal") / "a.journal"
    expected = Manifest.of(edits.items())
    with Journal.open(path, BUILD, THIS) as journal:
        journal.add(Batch.of(blocks, expected))
    [batch] = contents_of(path).batches
    assert batch.blocks == blocks
    assert rows(batch.manifest(blake3_hashfn)) == rows(expected)
    assert sorted(batch.cids()) == sorted(cid for cid in edits.values() if cid)


@given(st.sets(st.integers(0, 100)))
def test_ranges_are_the_numbers(numbers):
    found = ranges_of(sorted(numbers))
    assert [number for first, after in found for number in range(first, after)] == sorted(numbers)
    assert all(one[1] < other[0] for one, other in pairwise(found))


def test_the_next_call_finds_what_was_noted_and_who_noted_it(path):
    write(path, "a", "b")
    write(path, "c")
    contents = contents_of(path)
    assert [batch.blocks for batch in contents.batches] == [[(0, 1)], [(1, 2)], [(2, 3)]]
    assert len(contents.openings) == 2
    assert f"process {os.getpid()} on " in contents.openings[0].process
    assert contents.build == BUILD


def test_what_is_cut_short_loses_what_is_not_whole_and_no_more(path):
    write(path, "a", "b", "c")
    data = path.read_bytes()
    ends = [0]
    for length in range(len(data) + 1):
        path.write_bytes(data[:length])
        try:
            count = len(contents_of(path).batches)
        except InvalidInput as error:
            assert len(ends) == 1
            assert "remove it" in str(error).lower()
            continue
        if count > len(ends) - 1:
            ends.append(length)
        assert count == len(ends) - 1
    assert len(ends) == 4
    assert ends[-1] == len(data)


def test_after_a_torn_tail_batches_are_noted_again(path):
    write(path, "a", "b")
    data = path.read_bytes()
    path.write_bytes(data[:-1])
    with Journal.open(path, BUILD, THIS) as journal:
        assert len(journal.batches) == 1
        journal.add(Batch.of([(7, 9)], manifest("c")))
    assert [batch.blocks for batch in contents_of(path).batches] == [[(0, 1)], [(7, 9)]]


def test_no_flipped_bit_changes_what_a_batch_says(path):
    write(path, "a", "b", "c")
    data = path.read_bytes()
    expected = [rows(batch.manifest(blake3_hashfn)) for batch in contents_of(path).batches]
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        try:
            batches = contents_of(path).batches
        except InvalidInput:
            continue
        found = [rows(batch.manifest(blake3_hashfn)) for batch in batches]
        assert found == expected[: len(found)]
        assert len(found) < 3


def test_a_record_counts_only_where_it_was_written(path, tmp_path):
    """Disks bring back old sectors, and people join files."""
    write(path, "a")
    first = len(path.read_bytes())
    write(path, "b")
    tail = path.read_bytes()[first:]
    with path.open("ab") as file:
        file.write(tail)
    assert len(contents_of(path).batches) == 2


def test_the_journal_of_another_build_is_refused_and_what_differs_is_named(path):
    write(path, "a")
    before = path.read_bytes()
    with pytest.raises(JournalMismatch, match=r"another build.*: base, grid of 'u10'\. "):
        Journal.open(path, OTHER, THIS)
    assert path.read_bytes() == before


def test_what_is_no_journal_is_refused_and_left_alone(path):
    path.parent.mkdir()
    for content in (b"", b"hello", b"hamt_bulk journal 1\n", b"hamt_bulk journal 2\n" + bytes(100)):
        path.write_bytes(content)
        with pytest.raises(InvalidInput, match=r"(?i)remove it"):
            Journal.open(path, BUILD, THIS)
        assert path.read_bytes() == content


def test_two_calls_cannot_write_one_journal(path):
    with Journal.open(path, BUILD, THIS):
        with pytest.raises(
            InvalidInput, match=rf"another call is writing .*process {os.getpid()} on .*since"
        ):
            Journal.open(path, BUILD, THIS)
        assert contents_of(path).build == BUILD, "but anybody may read it"
    Journal.open(path, BUILD, THIS).close()


def test_a_journal_that_was_removed_while_it_was_opened_is_made_anew(path, monkeypatch):
    write(path, "a")
    flock = fcntl.flock

    def removing(file: int, operation: int) -> None:
        monkeypatch.setattr("fcntl.flock", flock)
        path.unlink()
        flock(file, operation)

    monkeypatch.setattr("fcntl.flock", removing)
    with Journal.open(path, BUILD, THIS) as journal:
        assert not journal.batches
        assert path.exists()


def test_of_two_calls_that_begin_at_once_one_is_refused(path, monkeypatch):
    """Both see no file; the slower one must not put its own in the place of the other's."""
    created = []
    link = os.link

    def late(*names: str) -> None:
        if not created:
            created.append(Journal.open(path, BUILD, THIS) if monkeypatch.undo() is None else None)
        link(*names)

    monkeypatch.setattr("os.link", late)
    with pytest.raises(InvalidInput, match="another call is writing"):
        Journal.open(path, BUILD, THIS)
    created[0].close()
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_write_that_fails_leaves_the_batches_before_it(path, monkeypatch):
    journal = Journal.open(path, BUILD, THIS)
    journal.add(Batch.of([(0, 1)], manifest("a")))
    writev = os.writev

    def full(file: int, views: list[bytes]) -> int:
        writev(file, [bytes(views[0])[:10]])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.writev", full)
    with pytest.raises(CASError, match="the disk is full: make space and call again"):
        journal.add(Batch.of([(1, 2)], manifest("b")))
    monkeypatch.undo()
    with pytest.raises(CASError, match="failed before"):
        journal.add(Batch.of([(1, 2)], manifest("b")))
    with Journal.open(path, BUILD, THIS) as again:
        assert [batch.blocks for batch in again.batches] == [[(0, 1)]]


RECORDS = [
    {},
    {"kind": "batch"},
    {"kind": "else"},
    {"kind": "build", "parts": {"grid": {"a": 1}}},
    {"kind": "build", "parts": {"grid": b""}},
    {"kind": "opening", "process": 1, "versions": {}, "sources": {}},
    {"kind": "opening", "process": "", "versions": {"zarr": 3}, "sources": {}},
]
BATCH = {"kind": "batch", "blocks": [[0, 1]], "keys": b"a", "key_lengths": b"\1\0\0\0"}
BATCH |= {"pointers": identify(b""), "pointer_lengths": b"\x24\0\0\0"}
SPOILED = [
    {"blocks": [[1, 1]]},
    {"blocks": [[2, 3], [1, 2]]},
    {"blocks": [[-1, 1]]},
    {"blocks": [["0", "1"]]},
    {"blocks": [[0, 1, 2]]},
    {"blocks": 3},
    {"keys": "a"},
    {"keys": b"aa"},
    {"key_lengths": b"\1\0\0"},
    {"key_lengths": b"\xff\xff\xff\xff"},
    {"key_lengths": b"\0\0\0\0\1\0\0\0"},
    {"pointers": bytes(36)},
    {"more": 1},
]


@pytest.mark.parametrize("fields", [*RECORDS, *(BATCH | spoiled for spoiled in SPOILED)])
def test_records_that_are_none_are_refused(fields):
    with pytest.raises(InvalidInput, match="a journal's record"):
        decode(libipld.encode_dag_cbor(fields))
    assert decode(libipld.encode_dag_cbor(BATCH)).blocks == [(0, 1)]


def test_a_symbolic_link_stands_for_what_it_leads_to(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    with Journal.open(link, BUILD, THIS):
        assert contents_of(target).build == BUILD
        with pytest.raises(InvalidInput, match="another call is writing"):
            Journal.open(target, BUILD, THIS)
    Journal.open(link, BUILD, THIS).remove()
    assert not target.exists()


def test_a_journal_that_is_closed_while_a_batch_is_noted_is_free_for_the_next_call(path, monkeypatch):
    """As by Ctrl-C, while a thread of the cluster's loop waits for the disk."""
    journal = Journal.open(path, BUILD, THIS)
    syncing, go_on = threading.Event(), threading.Event()
    fsync = os.fsync

    def slow(file: int) -> None:
        syncing.set()
        assert go_on.wait(10)
        fsync(file)

    monkeypatch.setattr("os.fsync", slow)
    adding = threading.Thread(target=journal.add, args=(Batch.of([(0, 1)], manifest("a")),))
    adding.start()
    assert syncing.wait(10)
    closing = threading.Thread(target=journal.close)
    closing.start()
    go_on.set()
    adding.join()
    closing.join()
    monkeypatch.undo()
    with Journal.open(path, BUILD, THIS) as again:
        assert len(again.batches) == 1


def test_a_forked_child_does_not_hold_the_lock(path):
    journal = Journal.open(path, BUILD, THIS)
    read_end, write_end = os.pipe()
    ready, begun = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(begun, b"x")
        os.read(read_end, 1)
        os._exit(0)
    try:
        os.read(ready, 1)
        with pytest.raises(InvalidInput, match="another call is writing"):
            Journal.open(path, BUILD, THIS)
        journal.close()
        Journal.open(path, BUILD, THIS).close()
    finally:
        os.write(write_end, b"x")
        os.waitpid(child, 0)


def test_a_journal_that_is_not_ours_any_more_is_not_removed(path):
    journal = Journal.open(path, BUILD, THIS)
    path.unlink()
    with Journal.open(path, BUILD, THIS):
        journal.remove()
        assert path.exists()
