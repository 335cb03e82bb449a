"""`hamt-bulk convert`, `keygen` and `--encryption`."""

import json
import re
import stat
import subprocess
import sys

import numpy as np
import pytest
import xarray as xr
from cli_called import call as call_cli
from cli_called import failed, told

from hamt_bulk import Encryption, HashMap, KeyFile, PackCAS, build, convert, open_root
from hamt_bulk.block import text, to_bytes
from hamt_bulk.xarray import to_hamt


def call(*arguments: object):
    return call_cli(*map(str, arguments))


@pytest.fixture
def ds() -> xr.Dataset:
    return xr.Dataset({"t": (("x", "y"), np.arange(24.0).reshape(6, 4))}, coords={"x": np.arange(6.0)}).chunk(
        {"x": 2}
    )


@pytest.fixture
def stored(tmp_path, ds) -> tuple[str, object]:
    folder = tmp_path / "store"
    return str(to_hamt(ds, PackCAS(folder), progress=False)), folder


def root_printed(result) -> str:
    assert result.exit_code == 0, result.stderr
    return result.stdout.strip()


def test_a_root_becomes_a_hashmap_and_back(stored):
    root, folder = stored
    options = ["--bit-width", 5, "--bucket-size", 2, "--hasher", "murmur3-128"]
    there = root_printed(call("convert", root, "--to", "hashmap", *options, "--cas", folder))
    assert there == str(convert(root, folder, HashMap(5, 2, "murmur3-128"), progress=False))
    shown = root_printed(call("info", there, "--cas", folder))
    assert "HashMap(bit_width=5, bucket_size=2, hasher='murmur3-128')" in shown
    assert "zarr 3" in shown
    listed = root_printed(call("ls", there, "--cas", folder)).splitlines()
    assert listed == root_printed(call("ls", root, "--cas", folder)).splitlines()
    document = call("cat", there, "zarr.json", "--cas", folder)
    assert json.loads(document.stdout)["node_type"] == "group"
    assert root_printed(call("convert", there, "--to", "pyhamt", "--cas", folder)) == root
    assert call("check", there, "--cas", folder).exit_code == 0


def test_a_root_goes_to_another_store(stored, tmp_path):
    root, folder = stored
    there = root_printed(
        call("convert", root, "--to", "ipldstore", "--target", tmp_path / "other", "--cas", folder)
    )
    opened = open_root(there, PackCAS(tmp_path / "other"))
    assert opened.kind == "ipldstore"
    assert dict(opened.items()) == dict(open_root(root, PackCAS(folder)).items())
    assert "ipldstore" in root_printed(call("info", there, "--cas", tmp_path / "other"))


def test_zarr_2_becomes_3(tmp_path, ds):
    root = to_hamt(ds, PackCAS(tmp_path / "store"), zarr_format=2, progress=False)
    new = root_printed(
        call("convert", root, "--to", "pyhamt", "--zarr-format", 3, "--cas", tmp_path / "store")
    )
    keys = set(open_root(new, tmp_path / "store").keys())
    assert {"zarr.json", "t/zarr.json", "t/0.0"} < keys
    assert not any(".z" in key for key in keys)


def test_values_held_by_the_tree_are_shown_as_dag_json(tmp_path):
    items = {"a": {"x": [1, None, 2.5]}, b"\xff": 7, "linked": b"bytes"}
    root = text(to_bytes(build(items, PackCAS(tmp_path), layout=HashMap(5, 3))))
    assert call("cat", root, "a", "--cas", tmp_path).stdout == '{"x":[1,null,2.5]}\n'
    listed = root_printed(call("ls", "-l", root, "--cas", tmp_path))
    assert re.search(r"^ *15 in the tree +a$", listed, re.MULTILINE)
    assert re.search(r"^ +1 in the tree +\\xff$", listed, re.MULTILINE)
    assert re.search(r"^ +5 bafkr4i\w+ linked$", listed, re.MULTILINE)


def test_a_key_is_made_once_for_its_owner_alone(tmp_path):
    path = tmp_path / "new.key"
    made = call("keygen", path)
    assert made.exit_code == 0
    assert "Keep a copy" in told(made)
    assert path.read_text().strip() not in told(made) + made.stdout
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len(KeyFile(path)()) == 32
    before = path.read_text()
    failed(call("keygen", path), 2, "is there already")
    assert path.read_text() == before


@pytest.fixture
def settings(tmp_path):
    """The name of a file for --encryption, and what it says."""
    call("keygen", tmp_path / "k")
    path = tmp_path / "encryption.toml"
    path.write_text('key_file = "k"\nheader = "tests"\nexclude_vars = ["x"]\ndeterministic = true\n')
    return path, Encryption(KeyFile(tmp_path / "k"), header=b"tests", exclude_vars=["x"], deterministic=True)


