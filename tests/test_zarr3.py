"""Zarr v2 hierarchies that become v3: zarr and xarray read the same, and no chunk changes."""

import json
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from stored import in_store, in_tree
from test_ipldstore import root_of
from test_zarr_store import new_store
from zarr.core.buffer import cpu
from zarr.core.sync import sync
from zarr.dtype import VariableLengthBytes
from zarr.registry import get_codec_class
from zarr.storage import MemoryStore

from hamt_bulk import InMemoryCAS, build, errors
from hamt_bulk.formats import open_root
from hamt_bulk.formats.zarr3 import zarr3_documents
from hamt_bulk.hamt import HAMT
from hamt_bulk.integrity import check
from hamt_bulk.layout import HashMap
from hamt_bulk.zarr import ZarrHAMTStore

FULL = os.environ.get("HAMT_BULK_FULL") == "1"

OLD_NAMES = (".zarray", ".zgroup", ".zattrs", ".zmetadata")


def has_codec(name: str) -> bool:
    try:
        get_codec_class(f"numcodecs.{name}")
    except (KeyError, ValueError):
        return False
    return True


HAS_NUMCODECS = has_codec("zlib")
"""zarr 3.1.2 has none of numcodecs' codecs for v3, where numcodecs is a new one."""

needs_numcodecs = pytest.mark.skipif(not HAS_NUMCODECS, reason="zarr has no numcodecs for Zarr v3")


def converted(root, cas):
    """The root in v3; also that its chunks are as they were, and nothing is left of v2."""
    changes = zarr3_documents(open_root(root, cas))
    new = build(changes, cas, base=root)
    before, after = in_tree(root, cas), in_tree(new, cas)
    assert not [key for key in after if key.endswith(OLD_NAMES)]
    assert not [key for key, value in changes.items() if (value is None) != key.endswith(OLD_NAMES)]
    for values in (before, after):
        for key in [key for key in values if key.endswith((*OLD_NAMES, "zarr.json"))]:
            del values[key]
    assert after == before
    return new


def converted_values(values: Mapping[str, bytes]) -> dict[str, bytes]:
    cas = InMemoryCAS()
    return in_tree(converted(build(values, cas), cas), cas)


def refusal(values: Mapping[str, bytes | dict[str, Any]]) -> str:
    """Why these are not converted."""
    cas = InMemoryCAS()
    encoded = {k: v if isinstance(v, bytes) else json.dumps(v).encode() for k, v in values.items()}
    with pytest.raises(errors.InvalidInput) as caught:
        zarr3_documents(open_root(build(encoded, cas), cas))
    assert "\n" not in str(caught.value)
    return str(caught.value)


def assert_equal(found: Any, expected: Any) -> None:
    """Equal bit by bit, in whatever byte order."""
    found, expected = np.asarray(found), np.asarray(expected)
    assert found.shape == expected.shape and found.dtype.kind == expected.dtype.kind
    if found.dtype.kind in "OT":
        assert found.tolist() == expected.tolist()
    else:
        assert found.astype(expected.dtype).tobytes() == expected.tobytes()


# Arrays by zarr

NUMBERS = ["<f4", ">f4", "<f8", "<f2", "i1", "u1", "<i2", ">i2", "<u4", ">i8", "<u8", "<c8", ">c16"]
OTHERS = ["?", "S5", "<U3", ">U3", "<M8[ns]", ">M8[s]", "<m8[D]", "V3", "text", "blobs", "fields"]

compressors = st.one_of(
    st.none(),
    st.builds(
        numcodecs.Blosc,
        st.sampled_from(["lz4", "zstd", "zlib", "blosclz", "lz4hc"]),
        st.integers(0, 9),
        st.sampled_from([-1, 0, 1, 2]),
        st.sampled_from([0, 256]),
    ),
    st.builds(numcodecs.Zstd, st.integers(-3, 9), st.booleans()),
    st.builds(numcodecs.GZip, st.integers(0, 9)),
    *(
        (
            st.builds(numcodecs.Zlib, st.integers(-1, 9)),
            st.builds(numcodecs.LZ4),
            st.builds(numcodecs.BZ2, st.integers(1, 9)),
            st.builds(numcodecs.LZMA, st.just(1), preset=st.integers(0, 2)),
            st.builds(numcodecs.GZip, st.just(-1)),
        )
        if HAS_NUMCODECS
        else ()
    ),
)


