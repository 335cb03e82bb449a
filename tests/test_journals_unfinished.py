"""Builds that were begun and are not complete."""

import os
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner

from hamt_bulk import InMemoryCAS, PackCAS, build, convert
from hamt_bulk.cli import app
from hamt_bulk.errors import InvalidInput
from hamt_bulk.journal import Build, Resuming, give_up, unfinished
from hamt_bulk.manifest import Manifest, blake3_hashfn
from hamt_bulk.packs import drop
from hamt_bulk.progress import BuildProgress
from hamt_bulk.xarray import to_hamt


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hamt_bulk.dask.batches.BATCH_BYTES", 800)


def dataset(name: str, limit: int | None = None) -> xr.Dataset:
    """Ten chunks, of which `limit` can be computed."""
    computed = []

    def one(block: np.ndarray) -> np.ndarray:
        if len(computed) == limit:
            raise ValueError("enough")
        computed.append(block)
        return block

    values = da.arange(1000, chunks=100, dtype="i8")
    return xr.Dataset({name: ("x", values.map_blocks(one, dtype="i8", meta=np.zeros(0, "i8")))})


def stopped(cas: PackCAS, name: str, limit: int, **options: object) -> None:
    with dask.config.set(scheduler="synchronous"), pytest.raises(ValueError, match="enough"):
        to_hamt(dataset(name, limit), cas, journal=True, **options)


def test_builds_that_wait_are_shown_with_what_is_finished(tmp_path: Path) -> None:
    cas = PackCAS(tmp_path / "store")
    assert unfinished(cas) == []
    stopped(cas, "t2m", 3)
    stopped(cas, "tp", 7)
    first, second = unfinished(str(tmp_path / "store"))
    assert (first.arrays, first.finished, first.total, first.base) == (("t2m",), 3, 10, None)
    assert (second.arrays, second.finished, second.total, second.units) == (("tp",), 7, 10, "Dask blocks")
    assert not first.is_running
    assert "3 of 10 Dask blocks finished" in str(first)
    assert f"process {os.getpid()} on" in str(first)
    with dask.config.set(scheduler="synchronous"), pytest.warns(UserWarning, match="other names"):
        to_hamt(dataset("t2m"), cas, journal=True)
    assert [build.name for build in unfinished(cas)] == [second.name]


def test_an_append_is_shown_with_its_base(tmp_path: Path) -> None:
    cas = PackCAS(tmp_path)
    with dask.config.set(scheduler="synchronous"):
        base = to_hamt(dataset("t2m"), cas)
    stopped(cas, "t2m", 2, base=base, append_dim="x")
    [waiting] = unfinished(cas)
    assert waiting.base == str(base)
    assert f"from      {base}" in str(waiting)


def test_a_conversion_is_shown_with_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cas = PackCAS(tmp_path)
    root = build({f"key {number}": b"%d" % number for number in range(50)}, cas)
    monkeypatch.setattr("hamt_bulk.conversion.verify_stages", lambda *arguments: 1 / 0)
    with dask.config.set(scheduler="synchronous"), pytest.raises(ZeroDivisionError):
        convert(root, cas, target=str(tmp_path / "other"), journal=True)
    [waiting] = unfinished(PackCAS(tmp_path / "other"))
    assert (waiting.base, waiting.units) == (str(root), "parts of the source")
    assert waiting.finished == waiting.total


def test_a_build_that_is_given_up_keeps_nothing_from_a_drop(tmp_path: Path) -> None:
    cas = PackCAS(tmp_path)
    root = build({"key": b"value"}, cas)
    stopped(cas, "t2m", 3)
    options = {"older_than_hours": 0, "now": 4e9, "progress": False}
    assert drop(tmp_path, [root], dry_run=True, **options).blocks == 0
    [waiting] = unfinished(cas)
    assert give_up(waiting.name[:12], cas) == waiting
    assert unfinished(cas) == []
    assert not list((tmp_path / "journals").iterdir())
    assert drop(tmp_path, [root], dry_run=True, **options).blocks > 0


def test_a_build_that_runs_is_shown_as_such_and_not_given_up(tmp_path: Path) -> None:
    cas = PackCAS(tmp_path)
    seen = []

    def look(progress: BuildProgress) -> None:
        if progress.stage == "index" and not seen:
            seen.extend(unfinished(cas))
            with pytest.raises(InvalidInput, match="another call is writing"):
                give_up(seen[0].path, cas)

    with dask.config.set(scheduler="synchronous"):
        to_hamt(dataset("t2m"), cas, journal=True, progress=look)
    assert [build.is_running for build in seen] == [True]
    assert seen[0].finished == seen[0].total == 10
    assert "a call is writing it now" in str(seen[0])


def test_a_name_that_no_journal_has_or_several(tmp_path: Path) -> None:
    cas = PackCAS(tmp_path)
    with pytest.raises(InvalidInput, match=r"no journal in .*journals has a name that begins with 'abc'"):
        give_up("abc", cas)
    stopped(cas, "t2m", 3)
    [waiting] = unfinished(cas)
    waiting.path.with_name(f"{waiting.name[:20]}-2.journal").write_bytes(waiting.path.read_bytes())
    with pytest.raises(InvalidInput, match="2 journals in"):
        give_up(waiting.name[:20], cas)
    with pytest.raises(InvalidInput, match="no journal"):
        give_up("", cas)


def test_a_journal_beside_a_store_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    cas = InMemoryCAS()
    stopped(cas, "t2m", 3)
    [waiting] = unfinished(cas)
    assert waiting.path.is_relative_to(tmp_path)
    assert unfinished(InMemoryCAS()) == [], "another store's"
    give_up(waiting.path, cas)
    assert unfinished(cas) == []


def test_the_command_lists_and_gives_up(tmp_path: Path) -> None:
    stopped(PackCAS(tmp_path), "t2m", 3)
    run = CliRunner().invoke
    shown = run(app, ["journals", "--cas", str(tmp_path)])
    assert shown.exit_code == 0
    name = shown.stdout.split()[0]
    assert "3 of 10 Dask blocks finished" in shown.stdout
    assert "1 build is not complete" in shown.stderr
    wrong = run(app, ["journals", "--cas", str(tmp_path), "--give-up", "nothing"])
    assert (wrong.exit_code, wrong.stdout) == (1, "")
    assert "begins with 'nothing'" in wrong.stderr
    gone = run(app, ["journals", "--cas", str(tmp_path), "--give-up", name[:8]])
    assert gone.exit_code == 0
    assert "gave up 1 build" in gone.stderr
    assert "0 builds are not complete" in run(app, ["journals", "--cas", str(tmp_path)]).stderr


def test_what_two_calls_have_finished_counts_once(tmp_path: Path) -> None:
    cas = PackCAS(tmp_path)
    with Resuming(True, None, cas) as resuming:
        nothing = Manifest.of([])
        resuming.begin(Build({}), {}, {}, 20, nothing, blake3_hashfn, lambda progress: None)
        for blocks in ([4, 5, 6, 9], [0, 1], [5], [6, 7, 9, 10], [19]):
            resuming.add(blocks, nothing)
    [waiting] = unfinished(cas)
    assert (waiting.finished, waiting.total) == (len({4, 5, 6, 9, 0, 1, 7, 10, 19}), 20)
