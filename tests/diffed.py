"""Datasets and hierarchies of zarr's to compare, and edits of them."""

import json

import numpy as np
import xarray as xr
import zarr
from stored import in_store
from zarr.storage import MemoryStore

from hamt_bulk import InMemoryCAS, build
from hamt_bulk.roots import VariableChange, variable_changes
from hamt_bulk.xarray import to_hamt

DIMS = ("time", "lat", "lon")


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


def edited(root, cas, **documents):
    """`root` with other fields in the document of the array `x`."""
    store = MemoryStore()
    array(zarr.create_group(store), "x")
    document = json.loads(in_store(store)["x/zarr.json"])
    return build({"x/zarr.json": json.dumps(document | documents).encode()}, cas, base=root)
