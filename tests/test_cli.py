"""The command line, on real files: what goes where, and how every call ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from typer.testing import CliRunner, Result

from hamt_bulk import PackCAS, __version__, build
from hamt_bulk.block import identify, text, to_bytes
from hamt_bulk.cli import app
from hamt_bulk.cli.console import size_text
from hamt_bulk.cli.ingest import parse_chunks
from hamt_bulk.cli.sources import chunk_sizes, expanded
from hamt_bulk.errors import InvalidInput
from hamt_bulk.xarray import to_hamt

iris = pytest.importorskip("iris_sample_data")
SAMPLES = Path(iris.path)
OSTIA = str(SAMPLES / "ostia_monthly.nc")

LOCAL = ["--workers", "0", "--threads", "2"]


def call(*arguments: str | os.PathLike[str], env: dict[str, str] | None = None) -> Result:
    """The command in this process."""
    return CliRunner().invoke(app, list(map(os.fspath, arguments)), env={"HAMT_BULK_CAS": ""} | (env or {}))


def told(result: Result) -> str:
    """What was said to people, as one line without the frame of typer's errors."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", result.stderr).split())


def failed(result: Result, status: int, *parts: str) -> None:
    """It ended with `status`, nothing on stdout, and said `parts`."""
    assert result.exit_code == status, (result.stdout, result.stderr, result.exception)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in told(result)
    if status == 1:
        [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert result.stderr.endswith(line + "\n")


def root_in(result: Result) -> str:
    assert result.exit_code == 0, (result.stderr, result.exception)
    [root] = result.stdout.splitlines()
    to_bytes(root)
    return root


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def months(tmp_path) -> Path:
    """Files of 31, 29 and 31 days, each with its own units of time."""
    rng = np.random.default_rng(1)
    for start, days in (("2020-01-01", 31), ("2020-02-01", 29), ("2020-03-01", 31)):
        dates = np.datetime64(start, "ns") + np.arange(days) * np.timedelta64(86_400 * 10**9, "ns")
        ds = xr.Dataset(
            {
                "t2m": (("time", "lat", "lon"), rng.random((days, 4, 6), "f4")),
                "mask": (("lat", "lon"), np.ones((4, 6), "i2")),
            },
            {"time": dates, "lat": np.arange(4.0), "lon": np.arange(6.0)},
        )
        own = {"t2m": {"chunksizes": (1, 4, 6)}, "time": {"units": f"days since {start}", "dtype": "i4"}}
        ds.to_netcdf(tmp_path / f"{start}.nc", encoding=own)
    return tmp_path


@pytest.fixture
def small(folder) -> tuple[str, Path]:
    """The root of a few keys and values."""
    root = build({"a/b": b"1", "a/c": b"22", "b": b"\x00\xff\n"}, PackCAS(folder))
    return text(to_bytes(root)), folder


def opened(root: str, folder: Path, **options: object) -> xr.Dataset:
    with xr.open_dataset(root, engine="hamt", cas=str(folder), **options) as ds:
        return ds.load()


def joined(months: Path) -> xr.Dataset:
    paths = sorted(months.glob("*.nc"))
    with xr.open_mfdataset(paths, data_vars="minimal", coords="minimal", compat="equals", join="exact") as ds:
        return ds.load()


# demo


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


# ingest


def test_a_file_comes_back_as_it_was(folder):
    result = call("ingest", OSTIA, "--cas", folder, *LOCAL)
    root = root_in(result)
    with xr.open_dataset(OSTIA) as ds:
        xr.testing.assert_identical(opened(root, folder), ds.load())
    assert f'xr.open_dataset("{root}"' in result.stderr
    assert "time=54, latitude=18" in result.stderr


def test_worker_processes_give_the_same_root_as_threads(folder):
    threads = root_in(call("ingest", OSTIA, "--cas", folder, "--chunks", "time=9", *LOCAL))
    assert root_in(call("ingest", OSTIA, "--cas", folder, "--chunks", "time=9", "--workers", "1")) == threads


def test_a_cluster_that_is_there_is_worked_on(folder):
    from distributed import LocalCluster

    with LocalCluster(n_workers=1, processes=False, dashboard_address=":0") as cluster:
        result = call("ingest", OSTIA, "--cas", folder, "--scheduler", cluster.scheduler_address)
    root_in(result)
    assert f"on the cluster at {cluster.scheduler_address}" in told(result)


def test_a_quoted_glob_of_months_becomes_one_dataset_of_even_chunks(months, folder):
    root = root_in(call("ingest", months / "*.nc", "--cas", folder, "--chunks", "time=24,lat=-1", *LOCAL))
    ds = opened(root, folder)
    xr.testing.assert_equal(ds, joined(months))
    assert ds.t2m.encoding["chunks"] == (24, 4, 6)
    assert ds["mask"].dims == ("lat", "lon")


def test_files_in_an_order_are_joined_along_a_dimension(folder):
    """NEMO's files have no coordinate to order them by."""
    files = sorted((SAMPLES / "NEMO").glob("*.nc"))
    failed(call("ingest", *files, "--cas", folder, *LOCAL), 1, "cannot read", "--concat-dim DIM joins them")
    root = root_in(call("ingest", *files, "--cas", folder, "--concat-dim", "time_counter", *LOCAL))
    assert opened(root, folder).sizes["time_counter"] == 3


def test_files_that_do_not_fit_together_are_refused(months, folder):
    """Filling up with missing values is never what was meant."""
    with xr.open_dataset(months / "2020-03-01.nc") as ds:
        ds.load().assign_coords(lat=ds.lat + 0.5).to_netcdf(months / "2020-04-01.nc")
    failed(call("ingest", months / "*.nc", "--cas", folder, *LOCAL), 1, "cannot read", "3 more")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_keeps_its_chunks_and_format_unless_told(months, folder, zarr_format):
    source = months / "source.zarr"
    ds = joined(months).drop_encoding()
    ds.chunk(time=10).to_zarr(source, zarr_format=zarr_format, consolidated=zarr_format == 2)
    own = root_in(call("ingest", source, "--cas", folder, *LOCAL))
    described = json.loads(call("info", own, "--cas", folder, "--json").stdout)
    assert described["kind"] == f"zarr {zarr_format}"
    assert [a["chunks"] for a in described["arrays"] if a["path"] == "/t2m"] == [[10, 4, 6]]
    xr.testing.assert_identical(opened(own, folder), ds)
    other = ["--zarr-format", str(5 - zarr_format), "--chunks", "time=7"]
    root = root_in(call("ingest", source, "--cas", folder, *other, *LOCAL))
    described = json.loads(call("info", root, "--cas", folder, "--json").stdout)
    assert described["kind"] == f"zarr {5 - zarr_format}"
    assert [a["chunks"] for a in described["arrays"] if a["path"] == "/t2m"] == [[7, 4, 6]]
    xr.testing.assert_identical(opened(root, folder), ds)


def test_a_group_and_an_encoding_are_what_xarray_makes_of_them(months, folder):
    encoding = json.dumps({"t2m": {"dtype": "int16", "scale_factor": 0.001, "_FillValue": -1}})
    options = ["--group", "daily", "--encoding", encoding, *LOCAL]
    result = call("ingest", months / "2020-01-01.nc", "--cas", folder, *options)
    root = root_in(result)
    assert "group='daily'" in result.stderr
    assert opened(root, folder, group="daily").t2m.encoding["dtype"] == np.dtype("int16")


def test_warnings_of_zarrs_formats_are_not_shown_and_others_in_one_line(folder, months):
    file = months / "2020-01-01.nc"
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert "warning:" not in call("ingest", file, "--cas", folder, *LOCAL).stderr
        lossy = ["--encoding", '{"t2m": {"dtype": "int16"}}']
        result = call("ingest", file, "--cas", folder, *lossy, *LOCAL)
    assert "\nwarning: saving variable" in result.stderr
    root_in(result)


def test_grib_is_read_where_cfgrib_is(folder, monkeypatch):
    grib = SAMPLES / "polar_stereo.grib2"
    monkeypatch.setattr("hamt_bulk.cli.sources.find_spec", lambda name: None)
    failed(call("ingest", grib, "--cas", folder, *LOCAL), 1, "pip install 'hamt-bulk[grib]'")
    failed(call("ingest", OSTIA, "--cas", folder, *LOCAL), 1, "pip install 'hamt-bulk[netcdf]'")
    monkeypatch.undo()
    pytest.importorskip("cfgrib")
    before = set(SAMPLES.iterdir())
    root_in(call("ingest", grib, "--cas", folder, *LOCAL))
    assert set(SAMPLES.iterdir()) == before


def test_sources_that_cannot_be_read(tmp_path, folder):
    torn, words, nothing = tmp_path / "torn.nc", tmp_path / "words.nc", tmp_path / "nothing"
    torn.write_bytes(Path(OSTIA).read_bytes()[:5000])
    words.write_text("no data")
    nothing.mkdir()
    for source, said in (
        (tmp_path / "absent.nc", "absent.nc: no such file"),
        (tmp_path / "absent*.nc", "no file matches"),
        (torn, "cannot read"),
        (words, "neither netCDF nor GRIB"),
        (nothing, "not a Zarr store"),
        (OSTIA, "unknown; the dimensions are time (54), latitude (18)"),
    ):
        options = ["--chunks", "unknown=2"] if source == OSTIA else []
        failed(call("ingest", source, "--cas", folder, *options, *LOCAL), 1, said)
    failed(call("ingest", OSTIA, SAMPLES / "polar_stereo.grib2", "--cas", folder), 1, "several kinds")
    assert not folder.exists()


def test_a_store_that_cannot_be_written(tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    (other / "notes.txt").touch()
    failed(call("ingest", OSTIA, "--cas", other, *LOCAL), 1, "not a pack store")
    failed(call("ingest", OSTIA, "--cas", other / "notes.txt", *LOCAL), 1, "is a file")
    failed(call("ingest", OSTIA, "--cas", "memory://cli", "--workers", "1"), 1, "lives in process")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    failed(call("ingest", OSTIA, "--cas", tmp_path / "new", *LOCAL), 1, "permission denied")


def test_a_scheduler_that_does_not_answer(folder, monkeypatch):
    monkeypatch.setattr("hamt_bulk.cli.cluster.CONNECT_SECONDS", 1)
    failed(
        call("ingest", OSTIA, "--cas", folder, "--scheduler", "tcp://127.0.0.1:9"), 1, "no scheduler answers"
    )


@pytest.mark.parametrize(
    "options, said",
    [
        (["--chunks", "time"], "expected DIM=N"),
        (["--chunks", "time=x"], "expected DIM=N"),
        (["--chunks", "time=0"], "or -1 for all of it"),
        (["--encoding", "{"], "not JSON"),
        (["--encoding", "[]"], "an object for each variable"),
        (["--scheduler", "tcp://h:1", "--workers", "2"], "leave out --workers"),
        (["--workers", "-1"], "--workers"),
        (["--zarr-format", "4"], "--zarr-format"),
        (["--cas", "ftp://host"], "no store of kind 'ftp'"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_a_wrong_call_ends_with_2(folder, options, said):
    failed(call("ingest", OSTIA, "--cas", folder, *options), 2, said)
    assert not folder.exists()


def test_chunks_of_files_are_joined_evenly_up_to_a_limit():
    big = xr.Dataset({"x": (("t", "y", "x"), np.empty((8000, 60, 100), "f4"))})
    big.x.encoding["preferred_chunks"] = {"t": 6, "y": 60, "x": 100}
    sizes = chunk_sizes(big, {})
    assert sizes["t"] % 6 == 0
    assert 8 << 20 <= sizes["t"] * sizes["y"] * sizes["x"] * 4 <= 17 << 20
    assert chunk_sizes(big, {"t": 24, "y": -1}) == {"t": 24, "y": 60, "x": 100}
    names = xr.Dataset({"name": ("n", np.array(["a", "bc"], object))})
    assert chunk_sizes(names, {}) == {"n": 2}


def test_small_parsers(tmp_path):
    assert parse_chunks(None) == {}
    assert parse_chunks("time=24, lat=-1") == {"time": 24, "lat": -1}
    assert [size_text(size) for size in (0, 1023, 1024, 3 << 20)] == ["0 B", "1023 B", "1.0 KiB", "3.0 MiB"]
    (tmp_path / "odd[1].nc").touch()
    assert expanded(str(tmp_path / "odd[1].nc")) == [str(tmp_path / "odd[1].nc")]
    assert expanded("s3://bucket/a*") == ["s3://bucket/a*"]
    with pytest.raises(InvalidInput, match="no file matches"):
        expanded(str(tmp_path / "*.grib"))


# info, ls, cat, check


def test_info_of_a_hierarchy(folder):
    ds = xr.Dataset({"t": (("y", "x"), np.arange(12.0).reshape(3, 4))}).chunk(x=2)
    ds.t.encoding["fill_value"] = 0.0
    tree = xr.DataTree.from_dict({"/": ds, "/sub": ds.rename(t="u")})
    root = text(to_bytes(to_hamt(tree, PackCAS(folder), progress=False)))
    described = json.loads(call("info", root, "--cas", folder, "--json").stdout)
    assert (described["root"], described["kind"], described["problems"]) == (root, "zarr 3", 0)
    assert [group["path"] for group in described["groups"]] == ["/", "/sub"]
    first, second = described["arrays"]
    assert (first["path"], second["path"]) == ("/sub/u", "/t")
    assert second | {"stored_bytes": 0} == {
        "path": "/t", "dims": ["y", "x"], "shape": [3, 4], "dtype": "float64", "chunks": [3, 2], "shards": None,
        "chunks_expected": 2, "chunks_stored": 2, "bytes": 96, "stored_bytes": 0,
    }  # fmt: skip
    assert described["value_bytes"] > first["stored_bytes"] + second["stored_bytes"] > 0
    shown = call("info", f"ipfs://{root}", "--cas", folder)
    assert shown.stderr == ""
    assert "(y: 3, x: 4)  chunks of 3 × 2  2/2 stored  96 B" in shown.stdout
    assert "groups   /, /sub" in shown.stdout


def test_info_of_keys_and_values(small):
    root, folder = small
    result = call("info", root, "--cas", folder)
    assert "keys and values" in result.stdout
    assert "3 in 1 node" in result.stdout


def test_ls_sorts_and_shows_sizes(small):
    root, folder = small
    assert call("ls", root, "--cas", folder).stdout == "a/b\na/c\nb\n"
    assert call("ls", root, "a/", env={"HAMT_BULK_CAS": str(folder)}).stdout == "a/b\na/c\n"
    lines = call("ls", "-l", root, "a/c", "--cas", folder).stdout.split()
    assert lines == ["2", text(identify(b"22")), "a/c"]


def test_cat_writes_the_bytes_alone(small):
    root, folder = small
    assert call("cat", root, "b", "--cas", folder).stdout_bytes == b"\x00\xff\n"
    failed(call("cat", root, "c", "--cas", folder), 1, f"{root} has no key 'c'")


def test_check_says_what_is_wrong(small):
    root, folder = small
    result = call("check", root, "--cas", folder)
    assert (result.exit_code, result.stdout.splitlines()[-1]) == (0, "sound")
    [pack] = (folder / "packs" / "values").iterdir()
    pack.unlink()
    for mpi in (folder / "index").iterdir():
        mpi.unlink()
    result = call("check", root, "--cas", folder)
    assert result.exit_code == 1
    assert "3 problems" in result.stdout
    assert "missing: 'a/b'" in result.stdout
    assert call("check", root, "--no-values", "--cas", folder).exit_code == 0


@pytest.mark.parametrize("name", ["info", "ls", "cat"])
def test_roots_that_are_not_there_or_no_roots(name, small):
    root, folder = small
    key = ["zarr.json"] if name == "cat" else []
    absent = text(identify(b"absent", 0x71))
    failed(call(name, absent, *key, "--cas", folder), 1, absent, "not in this store")
    failed(call(name, text(identify(b"1")), *key, "--cas", folder), 1, "names raw bytes, a value")
    failed(call(name, root, *key, "--cas", folder.parent / "absent"), 1, root)
    failed(call(name, "nonsense", *key, "--cas", folder), 2, "not a CID: 'nonsense'")
    failed(call(name, *key, "--cas", folder), 2, "Missing argument")
    failed(call(name, root, *key), 2, "give --cas URL, or set HAMT_BULK_CAS")


def test_a_folder_without_packs_and_a_file_that_is_no_car(small, tmp_path):
    root, _ = small
    empty = tmp_path / "empty"
    empty.mkdir()
    failed(call("ls", root, "--cas", empty), 1, root)
    (tmp_path / "no.car").write_text("no")
    failed(call("ls", root, "--cas", tmp_path / "no.car"), 1, "not a CAR")
    (empty / "format").write_text("another")
    failed(call("ls", root, "--cas", empty), 1, "another")


# the whole


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
