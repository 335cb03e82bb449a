"""A diff told by array and region: of real datasets, and of chunks at random against a brute force."""

import json

import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given
from hypothesis import strategies as st
from stored import in_store
from zarr.storage import MemoryStore

from hamt_bulk import InMemoryCAS, build, diff
from hamt_bulk.block import identify, text, to_bytes
from hamt_bulk.errors import BlockNotFound, InvalidInput
from hamt_bulk.nodes import Tree
from hamt_bulk.roots import FieldChange, VariableChange, variable_changes
from hamt_bulk.xarray import to_hamt

DIMS = ("time", "lat", "lon")
ALL = slice(None)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def cas() -> InMemoryCAS:
    return InMemoryCAS()


def hours(count: int) -> xr.Dataset:
    """A field of so many hours in chunks of 5 × 4 × 9, a scalar, and coordinates."""
    values = np.arange(count * 7 * 9, dtype="f4").reshape(count, 7, 9) + 1
    coords = {"time": np.arange(count) + 1, "lat": np.arange(7.0) + 1}
    ds = xr.Dataset({"t2m": (DIMS, values), "crs": ((), np.int32(7))}, coords, {"title": "a"})
    ds.t2m.attrs["units"] = "K"
    return ds.chunk(time=5, lat=4)


def stored(ds: xr.Dataset, cas: InMemoryCAS, base=None, **options):
    return to_hamt(ds, cas, base=base, progress=False, **options)


def box(*sides: tuple[int, int]) -> tuple[slice, ...]:
    return tuple(slice(*side) for side in sides)


def compared(a, b, cas) -> dict[str, VariableChange]:
    found = variable_changes(a, b, cas)
    assert [change.path for change in found if change.kind != "keys"] == sorted(
        change.path for change in found if change.kind != "keys"
    )
    return {change.path: change for change in found}


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


def hierarchy(cas: InMemoryCAS, fill, **options) -> object:
    """The root of what `fill` makes in a group of zarr's."""
    store = MemoryStore()
    fill(zarr.create_group(store, **options))
    return build(in_store(store), cas)


def array(group: zarr.Group, name: str, shape=(6, 6), chunks=(2, 3), dtype="i2", **options) -> zarr.Array:
    made = group.create_array(name, shape=shape, chunks=chunks, dtype=dtype, **options)
    if shape:
        made[...] = np.arange(np.prod(shape)).reshape(shape) + 1
    return made


