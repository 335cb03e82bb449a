"""Clocks that differ: what was just written is young, whatever this host's clock says."""

import errno
import os
import time
from pathlib import Path

import pytest
from packs_made import HOUR, readable, snapshot, tree, write

from hamt_bulk.block import identify
from hamt_bulk.errors import CASError
from hamt_bulk.packs import drop
from hamt_bulk.packs.temporary import now_of


@pytest.mark.parametrize("dry_run", [True, False])
def test_a_clock_that_is_ahead_of_the_file_server_makes_no_pack_old(
    store: Path, monkeypatch: pytest.MonkeyPatch, dry_run: bool
) -> None:
    kept = tree(store, {"a": b"1"})
    write(store, [b"of a build that runs"])
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + 25 * HOUR)
    before = snapshot(store)
    done = drop(store, [kept], dry_run=dry_run)
    assert (len(done.young), done.removed) == (3, ())
    assert snapshot(store) == before
    assert readable(store, [identify(b"of a build that runs")])


def test_a_clock_that_is_behind_is_believed(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tree(store, {"a": b"1"})
    write(store, [b"dead"])
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() - HOUR)
    assert len(drop(store, [kept], older_than_hours=0).young) == 3


def test_what_was_written_in_this_very_tick_is_as_old_as_nothing(store: Path) -> None:
    kept = tree(store, {"a": b"1"})
    for number in range(50):
        write(store, [b"%d dead" % number])
        assert drop(store, [kept], older_than_hours=0, dry_run=True).young == ()


def test_a_store_that_cannot_be_written_to_goes_by_the_clock(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tree(store, {"a": b"1"})
    real, error = Path.open, errno.EROFS

    def opened(path: Path, mode: str = "r", *arguments: object, **named: object) -> object:
        if "x" in mode:
            raise OSError(error, os.strerror(error))
        return real(path, mode, *arguments, **named)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", opened)
    assert abs(now_of(store) - time.time()) < 600
    assert len(drop(store, [kept], dry_run=True).young) == 2
    error = errno.ENOSPC
    with pytest.raises(CASError, match="the disk is full"):
        drop(store, [kept], dry_run=True)


def test_a_store_without_a_folder_for_temporary_files_has_a_clock(store: Path) -> None:
    kept = tree(store, {"a": b"1"})
    (store / "tmp").rmdir()
    assert len(drop(store, [kept], dry_run=True).young) == 2
    assert sorted(os.listdir(store)) == ["format", "index", "packs"]