FIELDS = np.dtype([("a", "<i4"), ("b", "S3"), ("c", "<f8")])


def type_called(name: str) -> Any:
    return {"text": str, "blobs": VariableLengthBytes(), "fields": FIELDS}.get(name, name)


def values_of(name: str, raw: np.ndarray, count: int) -> np.ndarray:
    """So many values of a type, made of random bytes."""
    if name == "text":
        return np.array([str(raw[i % raw.size]) for i in range(count)], object)
    if name == "blobs":
        return np.array([raw[i % 8 :].tobytes() for i in range(count)], object)
    data_type = np.dtype(type_called(name))
    if data_type.kind in "US":
        return np.resize(raw, count).astype("U").astype(data_type)
    if data_type.kind == "b":
        return np.resize(raw, count) % 2 == 1
    return np.resize(raw, count * data_type.itemsize).view(data_type)


@st.composite
def stored_arrays(draw):
    """The keys and values of an array of v2, of which some chunks are there."""
    name = draw(st.sampled_from(NUMBERS + OTHERS))
    shape = tuple(draw(st.lists(st.integers(0, 5), max_size=3)))
    raw = np.frombuffer(draw(st.binary(min_size=8, max_size=40)), "u1")
    fill = draw(st.sampled_from(["null", "default", "first"]))
    options = {"null": {"fill_value": None}, "first": {"fill_value": values_of(name, raw, 1)[0]}}
    store = MemoryStore()
    array = zarr.create_array(
        store,
        name="v",
        shape=shape,
        chunks=tuple(draw(st.integers(1, 4)) for _ in shape),
        dtype=type_called(name),
        order=draw(st.sampled_from("CF")),
        compressors=draw(compressors),
        chunk_key_encoding={"name": "v2", "separator": draw(st.sampled_from("./"))},
        attributes={"units": "K", "list": [1, None, float("inf")]},
        zarr_format=2,
        **options.get(fill, {}),
    )
    part = tuple(slice(0, draw(st.integers(0, size))) for size in shape)
    count = tuple(one.stop for one in part)
    if shape or name != "blobs":  # zarr 3.4 cannot write a single one
        array[part] = values_of(name, raw, int(np.prod(count))).reshape(count)
    return in_store(store)


@given(stored_arrays())
@settings(max_examples=3000 if FULL else 150)
def test_an_array_holds_the_same_values(values) -> None:
    cas = InMemoryCAS()
    root = build(values, cas)
    old = zarr.open_array(open_root(root, cas).store(), path="v", mode="r")
    new = zarr.open_array(open_root(converted(root, cas), cas).store(), path="v", mode="r", zarr_format=3)
    assert (old.shape, old.chunks, old.dtype.kind) == (new.shape, new.chunks, new.dtype.kind)
    assert dict(old.attrs) == dict(new.attrs)
    assert new.metadata.dimension_names is None
    assert_equal(new[...], old[...])
    if old.fill_value is not None:
        assert_equal(new.fill_value, old.fill_value)


SIXTEEN = np.arange(16).reshape(4, 4)

CODECS: dict[str, tuple[str, list[Any], Any]] = {
    "delta": ("<i4", [numcodecs.Delta("<i4", "<i2")], None),
    "delta, big-endian": (">i4", [numcodecs.Delta(">i4", ">i2")], numcodecs.Blosc()),
    "fixedscaleoffset": ("<f8", [numcodecs.FixedScaleOffset(-3, 10, "<f8", "<u2")], numcodecs.Zlib()),
    "fixedscaleoffset, other order": ("<f8", [numcodecs.FixedScaleOffset(0, 10, "<f8", ">i2")], None),
    "quantize": ("<f4", [numcodecs.Quantize(2, "<f4")], numcodecs.Blosc()),
    "bitround": ("<f4", [numcodecs.BitRound(4)], numcodecs.Zstd()),
    "astype": ("<f8", [numcodecs.AsType("<f4", "<f8")], None),
    "packbits": ("?", [numcodecs.PackBits()], None),
    "as netCDF has it": ("<f4", [numcodecs.Shuffle(4), numcodecs.Zlib(4)], None),
    "checksums": (">f4", [numcodecs.Fletcher32(), numcodecs.CRC32()], numcodecs.Adler32()),
    "several": ("<i4", [numcodecs.Delta("<i4"), numcodecs.Shuffle(4)], numcodecs.LZ4()),
}


