"""`hamt-bulk ingest` on real files: what goes where, and how every call ends."""

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from cli_called import LOCAL, call, failed, root_in, told

from hamt_bulk.cli.console import size_text
from hamt_bulk.cli.ingest import parse_chunks
from hamt_bulk.cli.sources import chunk_sizes, expanded
from hamt_bulk.errors import InvalidInput

iris = pytest.importorskip("iris_sample_data")
SAMPLES = Path(iris.path)
OSTIA = str(SAMPLES / "ostia_monthly.nc")


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


def opened(root: str, folder: Path, **options: object) -> xr.Dataset:
    with xr.open_dataset(root, engine="hamt", cas=str(folder), **options) as ds:
        return ds.load()


def joined(months: Path) -> xr.Dataset:
    paths = sorted(months.glob("*.nc"))
    with xr.open_mfdataset(paths, data_vars="minimal", coords="minimal", compat="equals", join="exact") as ds:
        return ds.load()


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
