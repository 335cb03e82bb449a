"""A call of a build and its journal: what is taken over, what is refused, what is said."""

import os

import numpy as np
import pytest

from hamt_bulk import InMemoryCAS, PackCAS, RetryingCAS
from hamt_bulk.block import identify
from hamt_bulk.cas.wrap import VerifyingCAS
from hamt_bulk.errors import InvalidInput, JournalMismatch
from hamt_bulk.journal import Build, Resuming, live_of_journals
from hamt_bulk.journal.file import contents_of
from hamt_bulk.journal.kept import gone
from hamt_bulk.manifest import Manifest, blake3_hashfn

BUILD = Build({"grid": {"t2m": b"1", "u10": b"2"}, "base": {"": b""}})
OTHER = Build({"grid": {"t2m": b"1", "u10": b"3"}, "base": {"": b"root"}})
SAVED = Manifest.of([("zarr.json", identify(b"a document"))])


def manifest(name: str, count: int = 3) -> Manifest:
    return Manifest.of((f"{name}/{i}", identify(f"{name} {i}".encode())) for i in range(count))


def begin(resuming: Resuming, build: Build = BUILD, total: int = 10, **sources: str):
    return resuming.begin(build, {"zarr": "3"}, sources, total, SAVED, blake3_hashfn, lambda progress: None)


def finish(cas: PackCAS, name: str, **options) -> None:
    """A call that finishes a batch, and then dies."""
    with Resuming(True, None, cas) as resuming:
        before = begin(resuming).count
        with cas.writer() as writer:
            made = Manifest.of((f"{name}/{i}", writer.save(f"{name} {i}".encode())) for i in range(3))
            writer.flush()
        resuming.add([before, before + 2], made)


def test_what_the_store_still_has_is_taken_over(tmp_path):
    cas = PackCAS(tmp_path)
    finish(cas, "a")
    finish(cas, "b")
    with Resuming(True, True, cas) as resuming:
        finished = begin(resuming)
    assert np.flatnonzero(finished.blocks).tolist() == [2, 4]
    assert sum(map(len, finished.manifests)) == 3, "the later one counts: they have a Dask block in common"


def test_what_the_store_has_lost_is_done_again(tmp_path):
    cas = PackCAS(tmp_path)
    finish(cas, "a")
    [pack] = (tmp_path / "packs/values").iterdir()
    pack.unlink()
    with Resuming(True, None, PackCAS(tmp_path)) as resuming:
        finished = begin(resuming)
    assert finished.count == 0
    assert not finished.manifests


def test_a_file_of_which_a_leaf_is_lost_is_done_again(tmp_path):
    cas = InMemoryCAS()
    path = tmp_path / "a.journal"
    value = os.urandom(3 << 20)
    with Resuming(path, None, cas) as resuming:
        begin(resuming)
        with cas.writer() as writer:
            made = Manifest.of([("a", writer.save(value))])
            writer.flush()
        resuming.add([0], made)
    with Resuming(path, None, cas) as resuming:
        assert begin(resuming).count == 1
    del cas.blocks[identify(value[: 1 << 20])]
    with Resuming(path, None, cas) as resuming:
        assert begin(resuming).count == 0


def test_a_complete_build_leaves_no_journal(tmp_path):
    cas = PackCAS(tmp_path)
    finish(cas, "a")
    with Resuming(True, None, cas) as resuming:
        begin(resuming)
        resuming.complete()
    assert not list(cas.journals.iterdir())


def test_to_begin_anew_drops_what_was_noted(tmp_path):
    cas = PackCAS(tmp_path)
    finish(cas, "a")
    with Resuming(True, False, cas) as resuming:
        assert begin(resuming).count == 0


def test_with_nothing_to_resume_the_most_similar_build_is_named(tmp_path):
    cas = PackCAS(tmp_path / "store")
    with pytest.raises(InvalidInput, match=r"nothing to resume: no journal in .*store/journals"):
        begin(Resuming(True, True, cas))
    with pytest.raises(InvalidInput, match=r"nothing to resume: no journal at .*x"):
        begin(Resuming(tmp_path / "x", True, cas))
    finish(cas, "a")
    with pytest.raises(JournalMismatch, match=r"most similar, .*\.journal, .*: base, grid of 'u10'"):
        begin(Resuming(True, True, cas), OTHER)


