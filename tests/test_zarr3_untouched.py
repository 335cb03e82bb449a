"""What a conversion to Zarr v3 leaves as it is, and what it does not need to read."""

import json
import warnings

import numpy as np
import pytest
import xarray as xr
import zarr
from ipldstore_made import root_of
from stored import in_store
from zarr.storage import MemoryStore
from zarr3_made import (
    OLD_NAMES,
    TEXT,
    buffers,
    climate,
    converted_values,
    refusal,
    stored_as_v2,
    variable_of_v2,
)

from hamt_bulk import InMemoryCAS, build
from hamt_bulk.formats import open_root
from hamt_bulk.formats.zarr3 import zarr3_documents
from hamt_bulk.layout import HashMap


def test_what_is_v3_already_stays() -> None:
    old, new = MemoryStore(), MemoryStore()
    group = zarr.create_group(old, zarr_format=2, attributes={"n": 1})
    for name in ("old", "both"):
        group.create_array(name, shape=2, chunks=2, dtype="i4", attributes={"_ARRAY_DIMENSIONS": ["x"]})[
            :
        ] = 1
    zarr.create_array(new, name="new/v", shape=2, chunks=2, dtype="i4")[:] = 2
    # as a conversion in place that was not finished leaves it
    zarr.create_array(new, name="both", shape=2, chunks=2, dtype="i4", attributes={"n": 3})[:] = 3
    before = in_store(old) | in_store(new)
    before.pop("zarr.json", None)
    before[".zmetadata"] = json.dumps({"zarr_consolidated_format": 1, "metadata": {}}).encode()
    after = converted_values(before)
    copies = json.loads(after["zarr.json"])["consolidated_metadata"]["metadata"]
    assert sorted(copies) == ["both", "new", "new/v", "old"]
    for key in ("new/zarr.json", "new/v/zarr.json", "both/zarr.json"):
        assert after[key] == before[key]
    found = zarr.open_group(MemoryStore(buffers(after)), mode="r", zarr_format=3)
    names = sorted(name for name, _ in found.members(max_depth=None))
    assert names == ["both", "new", "new/v", "old"] and dict(found.attrs) == {"n": 1}
    assert refusal(before | {"both/.zattrs": {"units": "m"}}).startswith(
        "'both/.zattrs' has 'units', which 'both/zarr.json' beside it has not"
    )


def test_only_documents_are_read() -> None:
    ds = climate(np.random.default_rng(3))
    root, cas = stored_as_v2(lambda store: ds.to_zarr(store, zarr_format=2))
    opened = open_root(root, cas)
    for key, pointer in opened.pointers():
        if not key.endswith(OLD_NAMES):
            del cas.blocks[pointer]
    documents = zarr3_documents(opened)
    arrays = sum(value is not None for value in documents.values()) - 1
    assert arrays == len(ds.variables)


@pytest.mark.parametrize("kind", ["ipldstore", "hashmap"])
def test_roots_of_other_kinds_say_the_same_documents(kind) -> None:
    store = MemoryStore()
    xr.Dataset({"v": ("x", np.arange(9)), "name": ("x", ["a"] * 9)}).to_zarr(store, zarr_format=2, group="g")
    zarr.consolidate_metadata(store, zarr_format=2)
    values = in_store(store)
    cas = InMemoryCAS()
    expected = zarr3_documents(open_root(build(values, cas), cas))
    if kind == "ipldstore":
        assert zarr3_documents(root_of(values)) == expected
    else:
        other = build(values, cas, layout=HashMap(8, 5))
        opened = open_root(other, cas)
        assert opened.kind == "hashmap" and zarr3_documents(opened) == expected


def test_the_warnings_of_zarr_are_left_to_readers() -> None:
    values = variable_of_v2("<U3", None, TEXT.astype("U"), {})
    cas = InMemoryCAS()
    root = build(values, cas)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        zarr3_documents(open_root(root, cas))
    assert not told
