"""Merges and dimensions: no merge has one of two sizes in a group."""

import asyncio

import numpy as np
import pytest
import zarr
from merged import document, more, store, table
from stored import in_tree

from hamt_bulk import HAMT, InMemoryCAS
from hamt_bulk.errors import Conflict
from hamt_bulk.roots.merge import merge
from hamt_bulk.xarray import to_hamt
from hamt_bulk.zarr import ZarrHAMTStore

pytestmark = pytest.mark.usefixtures("one_thread")

SIZES = {
    "an append and a new variable": (
        table({"a": {"t": 4}}),
        lambda cas, _: more(cas, 2, "a"),
        lambda cas, _: store(cas, table({"h": {"t": 4}}), mode="a"),
        "'t': ours has it with 6 in 'a', and theirs with 4 in 'h'",
    ),
    "appends of two lengths": (
        table({"a": {"t": 4}, "b": {"t": 4}, "c": {"t": 4}}),
        lambda cas, _: more(cas, 2, "a"),
        lambda cas, _: more(cas, 3, "b"),
        "'t': ours has it with 6 in 'a', and theirs with 7 in 'b'",
    ),
    "a new dimension of two sizes": (
        table({"a": {"t": 4}}),
        lambda cas, _: store(cas, table({"p": {"t": 4, "y": 4}, "r": {"y": 4}}), mode="a"),
        lambda cas, _: store(cas, table({"q": {"y": 5}}), mode="a"),
        "'y': ours has it with 4 in 'p', 'r', and theirs with 5 in 'q'",
    ),
    "fewer steps and a new variable": (
        table({"a": {"t": 4}}),
        lambda cas, zarr_format: store(cas, table({"a": {"t": 3}}), mode="w", zarr_format=zarr_format),
        lambda cas, _: store(cas, table({"h": {"t": 4}}), mode="a"),
        "'t': ours has it with 3 in 'a', and theirs with 4 in 'h'",
    ),
}


@pytest.mark.filterwarnings("ignore:the base has consolidated metadata")
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.parametrize(("first", "one", "two", "message"), SIZES.values(), ids=SIZES)
def test_a_dimension_of_two_sizes_is_a_conflict(first, one, two, message, consolidated, zarr_format):
    """xarray would not open it. With either side it is that side's dataset."""
    cas = InMemoryCAS()
    options = {"zarr_format": zarr_format, "consolidated": consolidated}
    base = to_hamt(first, cas, **options)
    ours, theirs = one(cas, zarr_format)(base), two(cas, zarr_format)(base)
    with pytest.raises(Conflict, match=f"the dimension {message}"):
        merge(base, ours, theirs, cas)
    with pytest.raises(Conflict, match="the dimension"):
        merge(base, theirs, ours, cas)
    assert merge(base, ours, theirs, cas, resolve="ours") == ours
    assert merge(base, ours, theirs, cas, resolve="theirs") == theirs
    clashes = []
    assert merge(base, ours, theirs, cas, resolve=lambda clash: clashes.append(clash) or "theirs") == theirs
    assert [(clash.kind, clash.key) for clash in clashes] == [("dimension", message[1])]


def test_a_side_that_counts_for_an_array_counts_for_what_theirs_appended_with_it():
    """Theirs appended another variable as well, which would be longer than what ours has."""
    cas = InMemoryCAS()
    base = to_hamt(table({"a": {"t": 4}, "b": {"t": 4}}), cas)
    ours, theirs = more(cas, 2, "a")(base), more(cas, 3, "a", "b")(base)
    assert merge(base, ours, theirs, cas, resolve="ours") == ours
    assert merge(base, ours, theirs, cas, resolve="theirs") == theirs
    with pytest.raises(
        Conflict, match=r"the dimension 't': ours has it with 6 in 'a', and theirs with 7 in 'b'"
    ):
        merge(base, ours, theirs, cas, resolve=lambda clash: "ours" if clash.kind == "array" else None)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_side_that_counts_for_an_array_has_its_size_whatever_it_changed_there(zarr_format):
    """Ours wrote a chunk, so it has no document that differs, and yet what it has would have another size."""
    cas = InMemoryCAS()
    base = to_hamt(table({"a": {"t": 4}, "b": {"t": 4}}), cas, zarr_format=zarr_format)
    ours = store(cas, table({"a": {"t": 4}}, 2.0), mode="a")(base)
    theirs = store(cas, table({"b": {"t": 3}}), mode="w", zarr_format=zarr_format)(base)
    with pytest.raises(Conflict, match="'a': theirs deletes it, and ours changes it"):
        merge(base, ours, theirs, cas)
    assert merge(base, ours, theirs, cas, resolve="ours") == ours
    assert merge(base, ours, theirs, cas, resolve="theirs") == theirs


