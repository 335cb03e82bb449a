"""Names and documents of others, as people are shown them: on one line, short, and without commands to terminals."""

import json
from pathlib import Path

import pytest
from cli_called import call, told
from fuzz.hierarchies import ARRAY_2
from hypothesis import given
from hypothesis import strategies as st

from hamt_bulk import InMemoryCAS, PackCAS, build, check, merge, open_root
from hamt_bulk.block import identify, text, to_bytes
from hamt_bulk.cli.console import url_of
from hamt_bulk.errors import InvalidInput
from hamt_bulk.formats.zarr3 import zarr3_documents
from hamt_bulk.wording import printable, printable_lines

CID = identify(b"any", 0x71)
TERMINAL = "\x1b]0;title\x07"
SPOOF = f"a{TERMINAL}\nsound\u202e"


# Terminals


@given(st.text(), st.text())
def test_what_is_shown_has_nothing_that_is_not_seen(one: str, other: str) -> None:
    assert printable(one).isprintable()
    assert printable_lines(f"{one}\n{other}").split("\n") == list(
        map(printable, f"{one}\n{other}".split("\n"))
    )
    if one.isprintable():
        assert printable(one) == one


def test_commands_show_names_of_others_on_one_line_and_without_commands(tmp_path: Path) -> None:
    """Keys, paths of arrays, names of dimensions and attributes."""
    cas = PackCAS(tmp_path / "store")
    array = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [2],
        "data_type": "int8",
        "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [1]}},
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "codecs": [{"name": "bytes"}],
        "fill_value": 0,
        "dimension_names": [SPOOF],
        "attributes": {SPOOF: 1},
    }
    group = {"zarr_format": 3, "node_type": "group", "attributes": {}}
    values = {"zarr.json": group, f"{SPOOF}/zarr.json": array}
    keys = {f"{SPOOF}/c/0": b"1", f"{SPOOF}/stray": b"2", SPOOF: b"3"}
    old = build({name: json.dumps(value).encode() for name, value in values.items()} | keys, cas)
    array["attributes"] = {SPOOF: 2}
    new = build({f"{SPOOF}/zarr.json": json.dumps(array).encode(), f"{SPOOF}/c/1": b"4"}, cas, base=old)
    cas.close()
    a, b, where = text(to_bytes(old)), text(to_bytes(new)), ("--cas", tmp_path / "store")
    lines = {}
    for command in (("ls", a), ("ls", "-l", a), ("info", a), ("check", a), ("diff", a, b)):
        lines[command[:-1]] = call(*command, *where).stdout.split("\n")
    lines["diff", "--variables"] = call("diff", a, b, "--variables", *where).stdout.split("\n")
    for shown in lines.values():
        assert all(line.isprintable() and line != "sound" for line in shown)
        assert any(r"\x1b]0;title\x07\nsound\u202e" in line for line in shown)
    assert len(lines["ls",]) == len(values | keys) + 1


def test_an_error_is_told_without_commands_and_as_it_is_written(tmp_path: Path) -> None:
    cas = PackCAS(tmp_path / "store")
    root = text(to_bytes(build({"key": b"1"}, cas)))
    cas.close()
    said = told(call("cat", root, f":key: {TERMINAL}", "--cas", tmp_path / "store"))
    assert "has no key ':key: \\x1b]0;title\\x07'" in said


def test_a_url_is_shown_without_what_comes_before_its_host() -> None:
    for url, shown in (
        ("kubo://user:pass@word@host:5001", "kubo://host:5001"),
        ("https://host/a@b", "https://host/a@b"),
        ("kubo://host?gateway=https://u:p@gateway", "kubo://host?gateway=https://gateway"),
    ):
        assert url_of(InMemoryCAS(), url) == shown


# Documents


def test_a_file_of_options_that_nests_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "deep.toml"
    path.write_text("exclude_vars = " + "[" * 5000)
    result = call("ls", text(CID), "--cas", tmp_path / "store", "--encryption", path)
    assert result.exit_code == 2 and "deep.toml" in told(result)


def test_a_merge_in_which_zarr_finds_no_metadata_says_so() -> None:
    """The copy that a group has of what is below it cannot be made anew."""
    cas = InMemoryCAS()
    member = b'{"zarr_format": 3, "node_type": "group"}'
    top = b'{"zarr_format": 3, "node_type": "group", "consolidated_metadata": {"kind": "inline", "metadata": {"a": %s}}}'
    base = build({"zarr.json": top % member, "a/zarr.json": member}, cas)
    ours = build({"a/zarr.json": b'{"zarr_format": 3}'}, cas, base=base)
    theirs = build({"b/zarr.json": member}, cas, base=base)
    with pytest.raises(InvalidInput, match="consolidated metadata, which cannot be made of what is below"):
        merge(base, ours, theirs, cas)


def test_what_is_said_of_a_document_is_short() -> None:
    cas = InMemoryCAS()
    for old, new in ((b'"zstd"', b'"%s"' % (b"z" * 50_000)), (b"[4]", b"[%s]" % (b"true," * 9000 + b"1"))):
        root = build({".zarray": ARRAY_2.replace(old, new)}, cas)
        with pytest.raises(InvalidInput) as caught:
            zarr3_documents(open_root(root, cas))
        assert len(str(caught.value)) < 1500
        report = check(root, cas, progress=False)
        assert all(len(str(problem)) < 1500 for problem in report.problems)


def test_names_of_dimensions_that_are_not_as_many_are_not_shown(tmp_path: Path) -> None:
    cas = PackCAS(tmp_path / "store")
    for names in (b'["x", "y"]', b'"x"', b"5"):
        attributes = b'{"_ARRAY_DIMENSIONS": %s}' % names
        root = build({".zarray": ARRAY_2, ".zattrs": attributes, "0": b"1"}, cas)
        cas.flush()
        result = call("info", text(to_bytes(root)), "--cas", tmp_path / "store")
        assert result.exit_code == 0 and "(dim_0: 4)" in result.stdout, told(result)
