"""Zarr v2 datasets that become v3: what xarray opens is identical, and can grow."""

import json
from typing import Any

import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr
from stored import in_store
from zarr.core.sync import sync
from zarr.storage import MemoryStore
from zarr3_made import (
    ENCODING,
    assert_equal,
    buffers,
    climate,
    converted,
    converted_values,
    stored_as_v2,
    variable_of_v2,
)

from hamt_bulk.formats import open_root
from hamt_bulk.hamt import HAMT
from hamt_bulk.integrity import check
from hamt_bulk.zarr import ZarrHAMTStore


def in_words(codecs: Any) -> list[dict[str, Any]]:
    """Compressors of either format alike."""
    words = []
    for codec in codecs:
        config = codec.get_config() if isinstance(codec, numcodecs.abc.Codec) else codec.to_dict()
        config = {**config, **config.get("configuration", {})}
        name = str(config.get("id") or config["name"]).removeprefix("numcodecs.")
        shuffle = {0: "noshuffle", 1: "shuffle", 2: "bitshuffle"}.get(config.get("shuffle"))
        shuffle = shuffle or config.get("shuffle")
        options = {k: v for k, v in config.items() if k in ("level", "clevel", "cname", "blocksize")}
        words.append({"name": name, "shuffle": shuffle, **options})
    return words


def assert_identical(found: xr.Dataset, expected: xr.Dataset) -> None:
    """Values, attributes, and what xarray says of the encoding."""
    found.load(), expected.load()
    xr.testing.assert_identical(found, expected)
    assert list(found.variables) and set(found.coords) == set(expected.coords)
    for name, variable in expected.variables.items():
        old, new = variable.encoding, found[name].encoding
        for key in (
            "chunks",
            "preferred_chunks",
            "scale_factor",
            "add_offset",
            "units",
            "calendar",
            "_Unsigned",
        ):
            assert new.get(key) == old.get(key), (name, key)
        assert found[name].dtype == variable.dtype
        types = [one["dtype"] if one.get("dtype") is not None else np.dtype("V") for one in (old, new)]
        old_type, new_type = (
            one if one.kind == "T" else one.newbyteorder("<") for one in map(np.dtype, types)
        )
        assert new_type == old_type, name
        assert in_words(new["compressors"]) == in_words(old["compressors"]), name
        np.testing.assert_equal(new.get("_FillValue"), old.get("_FillValue"), name)


@pytest.mark.parametrize("consolidated", [True, False])
def test_xarray_opens_an_identical_dataset(consolidated) -> None:
    ds = climate(np.random.default_rng(0))
    root, cas = stored_as_v2(
        lambda store: ds.to_zarr(store, zarr_format=2, encoding=ENCODING, consolidated=consolidated)
    )
    new = converted(root, cas)
    for options in ({}, {"mask_and_scale": False}, {"decode_cf": False}):
        with (
            xr.open_dataset(root, engine="hamt", cas=cas, consolidated=consolidated, **options) as before,
            xr.open_dataset(new, engine="hamt", cas=cas, consolidated=consolidated, **options) as after,
        ):
            if not options:
                assert_identical(after, before)
                assert (
                    before.t2m.isnull().any() and before.counts.isnull().any() and before.big.isnull().any()
                )
            else:
                for name in before.variables:
                    assert_equal(after[name], before[name])
    report = check(new, cas)
    assert report.ok, report.problems
    top = json.loads(open_root(new, cas).get("zarr.json"))
    assert (top.get("consolidated_metadata") is not None) == consolidated
    assert top["attributes"] == {"title": "a", "history": [1, 2.5, "three"]}


