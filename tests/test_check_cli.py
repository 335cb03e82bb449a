"""`hamt-bulk check`: what it prints, where it works, and how it ends."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from cli_called import call, failed, told

from hamt_bulk import PackCAS, build, copy
from hamt_bulk.block import identify, text, to_bytes
from hamt_bulk.xarray import to_hamt


@pytest.fixture
def stores(tmp_path: Path) -> tuple[str, Path, Path]:
    """A root, a store that lost two of its values, and a whole copy."""
    whole, lossy = PackCAS(tmp_path / "whole"), PackCAS(tmp_path / "lossy")
    ds = xr.Dataset({"t": ("x", np.arange(1500.0))}).chunk(x=1)
    root = text(to_bytes(build({"x": b"1", "t/c/9999": b"2"}, whole, base=to_hamt(ds, whole))))
    copy(root, whole, lossy)
    for path in (tmp_path / "lossy").glob("packs/*/*.car"):
        data = path.read_bytes()
        for value in (b"1", b"2"):
            data = data.replace(identify(value) + value, identify(value) + b"?")
        path.write_bytes(data)
    return root, tmp_path / "lossy", tmp_path / "whole"


def test_the_report_goes_to_stdout_and_says_what_is_stored(stores):
    root, _, whole = stores
    result = call("check", root, "--cas", whole)
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert "  t: 1,500 of 1,500 chunks stored" in lines
    assert "2 problems" in lines
    assert lines[-1].startswith("unaccounted: hamt_bulk.delete(")
    assert call("check", root, "--no-zarr", "--cas", whole).stdout.splitlines()[-1] == "sound"


def test_what_was_repaired_is_no_problem_any_more(stores):
    root, lossy, whole = stores
    result = call("check", root, "--cas", lossy, "--no-zarr")
    assert (result.exit_code, "altered: 'x'" in result.stdout) == (1, True)
    result = call("check", root, "--cas", lossy, "--no-zarr", "--repair-from", whole)
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines()[-2:] == ["repaired: 2 blocks of 2 bytes", "sound"]
    assert call("check", root, "--cas", lossy, "--no-zarr").exit_code == 0
    assert call("check", root, "--cas", lossy, "--repair-from", whole).exit_code == 1, "the strays remain"


def test_worker_processes_print_the_same(stores):
    root, lossy, _ = stores
    here = call("check", root, "--cas", lossy)
    there = call("check", root, "--cas", lossy, "--workers", "2")
    assert (there.exit_code, there.stdout) == (here.exit_code, here.stdout)
    assert "on 2 worker processes" in told(there)
    assert "worker" not in told(here)


@pytest.mark.parametrize(
    "options, message",
    [
        (["--scheduler", "tcp://h:1", "--workers", "2"], "leave out --workers and --threads"),
        (["--threads", "2"], "without worker processes a check has one thread: give --workers too"),
        (["--workers", "-1"], "Invalid value for '--workers'"),
        (["--repair-from", "ftp://host"], "no store of kind 'ftp'"),
    ],
)
def test_calls_that_could_not_have_worked(stores, options, message):
    root, lossy, _ = stores
    failed(call("check", root, "--cas", lossy, *options), 2, message)


def test_stores_that_cannot_be_repaired(stores, tmp_path):
    root, lossy, whole = stores
    copy(root, PackCAS(whole), tmp_path / "x.car")
    failed(
        call("check", root, "--cas", tmp_path / "x.car", "--repair-from", whole),
        1,
        "is a CAR file, which is read only",
    )
    failed(
        call("check", root, "--cas", lossy, "--repair-from", lossy),
        1,
        "the store that is checked: give one that",
    )
    failed(
        call("check", root, "--cas", lossy, "--repair-from", tmp_path / "nowhere"),
        1,
        "there is no store: was another path meant?",
    )
    assert not (tmp_path / "nowhere").exists()


def test_a_repair_that_leaves_something_ends_with_status_1(stores, tmp_path):
    root, lossy, _ = stores
    PackCAS(tmp_path / "none").writer().close()
    result = call("check", root, "--cas", lossy, "--no-zarr", "--repair-from", tmp_path / "none")
    assert result.exit_code == 1
    assert "altered here and missing there" in result.stdout
    assert "repaired" not in result.stdout
