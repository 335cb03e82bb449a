"""`check` of Zarr metadata: documents that are gone, not named, not Zarr's, or contradict one another."""

import json
import warnings
from typing import Any

import numpy as np
import pytest
import xarray as xr
from stored import in_tree
from test_check_zarr import FORMATS, counts, dataset, message_of, stored, told

from hamt_bulk import InMemoryCAS, build, check
from hamt_bulk.block import identify
from hamt_bulk.xarray import to_hamt


def changed(root: Any, cas: InMemoryCAS, key: str, change: Any) -> Any:
    """The root after `change` of the JSON under `key`."""
    document = json.loads(in_tree(root, cas)[key])
    return build({key: json.dumps(change(document) or document).encode()}, cas, base=root)


def holder_of(zarr_format: int) -> str:
    return "zarr.json" if zarr_format == 3 else ".zmetadata"


@FORMATS
def test_an_array_whose_document_is_gone_is_named(zarr_format):
    base, cas = stored(zarr_format)
    key = "t/zarr.json" if zarr_format == 3 else "t/.zarray"
    root = build({key: None}, cas, base=base)
    report = check(root, cas)
    chunks = [
        key for key in in_tree(base, cas) if key.startswith("t/") and "zarr" not in key and ".z" not in key
    ]
    attributes = {("unaccounted", "t/.zattrs")} if zarr_format == 2 else set()
    assert told(report) == {("inconsistent", key), *(("unaccounted", chunk) for chunk in chunks)} | attributes
    [named] = [problem for problem in report.problems if problem.kind == "inconsistent"]
    assert f"the consolidated metadata in {holder_of(zarr_format)!r} names it" in named.message


@FORMATS
def test_a_document_that_is_not_named_is_missed(zarr_format):
    base, cas = stored(zarr_format)
    documents = {
        k: v for k, v in in_tree(base, cas).items() if k.startswith("t/") and (".z" in k or "zarr" in k)
    }
    root = build({f"new/{key[2:]}": value for key, value in documents.items()}, cas, base=base)
    report = check(root, cas)
    assert told(report) == {("inconsistent", f"new/{key[2:]}") for key in documents}
    assert all("does not name it, so readers miss it" in problem.message for problem in report.problems)
    assert counts(report)["new"] == (0, 4)


@FORMATS
def test_a_copy_that_differs_is_named_with_what_differs(zarr_format):
    base, cas = stored(zarr_format)
    key = "t/zarr.json" if zarr_format == 3 else "t/.zarray"
    root = changed(base, cas, key, lambda document: document | {"shape": [5, 6]})
    report = check(root, cas)
    assert ("inconsistent", key) in told(report)
    [problem] = [problem for problem in report.problems if problem.kind == "inconsistent"]
    assert problem.message.endswith("differs: shape")
    assert len([problem for problem in report.problems if problem.kind == "unaccounted"]) == 2


def test_attributes_that_are_gone_are_named():
    base, cas = stored(2)
    report = check(build({"t/.zattrs": None}, cas, base=base), cas)
    assert told(report) == {("inconsistent", "t/.zattrs")}
    assert message_of(report).endswith("names it, and there is no such document")


BAD_3 = [
    (b"{", "it is not JSON"),
    (b"[1]", "expected a JSON object"),
    ({"zarr_format": 4}, "zarr_format is 4, expected 3"),
    ({"node_type": "tensor"}, "node_type is 'tensor', expected 'array' or 'group'"),
    ({"shape": [-1, 6]}, "shape is [-1, 6], expected whole numbers"),
    ({"shape": [True, 6]}, "shape is [True, 6]"),
    ({"attributes": []}, "attributes is no object"),
    ({"codecs": []}, "codecs is []"),
    ({"fill_value": ...}, "it has no fill_value"),
    ({"chunk_key_encoding": 1}, "chunk_key_encoding is 1, expected a name"),
    ({"dimension_names": ["x"]}, "dimension_names is ['x'], expected 2 names"),
    ({"chunk_grid": {"name": "regular"}}, "the shape of its chunks is None, expected 2 whole numbers"),
]
BAD_2 = [
    (b"\xff", "it is not JSON"),
    (b"1", "expected a JSON object"),
    ({"zarr_format": 3}, "zarr_format is 3, expected 2"),
    ({"order": "K"}, "order is 'K', expected 'C' or 'F'"),
    ({"chunks": [1]}, "the shape of its chunks is [1], expected 2 whole numbers"),
    ({"shape": "many"}, "shape is 'many'"),
    ({"dtype": ..., "filters": ...}, "it has no dtype, filters"),
]


