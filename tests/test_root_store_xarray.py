"""The Zarr store of a root of any kind: what zarr and xarray make of it, and workers."""

import numpy as np
import pytest
import xarray as xr
import zarr
from ipldstore_made import root_of
from stored import by_to_zarr
from test_zarr_read import dataset
from zarr.storage import MemoryStore

from hamt_bulk import PackCAS, errors


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_chunk_that_is_missing_comes_out_of_xarray_as_missing(zarr_format) -> None:
    """Neither filled with NaN nor taken for a variable that is not there."""
    items = by_to_zarr(dataset(), zarr_format=zarr_format)
    root = root_of(items)
    chunk = next(key for key in items if key.startswith("t2m/") and not key.endswith(("json", "y", "s")))
    del root.cas.blocks[root.pointer(chunk)]
    with xr.open_zarr(root.store(), chunks=None) as found, pytest.raises(errors.BlockNotFound):
        found["t2m"].load()


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("consolidated", [True, False])
def test_xarray_opens_a_hierarchy_and_so_do_workers(zarr_format, consolidated, tmp_path, processes) -> None:
    ds = dataset()
    items = by_to_zarr(
        ds, zarr_format=zarr_format, consolidated=consolidated, encoding={"t2m": {"chunks": (2, 6)}}
    )
    store = root_of(items, PackCAS(tmp_path / "store")).store()
    with xr.open_zarr(store, chunks={}, consolidated=consolidated) as found:
        assert found.chunks["time"] == (2, 2)
        assert found.compute().identical(ds)
    assert zarr.open_group(store, mode="r").info_complete()
    assert np.array_equal(zarr.open_array(store, path="count", mode="r")[:], ds["count"])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_groups_below_groups_are_found_by_listing(zarr_format) -> None:
    memory = MemoryStore()
    zarr.create_array(memory, name="a/b/v", shape=(4,), chunks=(2,), dtype="i4", zarr_format=zarr_format)[
        :
    ] = [1, 2, 3, 4]
    items = {key: value.to_bytes() for key, value in memory._store_dict.items()}
    group = zarr.open_group(root_of(items).store(), mode="r")
    expected = zarr.open_group(memory, mode="r")
    assert sorted(name for name, _ in group.members(max_depth=None)) == sorted(
        name for name, _ in expected.members(max_depth=None)
    )
    assert list(group["a/b/v"][:]) == [1, 2, 3, 4]