@pytest.mark.parametrize(
    "options",
    [
        {"zarr_format": 3},
        {"zarr_format": 3, "chunk_key_encoding": {"name": "default", "separator": "."}},
        {"zarr_format": 3, "chunk_key_encoding": {"name": "v2", "separator": "."}},
        {"zarr_format": 3, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
        {"zarr_format": 2},
        {"zarr_format": 2, "chunk_key_encoding": {"name": "v2", "separator": "/"}},
    ],
)
@pytest.mark.parametrize("name", ["a", "0", "c", "g/0", "1/c"])
def test_chunks_are_found_however_their_keys_are_written(cas, options, name):
    """Arrays may have names that look like parts of keys; a multi-scale image's are numbers."""
    encoding = {key: value for key, value in options.items() if key == "chunk_key_encoding"}

    def fill(group: zarr.Group, value: int) -> None:
        for path, shape in ((name, (6, 6)), ("scalar", ())):
            parent = group.require_group(path.rpartition("/")[0]) if "/" in path else group
            made = array(parent, path.rpartition("/")[2], shape, (2, 3)[: len(shape)], **encoding)
            made[(5, 0)[: len(shape)]] = value

    a, b = (
        hierarchy(cas, lambda group, v=value: fill(group, v), zarr_format=options["zarr_format"])
        for value in (-1, -2)
    )
    assert variable_changes(a, b, cas) == [
        VariableChange(name, "array", "changed", shape=(6, 6), changed=1, region=box((4, 6), (0, 3))),
        VariableChange("scalar", "array", "changed", shape=(), dims=(), changed=1, region=()),
    ]


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_an_array_at_the_top(cas, zarr_format):
    roots = []
    for value in (1, 2):
        store = MemoryStore()
        made = zarr.create_array(store, shape=(4,), chunks=(2,), dtype="i2", zarr_format=zarr_format)
        made[2:] = value
        roots.append(build(in_store(store), cas))
    [change] = variable_changes(*roots, cas)
    assert (change.path, change.kind, change.changed, change.region) == ("", "array", 1, box((2, 4)))


def test_another_grid_type_and_number_of_dimensions(cas):
    a = hierarchy(cas, lambda group: array(group, "x", dimension_names=("p", "q")))
    rechunked = hierarchy(cas, lambda group: array(group, "x", chunks=(4, 4), dtype="f8"))
    change = compared(a, rechunked, cas)["x"]
    assert {field.name for field in change.fields} >= {"chunks", "data type", "dimension names"}
    assert FieldChange("chunks", (2, 3), (4, 4)) in change.fields
    assert (change.changed, change.removed, change.region) == (4, 2, box((0, 6), (0, 6)))
    flat = hierarchy(cas, lambda group: array(group, "x", (8,), (2,)))
    change = compared(a, flat, cas)["x"]
    assert (change.added, change.removed, change.shape) == (4, 6, (8,))
    assert change.region == box((0, 8)), "the box of the removed chunks cannot be in the new array"
    nothing = hierarchy(cas, lambda group: group.create_array("x", shape=(8,), chunks=(2,), dtype="i2"))
    assert compared(a, nothing, cas)["x"].region is None


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


def edited(root, cas, **documents):
    """`root` with other fields in the document of the array `x`."""
    store = MemoryStore()
    array(zarr.create_group(store), "x")
    document = json.loads(in_store(store)["x/zarr.json"])
    return build({"x/zarr.json": json.dumps(document | documents).encode()}, cas, base=root)


@pytest.mark.parametrize(
    "field",
    [
        {
            "chunk_grid": {
                "name": "rectilinear",
                "configuration": {"kind": "inline", "chunk_shapes": [[2, 4], 3]},
            }
        },
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2]}}},
        {"chunk_grid": {"name": "regular", "configuration": 7}},
        {"chunk_grid": "nonsense"},
        {"chunk_key_encoding": {"name": "hilbert"}},
        {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "!"}}},
        {"shape": "large"},
        {"shape": [-1, 6]},
        {"shape": [True, 6]},
        {"shape": None, "dimension_names": 7, "codecs": 7, "attributes": [], "chunk_grid": None},
    ],
)
def test_chunks_of_an_array_whose_places_are_unknown_are_counted(cas, field):
    base = hierarchy(cas, lambda group: array(group, "x"))
    a = edited(base, cas, **field)
    b = build({"x/c/1/1": b"other", "x/c/2/0": None}, cas, base=a)
    [change] = variable_changes(a, b, cas)
    assert (change.path, change.kind, change.region) == ("x", "array", None)
    assert (change.changed, change.removed) == (1, 1)
    change = compared(base, b, cas)["x"]
    assert change.fields and change.region is None, "the removed chunk alone has a place"


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


def test_names_of_dimensions_in_format_2(cas):
    ds = hours(5).drop_vars(["time", "lat"])
    a, b = (stored(each, cas, zarr_format=2, consolidated=False) for each in (ds, ds.rename(time="hour")))
    [change] = variable_changes(a, b, cas)
    assert change.fields == (FieldChange("dimension names", list(DIMS), ["hour", "lat", "lon"]),)
    assert change.dims == ("hour", "lat", "lon")


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


def test_extensions_that_are_given_by_their_names_alone(cas):
    a = edited(hierarchy(cas, lambda group: array(group, "x")), cas, chunk_key_encoding="default")
    [change] = variable_changes(a, build({"x/c/1/1": b"other"}, cas, base=a), cas)
    assert change.region == box((2, 4), (3, 6))


