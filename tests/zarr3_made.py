"""Hierarchies of Zarr v2, what becomes of them in v3, and datasets to tell the two apart by."""

import json
from collections.abc import Callable, Mapping
from typing import Any

import numcodecs
import numpy as np
import pytest
import xarray as xr
import zarr
from stored import in_store, in_tree
from zarr.core.buffer import cpu
from zarr.registry import get_codec_class
from zarr.storage import MemoryStore
from zarr_stores import new_store

from hamt_bulk import InMemoryCAS, build, errors
from hamt_bulk.formats import open_root
from hamt_bulk.formats.zarr3 import zarr3_documents

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
    """What these keys and values of v2 become."""
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


def buffers(values: Mapping[str, bytes]) -> dict[str, Any]:
    """What zarr's memory store takes."""
    return {key: cpu.Buffer.from_bytes(value) for key, value in values.items()}


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


def array_document(**changes: Any) -> dict[str, Any]:
    """A sound .zarray."""
    document = {
        **{"zarr_format": 2, "shape": [4], "chunks": [2], "dtype": "<i4", "order": "C"},
        **{"fill_value": 0, "compressor": None, "filters": None},
    }
    return document | changes


def stored_as_v2(write: Callable[[Any], object]):
    """A root of Zarr v2, and its store."""
    cas = InMemoryCAS()
    store = new_store(cas)
    write(store)
    return store.flush(), cas


def variable_of_v2(data_type: Any, fill: Any, data: Any, attributes: dict[str, Any]) -> dict[str, bytes]:
    """The keys and values of a group of one variable, `v`, along `x`."""
    store = MemoryStore()
    group = zarr.create_group(store, zarr_format=2)
    attributes = {"_ARRAY_DIMENSIONS": ["x"], **attributes}
    array = group.create_array(
        "v", shape=3, chunks=2, dtype=data_type, fill_value=fill, attributes=attributes, compressors=None
    )
    array[:] = data
    return in_store(store)


TEXT = np.array(["a", "ab", ""], object)