def test_commands_encrypt_and_decrypt(stored, tmp_path, ds, settings):
    path, encryption = settings
    _, folder = stored
    source = tmp_path / "source.nc"
    ds.to_netcdf(source)
    options = ["--cas", folder, "--encryption", path]
    made = root_printed(call("ingest", source, "--workers", 0, "--chunks", "x=2", *options))
    read = xr.open_dataset(made, engine="hamt", cas=folder, encryption=encryption)
    assert read.load().identical(ds.load())

    longer = ds.assign_coords(x=ds.x + 6)
    longer.to_netcdf(tmp_path / "more.nc")
    more = root_printed(call("append", made, tmp_path / "more.nc", "--dim", "x", *options))
    read = xr.open_dataset(more, engine="hamt", cas=folder, encryption=encryption)
    assert read.load().identical(xr.concat([ds, longer], "x").load())
    failed(call("append", more, tmp_path / "more.nc", "--dim", "x", *options), 1, "already")

    listed = root_printed(call("ls", made, *options)).splitlines()
    assert "t/zarr.json" in listed
    document = call("cat", made, "zarr.json", *options)
    assert json.loads(document.stdout)["node_type"] == "group"
    assert "zarr 3" in root_printed(call("info", made, *options))
    checked = root_printed(call("check", made, *options))
    assert "t: 3 of 3 chunks stored" in checked
    assert "encrypted: the metadata was not looked at" in root_printed(call("check", made, "--cas", folder))
    failed(call("info", made, "--cas", folder), 1, "encrypted")


def test_a_conversion_encrypts_and_decrypts(stored, settings):
    path, _ = settings
    root, folder = stored
    sealed = root_printed(call("convert", root, "--to", "pyhamt", "--encryption", path, "--cas", folder))
    assert sealed != root
    clear = root_printed(call("convert", sealed, "--to", "pyhamt", "--decryption", path, "--cas", folder))
    assert clear == root
    refused = call("convert", root, "--to", "pyhamt", "--decryption", path, "--cas", folder)
    assert refused.exit_code == 1
    assert "looks like a plain Zarr document: open it without encryption=" in told(refused)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("key_file = 'k'\nkeys = 1\n", "there is no 'keys'; known are key_file"),
        ("header = 'a'\n", "it needs key_file"),
        ("key_file = 'k'\nkey_env = 'K'\n", "it needs key_file"),
        ("key_file = 5\n", "key_file is a int, expected str"),
        ("key_file = 'k'\nhide_names = true\nexclude_vars = ['x']\n", "hide_names"),
        ("not toml", "Expected '=' after a key"),
    ],
)
def test_a_file_for_encryption_that_is_wrong_is_refused(stored, tmp_path, content, message):
    root, folder = stored
    (tmp_path / "encryption.toml").write_text(content)
    failed(call("ls", root, "--cas", folder, "--encryption", tmp_path / "encryption.toml"), 2, message)


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        ([], 2, "Missing option"),
        (["--to", "trie"], 2, "trie"),
        (["--to", "pyhamt", "--bit-width", 5], 2, "is for --to hashmap"),
        (["--to", "hashmap", "--bit-width", 2], 2, "3 to 16"),
        (["--to", "hashmap", "--hasher", "md5"], 2, "not registered"),
        (["--to", "pyhamt", "--zarr-format", 2], 1, "expected 3"),
        (["--to", "ipldstore", "--zarr-format", 3], 1, "ipldstore holds Zarr v2"),
        (["--to", "pyhamt", "--zarr-format", 3], 1, "Zarr v2"),
        (["--to", "pyhamt", "--no-journal", "--resume"], 2, "contradicts"),
        (["--to", "pyhamt", "--resume"], 1, "nothing to resume"),
        (["--to", "pyhamt", "--target", "ftp://host"], 2, "ftp"),
        (["--to", "pyhamt", "--scheduler", "tcp://127.0.0.1:1", "--workers", 2], 2, "the workers of a cluster"),
    ],
)  # fmt: skip
def test_a_call_that_cannot_work_says_why(stored, options, status, message):
    root, folder = stored
    failed(call("convert", root, *options, "--cas", folder), status, message)


def test_a_conversion_on_worker_processes(stored):
    root, folder = stored
    command = [sys.executable, "-m", "hamt_bulk.cli", "convert", root, "--to", "hashmap", "--workers", "2"]
    result = subprocess.run([*command, "--cas", folder], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == str(convert(root, PackCAS(folder), HashMap(), progress=False))
    assert "on         2 worker processes" in result.stderr
