"""`hamt-bulk diff` on real stores: what goes where, and how every call ends."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from cli_called import call, failed, told

from hamt_bulk import PackCAS, build
from hamt_bulk.block import identify, text, to_bytes
from hamt_bulk.cli.compare import shown
from hamt_bulk.roots import FieldChange, VariableChange
from hamt_bulk.xarray import to_hamt


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "store"


def stored(entries, folder, base=None) -> str:
    return text(to_bytes(build(entries, PackCAS(folder), base=base)))


@pytest.fixture
def two(folder) -> tuple[str, str]:
    """Roots of a few keys: one added, one removed, two changed."""
    a = stored({"same": b"0", "x/b": b"1", "x/a": b"2", "gone": b"3"}, folder)
    return a, stored({"x/b": b"11", "x/a": b"22", "gone": None, "new": b"4"}, folder, a)


def hours(count: int) -> xr.Dataset:
    values = np.arange(count * 4 * 6, dtype="f4").reshape(count, 4, 6) + 1
    ds = xr.Dataset(
        {"t2m": (("time", "lat", "lon"), values)}, {"time": np.arange(count) + 1}, {"title": "hours"}
    )
    return ds.chunk(time=24)


@pytest.fixture
def days(folder) -> tuple[str, str]:
    """Roots of a dataset before and after an append of a day that fills up a chunk."""
    options = {"consolidated": False, "progress": False}
    a = to_hamt(hours(36), PackCAS(folder), **options)
    day = hours(60).isel(time=slice(36, None)).chunk(time=24)
    b = to_hamt(day, PackCAS(folder), base=a, append_dim="time", align_chunks=True, **options)
    return text(to_bytes(a)), text(to_bytes(b))


def test_a_line_for_each_key_in_order(two, folder):
    result = call("diff", *two, "--cas", folder)
    assert (result.exit_code, result.stdout) == (0, "- gone\n+ new\n~ x/a\n~ x/b\n")
    assert told(result) == "1 added, 1 removed, 2 changed"
    turned = call("diff", f"ipfs://{two[1]}", two[0], env={"HAMT_BULK_CAS": str(folder)})
    assert turned.stdout == "+ gone\n- new\n~ x/a\n~ x/b\n"


def test_equal_roots_end_well_and_say_so(two, folder):
    for options in ([], ["--variables"], ["-l"]):
        result = call("diff", two[0], two[0], *options, "--cas", folder)
        assert (result.exit_code, result.stdout, told(result)) == (0, "", "no key differs")
    for options in (["--json"], ["--json", "--variables"]):
        assert json.loads(call("diff", two[0], two[0], *options, "--cas", folder).stdout) == []


def test_cids_on_request_and_as_json(two, folder):
    cids = {value: text(identify(value)) for value in (b"2", b"3", b"4", b"22")}
    lines = call("diff", "-l", *two, "--cas", folder).stdout.splitlines()
    assert lines[:3] == [
        f"- {cids[b'3']} - gone",
        f"+ - {cids[b'4']} new",
        f"~ {cids[b'2']} {cids[b'22']} x/a",
    ]
    result = call("diff", *two, "--json", "--cas", folder)
    found = json.loads(result.stdout)
    assert found[:3] == [
        {"key": "gone", "old": cids[b"3"], "new": None},
        {"key": "new", "old": None, "new": cids[b"4"]},
        {"key": "x/a", "old": cids[b"2"], "new": cids[b"22"]},
    ]
    assert len(found) == 4 and len(result.stdout.splitlines()) == 6


def test_an_append_told_by_variable(days, folder):
    result = call("diff", *days, "--variables", "--cas", folder)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "t2m  (time, lat, lon)  shape (36, 4, 6) → (60, 4, 6); 1 chunk added, 1 changed in [24:60, :, :]",
        "time  (time)  shape (36,) → (60,); 1 chunk added in [36:60]",
    ]
    assert result.stderr == ""


def test_variables_as_json(days, folder):
    first, second = json.loads(call("diff", *days, "--variables", "--json", "--cas", folder).stdout)
    assert first == {
        "path": "t2m", "kind": "array", "status": "changed",
        "fields": [{"name": "shape", "old": [36, 4, 6], "new": [60, 4, 6]}],
        "shape": [60, 4, 6], "dims": ["time", "lat", "lon"], "added": 1, "changed": 1, "removed": 0,
        "region": [[24, 60], [0, 4], [0, 6]], "sharded": False, "keys": [],
    }  # fmt: skip
    assert second["path"] == "time"


ARRAY = {"path": "a/b", "kind": "array", "status": "changed", "shape": (9, 3), "dims": ("y", None)}


@pytest.mark.parametrize(
    ("change", "line"),
    [
        (ARRAY | {"status": "added", "added": 1200, "region": (slice(0, 9), slice(0, 3))},
         "a/b  (y, ?)  added, shape (9, 3); 1,200 chunks added in [:, :]"),
        (ARRAY | {"status": "removed", "dims": None}, "a/b  removed, shape (9, 3)"),
        (ARRAY | {"changed": 2, "removed": 1, "sharded": True, "region": (slice(0, 9), slice(1, 3))},
         "a/b  (y, ?)  1 shard removed, 2 changed in [:, 1:3]"),
        (ARRAY | {"removed": 1}, "a/b  (y, ?)  1 chunk removed"),
        (ARRAY | {"shape": (), "dims": (), "changed": 1, "region": ()}, "a/b  1 chunk changed"),
        (ARRAY, "a/b  (y, ?)  metadata written anew, which says the same"),
        (ARRAY | {"fields": (FieldChange("attribute units", "K", "C"), FieldChange("fill value", 0, None),
                             FieldChange("codecs", ["x" * 50], ["y" * 50]), FieldChange("attribute a b", 1, 2))},
         "a/b  (y, ?)  fill value 0 → null; codecs changed; attributes units, a b changed"),
        (ARRAY | {"fields": (FieldChange("attribute units", "K", "C"),)}, "a/b  (y, ?)  attribute units changed"),
        ({"path": "", "kind": "group", "status": "changed",
          "fields": (FieldChange("consolidated metadata", ["", "c"], ["b", "c"]),)},
         "/  group  its copy of the metadata of the group, c, b (consolidated metadata)"),
        ({"path": "", "kind": "group", "status": "changed",
          "fields": (FieldChange("consolidated metadata", list("abcdefghij"), []),)},
         "/  group  its copy of the metadata of a, b, c, d, e, f, g, h and 2 more (consolidated metadata)"),
        ({"path": "", "kind": "group", "status": "changed",
          "fields": (FieldChange("consolidated metadata", None, ["a"]),)}, "/  group  consolidated metadata added"),
        ({"path": "", "kind": "group", "status": "changed",
          "fields": (FieldChange("consolidated metadata", ["a"], None),)}, "/  group  consolidated metadata removed"),
        ({"path": "g", "kind": "group", "status": "added"}, "g  group  added"),
        ({"path": "g", "kind": "unreadable", "status": "removed"}, "g  metadata that cannot be read  removed"),
        ({"path": "", "kind": "keys", "status": "changed", "added": 1, "removed": 2, "keys": ("a", "b")},
         "1 key added, 2 removed outside of all arrays: a, b, …"),
        ({"path": "", "kind": "keys", "status": "changed", "changed": 2, "keys": ("a", "b")},
         "2 keys changed outside of all arrays: a, b"),
    ],
)  # fmt: skip
def test_what_people_read_of_a_variable(change, line):
    assert shown(VariableChange(**change)) == line


def test_roots_that_are_not_there_or_no_roots(two, folder):
    a, b = two
    absent = text(identify(b"absent", 0x71))
    failed(call("diff", absent, b, "--cas", folder), 1, f"the root {absent} is not in this store")
    failed(
        call("diff", a, absent, "--variables", "--cas", folder), 1, f"the root {absent} is not in this store"
    )
    failed(call("diff", a, text(identify(b"0")), "--cas", folder), 1, "not a node")
    failed(call("diff", a, b, "--cas", folder.parent / "absent"), 1, a)
    failed(call("diff", a, "nonsense", "--cas", folder), 2, "Invalid value for B: not a CID: 'nonsense'")
    failed(call("diff", "nonsense", b, "--cas", folder), 2, "Invalid value for A: not a CID")
    failed(call("diff", a, "--cas", folder), 2, "Missing argument 'B'")
    failed(call("diff", a, b), 2, "give --cas URL, or set HAMT_BULK_CAS")
    failed(call("diff", a, b, "-l", "--variables", "--cas", folder), 2, "--variables shows no keys")


def test_nothing_is_shown_of_a_diff_that_ends_in_an_error(folder):
    """A part of the keys could be taken for all of them."""
    a = stored({str(n): b"%d" % n for n in range(3000)}, folder)
    b = stored({"x": b""}, folder.parent / "other")
    for pack in (folder.parent / "other" / "packs").rglob("*.car"):
        pack.rename(folder / "packs" / pack.parent.name / pack.name)
    for pack in (folder / "packs" / "nodes").iterdir():
        data = bytearray(pack.read_bytes())
        data[len(data) // 2] ^= 1
        pack.write_bytes(data)
    failed(call("diff", a, b, "--cas", folder), 1)


def test_help_says_what_the_marks_and_the_status_mean():
    said = " ".join(call("diff", "--help").stdout.split())
    for part in (
        "+ added keys, - removed ones, ~ changed values",
        "exit status is 0",
        "--variables",
        "--json",
    ):
        assert part in said
    assert "diff" in call("--help").stdout


def test_a_diff_does_not_wait_for_dask_or_zarr(days, folder):
    code = (
        "import sys; from hamt_bulk.cli import app; "
        f"app(['diff', *{days!r}, '--variables', '--cas', {str(folder)!r}], standalone_mode=False); "
        "print(sorted({'dask', 'distributed', 'xarray', 'zarr'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr
    assert result.stdout.startswith("t2m  (time")


def test_a_reader_that_leaves_is_no_error(tmp_path):
    a = stored({}, tmp_path / "store")
    b = stored({f"{n:0100}": b"" for n in range(5000)}, tmp_path / "store")
    command = f'"{sys.executable}" -m hamt_bulk.cli diff {a} {b} --cas store | head -n 1'
    result = subprocess.run(command, shell=True, cwd=tmp_path, capture_output=True, text=True)
    assert (result.stdout, result.stderr) == (f"+ {0:0100}\n", "")