def test_sizes_in_one_group_have_nothing_to_do_with_those_in_another():
    cas = InMemoryCAS()
    base = to_hamt(table({"a": {"t": 4}}), cas)
    base = to_hamt(table({"a": {"t": 8}}), cas, base=base, mode="a", group="g")
    ours = more(cas, 2, "a")(base)
    theirs = store(cas, table({"h": {"t": 8}}), mode="a", group="g")(base)
    merged = merge(base, ours, theirs, cas)
    assert merged == store(cas, table({"h": {"t": 8}}), mode="a", group="g")(ours)


def test_a_pyramid_gets_a_level_of_each_side():
    """Zarr does not mind several sizes along one dimension, so where all had them they stay."""
    cas = InMemoryCAS()
    base = to_hamt(table({"0": {"y": 16}}), cas)

    def level(name, size):
        def add(base):
            levels = HAMT.build(cas=cas, root_node_id=base, values_are_bytes=True)
            kept = ZarrHAMTStore(asyncio.run(levels))
            group = zarr.open_group(kept, mode="r+", use_consolidated=False)
            group.create_array(name, shape=(size,), dtype="f8", dimension_names=["y"])
            zarr.consolidate_metadata(kept)
            return kept.flush()

        return add

    base = level("1", 8)(base)
    ours, theirs = level("2", 4)(base), level("3", 2)(base)
    assert merge(base, ours, theirs, cas) == level("3", 2)(ours)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_new_size_counts_like_chunks(zarr_format):
    """What was appended is all fill value, so that there is no chunk to show it."""
    cas = InMemoryCAS()
    base = to_hamt(table({"a": {"t": 4}}), cas, zarr_format=zarr_format)
    key = f"a/{'.zarray' if zarr_format == 2 else 'zarr.json'}"
    theirs = store(cas, table({"a": {"t": 4}}, np.nan), append_dim="t", write_empty_chunks=False)(base)
    assert sum("zarr" not in key and ".z" not in key for key in in_tree(theirs, cas)) == 1
    ours = document(cas, key, lambda parsed: parsed.update(fill_value=9.0))(base)
    with pytest.raises(Conflict, match="'a': ours changes its fill value, and theirs its shape"):
        merge(base, ours, theirs, cas)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_appends_along_two_dimensions_of_one_array_do_not_go_together(zarr_format):
    """Neither has the corner. Chunks of the side that does not count would come back with the next append."""
    cas = InMemoryCAS()
    base = to_hamt(table({"a": {"t": 4, "x": 4}, "b": {"y": 4}}), cas, zarr_format=zarr_format)
    ours = store(cas, table({"a": {"t": 4, "x": 4}}, 2.0), append_dim="t")(base)
    theirs = store(cas, table({"a": {"t": 4, "x": 4}}, 3.0), append_dim="x")(base)
    sentence = (
        r"'a': ours appends to it along 't' \(4 before, 8 after\), and theirs along 'x' \(4 before, 8 after\)"
    )
    with pytest.raises(Conflict, match=sentence):
        merge(base, ours, theirs, cas)
    assert merge(base, ours, theirs, cas, resolve="ours") == ours
    assert merge(base, ours, theirs, cas, resolve="theirs") == theirs
