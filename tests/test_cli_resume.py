"""`hamt-bulk ingest` that is interrupted, and called again."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from hamt_bulk.errors import InvalidInput
from hamt_bulk.journal.file import contents_of


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("source") / "many.nc"
    values = np.arange(6000 * 8, dtype="f4").reshape(6000, 8)
    ds = xr.Dataset({"t2m": (("time", "cell"), values)}, coords={"time": np.arange(6000)})
    ds.to_netcdf(path)
    return path


def ingest(source: Path, store: Path, *more: str) -> "subprocess.Popen[str]":
    command = [
        sys.executable,
        "-m",
        "hamt_bulk.cli",
        "ingest",
        str(source),
        "--cas",
        str(store),
        "--chunks",
        "time=1",
    ]
    return subprocess.Popen(
        [*command, *more], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def batches(store: Path) -> int:
    """How many batches of Dask blocks are noted."""
    try:
        noted = [
            batch for path in (store / "journals").glob("*.journal") for batch in contents_of(path).batches
        ]
    except (InvalidInput, OSError):
        return 0
    return sum(bool(batch.blocks) for batch in noted)


@pytest.fixture(scope="module")
def root(source, tmp_path_factory) -> str:
    """What a call that nobody interrupts prints."""
    complete = ingest(source, tmp_path_factory.mktemp("complete"), "--workers", "0")
    root, errors = complete.communicate(timeout=120)
    assert root.startswith("bafyr4i"), errors
    return root


@pytest.mark.parametrize("workers", ["0", "1"])
def test_ctrl_c_keeps_what_is_finished_and_the_same_call_goes_on(tmp_path, source, root, workers):
    store = tmp_path / "store"
    first = ingest(source, store, "--workers", workers, "--threads", "1")
    while not batches(store):
        assert first.poll() is None, first.stderr.read()
        time.sleep(0.005)
    os.killpg(first.pid, signal.SIGINT)  # a terminal sends it to the workers, too
    out, errors = first.communicate(timeout=30)
    assert (first.returncode, out) == (130, ""), errors
    said = re.search(
        r"  (\S+) of 6,000 Dask blocks are finished, and noted in .*: the same call goes on from there",
        errors,
    )
    assert said, errors
    assert 0 < int(said[1].replace(",", "")) < 6000

    again = ingest(source, store, "--resume", "--workers", "0")
    out, errors = again.communicate(timeout=120)
    assert out == root, errors
    assert f"resumed: {said[1]} of 6,000 Dask blocks were finished before" in errors
    assert "warning" not in errors
    assert not list((store / "journals").iterdir())

    nothing = ingest(source, store, "--resume", "--workers", "0")
    out, errors = nothing.communicate(timeout=120)
    assert (nothing.returncode, out) == (1, "")
    assert "there is nothing to resume: no journal in" in errors
