"""`hamt-bulk info`, `ls`, `cat` and `check`: what they print, and how they refuse."""

import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from cli_called import call, failed, few_keys

from hamt_bulk import PackCAS
from hamt_bulk.block import identify, text, to_bytes
from hamt_bulk.xarray import to_hamt


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "store"


@pytest.fixture
def small(folder) -> tuple[str, Path]:
    """The root of a few keys and values."""
    return few_keys(folder), folder


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
