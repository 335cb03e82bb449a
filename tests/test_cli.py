"""The command line, on real files: the demo, and what all of its commands have in common."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import xarray as xr
from cli_called import call, failed, few_keys

from hamt_bulk import PackCAS, __version__, build
from hamt_bulk.block import text, to_bytes

iris = pytest.importorskip("iris_sample_data")
SAMPLES = Path(iris.path)


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def small(folder) -> tuple[str, Path]:
    """The root of a few keys and values."""
    return few_keys(folder), folder


def test_the_demo_runs_twice_and_its_lines_of_python_open_what_it_stored(tmp_path):
    """Headless, in a process of its own, into a folder that is not there and then again."""
    outputs = []
    for _ in range(2):
        outputs.append(run("demo", cwd=tmp_path))
    first, second = outputs
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    [root] = first.stdout.splitlines()
    assert second.stdout == first.stdout
    for word in (
        "identical",
        root,
        "air_temperature",
        "packs",
        "blocks",
        "seconds",
        "10 of /air_temperature",
    ):
        assert word in first.stderr
    assert "Traceback" not in first.stderr + second.stderr
    assert "warning" not in (first.stderr + second.stderr).lower()
    lines = "\n".join(line for line in first.stderr.splitlines() if line.startswith(("import ", "ds = ")))
    assert lines.count("\n") == 1
    code = f"{lines}\nprint(float(ds.air_temperature.max()), ds.air_temperature.chunks is not None)"
    shown = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=tmp_path.parent, capture_output=True, text=True
    )
    with xr.open_dataset(SAMPLES / "A1B_north_america.nc") as ds:
        assert shown.stdout.split() == [str(float(ds.air_temperature.max())), "True"], shown.stderr


def test_the_demo_names_what_is_missing(monkeypatch, folder):
    monkeypatch.setattr("hamt_bulk.cli.demo.find_spec", lambda name: None)
    failed(call("demo", "--cas", folder), 1, "pip install 'hamt-bulk[demo]'")
    assert not folder.exists()


def test_ctrl_c_ends_in_one_line_and_leaves_no_process(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-m", "hamt_bulk.cli", "demo"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None and process.stderr is not None
    for line in process.stderr:
        if line.startswith("storing"):
            break
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends it to the workers, too
    out, err = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, ""), err
    assert [line for line in err.splitlines() if line] == [
        "interrupted: no root was made; what was finished stays in the store"
    ]
    for _ in range(100):
        try:
            os.killpg(process.pid, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("processes of the cluster are still there")


def run(*arguments: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
    """The command in a process of its own, without a terminal."""
    return subprocess.run(
        [sys.executable, "-m", "hamt_bulk.cli", *arguments],
        cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240,
    )  # fmt: skip


def test_help_and_version_and_no_command():
    assert call("--version").stdout.split() == ["hamt-bulk", __version__]
    for name in ("demo", "ingest", "info", "ls", "cat", "check"):
        assert name in call("--help").stdout
        assert "--cas" in call(name, "--help").stdout
    assert call("nonsense").exit_code == 2


def test_an_interrupt_ends_with_130(monkeypatch, small):
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("hamt_bulk.nodes.Tree.entries", interrupt)
    root, folder = small
    failed(call("ls", root, "--cas", folder), 130, "interrupted: ")


def test_an_error_that_nobody_foresaw_is_one_line_and_can_be_traced(monkeypatch, small):
    def fail(*_: object, **__: object) -> None:
        raise ValueError("of\nall things")

    monkeypatch.setattr("hamt_bulk.nodes.Tree.entries", fail)
    root, folder = small
    failed(call("ls", root, "--cas", folder), 1, "error: ValueError: of all things (hamt-bulk --traceback")
    assert isinstance(call("--traceback", "ls", root, "--cas", folder).exception, ValueError)


def test_a_reader_that_leaves_is_no_error(tmp_path):
    root = text(to_bytes(build({f"{n:0100}": b"" for n in range(5000)}, PackCAS(tmp_path / "store"))))
    command = f'"{sys.executable}" -m hamt_bulk.cli ls {root} --cas store | head -n 1'
    result = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == (f"{0:0100}\n", "")


def test_commands_that_only_read_do_not_wait_for_dask(small):
    """A listing is there before distributed would be imported."""
    root, folder = small
    code = (
        "import sys; from hamt_bulk.cli import app; "
        f"app(['ls', {root!r}, '--cas', {str(folder)!r}], standalone_mode=False); "
        "print(sorted({'dask', 'distributed', 'xarray', 'zarr'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr
