"""`hamt-bulk append` and `merge`, on real files."""

import pandas as pd
import pytest
import xarray as xr
from cli_called import LOCAL, call, failed, root_in, told
from test_append import days

from hamt_bulk import PackCAS, build
from hamt_bulk.xarray import to_hamt


@pytest.fixture
def files(tmp_path):
    """Three files of some days each, and the store."""
    for number, (first, last) in enumerate([(0, 10), (10, 13), (13, 20)]):
        days(first, last, None).to_netcdf(
            tmp_path / f"{number}.nc", encoding={"time": {"units": "days since 2020-01-01"}}
        )
    return tmp_path


def first(files, *options):
    return root_in(
        call("ingest", files / "0.nc", "--cas", files / "store", *LOCAL, "--chunks", "time=4", *options)
    )


def append(files, root, *sources, **env):
    return call(
        "append", root, *(files / name for name in sources), "--dim", "time", "--cas", files / "store"
    )


def test_days_are_appended_from_one_file_or_several(files):
    root = first(files)
    one = root_in(append(files, root_in(append(files, root, "1.nc")), "2.nc"))
    assert one == root_in(append(files, root, "1.nc", "2.nc"))
    opened = xr.open_dataset(one, engine="hamt", cas=PackCAS(files / "store")).load()
    assert opened.equals(days(0, 20, None))
    assert xr.open_dataset(root, engine="hamt", cas=PackCAS(files / "store")).sizes["time"] == 10


def test_in_a_group_and_on_worker_processes(files):
    root = first(files, "--group", "g")
    result = call(
        "append",
        root,
        files / "1.nc",
        "--dim",
        "time",
        "--cas",
        files / "store",
        "--group",
        "g",
        "--workers",
        "1",
    )
    assert "1 worker processes" in told(result)
    opened = xr.open_dataset(root_in(result), engine="hamt", cas=PackCAS(files / "store"), group="g")
    assert opened.load().equals(days(0, 13, None))


def test_a_call_that_is_made_twice_appends_once(files):
    root = root_in(append(files, first(files), "1.nc"))
    failed(
        append(files, root, "1.nc"),
        1,
        "the base has 3 of the 3 values of 'time' already",
        str(pd.Timestamp("2020-01-11")),
    )
    failed(append(files, root, "1.nc", "2.nc"), 1, "the base has 3 of the 10 values")


def test_what_cannot_be_appended(files):
    root = first(files)
    failed(
        call("append", root, files / "1.nc", "--dim", "day", "--cas", files / "store"),
        1,
        "the sources have no dimension 'day', but time, y, x",
    )
    failed(append(files, root, "absent.nc"), 1, "no such file")
    failed(call("append", root, files / "1.nc", "--cas", files / "store"), 2, "--dim")
    other = days(10, 13, None).isel(y=slice(2))
    other.to_netcdf(files / "other.nc")
    failed(append(files, root, "other.nc"), 1, "t2m")


def test_merge_prints_the_root_that_has_both(files):
    cas = PackCAS(files / "store")
    base, ours, theirs, again = (
        str(build(items, cas)) for items in ({"a": b"1"}, {"a": b"1", "b": b"2"}, {"c": b"3"}, {"a": b"4"})
    )
    merged = call("merge", base, ours, theirs, "--cas", files / "store")
    assert root_in(merged) == str(build({"b": b"2", "c": b"3"}, cas))
    failed(
        call("merge", base, theirs, again, "--cas", files / "store"),
        1,
        "'a': ours and theirs give it different",
    )
    resolved = call("merge", base, theirs, again, "--cas", files / "store", "--resolve", "theirs")
    assert root_in(resolved) == str(build({"a": b"4", "c": b"3"}, cas))
    failed(
        call("merge", base, ours, theirs, "--cas", files / "store", "--resolve", "me"),
        2,
        "expected ours or theirs",
    )
    failed(call("merge", base, "no", theirs, "--cas", files / "store"), 2, "OURS")


def test_the_root_is_that_of_to_hamt(files):
    root = first(files)
    cas = PackCAS(files / "store")
    day = xr.open_dataset(files / "1.nc", chunks={})
    expected = to_hamt(day, cas, base=root, append_dim="time", align_chunks=True)
    assert root_in(append(files, root, "1.nc")) == str(expected)