@pytest.mark.parametrize("consolidated", [True, False])
def test_a_data_tree_is_identical(consolidated) -> None:
    rng = np.random.default_rng(1)
    tree = xr.DataTree.from_dict(
        {
            "/": xr.Dataset({"top": ("n", [1.0, np.nan])}, attrs={"title": "all"}),
            "/coarse": climate(rng)[["t2m", "station"]],
            "/coarse/inner": xr.Dataset({"v": ("z", np.arange(3))}, attrs={"n": 1}),
            "/fine": xr.Dataset(attrs={"nothing": "in it"}),
        }
    )
    root, cas = stored_as_v2(lambda store: tree.to_zarr(store, zarr_format=2, consolidated=consolidated))
    new = converted(root, cas)
    with (
        xr.open_datatree(root, engine="hamt", cas=cas, consolidated=consolidated) as before,
        xr.open_datatree(new, engine="hamt", cas=cas, consolidated=consolidated) as after,
    ):
        xr.testing.assert_identical(after.load(), before.load())
        assert set(after.groups) == {"/", "/coarse", "/coarse/inner", "/fine"}
    with xr.open_dataset(new, engine="hamt", cas=cas, group="coarse", consolidated=False) as found:
        assert_identical(found, before["coarse"].to_dataset(inherit=False))
    assert check(new, cas).ok


def test_consolidated_metadata_of_inner_groups_is_made_anew_too() -> None:
    ds = climate(np.random.default_rng(2))[["t2m"]]
    store = MemoryStore()
    zarr.create_group(store, zarr_format=2)
    ds.to_zarr(store, group="a/b", zarr_format=2, consolidated=False)
    ds.to_zarr(store, group="c", zarr_format=2, consolidated=False)
    for group in ("a/b", None):
        zarr.consolidate_metadata(store, path=group, zarr_format=2)
    values = converted_values(in_store(store))
    copies = {
        key: sorted((json.loads(value).get("consolidated_metadata") or {"metadata": ()})["metadata"])
        for key, value in values.items()
        if json.loads(value if key.endswith("zarr.json") else b"{}").get("node_type") == "group"
    }
    members = ["height", "t2m", "time", "x", "y"]
    assert copies["a/b/zarr.json"] == sorted([*members, "member"]) and not copies["c/zarr.json"]
    assert {"a", "a/b", "a/b/t2m", "c", "c/t2m"} < set(copies["zarr.json"])


def test_arrays_that_xarray_does_not_read_keep_all_attributes() -> None:
    values = variable_of_v2("<i4", 5, [1, 2, 3], {"_FillValue": 2, "_ARRAY_DIMENSIONS": ["x", "y"], "_nc": 1})
    document = json.loads(converted_values(values)["v/zarr.json"])
    assert document["attributes"] == {"_ARRAY_DIMENSIONS": ["x", "y"], "_FillValue": 2, "_nc": 1}
    assert document.get("dimension_names") is None and document["fill_value"] == 5


def test_dimensions_as_netcdf_has_them_are_found() -> None:
    plain = variable_of_v2("<i4", 2, [1, 2, 3], {"units": "m"})
    array = json.loads(plain["v/.zarray"]) | {"_NCZARR_ARRAY": {"dimrefs": ["/inner/x"]}}
    attributes = {"_nczarr_array": {"storage": "chunked"}, "units": "m"}
    values = plain | {"v/.zattrs": json.dumps(attributes).encode(), "v/.zarray": json.dumps(array).encode()}
    found = xr.open_zarr(MemoryStore(buffers(converted_values(values))), consolidated=False)
    xr.testing.assert_identical(found, xr.open_zarr(MemoryStore(buffers(plain)), consolidated=False))


def test_a_dataset_that_was_converted_can_grow() -> None:
    ds = climate(np.random.default_rng(5))[["t2m", "packed"]].drop_vars("member")
    encoding = {name: ENCODING[name] for name in ("t2m", "packed", "time")}
    root, cas = stored_as_v2(lambda store: ds.to_zarr(store, zarr_format=2, encoding=encoding))
    later = ds.assign_coords(time=ds.time + np.timedelta64(2, "D"))
    hamt = sync(HAMT.build(cas=cas, values_are_bytes=True, root_node_id=converted(root, cas)))
    store = ZarrHAMTStore(hamt)
    later.drop_vars(["x", "y", "height"]).to_zarr(store, append_dim="time")
    with xr.open_dataset(store.flush(), engine="hamt", cas=cas) as found:
        assert found.sizes["time"] == 16
        xr.testing.assert_allclose(found.load(), xr.concat([ds, later], "time"), atol=0.01)
    assert check(store.flush(), cas).ok