def test_contradictions_are_refused():
    with pytest.raises(InvalidInput, match="resume=True without a journal"):
        Resuming(None, True, InMemoryCAS())
    with pytest.raises(InvalidInput, match="resume='yes', expected True, False or None"):
        Resuming(True, "yes", InMemoryCAS())
    with pytest.raises(InvalidInput, match="not a path"):
        Resuming(3, None, InMemoryCAS())


def test_a_build_that_fails_says_where_it_was_noted(tmp_path):
    with (
        pytest.raises(KeyboardInterrupt) as caught,
        Resuming(tmp_path / "a", None, InMemoryCAS()) as resuming,
    ):
        begin(resuming)
        resuming.add([0, 1], manifest("a"))
        raise KeyboardInterrupt
    [note] = caught.value.__notes__
    assert note.startswith(f"2 of 10 Dask blocks are finished, and noted in {tmp_path / 'a'}: the same call")


def test_other_versions_and_other_arrays_are_warned_of(tmp_path):
    def call(**sources: str) -> None:
        with Resuming(tmp_path / "a", None, InMemoryCAS()) as resuming:
            begin(resuming, **sources)

    call(t2m="one")
    with pytest.warns(UserWarning, match=r"Dask arrays of 't2m' have other names.*resume=False"):
        call(t2m="two")
    with pytest.warns(
        UserWarning, match="have other names than before"
    ):  # what the first one noted still counts
        call(t2m="two")
    with (
        pytest.warns(UserWarning, match="other names"),
        pytest.warns(UserWarning, match=r"written with zarr 3, now 4.*resume=False"),
        Resuming(tmp_path / "a", None, InMemoryCAS()) as resuming,
    ):
        resuming.begin(BUILD, {"zarr": "4"}, {"t2m": "two"}, 10, SAVED, blake3_hashfn, lambda progress: None)


def test_blocks_beyond_the_grid_are_damage(tmp_path):
    with Resuming(tmp_path / "a", None, InMemoryCAS()) as resuming:
        begin(resuming, total=100)
        resuming.add([99], manifest("a", 0))
    with pytest.raises(InvalidInput, match=r"Dask block 99 of 10: it was damaged"):
        begin(Resuming(tmp_path / "a", None, InMemoryCAS()))


def test_the_values_of_all_journals_are_live(tmp_path):
    cas = PackCAS(tmp_path)
    assert list(live_of_journals(cas.journals)) == []
    finish(cas, "a")
    finish(cas, "b")
    chunks = {identify(f"{name} {i}".encode()) for name in "ab" for i in range(3)}
    assert set(live_of_journals(cas.journals)) == chunks | {identify(b"a document")}


def test_a_store_without_a_folder_has_journals_in_the_users(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with Resuming(True, None, InMemoryCAS()) as resuming:
        begin(resuming)
    [journal] = tmp_path.glob("hamt-bulk/journals/*/*.journal")
    assert contents_of(journal).build == BUILD


@pytest.mark.parametrize("around", [VerifyingCAS, RetryingCAS, lambda cas: VerifyingCAS(RetryingCAS(cas))])
def test_leaves_are_looked_for_through_whatever_is_around_a_store(around):
    cas = InMemoryCAS()
    value = os.urandom(3 << 20)
    with cas.writer() as writer:
        cid = writer.save(value)
        writer.flush()
    assert gone(around(cas), [], [cid]) == set()
    del cas.blocks[identify(value[: 1 << 20])]
    assert gone(around(cas), [], [cid]) == {cid}


def test_a_call_that_has_ended_opens_no_journal(tmp_path):
    with Resuming(tmp_path / "a", None, InMemoryCAS()) as resuming:
        pass
    with pytest.raises(InvalidInput, match="has ended"):
        begin(resuming)
    assert not (tmp_path / "a").exists()
