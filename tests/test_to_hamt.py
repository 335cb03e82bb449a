"""`to_hamt` stores what `to_zarr` stores, key by key and byte by byte."""

import numcodecs
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from stored import assert_same, by_to_zarr, in_tree

from hamt_bulk import InMemoryCAS, PackCAS, build
from hamt_bulk.xarray import to_hamt

TIME = pd.date_range("2001-01-01", periods=24, freq="h")


def field(shape, dtype="f4", seed=0):
    return np.random.default_rng(seed).normal(280, 20, size=shape).astype(dtype)


def weather(chunks=None) -> xr.Dataset:
    dataset = xr.Dataset(
        {
            "t2m": (("time", "lat", "lon"), field((24, 6, 8)), {"units": "K"}),
            "orography": (("lat", "lon"), field((6, 8), "f8", 1)),
            "count": ((), 7),
        },
        coords={"time": TIME, "lat": np.linspace(-90, 90, 6), "lon": np.arange(8.0)},
        attrs={"title": "weather"},
    )
    return dataset.chunk(chunks or {"time": 10, "lat": 3})


def packed():
    dataset = weather()
    dataset.t2m.encoding = {"dtype": "int16", "scale_factor": 0.01, "add_offset": 280.0, "_FillValue": -32768}
    return dataset


def calendars():
    times = xr.date_range("1859-01-01", periods=24, freq="MS", calendar="360_day", use_cftime=True)
    return weather().assign_coords(time=times).assign(step=("time", pd.to_timedelta(np.arange(24), "h")))


def dates_in_dask():
    dataset = xr.Dataset({"issued": ("time", TIME.values)}).chunk(time=5)
    dataset.issued.encoding = {"units": "hours since 2001-01-01", "dtype": "int64"}
    return dataset


def strings():
    names = np.array(["æ", "longer name", ""] * 4, dtype=object)
    fixed = np.array(["ab", "abc", "d"] * 4)
    return xr.Dataset(
        {
            "fixed": ("x", fixed),
            "inmemory": ("x", names),
            "lazy": ("x", names),
            "bytes": ("x", fixed.astype("S3")),
        }
    ).chunk(x=5)


def all_fill():
    dataset = weather()
    empty = dataset.t2m.where(dataset.t2m.time < TIME[10])
    return dataset.assign(partly=empty, zeros=xr.zeros_like(dataset.t2m))


def small_chunks():
    dataset = weather({"time": 12})
    dataset.t2m.encoding["chunks"] = (2, 3, 4)
    return dataset


def no_dimensions_and_empty():
    return xr.Dataset(
        {
            "scalar": xr.DataArray(np.float32(3)).chunk(),
            "text": ((), "a"),
            "empty": (("x", "y"), np.zeros((0, 4))),
            "empty_dask": xr.DataArray(np.zeros((0, 4)), dims=("x", "y")).chunk(),
            "flag": ("y", [True, False, True, False]),
        }
    )


DATASETS = {
    "plain": (weather, {}),
    "in memory": (lambda: weather().compute(), {}),
    "integer packing": (packed, {}),
    "calendars and timedeltas": (calendars, {}),
    "dates in dask": (dates_in_dask, {}),
    "strings": (strings, {}),
    "all-fill chunks": (all_fill, {}),
    "write_empty_chunks": (all_fill, {"write_empty_chunks": True}),
    "write_empty_chunks off": (all_fill, {"write_empty_chunks": False}),
    "small zarr chunks": (small_chunks, {}),
    "0-d and empty": (no_dimensions_and_empty, {}),
    "uneven dask chunks": (lambda: weather({"time": (10, 10, 4)}), {}),
    "sharding": (
        lambda: weather({"time": 12}),
        {"encoding": {"t2m": {"chunks": (3, 3, 4), "shards": (12, 6, 8)}}},
    ),
    "aligned": (
        lambda: weather({"time": (7, 7, 10)}),
        {"align_chunks": True, "encoding": {"t2m": {"chunks": (6, 3, 4)}}},
    ),
    "a group": (weather, {"group": "model/run"}),
    "not consolidated": (weather, {"consolidated": False}),
    "consolidated": (weather, {"consolidated": True}),
    "zarr 2": (weather, {"zarr_format": 2}),
    "zarr 2 filters": (
        weather,
        {
            "zarr_format": 2,
            "encoding": {
                "t2m": {"filters": [numcodecs.Delta("f4")], "compressors": [numcodecs.Zlib(level=2)]},
            },
        },
    ),
    "zarr 2 strings": (lambda: strings()[["fixed", "bytes"]], {"zarr_format": 2}),
    "zarr 3 codecs": (
        weather,
        {
            "encoding": {
                "t2m": {
                    "compressors": [
                        zarr.codecs.BloscCodec(cname="lz4", typesize=4),
                        zarr.codecs.Crc32cCodec(),
                    ],
                    "serializer": zarr.codecs.BytesCodec(endian="big"),
                }
            }
        },
    ),
    "no compression": (weather, {"encoding": {"t2m": {"compressors": None}}}),
    "an empty dataset": (xr.Dataset, {}),
    "derived": (lambda: (lambda ds: ds.assign(anomaly=ds.t2m - ds.t2m.mean("time")))(weather()), {}),
    "rechunked": (lambda: weather().chunk(time=-1, lon=2), {"encoding": {"t2m": {"chunks": (24, 3, 2)}}}),
}


