"""Builds that were interrupted, in a store that is tidied up before they go on."""

import shutil
from collections.abc import Callable
from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr

import hamt_bulk.packs.dropping as dropping
from hamt_bulk import PackCAS, check
from hamt_bulk.errors import BlockNotFound
from hamt_bulk.journal import bases_of_journals, live_of_journals
from hamt_bulk.packs import drop
from hamt_bulk.xarray import to_hamt


def hours(start: int, failing: bool = False) -> xr.Dataset:
    def read(block: np.ndarray) -> np.ndarray:
        if failing and block[0] >= start + 60:
            raise OSError("the source is gone")
        return block

    time = np.arange(start, start + 80)
    values = xr.DataArray(time.astype("f8"), dims="time").chunk(time=4)
    return xr.Dataset(
        {"t2m": values.copy(data=values.data.map_blocks(read, dtype="f8"))}, coords={"time": time}
    )


@pytest.fixture
def interrupted(tmp_path: Path, cut_batches: Callable[[int], None]) -> Path:
    """A store with a base and half of an append to it."""
    cut_batches(100)
    cas = PackCAS(tmp_path / "store")
    with dask.config.set(scheduler="synchronous"):
        base = to_hamt(hours(0), cas)
        with pytest.raises(OSError, match="the source is gone"):
            to_hamt(hours(80, failing=True), cas, base=base, append_dim="time", journal=True)
    return tmp_path / "store"


def test_what_an_interrupted_append_needs_is_kept(interrupted: Path, tmp_path: Path) -> None:
    kept = to_hamt(xr.Dataset({"a": ("x", np.arange(3))}), PackCAS(interrupted))
    base = to_hamt(hours(0), PackCAS(tmp_path / "other"))
    expected = to_hamt(hours(80), PackCAS(tmp_path / "other"), base=base, append_dim="time")
    done = drop(interrupted, [kept], older_than_hours=0)
    assert done.absent == 0
    with pytest.warns(UserWarning, match="other names"):
        cas = PackCAS(interrupted)
        assert to_hamt(hours(80), cas, base=base, append_dim="time", journal=True, resume=True) == expected
    assert check(expected, PackCAS(interrupted)).ok
    drop(interrupted, [kept], older_than_hours=0)
    with pytest.raises(BlockNotFound):
        PackCAS(interrupted).load_many([base])


def test_a_base_with_holes_refuses_the_drop_and_names_the_journal(interrupted: Path) -> None:
    kept = to_hamt(xr.Dataset({"a": ("x", np.arange(3))}), PackCAS(interrupted))
    [journal] = (interrupted / "journals").iterdir()
    before = sorted((interrupted / "packs/nodes").iterdir())
    for path in before:
        aside = interrupted / path.name
        shutil.move(path, aside)
        try:
            drop(interrupted, [kept], older_than_hours=0)
        except BlockNotFound as error:
            notes = getattr(error, "__notes__", [])
            shutil.move(aside, path)
            if any(f"the base of the build whose journal is {journal}: to give" in note for note in notes):
                break
        else:
            shutil.move(aside, path)
    else:
        pytest.fail("no pack held the base")


def test_what_a_build_needs_that_is_completed_while_roots_are_walked_is_kept(
    interrupted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its journal is there when the walk begins, and not when it ends; what it has written is old by then."""
    kept = to_hamt(xr.Dataset({"a": ("x", np.arange(3))}), PackCAS(interrupted))
    [journal] = (interrupted / "journals").iterdir()
    needed = set(live_of_journals(interrupted / "journals"))
    [(_, base)] = bases_of_journals(interrupted / "journals")
    tree = dropping.Marking.tree

    def walked(marking: dropping.Marking, root: bytes) -> None:
        tree(marking, root)
        journal.unlink(missing_ok=True)

    monkeypatch.setattr(dropping.Marking, "tree", walked)
    done = drop(interrupted, [kept], older_than_hours=0)
    assert done.absent == 0
    assert needed
    assert PackCAS(interrupted).has_many([*needed]) == [True] * len(needed)
    assert check(base, PackCAS(interrupted)).ok
    assert drop(interrupted, [kept], older_than_hours=0).blocks >= len(needed)


def test_a_value_that_a_journal_names_and_a_kept_root_lacks_refuses_the_drop(tmp_path: Path) -> None:
    store = tmp_path / "store"
    with dask.config.set(scheduler="synchronous"):
        kept = to_hamt(hours(0), PackCAS(store))
        with pytest.raises(OSError, match="the source is gone"):
            to_hamt(hours(0, failing=True), PackCAS(store), journal=True)
    assert set(live_of_journals(store / "journals"))
    for path in (store / "packs/values").iterdir():
        path.unlink()
    with pytest.raises(BlockNotFound, match="cannot be walked to its end"):
        drop(store, [kept], older_than_hours=0)
