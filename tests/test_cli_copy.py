"""`hamt-bulk copy` on real stores: what goes where, and how every call ends."""

import os
from pathlib import Path

import pytest
from cli_called import call, failed, root_in, told
from copied import blocks_of

from hamt_bulk import CarCAS, PackCAS, build, check
from hamt_bulk.block import identify, text, to_bytes, to_cid


@pytest.fixture
def small(tmp_path: Path) -> tuple[str, Path]:
    """The root of a few keys and values."""
    folder = tmp_path / "store"
    root = build({"a/b": b"1", "a/c": b"22", "b": b"\x00\xff\n"}, PackCAS(folder))
    return text(to_bytes(root)), folder


def test_the_root_goes_to_stdout_and_what_was_done_to_stderr(small, tmp_path):
    root, folder = small
    result = call("copy", f"ipfs://{root}", "--cas", folder, "--to", tmp_path / "other")
    assert root_in(result) == root
    assert "blocks 4 copied, of 4" in told(result)
    size = sum(map(len, blocks_of(PackCAS(folder)).values()))
    assert f"bytes {size} B copied, {size} B read" in told(result)
    assert "seconds 0." in told(result)
    assert check(root, PackCAS(tmp_path / "other")).ok
    again = call("copy", root, "--to", tmp_path / "other", env={"HAMT_BULK_CAS": str(folder)})
    assert root_in(again) == root
    assert "blocks 0 copied, of 4" in told(again)
    assert "bytes 0 B copied" in told(again)
    assert f"{size} B read" not in told(again)


def test_into_a_car_file_and_out_of_it(small, tmp_path):
    root, folder = small
    path = tmp_path / "file.car"
    assert root_in(call("copy", root, "--cas", folder, "--to", path)) == root
    assert CarCAS(path).roots == [to_cid(to_bytes(root))]
    # A .car file names its root.
    assert root_in(call("copy", "--cas", path, "--to", tmp_path / "other")) == root
    assert blocks_of(PackCAS(tmp_path / "other")) == blocks_of(PackCAS(folder))


def test_what_fails_ends_with_1(small, tmp_path):
    root, folder = small
    absent = text(identify(b"absent", 0x71))
    new = tmp_path / "new"
    failed(call("copy", absent, "--cas", folder, "--to", new), 1, "the source", str(folder), "lacks", absent)
    failed(call("copy", "--cas", folder, "--to", new), 1, "names no root", "give the root")
    assert not new.exists()
    notes = tmp_path / "notes.car"
    notes.write_text("precious")
    failed(call("copy", root, "--cas", folder, "--to", notes), 1, "is there already", "choose another name")
    assert notes.read_text() == "precious"
    assert sorted(os.listdir(tmp_path)) == ["notes.car", "store"]


@pytest.mark.parametrize(
    "options, said",
    [
        (["--to", "ftp://host"], "no store of kind 'ftp'"),
        ([], "Missing option '--to'"),
        (["--to", "other", "--cas", ""], "give --cas URL"),
    ],
)
def test_a_wrong_call_ends_with_2(small, options, said):
    root, folder = small
    failed(call("copy", root, "--cas", folder, *options), 2, said)


def test_a_wrong_root_ends_with_2(small, tmp_path):
    failed(call("copy", "root", "--cas", small[1], "--to", tmp_path / "other"), 2, "ROOT", "not a CID")
