"""`check` of Zarr hierarchies: every key is accounted for, and the metadata is of one mind."""

from functools import cache
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from multiformats import CID
from stored import in_tree

from hamt_bulk import HAMT, InMemoryCAS, ZarrHAMTStore, build, check, delete
from hamt_bulk.integrity import Report, StoredChunks
from hamt_bulk.xarray import to_hamt

FORMATS = pytest.mark.parametrize("zarr_format", [2, 3])


def dataset(size: int = 10, start: str = "2000-01-01") -> xr.Dataset:
    """Numbers, fixed and free text, a scalar, and an array of which one chunk has more than fill values."""
    mostly_fill = np.full((size, 6), np.nan)
    mostly_fill[0, 0] = 1
    variables = {
        "t": (
            ("time", "x"),
            np.arange(size * 6, dtype="f4").reshape(size, 6),
            {"units": "K", "odd": float("nan")},
        ),
        "gaps": (("time", "x"), mostly_fill),
        "scalar": ((), 3.5),
        "fixed": ("x", np.array(["a", "bc"] * 3)),
    }
    coords = {"time": pd.date_range(start, periods=size), "x": np.arange(6.0)}
    free = np.array(["a", "bc"] * 3, dtype=object)
    return xr.Dataset(variables, coords, {"title": "all of it"}).chunk(time=5, x=4).assign(free=("x", free))


@cache
def stored(zarr_format: int, consolidated: bool = True) -> tuple[CID, InMemoryCAS]:
    """A dataset for all tests: what they change is other roots in its store."""
    cas = InMemoryCAS()
    return to_hamt(dataset(), cas, zarr_format=zarr_format, consolidated=consolidated), cas


def told(report: Report) -> set[tuple[str, str]]:
    assert report.problem_count == len(report.problems)
    return {(problem.kind, problem.where) for problem in report.problems}


def message_of(report: Report) -> str:
    [problem] = report.problems
    return problem.message


def counts(report: Report) -> dict[str, tuple[int, int | None]]:
    return {array.path: (array.stored, array.total) for array in report.arrays}


def sound(root: Any, cas: InMemoryCAS) -> Report:
    report = check(root, cas)
    assert report.ok, str(report)
    assert report.arrays
    return report


@FORMATS
@pytest.mark.parametrize("consolidated", [True, False])
def test_a_dataset_is_accounted_for(zarr_format, consolidated):
    cas = InMemoryCAS()
    root = to_hamt(dataset(), cas, zarr_format=zarr_format, consolidated=consolidated)
    assert counts(sound(root, cas)) == {
        "fixed": (2, 2),
        "free": (1, 1),
        "gaps": (1, 4),
        "scalar": (1, 1),
        "t": (4, 4),
        "time": (1, 1),
        "x": (1, 1),
    }


@FORMATS
def test_what_was_changed_is_accounted_for(zarr_format):
    cas = InMemoryCAS()
    root = to_hamt(dataset(), cas, zarr_format=zarr_format)
    longer = to_hamt(dataset(5, "2000-01-11"), cas, base=root, append_dim="time")
    assert counts(sound(longer, cas))["t"] == (6, 6)
    written = to_hamt(dataset(5)[["t"]].drop_vars("x"), cas, base=longer, region="auto")
    assert counts(sound(written, cas))["t"] == (6, 6)
    more = to_hamt(dataset()[["t"]].rename(t="u"), cas, base=root, mode="a")
    assert counts(sound(more, cas))["u"] == (4, 4)
    inner = to_hamt(dataset(), cas, base=root, group="a/b", zarr_format=zarr_format)
    assert counts(sound(inner, cas))["a/b/t"] == (4, 4)
    assert "a/b/t" not in counts(sound(delete(inner, cas, prefix="a/b/t"), cas))


@FORMATS
@pytest.mark.parametrize("consolidated", [True, False])
def test_a_tree_of_datasets_is_accounted_for(zarr_format, consolidated):
    cas = InMemoryCAS()
    tree = xr.DataTree.from_dict({"/": dataset()[["scalar"]], "/a/b": dataset(), "/c": dataset(5)})
    root = to_hamt(tree, cas, zarr_format=zarr_format, consolidated=consolidated)
    found = counts(sound(root, cas))
    assert (found["a/b/t"], found["c/t"], found["scalar"]) == ((4, 4), (2, 2), (1, 1))


def test_shards_are_counted_as_what_they_are():
    cas = InMemoryCAS()
    encoding = {"t": {"shards": (10, 6), "chunks": (5, 3)}}
    root = to_hamt(dataset()[["t"]].chunk(time=10, x=6), cas, encoding=encoding)
    report = sound(root, cas)
    assert StoredChunks("t", 1, 1, sharded=True) in report.arrays
    assert "t: 1 of 1 shards stored" in str(report)