@needs_numcodecs
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("case", CODECS)
def test_filters_are_those_of_numcodecs_with_the_same_configuration(case, order) -> None:
    data_type, filters, compressor = CODECS[case]
    store = MemoryStore()
    options = {"dtype": data_type, "filters": filters, "compressors": compressor, "order": order}
    array = zarr.create_array(store, shape=(4, 4), chunks=(3, 2), zarr_format=2, **options)
    array[...] = SIXTEEN % 2 == 1 if data_type == "?" else SIXTEEN
    values = converted_values(in_store(store))
    found = zarr.open_array(MemoryStore(buffers(values)), mode="r")
    assert_equal(found[...], array[...])
    stored = {
        codec["name"]: codec.get("configuration") for codec in json.loads(values["zarr.json"])["codecs"]
    }
    assert ("transpose" in stored) == (order == "F")
    for codec in filters:
        config = codec.get_config()
        assert stored[f"numcodecs.{config.pop('id')}"] == config


@needs_numcodecs
def test_what_comes_after_a_filter_is_told_of_its_result() -> None:
    array = array_document(
        dtype="<f8",
        filters=[numcodecs.FixedScaleOffset(0, 10, "<f8", ">i2").get_config()],
        compressor=numcodecs.Blosc().get_config(),
    )
    _, plain, blosc = json.loads(converted_values({".zarray": json.dumps(array).encode()})["zarr.json"])[
        "codecs"
    ]
    assert plain["configuration"] == {"endian": "big"} and blosc["configuration"]["typesize"] == 2


def buffers(values: Mapping[str, bytes]) -> dict[str, Any]:
    return {key: cpu.Buffer.from_bytes(value) for key, value in values.items()}


OWN: list[tuple[Any, dict[str, Any]]] = [
    (
        numcodecs.Blosc("zstd", 3, numcodecs.Blosc.BITSHUFFLE),
        {
            "name": "blosc",
            "cname": "zstd",
            "clevel": 3,
            "shuffle": "bitshuffle",
            "blocksize": 0,
            "typesize": 8,
        },
    ),
    (
        numcodecs.Blosc("lz4", 7, numcodecs.Blosc.AUTOSHUFFLE, 512),
        {"name": "blosc", "cname": "lz4", "clevel": 7, "shuffle": "shuffle", "blocksize": 512, "typesize": 8},
    ),
    (numcodecs.Zstd(4, True), {"name": "zstd", "level": 4, "checksum": True}),
    (numcodecs.GZip(9), {"name": "gzip", "level": 9}),
]


@pytest.mark.parametrize(("compressor", "expected"), OWN, ids=str)
def test_codecs_that_v3_has_too_are_its_own(compressor, expected) -> None:
    store = MemoryStore()
    zarr.create_array(store, shape=4, chunks=4, dtype=">f8", compressors=compressor, zarr_format=2)
    document = json.loads(converted_values(in_store(store))["zarr.json"])
    plain, codec = document["codecs"]
    assert plain == {"name": "bytes", "configuration": {"endian": "big"}}
    assert {"name": codec["name"], **codec["configuration"]} == expected


@pytest.mark.parametrize("data_type", [str, VariableLengthBytes(), "S3", "<U3", "<i4"])
def test_what_null_reads_as_stays(data_type) -> None:
    store = MemoryStore()
    array = zarr.create_array(
        store, shape=4, chunks=2, dtype=data_type, fill_value=None, zarr_format=2, compressors=None
    )
    assert json.loads(in_store(store)[".zarray"])["fill_value"] is None
    found = zarr.open_array(MemoryStore(buffers(converted_values(in_store(store)))), mode="r")
    assert_equal(found[...], array[...])


def test_chunks_of_length_0_where_there_are_none_become_1() -> None:
    document = array_document(shape=[0, 4], chunks=[0, 2])
    values = converted_values({".zarray": json.dumps(document).encode()})
    assert json.loads(values["zarr.json"])["chunk_grid"]["configuration"]["chunk_shape"] == [1, 2]
    assert "the shape of its chunks is [0, 2]" in refusal({".zarray": {**document, "shape": [3, 4]}})


# Datasets by xarray


