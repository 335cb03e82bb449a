"""A diff told by array: of real datasets, appended to, edited and taken from."""

import json

import numpy as np
import pytest
from diffed import DIMS, box, compared, hours, stored
from stored import in_store
from zarr.storage import MemoryStore

from hamt_bulk import InMemoryCAS, build
from hamt_bulk.block import identify, text, to_bytes
from hamt_bulk.errors import BlockNotFound, InvalidInput
from hamt_bulk.nodes import Tree
from hamt_bulk.roots import FieldChange, VariableChange, variable_changes

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def cas() -> InMemoryCAS:
    return InMemoryCAS()


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_hours_appended(cas, zarr_format):
    """The last chunks of the old array are filled up, and what is beyond them is new."""
    a = stored(hours(18), cas, zarr_format=zarr_format)
    b = stored(hours(21).isel(time=slice(18, None)), cas, a, append_dim="time", align_chunks=True)
    assert variable_changes(a, b, cas) == [
        VariableChange(
            "", "group", "changed", (FieldChange("consolidated metadata", ["t2m", "time"], ["t2m", "time"]),)
        ),
        VariableChange(
            "t2m",
            "array",
            "changed",
            (FieldChange("shape", (18, 7, 9), (21, 7, 9)),),
            shape=(21, 7, 9),
            dims=DIMS,
            added=2,
            changed=2,
            region=box((15, 21), (0, 7), (0, 9)),
        ),
        VariableChange(
            "time",
            "array",
            "changed",
            (FieldChange("shape", (18,), (21,)),),
            shape=(21,),
            dims=("time",),
            added=1,
            region=box((18, 21)),
        ),
    ]
    assert variable_changes(a, a, cas) == []


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_hours_taken_away(cas, zarr_format):
    """What was removed lies in the old array, beyond the new one."""
    a, b = (stored(hours(count), cas, zarr_format=zarr_format) for count in (18, 10))
    change = compared(a, b, cas)["t2m"]
    assert (change.added, change.changed, change.removed) == (0, 0, 4)
    assert (change.shape, change.region) == ((10, 7, 9), box((10, 18), (0, 7), (0, 9)))
    assert change.fields == (FieldChange("shape", (18, 7, 9), (10, 7, 9)),)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_one_chunk_at_the_edge_and_a_scalar(cas, zarr_format):
    ds = hours(18)
    a = stored(ds, cas, zarr_format=zarr_format)
    other = ds.compute()
    other.t2m[16, 5, 0] = -1
    other["crs"] = ((), np.int32(8))
    b = stored(other.chunk(time=5, lat=4), cas, zarr_format=zarr_format)
    found = compared(a, b, cas)
    assert found == {
        "crs": VariableChange("crs", "array", "changed", shape=(), dims=(), changed=1, region=()),
        "t2m": VariableChange(
            "t2m",
            "array",
            "changed",
            shape=(18, 7, 9),
            dims=DIMS,
            changed=1,
            region=box((15, 18), (4, 7), (0, 9)),
        ),
    }


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_attributes_and_the_copies_of_them(cas, zarr_format):
    ds = hours(10)
    a = stored(ds, cas, zarr_format=zarr_format)
    ds.attrs = {"history": [1, 2]}
    ds.t2m.attrs = {"units": "degC", "new": float("nan")}
    b = stored(ds, cas, zarr_format=zarr_format)
    found = compared(a, b, cas)
    assert set(found) == {"", "t2m"}
    assert (found["t2m"].changed, found["t2m"].region) == (0, None)
    assert {field.attribute: field[1:] for field in found["t2m"].fields}.keys() == {"units", "new"}
    assert FieldChange("attribute units", "K", "degC") in found["t2m"].fields
    fields = {field.name: field[1:] for field in found[""].fields}
    assert fields["attribute title"] == ("a", None)
    assert fields["attribute history"] == (None, [1, 2])
    # In format 2 the group's own attributes are in its copy, too.
    members = ["", "t2m"] if zarr_format == 2 else ["t2m"]
    assert fields["consolidated metadata"] == (members, members)
    assert set(fields) == {"attribute title", "attribute history", "consolidated metadata"}


def test_nothing_but_consolidated_metadata(cas):
    ds = hours(10)
    a = stored(ds, cas, consolidated=False)
    b = stored(ds, cas, consolidated=True)
    [change] = variable_changes(a, b, cas)
    [field] = change.fields
    assert (change.path, change.kind, field.name) == ("", "group", "consolidated metadata")
    assert (field.old, field.new) == (None, ["crs", "lat", "t2m", "time"])


