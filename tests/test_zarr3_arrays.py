"""Zarr v2 arrays that become v3: the same values, by the same codecs, and no chunk changes."""

import json
import os
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from stored import in_store
from zarr.dtype import VariableLengthBytes
from zarr.storage import MemoryStore
from zarr3_made import (
    HAS_NUMCODECS,
    array_document,
    assert_equal,
    buffers,
    converted,
    converted_values,
    needs_numcodecs,
    refusal,
)

from hamt_bulk import InMemoryCAS, build
from hamt_bulk.formats import open_root

FULL = os.environ.get("HAMT_BULK_FULL") == "1"

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


def test_a_single_value_of_bytes_is_read() -> None:
    store = MemoryStore()
    zarr.create_array(
        store, shape=(), chunks=(), dtype=VariableLengthBytes(), compressors=None, zarr_format=2
    )
    chunk = numcodecs.VLenBytes().encode(np.array([b"alone"], object))
    values = converted_values(in_store(store) | {"0": bytes(chunk)})
    assert zarr.open_array(MemoryStore(buffers(values)), mode="r")[()] == b"alone"