def climate(rng: np.random.Generator) -> xr.Dataset:
    """What people store: times, packed and masked numbers, text, scalars."""
    masked = rng.normal(280, 9, (8, 6, 4)).astype("f4")
    masked[masked > 285] = np.nan
    counts = rng.integers(0, 99, (6, 4)).astype("i4")
    counts[0, :2] = 3, 50
    ds = xr.Dataset(
        {
            "t2m": (("time", "y", "x"), masked, {"units": "K", "long_name": "2 m"}),
            "packed": (("time", "y"), np.round(rng.normal(size=(8, 6)), 2), {"units": "1"}),
            "counts": (("y", "x"), counts, {"flags": [1, 2]}),
            "unsigned": ("x", np.array([1.0, 200.0, 254.0, np.nan])),
            "mask": (("y", "x"), counts > 50),
            "station": ("y", np.array(["Köln", "Ulm", "", "a", "bb", "ccc"], object)),
            "code": ("y", np.array(["K", "U", "", "a", "bb", "ccc"])),
            "raw": ("y", np.array([b"K", b"U", b"", b"a", b"bb", b"ccc"])),
            "spectrum": ("x", np.array([1 + 2j, 0, np.nan, 3])),
            "big": (("y", "x"), counts.astype(">f8")),
            "scalar": ((), 7.5, {"note": "alone"}),
            "label": ((), "only"),
            "empty": (("none", "x"), np.zeros((0, 4))),
            "lag": ("x", np.array([1, 2, 3, 4], "m8[h]").astype("m8[ns]")),
        },
        coords={
            "time": np.datetime64("2020-01-01", "ns") + np.arange(8) * np.timedelta64(6, "h"),
            "y": np.linspace(-1, 1, 6),
            "x": np.arange(4),
            "height": 2.0,
            "member": ("y", np.array(["c", "d", "e", "f", "g", "h"], object)),
        },
        attrs={"title": "a", "history": [1, 2.5, "three"]},
    )
    for dim in ("y", "x"):
        ds[dim].attrs["axis"] = dim.upper()
    return ds


ENCODING: dict[str, dict[str, Any]] = {
    "t2m": {
        **{"dtype": "i2", "scale_factor": 0.01, "add_offset": 270.0, "_FillValue": -32767},
        **{"chunks": (3, 4, 4), "compressors": (numcodecs.Blosc("zstd", 4, 2),)},
    },
    "packed": {
        "dtype": "u2",
        "scale_factor": 0.01,
        "add_offset": -10.0,
        "_FillValue": 0,
        "compressors": (numcodecs.Zstd(3),),
    },
    "counts": {"_FillValue": 50, "chunks": (2, 3), "compressors": (numcodecs.GZip(5),)},
    "unsigned": {"dtype": "i1", "_Unsigned": "true", "_FillValue": -1},
    "big": {"dtype": ">f8", "compressors": None, "_FillValue": 3.0},
    "scalar": {"_FillValue": 7.25},
    "spectrum": {"_FillValue": 3 + 0j},
    "time": {"units": "hours since 1970-01-01", "calendar": "standard", "chunks": (4,)},
}


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


def array_document(**changes: Any) -> dict[str, Any]:
    """A sound .zarray."""
    document = {
        **{"zarr_format": 2, "shape": [4], "chunks": [2], "dtype": "<i4", "order": "C"},
        **{"fill_value": 0, "compressor": None, "filters": None},
    }
    return document | changes


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


def stored_as_v2(write: Callable[[Any], object]):
    """A root of Zarr v2, and its store."""
    cas = InMemoryCAS()
    store = new_store(cas)
    write(store)
    return store.flush(), cas


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


def variable_of_v2(data_type: Any, fill: Any, data: Any, attributes: dict[str, Any]) -> dict[str, bytes]:
    store = MemoryStore()
    group = zarr.create_group(store, zarr_format=2)
    attributes = {"_ARRAY_DIMENSIONS": ["x"], **attributes}
    array = group.create_array(
        "v", shape=3, chunks=2, dtype=data_type, fill_value=fill, attributes=attributes, compressors=None
    )
    array[:] = data
    return in_store(store)


def opened_both_ways(values: Mapping[str, bytes]) -> tuple[xr.Dataset, xr.Dataset]:
    stores = (MemoryStore(buffers(one)) for one in (values, converted_values(values)))
    before, after = (xr.open_zarr(store, consolidated=False).load() for store in stores)
    return before, after


TEXT = np.array(["a", "ab", ""], object)