@pytest.mark.parametrize(
    "zarr_format, edit, why", [*((3, *bad) for bad in BAD_3), *((2, *bad) for bad in BAD_2)]
)
def test_a_document_that_is_not_zarrs_is_named(zarr_format, edit, why):
    """Its chunks may be its own, so they are not called strays."""
    base, cas = stored(zarr_format)
    key = "t/zarr.json" if zarr_format == 3 else "t/.zarray"
    if isinstance(edit, dict):
        document = json.loads(in_tree(base, cas)[key]) | edit
        edit = json.dumps({name: value for name, value in document.items() if value is not ...}).encode()
    report = check(build({key: edit}, cas, base=base), cas)
    kinds = {problem.where: problem.message for problem in report.problems if problem.kind == "inconsistent"}
    assert why in kinds[key]
    assert list(kinds) == [key]
    assert "t" not in counts(report)


def test_attributes_and_consolidated_metadata_of_format_2_are_looked_at():
    base, cas = stored(2)
    assert told(check(build({"t/.zattrs": b"["}, cas, base=base), cas)) == {("inconsistent", "t/.zattrs")}
    root = build({".zmetadata": b'{"metadata": 1, "zarr_consolidated_format": 1}'}, cas, base=base)
    assert message_of(check(root, cas)) == "it is not valid metadata of Zarr: metadata is no object"


@FORMATS
def test_groups_that_are_missing_above_are_named_once(zarr_format):
    cas = InMemoryCAS()
    tree = xr.DataTree.from_dict({"/": dataset()[["scalar"]], "/a/b": dataset()[["t", "scalar"]]})
    base = to_hamt(tree, cas, zarr_format=zarr_format, consolidated=False)
    name = "zarr.json" if zarr_format == 3 else ".zgroup"
    gone = {f"a/{name}": None} | ({} if zarr_format == 3 else {"a/.zattrs": None})
    report = check(build(gone, cas, base=base), cas)
    assert told(report) == {("inconsistent", f"a/{name}")}
    assert "lies below it: readers that list groups miss that" in message_of(report)


@FORMATS
def test_a_group_that_is_missing_at_the_top_is_named(zarr_format):
    base, cas = stored(zarr_format, consolidated=False)
    report = check(
        build(
            {"zarr.json": None} if zarr_format == 3 else {".zgroup": None, ".zattrs": None}, cas, base=base
        ),
        cas,
    )
    assert told(report) == {("inconsistent", "zarr.json")}
    assert "no group at the top, though there is 'fixed/" in message_of(report)


def test_formats_that_hide_one_another_are_named():
    """As xarray writes them when a group of format 3 is added to a hierarchy of format 2."""
    cas = InMemoryCAS()
    small = dataset()[["t"]]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # zarr's own, that it sees both
        root = to_hamt(small, cas, base=to_hamt(small, cas, zarr_format=2), group="g")
    report = check(root, cas)
    assert told(report) == {("inconsistent", f"{name}/.zarray") for name in ("t", "time", "x")}
    assert "the group '/' is of format 3, whose readers miss it" in report.problems[0].message


def test_a_document_that_is_lost_makes_no_strays():
    cas = InMemoryCAS()
    root = to_hamt(dataset(), cas)
    document = in_tree(root, cas)["t/zarr.json"]
    del cas.blocks[identify(document)]
    assert told(check(root, cas)) == {("missing", "t/zarr.json")}
    assert told(check(root, cas, values=False)) == set()
    top = in_tree(to_hamt(dataset(), cas), cas)["zarr.json"]
    del cas.blocks[identify(top)]
    assert {kind for kind, _ in told(check(root, cas))} == {"missing"}


def test_what_a_lost_node_held_is_not_missed_twice():
    """Only the node is reported, whatever documents and chunks were below it."""
    cas = InMemoryCAS()
    root = to_hamt(xr.Dataset({"v": ("x", np.arange(1200))}).chunk(x=1), cas)
    whole = check(root, cas)
    nodes = [cid for cid, data in cas.blocks.items() if cid[1] == 0x71 and b"zarr.json" in data]
    for cid in {*nodes} - {bytes(root)}:
        block = cas.blocks.pop(cid)
        report = check(root, cas)
        assert {kind for kind, _ in told(report)} == {"missing"}
        assert report.problem_count == 1
        cas.blocks[cid] = block
    assert nodes
    assert check(root, cas) == whole


def test_warnings_are_not_needed_to_read_a_report():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cas = InMemoryCAS()
        assert str(
            check(build({"zarr.json": b'{"zarr_format": 3, "node_type": "group"}'}, cas), cas)
        ).endswith("sound")
