"""Which array a chunk belongs to and where it lies: of chunks at random, against a brute force."""

import numpy as np
import pytest
import zarr
from diffed import array, box, compared, edited, hierarchy
from hypothesis import given
from hypothesis import strategies as st
from stored import in_store
from zarr.storage import MemoryStore

from hamt_bulk import InMemoryCAS, build, diff
from hamt_bulk.roots import FieldChange, VariableChange, variable_changes

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def cas() -> InMemoryCAS:
    return InMemoryCAS()


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