if hasattr(zarr.codecs, "numcodecs"):  # from zarr 3.1.3 on
    delta = zarr.codecs.numcodecs.Delta(dtype="<f4")
    DATASETS["numcodecs in zarr 3"] = (weather, {"encoding": {"t2m": {"filters": [delta]}}})


@pytest.mark.filterwarnings("ignore:variable None has data in the form of a dask array with dtype=object")
@pytest.mark.parametrize(("make", "options"), DATASETS.values(), ids=DATASETS)
def test_keys_and_bytes_are_those_of_to_zarr(make, options):
    cas = InMemoryCAS()
    dataset = make()
    expected = by_to_zarr(dataset, **options)
    root = to_hamt(make(), cas, **options)
    assert_same(in_tree(root, cas), expected)
    assert root == build(expected, InMemoryCAS())


@pytest.mark.parametrize("name", [None, "t2m", "time", "lat"])
def test_a_data_array_is_stored_as_by_its_to_zarr(name):
    array = weather().t2m.rename(name)
    cas = InMemoryCAS()
    assert_same(in_tree(to_hamt(array, cas), cas), by_to_zarr(array))


@pytest.mark.parametrize("options", [{}, {"consolidated": False}, {"zarr_format": 2}])
def test_a_data_tree_is_stored_as_by_its_to_zarr(options):
    def tree():
        return xr.DataTree.from_dict(
            {
                "/": weather()[["orography"]],
                "/coarse": weather(),
                "/coarse/deep": weather()[["count"]],
                "/e": None,
            }
        )

    cas = InMemoryCAS()
    assert_same(in_tree(to_hamt(tree(), cas, **options), cas), by_to_zarr(tree(), **options))


def test_encoding_of_a_data_tree_is_by_group():
    def tree():
        return xr.DataTree.from_dict({"/": weather(), "/b": weather()})

    encoding = {"/b": {"t2m": {"compressors": None}}}
    cas = InMemoryCAS()
    assert_same(in_tree(to_hamt(tree(), cas, encoding=encoding), cas), by_to_zarr(tree(), encoding=encoding))


def test_the_dataset_is_left_as_it_was():
    dataset = packed()
    before = dataset.copy(deep=True)
    to_hamt(dataset, InMemoryCAS(), encoding={"orography": {"dtype": "f4"}})
    xr.testing.assert_identical(dataset, before)
    assert dataset.t2m.encoding == before.t2m.encoding
    assert dataset.chunks == before.chunks


def test_a_value_above_one_mebibyte_is_split():
    big = xr.Dataset({"a": ("x", np.frombuffer(np.random.default_rng(0).bytes(3 << 20), "u1"))}).chunk(x=-1)
    cas = InMemoryCAS()
    root = to_hamt(big, cas, encoding={"a": {"compressors": None, "chunks": (3 << 20,)}})
    assert max(map(len, cas.blocks.values())) == 1 << 20
    assert in_tree(root, cas)["a/c/0"] == big.a.values.tobytes()


def test_a_large_lazy_variable_is_chunked_on_the_targets_chunks(tmp_path, monkeypatch):
    """Opened without `chunks=` it would be loaded whole on the driver."""
    weather().compute().to_netcdf(tmp_path / "w.nc")
    with xr.open_dataset(tmp_path / "w.nc") as dataset:
        expected = by_to_zarr(dataset)
    monkeypatch.setattr("hamt_bulk.xarray.lazy.MAX_EAGER_BYTES", 1000)
    monkeypatch.setattr("hamt_bulk.xarray.lazy.LAZY_CHUNK_BYTES", 1000)
    cas = InMemoryCAS()
    with (
        xr.open_dataset(tmp_path / "w.nc") as dataset,
        pytest.warns(UserWarning, match="'t2m' is lazy.*chunks="),
    ):
        root = to_hamt(dataset, cas)
    assert_same(in_tree(root, cas), expected)


@pytest.mark.parametrize("encoding", [{"chunks": (5, 3, 8)}, {"chunks": (2, 3, 4), "shards": (4, 6, 8)}])
def test_a_large_lazy_variable_follows_its_encoding(tmp_path, monkeypatch, encoding):
    weather().compute().to_netcdf(tmp_path / "w.nc")
    encoding = {"t2m": encoding}
    with xr.open_dataset(tmp_path / "w.nc") as dataset:
        expected = by_to_zarr(dataset, encoding=encoding)
    monkeypatch.setattr("hamt_bulk.xarray.lazy.MAX_EAGER_BYTES", 1000)
    monkeypatch.setattr("hamt_bulk.xarray.lazy.LAZY_CHUNK_BYTES", 1000)
    cas = InMemoryCAS()
    with xr.open_dataset(tmp_path / "w.nc") as dataset, pytest.warns(UserWarning, match="lazy"):
        root = to_hamt(dataset, cas, encoding=encoding)
    assert_same(in_tree(root, cas), expected)


def test_the_accessor_is_the_same_call():
    cas = InMemoryCAS()
    assert weather().hamt.build(cas, zarr_format=2) == to_hamt(weather(), cas, zarr_format=2)
    assert weather().t2m.hamt.build(cas) == to_hamt(weather().t2m, cas)


def test_building_again_adds_nothing_to_the_store(tmp_path):
    """A batch has one pack, whenever and by whomever it is written."""
    cas = PackCAS(tmp_path)
    to_hamt(small_chunks(), cas)
    before = sorted(path.name for path in tmp_path.rglob("*.car"))
    to_hamt(small_chunks(), PackCAS(tmp_path))
    assert sorted(path.name for path in tmp_path.rglob("*.car")) == before