MASKED: dict[str, tuple[Any, ...]] = {
    "i4": ("<i4", 2, [1, 2, 3], {}),
    "beyond 2**53": ("<u8", 2**64 - 1, np.array([1, 2**64 - 1, 3], "u8"), {}),
    "f4 by value": ("<f4", 1e20, np.array([1, 1e20, 3], "f4"), {}),
    "f2 by NaN": ("<f2", np.nan, [1, np.nan, 3], {}),
    "infinity": (">f8", np.inf, [1, np.inf, 3], {}),
    "complex": ("<c8", 1 + 2j, np.array([1 + 2j, 0, 3], "c8"), {}),
    "bool": ("?", True, [True, False, True], {}),
    "unsigned": ("i1", -1, np.array([1, -2, -1], "i1"), {"_Unsigned": "true", "scale_factor": 2.0}),
    "also by another": ("<i4", 2, [1, 2, 3], {"missing_value": 3}),
    "by an attribute": ("<i4", None, [1, 2, 3], {"_FillValue": 2}),
    "by an attribute that is a float": ("<f4", None, [1, 2, 3], {"_FillValue": 2}),
    "by an attribute that is NaN": ("<f8", None, [1, np.nan, 3], {"_FillValue": "NaN"}),
    "text": (str, "ab", TEXT, {}),
    "empty text": (str, "", TEXT, {}),
    "U": ("<U3", "ab", TEXT.astype("U"), {}),
    "U by an attribute": ("<U3", None, TEXT.astype("U"), {"_FillValue": "ab"}),
}


@pytest.mark.parametrize("case", MASKED)
@pytest.mark.filterwarnings("ignore:variable 'v' has multiple fill values")
def test_what_xarray_takes_for_missing_stays_missing(case) -> None:
    before, after = opened_both_ways(variable_of_v2(*MASKED[case]))
    assert before.v.isnull().any()
    xr.testing.assert_identical(after, before)
    assert after.v.dtype == before.v.dtype


@pytest.mark.parametrize("fill", [0, np.datetime64("NaT", "s")], ids=str)
def test_times_are_as_they_were_and_nothing_takes_their_fill_value_for_missing(fill) -> None:
    """In v2 xarray shows it among the attributes, as a time, which no attribute of v3 can be."""
    data = np.array([0, 1, "NaT"], "M8[s]")
    before, after = opened_both_ways(variable_of_v2("<M8[s]", fill, data, {"note": 1}))
    assert_equal(after.v, before.v)
    assert after.v.attrs == {"note": 1}


def test_text_of_bytes_of_which_xarray_masks_some_is_refused() -> None:
    values = variable_of_v2("S3", b"ab", np.array([b"a", b"ab", b""]), {})
    assert refusal(values) == (
        "'v/.zarray' is an array of '|S3' with no codec, in which xarray takes np.bytes_(b'ab') for a missing value, and in "
        "Zarr v3 it cannot: set fill_value to null, and its attribute _FillValue to none"
    )
    assert "takes 'ab' for a missing" in refusal(variable_of_v2(str, "ab", TEXT, {"missing_value": "a"}))
    assert "_FillValue is 'none'" in refusal(variable_of_v2("<i4", None, [1, 2, 3], {"_FillValue": "none"}))


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


def test_a_single_value_of_bytes_is_read() -> None:
    store = MemoryStore()
    zarr.create_array(
        store, shape=(), chunks=(), dtype=VariableLengthBytes(), compressors=None, zarr_format=2
    )
    chunk = numcodecs.VLenBytes().encode(np.array([b"alone"], object))
    values = converted_values(in_store(store) | {"0": bytes(chunk)})
    assert zarr.open_array(MemoryStore(buffers(values)), mode="r")[()] == b"alone"


# What is refused, and what is left


GROUP = {"zarr_format": 2}


@pytest.mark.parametrize("codec", ["json2", "msgpack2", "pickle", "categorize", "nobody's"])
def test_a_codec_that_v3_has_no_form_for_is_named_with_its_array(codec) -> None:
    array = array_document(dtype="|O", filters=[{"id": codec}])
    assert refusal({".zgroup": GROUP, "g/v/.zarray": array}) == (
        f"'g/v/.zarray' is an array of '|O' with {codec!r}, and zarr {zarr.__version__} has no {codec!r} for Zarr v3"
    )