def test_shards_are_counted_and_placed_as_wholes(cas):
    encoding = {"t2m": {"chunks": (2, 4, 3), "shards": (8, 4, 9)}}
    ds = hours(18).chunk(time=8)
    a = stored(ds, cas, encoding=encoding)
    other = ds.compute()
    other.t2m[17, 2, 2] = -1
    b = stored(other.chunk(time=8, lat=4), cas, encoding=encoding)
    [change] = variable_changes(a, b, cas)
    assert change.sharded
    assert (change.added, change.changed, change.removed) == (0, 1, 0)
    assert change.region == box((16, 18), (0, 4), (0, 9))


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_arrays_and_groups_that_come_and_go(cas, zarr_format):
    one = stored(hours(10).drop_vars("crs"), cas, zarr_format=zarr_format, consolidated=False)
    inner = hours(6)[["t2m"]].drop_vars(["time", "lat"])
    other = stored(inner, cas, one, mode="a", group="sub/inner", consolidated=False, zarr_format=zarr_format)
    came = compared(one, other, cas)
    assert list(came) == ["sub", "sub/inner", "sub/inner/t2m"]
    assert came["sub"] == VariableChange("sub", "group", "added")
    wanted = {"shape": (6, 7, 9), "dims": DIMS, "region": box((0, 6), (0, 7), (0, 9))}
    assert came["sub/inner/t2m"] == VariableChange("sub/inner/t2m", "array", "added", added=4, **wanted)
    went = compared(other, one, cas)
    assert went["sub/inner"] == VariableChange("sub/inner", "group", "removed")
    assert went["sub/inner/t2m"] == VariableChange("sub/inner/t2m", "array", "removed", removed=4, **wanted)


def test_a_chunk_that_becomes_fill_and_an_empty_array(cas):
    """xarray does not store chunks of nothing but the fill value."""
    ds = hours(10).compute()
    a = stored(ds.chunk(time=5, lat=4), cas, encoding={"t2m": {"_FillValue": np.nan}})
    ds.t2m[:5, :4] = np.nan
    b = stored(ds.chunk(time=5, lat=4), cas, encoding={"t2m": {"_FillValue": np.nan}})
    [change] = variable_changes(a, b, cas)
    assert (change.removed, change.region) == (1, box((0, 5), (0, 4), (0, 9)))
    empty = stored(ds.isel(time=slice(0, 0)).chunk(), cas)
    assert compared(empty, a, cas)["t2m"].added == 4
    assert compared(a, empty, cas)["t2m"].region == box((0, 10), (0, 7), (0, 9))


def test_names_of_dimensions_in_format_2(cas):
    ds = hours(5).drop_vars(["time", "lat"])
    a, b = (stored(each, cas, zarr_format=2, consolidated=False) for each in (ds, ds.rename(time="hour")))
    [change] = variable_changes(a, b, cas)
    assert change.fields == (FieldChange("dimension names", list(DIMS), ["hour", "lat", "lon"]),)
    assert change.dims == ("hour", "lat", "lon")


def test_a_document_that_says_the_same_in_other_bytes(cas):
    ds = hours(5)
    ds.t2m.attrs["nothing"] = float("nan")
    a = stored(ds, cas, consolidated=False)
    store = MemoryStore()
    ds.to_zarr(store, consolidated=False)
    document = json.loads(in_store(store)["t2m/zarr.json"])
    b = build({"t2m/zarr.json": json.dumps(document, indent=7).encode()}, cas, base=a)
    [change] = variable_changes(a, b, cas)
    assert (change.path, change.kind, change.status, change.fields) == ("t2m", "array", "changed", ())


def test_what_is_missing_or_wrong_is_named(cas):
    a = stored(hours(5), cas)
    b = stored(hours(6), cas)
    with pytest.raises(InvalidInput, match="not a CID"):
        variable_changes("nonsense", b, cas)
    absent = text(identify(b"absent", 0x71))
    with pytest.raises(BlockNotFound, match=f"the root {absent} is not in this store"):
        variable_changes(a, absent, cas)
    pointer = Tree(to_bytes(b), cas).pointer("t2m/zarr.json")
    del cas.blocks[pointer]
    with pytest.raises(BlockNotFound, match=text(pointer)):
        variable_changes(a, b, cas)