def test_a_chunk_outside_of_the_array_is_counted_without_a_place(cas):
    a = hierarchy(cas, lambda group: array(group, "x"))
    b = build({"x/c/7/0": b"left over"}, cas, base=a)
    [change] = variable_changes(a, b, cas)
    assert (change.added, change.region) == (1, None)
    [change] = variable_changes(a, build({"x/c/0/0": b"other"}, cas, base=b), cas)
    assert (change.added, change.changed, change.region) == (1, 1, box((0, 6), (0, 3)))


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


shapes = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 4)), min_size=1, max_size=3)


@given(shapes, st.data())
def test_the_region_is_the_box_around_all_elements_of_the_chunks(sides, data):
    """By brute force: every element of every chunk that differs is marked."""
    cas = InMemoryCAS()
    shape, chunks = zip(*sides, strict=True)
    grown = tuple(size + data.draw(st.integers(0, 5)) for size in shape)
    entries: list[dict[str, bytes]] = []
    for size in (shape, grown):
        store = MemoryStore()
        zarr.create_array(store, name="x", shape=size, chunks=chunks, dtype="i1")
        counts = [-(-side // chunk) for side, chunk in zip(size, chunks, strict=True)]
        indexes = data.draw(st.sets(st.tuples(*(st.integers(0, count - 1) for count in counts)), max_size=6))
        values = {
            f"x/c/{'/'.join(map(str, index))}": b"%d" % data.draw(st.integers(0, 1)) for index in indexes
        }
        entries.append(in_store(store) | values)
    old, new = entries
    marked = np.zeros(grown, bool)
    for key in (key for key in old.keys() | new.keys() if "/c/" in key and old.get(key) != new.get(key)):
        inside = shape if key not in new else grown
        starts = [int(number) * chunk for number, chunk in zip(key.split("/")[2:], chunks, strict=True)]
        marked[
            tuple(
                slice(start, min(start + chunk, side))
                for start, chunk, side in zip(starts, chunks, inside, strict=True)
            )
        ] = True
    found = compared(build(old, cas), build(new, cas), cas).get("x")
    if not marked.any():
        assert found is None or (found.region, found.added, found.changed, found.removed) == (None, 0, 0, 0)
        return
    assert found is not None and found.region is not None
    assert found.region == tuple(slice(int(at.min()), int(at.max()) + 1) for at in np.nonzero(marked))
    chunk_keys = {key for key in old.keys() | new.keys() if "/c/" in key}
    assert found.added == len(chunk_keys - old.keys())
    assert found.removed == len(chunk_keys - new.keys())
    assert found.changed == sum(old[key] != new[key] for key in chunk_keys & old.keys() & new.keys())


class CountingCAS(InMemoryCAS):
    """Counts the blocks that are read."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def read_blocks(self, cids):
        self.reads += len(cids)
        return super().read_blocks(cids)


def test_metadata_is_looked_up_and_not_walked_for():
    """20,000 chunks, of which ten differ, and so many stray keys that looking each up would be seen."""
    cas = CountingCAS()
    store = MemoryStore()
    group = zarr.create_group(store)
    group.create_array("x", shape=(100, 200), chunks=(1, 1), dtype="i1")
    chunks = {f"x/c/{n // 200}/{n % 200}": b"%d" % n for n in range(20_000)}
    a = build(in_store(store) | chunks, cas)
    b = build(dict.fromkeys(list(chunks)[5000:5010], b"other"), cas, base=a)
    cas.reads = 0
    [change] = variable_changes(a, b, cas)
    assert (change.changed, change.region) == (10, box((25, 26), (0, 10)))
    assert cas.reads <= 60
    c = build({f"left/c/{n // 50}/{n}": b"over" for n in range(500)}, cas, base=b)
    cas.reads = 0
    [change] = variable_changes(b, c, cas)
    alone = cas.reads
    assert (change.kind, change.added) == ("keys", 500)
    cas.reads = 0
    assert len(list(diff(b, c, cas))) == 500
    assert alone <= cas.reads + 20


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