@pytest.mark.parametrize("encoding", ["default", "v2"])
@pytest.mark.parametrize("separator", [".", "/"])
def test_every_way_to_write_keys_is_accounted_for(encoding, separator):
    cas = InMemoryCAS()
    keys = {"name": encoding, "separator": separator}
    one = zarr.storage.MemoryStore()
    group = zarr.create_group(one)
    for name, shape in {"a": (7, 3), "scalar": (), "2000": (4,), "none": (0, 3)}.items():
        array = group.create_array(
            name, shape=shape, chunks=(2,) * len(shape), dtype="i4", chunk_key_encoding=keys
        )
        array[...] = 1
    root = build({key: value.to_bytes() for key, value in one._store_dict.items()}, cas)
    assert counts(sound(root, cas)) == {"2000": (2, 2), "a": (8, 8), "none": (0, 0), "scalar": (1, 1)}


@FORMATS
@pytest.mark.parametrize("separator", [".", "/"])
def test_what_a_zarr_store_writes_is_accounted_for(zarr_format, separator):
    async def written() -> HAMT:
        return await HAMT.build(cas=cas, values_are_bytes=True)

    import asyncio

    cas = InMemoryCAS()
    store = ZarrHAMTStore(asyncio.run(written()))
    keys = {"name": "v2", "separator": separator}
    encoding = {"t": {"chunk_key_encoding": keys}} if zarr_format == 2 else None
    dataset().to_zarr(store, zarr_format=zarr_format, encoding=encoding)
    assert counts(sound(store.flush(), cas))["t"] == (4, 4)


def test_chunks_that_are_not_stored_are_no_damage():
    cas = InMemoryCAS()
    root = to_hamt(dataset(), cas)
    assert counts(sound(root, cas))["gaps"] == (1, 4)
    assert "  gaps: 1 of 4 chunks stored" in str(check(root, cas)).splitlines()
    emptier = delete(root, cas, keys=["t/c/0/0", "t/c/1/1"])
    assert counts(sound(emptier, cas))["t"] == (2, 4)


def test_a_report_shows_twenty_arrays():
    cas = InMemoryCAS()
    root = to_hamt(xr.Dataset({f"v{n:02}": ("x", np.arange(2)) for n in range(23)}), cas)
    lines = str(sound(root, cas)).splitlines()
    assert lines[3:5] == ["  v00: 1 of 1 chunks stored", "  v01: 1 of 1 chunks stored"]
    assert lines[22:24] == ["  v19: 1 of 1 chunks stored", "  and 3 more arrays"]


@pytest.mark.parametrize(
    "items", [{"a/0": b"", "c/0/1": b"1", "x": b""}, {"zarr.jsonx": b"{}", "deep/er/zarr.json": b"{}"}]
)
def test_trees_that_are_no_hierarchy_are_left_alone(items):
    cas = InMemoryCAS()
    report = check(build(items, cas), cas)
    assert (report.ok, report.arrays) == (True, ())


@FORMATS
@pytest.mark.parametrize(
    "strays, why",
    [
        ({"t/c/2/0": "t/2.0"}, "its grid has 2 × 2 chunks"),
        ({"t/c/0/2": "t/0.2"}, "its grid has 2 × 2 chunks"),
        ({"t/c/99999999999999999999/0": "t/99999999999999999999.0"}, "its chunks are called"),
        ({"t/c/0": "t/0"}, "its chunks are called"),
        ({"t/c/00/1": "t/00.1"}, "its chunks are called"),
        ({"t/0.1": "t/c/0/1"}, "its chunks are called"),
        ({"t/c.0.1": "t/0/1"}, "its chunks are called"),
        ({"scalar/c/0": "scalar/0.0"}, "it is no chunk of the array 'scalar'"),
        ({"t/notes.txt": "t/notes.txt"}, "its chunks are called"),
        ({"gone/c/0/0": "gone/0.0"}, "a chunk of no array"),
        ({"c/0": "0"}, "a chunk of no array"),
        ({"README": "README"}, "a chunk of no array"),
        ({"a/b/c/d": "a/b/c/d"}, "a chunk of no array"),
        ({"t/.zattrs": "t/.zmetadata"}, "beside it is no document"),
        ({"t/inner/zarr.json": "t/inner/.zarray"}, "it lies in the array 't'"),
    ],
)
def test_a_stray_key_is_named(zarr_format, strays, why):
    base, cas = stored(zarr_format, consolidated=False)
    [key] = strays if zarr_format == 3 else strays.values()
    document = in_tree(base, cas)["t/zarr.json" if zarr_format == 3 else "t/.zarray"]
    report = check(build({key: document}, cas, base=base), cas)
    assert told(report) == {("unaccounted", key)}
    assert why in message_of(report)
    assert counts(report) == counts(check(base, cas))
    assert str(report).splitlines()[-1].startswith("unaccounted: hamt_bulk.delete(root, cas, keys=[…])")


def test_strays_are_listed_up_to_a_limit_and_all_are_counted():
    cas = InMemoryCAS()
    root = build({f"t/c/9/{n}": b"" for n in range(50)}, cas, base=to_hamt(dataset(), cas))
    report = check(root, cas, max_problems=3)
    assert (len(report.problems), report.problem_count) == (3, 50)
    assert check(root, cas, zarr=False).ok
    assert check(root, cas, zarr=False).arrays == ()


def test_advice_on_strays_works():
    cas = InMemoryCAS()
    root = build({"t/c/9/9": b"", "note": b""}, cas, base=to_hamt(dataset(), cas))
    without = delete(root, cas, keys=[problem.where for problem in check(root, cas).problems])
    assert check(without, cas).ok