@needs_numcodecs
def test_what_zarr_does_not_read_back_is_refused() -> None:
    """A chunk is tried before anything is promised."""
    twice = array_document(dtype="<f8", filters=[numcodecs.Quantize(2, "<f8", "<f4").get_config()])
    found = refusal({"v/.zarray": twice})
    assert "'v/.zarray' is an array of '<f8' with 'quantize', which zarr" in found
    assert "does not read from Zarr v3" in found
    swapped = array_document(dtype=">f4", filters=[numcodecs.Quantize(2, ">f4").get_config()])
    assert "come out wrong" in refusal({"v/.zarray": swapped})
    late = [numcodecs.Shuffle(4).get_config(), numcodecs.Delta("<i4").get_config()]
    assert "'delta' takes arrays" in refusal({"v/.zarray": array_document(filters=late)})


def test_fields_in_two_byte_orders_are_refused() -> None:
    array = array_document(dtype=[["a", "<i4"], ["b", ">i4"]], fill_value=None)
    assert "does not read from Zarr v3: [(" in refusal({"v/.zarray": array})


DAMAGED: dict[str, tuple[dict[str, Any], str]] = {
    "no JSON": ({"v/.zarray": b"{"}, "'v/.zarray' is not JSON: "),
    "no object": ({"v/.zarray": b"[1]"}, "'v/.zarray' is '[1]', expected a JSON object"),
    "too deep": (
        {".zgroup": GROUP, ".zattrs": b'{"a":' + b"[" * 400 + b"]" * 400 + b"}"},
        "'.zattrs' is not JSON: ",
    ),
    "no field": (
        {"v/.zarray": {"zarr_format": 2, "shape": [1]}},
        "'v/.zarray' is not valid metadata of Zarr: it has no",
    ),
    "format": (
        {".zgroup": {"zarr_format": 3}},
        "'.zgroup' is not valid metadata of Zarr: zarr_format is 3, expected 2",
    ),
    "copies": (
        {".zgroup": GROUP, ".zmetadata": {}},
        "'.zmetadata' is not valid metadata of Zarr: zarr_consolidated",
    ),
    "type": (
        {"v/.zarray": array_document(dtype="<q9")},
        "'v/.zarray' is an array of '<q9' with no codec, which zarr",
    ),
    "codec": (
        {"v/.zarray": array_document(filters=["zlib"])},
        "'v/.zarray' has the codec 'zlib', expected an object",
    ),
    "level": (
        {"v/.zarray": array_document(compressor={"id": "blosc", "cname": "none"})},
        "'v/.zarray' is an array of '<i4' with 'blosc', which zarr",
    ),
    "filters": (
        {"v/.zarray": array_document(filters=3)},
        "'v/.zarray' is not valid metadata of Zarr: filters is 3",
    ),
    "separator": (
        {"v/.zarray": array_document(dimension_separator="-")},
        "'v/.zarray' is an array of '<i4' with no codec",
    ),
    "array and group": (
        {"v/.zarray": array_document(), "v/.zgroup": GROUP},
        "'v/.zarray' and 'v/.zgroup' are both there: an array and a group cannot have one path",
    ),
    "attributes alone": (
        {".zgroup": GROUP, "v/.zattrs": {}},
        "'v/.zattrs' belongs to nothing, there is no .zarray or",
    ),
    "copies alone": (
        {"v/.zarray": array_document(), "v/.zmetadata": {"zarr_consolidated_format": 1, "metadata": {}}},
        "'v/.zmetadata' belongs to nothing, there is no .zgroup beside it",
    ),
    "copies of nothing": (
        {".zgroup": GROUP, ".zmetadata": {"zarr_consolidated_format": 1, "metadata": {"v/.zarray": {}}}},
        "'.zmetadata' names 'v/.zarray', which is not there",
    ),
    "both formats": (
        {"v/.zarray": array_document(), "v/zarr.json": {"zarr_format": 3, "node_type": "group"}},
        "'v/.zarray' says that this is a Zarr v2 array, and 'v/zarr.json' beside it that the node_type is 'group'",
    ),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_documents_that_are_damaged_or_contradict_are_told_by_key(case) -> None:
    values, expected = DAMAGED[case]
    assert refusal(values).startswith(expected)


@pytest.mark.parametrize("values", [{}, {"a": b"1"}, {"zarr.json": {"zarr_format": 3, "node_type": "group"}}])
def test_where_nothing_is_v2_that_is_said(values) -> None:
    assert refusal(values).startswith("nothing here is Zarr v2: ")


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


def test_the_warnings_of_zarr_are_left_to_readers() -> None:
    values = variable_of_v2("<U3", None, TEXT.astype("U"), {})
    cas = InMemoryCAS()
    root = build(values, cas)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        zarr3_documents(open_root(root, cas))
    assert not told
