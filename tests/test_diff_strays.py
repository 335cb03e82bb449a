"""A diff of keys and documents that are not what zarr writes."""

import json

import pytest
import zarr
from diffed import array, box, edited, hierarchy
from stored import in_store
from zarr.storage import MemoryStore

from hamt_bulk import InMemoryCAS, build
from hamt_bulk.roots import VariableChange, variable_changes

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def cas() -> InMemoryCAS:
    return InMemoryCAS()


def test_an_array_that_becomes_a_group(cas):
    a = hierarchy(cas, lambda group: array(group, "x"))
    b = hierarchy(cas, lambda group: array(group.create_group("x"), "0"))
    found = variable_changes(a, b, cas)
    assert [(change.path, change.kind, change.status) for change in found] == [
        ("x", "array", "removed"),
        ("x", "group", "added"),
        ("x/0", "array", "added"),
    ]
    assert (found[0].removed, found[0].region) == (6, box((0, 6), (0, 6)))
    assert (found[2].added, found[2].region) == (6, box((0, 6), (0, 6)))


def test_chunks_whose_keys_nobody_can_read_belong_to_the_array_they_lie_in(cas):
    base = hierarchy(cas, lambda group: array(group, "x"))
    a = edited(base, cas, chunk_key_encoding={"name": "hilbert"})
    [change] = variable_changes(a, build({"x/h7": b"", "x/h8": b""}, cas, base=a), cas)
    assert (change.path, change.kind, change.added, change.region) == ("x", "array", 2, None)


@pytest.mark.parametrize("folder", ["", "deep/er"])
def test_an_array_in_a_folder_that_is_no_group(cas, folder):
    store = MemoryStore()
    path = f"{folder}/0" if folder else "0"
    encoding = {"name": "v2", "separator": "/"}
    zarr.create_array(store, name=path, shape=(4, 4), chunks=(2, 2), dtype="i1", chunk_key_encoding=encoding)
    documents = {key: value for key, value in in_store(store).items() if key == f"{path}/zarr.json"}
    a = build(documents, cas)
    [change] = variable_changes(a, build({f"{path}/0/1": b""}, cas, base=a), cas)
    assert (change.path, change.added, change.region) == (path, 1, box((0, 2), (2, 4)))


@pytest.mark.parametrize(
    "consolidated", [7, [], {}, {"metadata": 7}, {"metadata": {"x": 7, "y/.zarray": []}}]
)
def test_consolidated_metadata_of_any_form(cas, consolidated):
    document = {"zarr_format": 3, "node_type": "group"}
    sound = document | {"consolidated_metadata": {"metadata": {"x": {}}}}
    odd = document | {"consolidated_metadata": consolidated}
    a, b = (build({"zarr.json": json.dumps(each).encode()}, cas) for each in (sound, odd))
    [change] = variable_changes(a, b, cas)
    [field] = change.fields
    assert (field.name, field.old) == ("consolidated metadata", ["x"])


def test_a_name_that_no_chunk_can_have_is_outside(cas):
    encoding = {"name": "default", "separator": "."}
    a = hierarchy(cas, lambda group: array(group, "x", chunk_key_encoding=encoding))
    stray = ["x/d.0.0", "x/c.0", "x/c.0.0.0", "x/c.0.-1", "x/c.0.²", "x/c.0.٣", "x/c", "x/0.0"]
    found = variable_changes(a, build(dict.fromkeys([*stray, "x/c.0.0"], b""), cas, base=a), cas)
    assert [(change.path, change.added, change.changed) for change in found] == [("x", 0, 1), ("", 8, 0)]


def test_keys_of_no_array_come_last(cas):
    a = hierarchy(cas, lambda group: array(group, "x"))
    stray = ["x/notes", "x/c/0", "x/c/0/0/0", "x/c/0/z", "y/c/0", "README", "a/.zattrs"]
    b = build(dict.fromkeys(stray, b""), cas, base=a)
    found = variable_changes(a, b, cas)
    assert found == [VariableChange("", "keys", "changed", added=7, keys=tuple(sorted(stray)[:5]))]
    [change] = variable_changes(b, build({"README": b"1", "x/notes": None}, cas, base=b), cas)
    assert (change.added, change.changed, change.removed) == (0, 1, 1)
    assert change.keys == ("README", "x/notes")


def test_a_tree_without_a_hierarchy(cas):
    a = build({"a": b"", "a/b": b"", "0/0": b"", "": b""}, cas)
    b = build({"a": b"1", "a/b": None, "0/0": b"1", "c/0": b"", "": b"1"}, cas, base=a)
    [change] = variable_changes(a, b, cas)
    assert (change.kind, change.added, change.changed, change.removed) == ("keys", 1, 3, 1)


@pytest.mark.parametrize("document", [b"no json", b"[]", b"\xff", b"[" * 9999, b"{}", b'{"node_type": 7}'])
def test_documents_that_are_not_zarrs_are_reported_as_such(cas, document):
    a = build({"x/zarr.json": b"nonsense", "x/c/0": b"", "y": b""}, cas)
    b = build({"x/zarr.json": document, "x/c/0": b"other"}, cas, base=a)
    first, second = variable_changes(a, b, cas)
    assert (first.path, first.kind, first.status) == ("x", "unreadable", "changed")
    [field] = first.fields
    assert (field.name, field.old) == ("document", "nonsense")
    assert (second.kind, second.keys) == ("keys", ("x/c/0",))
