"""Merges of one array: what says how to read it does not change under the other side's chunks."""

import pytest
import xarray as xr
from merged import attributes, more, store, table
from stored import in_tree

from hamt_bulk import InMemoryCAS
from hamt_bulk.errors import Conflict
from hamt_bulk.roots.delete import delete
from hamt_bulk.roots.merge import merge
from hamt_bulk.xarray import to_hamt

pytestmark = pytest.mark.usefixtures("one_thread")

MEANING = {
    "units": "hours since 2000-01-01",
    "calendar": "noleap",
    "scale_factor": 0.1,
    "add_offset": 3.0,
    "missing_value": 5.0,
    "_FillValue": 7.0,
    "_Unsigned": "true",
    "dtype": "bool",
    "_Encoding": "latin-1",
}


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", MEANING)
def test_attributes_that_values_are_decoded_with_do_not_change_under_the_other_sides_chunks(
    name, zarr_format
):
    cas = InMemoryCAS()
    base = to_hamt(table({"a": {"t": 4}}), cas, zarr_format=zarr_format)
    ours = attributes(cas, "a", zarr_format, **{name: MEANING[name]})(base)
    harmless = attributes(cas, "a", zarr_format, long_name="of ours")(base)
    theirs = more(cas, 4, "a")(base)
    with pytest.raises(Conflict, match=f"'a': ours changes its attribute {name}, and theirs its chunks"):
        merge(base, ours, theirs, cas)
    with pytest.raises(Conflict, match=f"'a': theirs changes its attribute {name}, and ours its chunks"):
        merge(base, theirs, ours, cas)
    opened = xr.open_dataset(merge(base, harmless, theirs, cas), engine="hamt", cas=cas)
    assert opened.sizes == {"t": 8} and opened.a.attrs["long_name"] == "of ours"


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dims", [("time", "x"), ("x", "t")], ids=["renamed", "transposed"])
def test_names_of_dimensions_do_not_change_under_the_other_sides_chunks(dims, zarr_format):
    cas = InMemoryCAS()
    base = to_hamt(table({"a": {"t": 4, "x": 4}}), cas, zarr_format=zarr_format)
    ours = store(cas, table({"a": dict.fromkeys(dims, 4)}), mode="w", zarr_format=zarr_format)(base)
    theirs = store(cas, table({"a": {"t": 4, "x": 4}}, 2.0), append_dim="t")(base)
    with pytest.raises(Conflict, match="'a': ours changes its dimension names, and theirs its chunks"):
        merge(base, ours, theirs, cas)


@pytest.mark.parametrize("resolve", ["ours", "theirs"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_of_an_array_that_does_not_go_together_all_is_one_sides(zarr_format, resolve):
    """Whatever the other did to it: chunks, attributes, size. What is elsewhere is merged."""
    cas = InMemoryCAS()
    base = to_hamt(table({"a": {"t": 8, "x": 8}, "b": {"y": 4}}), cas, zarr_format=zarr_format)
    ours = attributes(cas, "a", zarr_format, units="m", note="ours")(base)
    ours = attributes(cas, "b", zarr_format, note="ours")(ours)
    region = {"t": slice(0, 4), "x": slice(4, 8)}
    theirs = store(cas, table({"a": {"t": 4, "x": 4}}, 3.0), region=region)(base)
    theirs = attributes(cas, "a", zarr_format, note="theirs")(
        delete(theirs, cas, keys=[last_chunk(theirs, cas)])
    )
    merged = in_tree(merge(base, ours, theirs, cas, resolve=resolve), cas)
    side = in_tree(ours if resolve == "ours" else theirs, cas)
    assert {k: v for k, v in merged.items() if k[:2] == "a/"} == {
        k: v for k, v in side.items() if k[:2] == "a/"
    }
    assert {k: v for k, v in merged.items() if k[:2] == "b/"} == {
        k: v for k, v in in_tree(ours, cas).items() if k[:2] == "b/"
    }


def last_chunk(root, cas):
    return max(key for key in in_tree(root, cas) if key.startswith("a/") and key[-1].isdigit())
