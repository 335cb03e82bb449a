"""The command line with a Kubo daemon."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from kubo.daemon import Daemon


def run(*arguments: str, status: int = 0) -> tuple[str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "hamt_bulk.cli", *arguments], capture_output=True, text=True, timeout=100
    )
    assert done.returncode == status, done.stderr
    return done.stdout.strip(), done.stderr


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for number in range(2):
        times = np.arange(4) + 4 * number
        values = np.arange(4 * 30, dtype="f4").reshape(4, 30) + number
        ds = xr.Dataset({"t": (("time", "x"), values)}, coords={"time": times})
        ds.to_netcdf(tmp_path / f"{number}.nc")
    return [str(tmp_path / f"{number}.nc") for number in range(2)]


def test_a_dataset_is_ingested_appended_to_pinned_and_published(kubo: Daemon, files: list[str]) -> None:
    url = f"kubo://127.0.0.1:{kubo.rpc_url.rpartition(':')[2]}?gateway={kubo.gateway_url}"
    first, _ = run("ingest", files[0], "--cas", url, "--pin", "cli", "--workers", "0")
    assert kubo.pins()[first] == "cli"
    second, told = run("append", first, files[1], "--dim", "time", "--cas", url, "--pin", "cli")
    assert url in told
    assert kubo.pins()[second] == "cli"
    assert first not in kubo.pins()
    info, _ = run("info", second, "--cas", url)
    assert "time" in info
    run("check", second, "--cas", kubo.gateway_url)
    name, _ = run("publish", second, "--key", "cli", "--cas", url)
    assert run("resolve", name, "--cas", url)[0] == second
    assert run("resolve", f"ipns://{name}", "--cas", kubo.gateway_url)[0] == second
    _, error = run("publish", first, "--key", "cli", "--expected", first, "--cas", url, status=1)
    assert second in error
    listed, _ = run("pins", "--cas", url, "--name", "cli")
    assert f"{second}  cli" in listed.splitlines()
    run("unpin", second, "--cas", url)
    assert second not in kubo.pins()
    assert run("pin", second, "--name", "again", "--cas", url)[0] == second
    assert kubo.pins()[second] == "again"


def test_a_root_is_copied_to_a_daemon(kubo: Daemon, files: list[str], tmp_path: Path) -> None:
    root, _ = run("ingest", files[0], "--cas", str(tmp_path / "store"), "--workers", "0")
    url = f"kubo://127.0.0.1:{kubo.rpc_url.rpartition(':')[2]}"
    run("copy", root, "--cas", str(tmp_path / "store"), "--to", url)
    assert kubo.stat(root).blocks > 3


def test_a_password_in_a_url_is_not_told(kubo: Daemon, files: list[str]) -> None:
    url = f"kubo://user:secret@127.0.0.1:{kubo.rpc_url.rpartition(':')[2]}"
    out, told = run("ingest", files[0], "--cas", url, "--workers", "0")
    assert "secret" not in out + told
    assert "kubo://127.0.0.1" in told


@pytest.mark.parametrize("command", [["pin"], ["unpin"], ["publish", "--key", "k"]], ids=lambda one: one[0])
def test_what_only_a_daemon_has_is_refused_elsewhere(command: list[str], tmp_path: Path) -> None:
    root = "bafyr4igb3js3dqlnsvmbi533lhghfet3l4r35vbi7mlrvxjb6f3n5wkc3m"
    _, told = run(*command, root, "--cas", str(tmp_path), status=2)
    assert "kubo://" in told
