"""`to_hamt` with a base, against `to_zarr` on the same store again and against building the result at once."""

from collections.abc import Iterator

import dask
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from stored import assert_same, in_store, in_tree
from trees_made import CountingCAS
from zarr.storage import MemoryStore

from hamt_bulk import InMemoryCAS, PackCAS, build
from hamt_bulk.block import to_bytes
from hamt_bulk.errors import BlockNotFound, Conflict, InvalidInput
from hamt_bulk.nodes import Tree
from hamt_bulk.xarray import to_hamt

ENCODING = {"time": {"chunks": (4,), "units": "days since 2020-01-01", "dtype": "int32"}}


def days(start: int, stop: int, chunk: int | tuple[int, ...] | None = 4, name: str = "t2m") -> xr.Dataset:
    """A variable whose values depend on the day alone, so that any cut of it is a part of the whole."""
    time = pd.date_range("2020-01-01", periods=stop, freq="D")[start:stop]
    day = np.arange(start, stop, dtype="f4")[:, None, None]
    values = day + np.arange(30, dtype="f4").reshape(5, 6) / 100
    dataset = xr.Dataset({name: (("time", "y", "x"), values, {"units": "K"})}, coords={"time": time})
    return dataset if chunk is None else dataset.chunk(time=chunk, x=3)


def zeros(start: int, stop: int) -> xr.Dataset:
    dataset = days(start, stop)
    return dataset * 0


FIRST = (days(0, 10), {"encoding": ENCODING})

STEPS = {
    "starting inside a chunk": [FIRST, (days(10, 17, (2, 4, 1)), {"append_dim": "time"})],
    "three times": [
        FIRST,
        *((days(day, day + 1, 1), {"append_dim": "time"}) for day in (10, 11, 12)),
    ],
    "in memory": [(days(0, 10, None), {"encoding": ENCODING}), (days(10, 13, None), {"append_dim": "time"})],
    "region": [FIRST, (days(4, 8).drop_vars("time"), {"region": {"time": slice(4, 8)}})],
    "region inside chunks": [
        FIRST,
        (days(90, 95, 5).drop_vars("time"), {"region": {"time": slice(2, 7)}, "mode": "a"}),
    ],
    "region of all dimensions": [
        FIRST,
        (
            (days(4, 8) * 2).drop_vars("time").isel(y=slice(0, 5), x=slice(0, 3)),
            {"region": {"time": slice(4, 8), "y": slice(0, 5), "x": slice(0, 3)}},
        ),
    ],
    "region auto": [FIRST, (days(4, 8) * 3, {"region": {"time": "auto"}})],
    "region auto for all": [FIRST, (days(4, 8).drop_vars([]) * 3, {"region": "auto"})],
    "r+": [FIRST, (days(0, 10) * 2, {"mode": "r+"})],
    "written over": [FIRST, (days(0, 10) * 2, {"mode": "a"})],
    "written over with the fill value": [
        (days(0, 10).fillna(0), {"encoding": {"t2m": {"_FillValue": 0.0}} | ENCODING}),
        (zeros(4, 8).drop_vars("time"), {"region": {"time": slice(4, 8)}}),
    ],
    "a variable more": [FIRST, (days(0, 10, name="rain"), {"mode": "a"})],
    "a group more": [FIRST, (days(3, 9), {"mode": "a", "group": "other/inner"})],
    "append in a group": [
        (days(0, 10), {"group": "g", "encoding": ENCODING}),
        (days(10, 13, (2, 1)), {"group": "g", "append_dim": "time"}),
    ],
    "a- leaves the others": [
        (days(0, 10).assign(fixed=("y", np.arange(5))), {"encoding": ENCODING}),
        (days(10, 12, 2).assign(fixed=("y", np.zeros(5, int))), {"append_dim": "time", "mode": "a-"}),
    ],
    "replaced": [FIRST, (days(3, 9, name="rain"), {"mode": "w"})],
    "a group replaced": [
        FIRST,
        (days(3, 9), {"mode": "a", "group": "g"}),
        (days(5, 7, 2, name="rain"), {"mode": "w", "group": "g"}),
    ],
    "format 2": [
        (days(0, 10), {"encoding": ENCODING, "zarr_format": 2}),
        (days(10, 17, (2, 4, 1)), {"append_dim": "time"}),
    ],
    "sharded": [
        (
            days(0, 8, 8).chunk(x=6),
            {"encoding": ENCODING | {"t2m": {"chunks": (2, 5, 3), "shards": (8, 5, 6)}}},
        ),
        (days(8, 12, 4).chunk(x=6), {"append_dim": "time"}),
    ],
    "not consolidated": [
        (days(0, 10), {"encoding": ENCODING, "consolidated": False}),
        (days(10, 13, (2, 1)), {"append_dim": "time", "consolidated": False}),
    ],
    "consolidated later": [
        (days(0, 10), {"encoding": ENCODING, "consolidated": False}),
        (days(10, 13, (2, 1)), {"append_dim": "time"}),
    ],
    "aligned": [FIRST, (days(10, 20, 3), {"append_dim": "time", "align_chunks": True})],
    "empty chunks written": [FIRST, (zeros(10, 12), {"append_dim": "time", "write_empty_chunks": True})],
}


def by_to_zarr(steps) -> MemoryStore:
    store = MemoryStore()
    for dataset, options in steps:
        dataset.to_zarr(store, **options)
    return store


def by_to_hamt(steps, cas):
    root = None
    for dataset, options in steps:
        root = to_hamt(dataset, cas, base=root, **options)
    return root


@pytest.mark.parametrize("name", STEPS)
@pytest.mark.parametrize("scheduler", ["sync", "threads"])
def test_the_result_is_that_of_to_zarr(name, scheduler):
    """Keys and bytes, and the tree is the one that holds them."""
    cas = InMemoryCAS()
    with dask.config.set(scheduler=scheduler):
        root = by_to_hamt(STEPS[name], cas)
        expected = in_store(by_to_zarr(STEPS[name]))
    assert_same(in_tree(root, cas), expected)
    assert root == build(expected, InMemoryCAS())


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    with LocalCluster(2, threads_per_worker=1, dashboard_address=":0") as cluster:
        yield cluster


@pytest.mark.parametrize("name", ["starting inside a chunk", "region inside chunks", "a group replaced"])
def test_on_a_cluster(name, tmp_path, cluster):
    cas = PackCAS(tmp_path)
    with Client(cluster):
        root = by_to_hamt(STEPS[name], cas)
    assert root == by_to_hamt(STEPS[name], InMemoryCAS())


def test_as_one_graph():
    steps = STEPS["starting inside a chunk"]
    cas = InMemoryCAS()
    base = by_to_hamt(steps[:1], cas)
    root = to_hamt(steps[1][0], cas, base=base, append_dim="time", compute=False).compute()
    assert root == by_to_hamt(steps, cas)


def test_a_year_of_daily_appends_is_the_year_built_at_once(tmp_path):
    year = days(0, 366, 8)
    cas = PackCAS(tmp_path)
    root = to_hamt(days(0, 30, 8), cas, encoding=ENCODING | {"t2m": {"chunks": (8, 5, 3)}})
    for start in range(30, 366, 12):
        root = to_hamt(days(start, start + 12, None), cas, base=root, append_dim="time")
    assert root == to_hamt(year, cas, encoding=ENCODING | {"t2m": {"chunks": (8, 5, 3)}})
    assert xr.open_dataset(root, engine="hamt", cas=cas).load().equals(year.compute())


def test_a_tree_of_datasets_is_added_to():
    first = xr.DataTree.from_dict({"/": xr.Dataset(attrs={"a": 1}), "/a": days(0, 8)})
    second = xr.DataTree.from_dict(
        {"/": xr.Dataset(attrs={"b": 2}), "/a": days(0, 8) * 2, "/b/c": days(3, 5, 2)}
    )
    store, cas = MemoryStore(), InMemoryCAS()
    first.to_zarr(store)
    second.to_zarr(store, mode="a")
    root = to_hamt(second, cas, base=to_hamt(first, cas), mode="a")
    assert_same(in_tree(root, cas), in_store(store))


def test_a_lazy_variable_is_cut_on_the_chunks_of_the_base(monkeypatch, tmp_path):
    days(0, 37, None).to_netcdf(tmp_path / "source.nc", encoding={"time": {"units": "days since 2020-01-01"}})
    monkeypatch.setattr("hamt_bulk.xarray.lazy.MAX_EAGER_BYTES", 100)
    monkeypatch.setattr("hamt_bulk.xarray.lazy.LAZY_CHUNK_BYTES", 1000)
    cas = InMemoryCAS()
    base = to_hamt(days(0, 10), cas, encoding=ENCODING)
    with (
        xr.open_dataset(tmp_path / "source.nc") as source,
        pytest.warns(UserWarning, match="lazy but not chunked"),
    ):
        root = to_hamt(source.isel(time=slice(10, None)), cas, base=base, append_dim="time")
    found = xr.open_dataset(root, engine="hamt", cas=cas).load()
    assert found.equals(days(0, 37).compute())


def test_an_append_reads_only_the_paths_it_changes():
    """Of a tree of many chunks: nodes on the paths to the new chunks and to metadata, no other chunk."""
    cas = CountingCAS()
    many = {f"other/c/{n // 100}/0/{n % 100}": b"%d" % n for n in range(30_000)}
    base = build(many, cas, base=to_hamt(days(0, 10), cas, encoding=ENCODING))
    nodes = sum(cid[1] == 0x71 for cid in cas.blocks)
    cas.loads.clear()
    root = to_hamt(days(10, 12, 2), cas, base=base, append_dim="time")
    read = [cid for cid in cas.loads if cid[1] == 0x71]
    assert len(read) < 40 < nodes / 3
    values = {bytes(cas.blocks[cid])[:1] for cid in cas.loads if cid[1] != 0x71}
    assert len(set(cas.loads) - set(read)) < 20, values
    assert Tree(to_bytes(root), cas).pointer("t2m/c/2/0/1") != Tree(to_bytes(base), cas).pointer(
        "t2m/c/2/0/1"
    )


BAD = {
    "another shape": (
        days(10, 12).isel(y=slice(3)),
        {"append_dim": "time"},
        "different dimension sizes|sizes",
    ),
    "other chunks": (days(10, 18, 3), {"append_dim": "time"}, r"align_chunks=True"),
    "another type": (days(10, 12).astype("c8"), {"append_dim": "time"}, r"'t2m' has complex64 .* float32"),
    "a dimension that is not there": (days(10, 12), {"append_dim": "day"}, "append_dim='day' does not match"),
    "a dimension less": (days(10, 12).isel(x=0), {"append_dim": "time"}, "dimension"),
    "mode w-": (days(0, 4), {"mode": "w-"}, "has the group '/' already: pass append_dim="),
    "no mode": (days(0, 4), {}, "has the group '/' already"),
    "a variable more with r+": (days(0, 10, name="rain"), {"mode": "r+"}, "non-pre-existing variables"),
    "a region outside": (
        days(8, 16).drop_vars("time"),
        {"region": {"time": slice(8, 16)}},
        "region|bounds|shape|size|match",
    ),
    "a region that is not found": (
        days(40, 44),
        {"region": {"time": "auto"}},
        "Not all values of coordinate",
    ),
    "encoding again": (
        days(10, 12),
        {"append_dim": "time", "encoding": {"t2m": {"dtype": "f8"}}},
        "already exists, but encoding was provided",
    ),
    "a group that is not there": (days(0, 4), {"mode": "r+", "group": "no"}, "no"),
    "append with mode w": (days(10, 12), {"append_dim": "time", "mode": "w"}, "cannot set append_dim"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_dataset_that_does_not_fit_is_refused(name):
    """Nothing is lost: the base is as it was, and takes the next append."""
    dataset, options, message = BAD[name]
    cas = InMemoryCAS()
    base = to_hamt(*FIRST[:1], cas, **FIRST[1])
    before = in_tree(base, cas)
    with pytest.raises(InvalidInput, match=message):
        to_hamt(dataset, cas, base=base, **options)
    assert in_tree(base, cas) == before
    good = days(10, 12, 2)
    assert to_hamt(good, cas, base=base, append_dim="time") == to_hamt(days(0, 12), cas, encoding=ENCODING)


def test_a_type_that_packing_explains_is_no_other_type():
    cas, packed = InMemoryCAS(), {"t2m": {"dtype": "int16", "scale_factor": 0.01, "_FillValue": -1}}
    base = to_hamt(days(0, 8), cas, encoding=ENCODING | packed)
    root = to_hamt(days(8, 12).astype("f8"), cas, base=base, append_dim="time")
    assert root == to_hamt(days(0, 12), cas, encoding=ENCODING | packed)
    counts = to_hamt(days(0, 8).astype("int32"), cas, encoding=ENCODING)
    with pytest.raises(InvalidInput, match=r"'t2m' has float32 .* int32"):
        to_hamt(days(8, 12), cas, base=counts, append_dim="time")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_consolidated_metadata_does_not_name_is_found_where_it_is_concerned(zarr_format):
    """Somebody wrote beside it. What comes next is as `to_zarr` has it, which looks into every folder."""
    steps = [
        (days(0, 8), {"encoding": ENCODING, "zarr_format": zarr_format}),
        (days(0, 4), {"group": "g", "mode": "a", "consolidated": False, "zarr_format": zarr_format}),
        (days(4, 6, 2), {"group": "g", "append_dim": "time", "zarr_format": zarr_format}),
        (days(0, 6, name="rain"), {"group": "g", "mode": "a", "zarr_format": zarr_format}),
    ]
    cas = InMemoryCAS()
    with pytest.warns(UserWarning, match="readers and later appends would miss it"):
        root = by_to_hamt(steps[:2], cas)
    with pytest.raises(InvalidInput, match="has the group 'g' already"):
        to_hamt(days(0, 4), cas, base=root, group="g", mode="w-", zarr_format=zarr_format)
    for dataset, options in steps[2:]:
        root = to_hamt(dataset, cas, base=root, **options)
    assert_same(in_tree(root, cas), in_store(by_to_zarr(steps)))


def test_the_advice_for_chunks_works_for_variables_that_are_there():
    cas = InMemoryCAS()
    base = to_hamt(days(0, 10), cas, encoding=ENCODING)
    uneven = days(10, 20, (1, 3, 5, 1))
    with pytest.raises(InvalidInput, match=r"What works: align_chunks=True") as refused:
        to_hamt(uneven, cas, base=base, append_dim="time")
    assert "encoding={" not in str(refused.value)
    root = to_hamt(uneven, cas, base=base, append_dim="time", align_chunks=True)
    assert root == to_hamt(days(0, 20), cas, encoding=ENCODING)


@pytest.mark.parametrize(
    "options", [{"append_dim": "time"}, {"region": {"time": slice(0, 4)}}, {"region": "auto"}, {"mode": "r+"}]
)
def test_what_needs_a_base_says_so(options):
    with pytest.raises(InvalidInput, match="without a base: pass base="):
        to_hamt(days(0, 4), InMemoryCAS(), **options)


def test_a_base_that_is_no_root_is_refused_before_anything_is_written():
    cas = InMemoryCAS()
    base = build({f"k{n}": b"%d" % n for n in range(3000)}, cas)
    child = Tree(to_bytes(base), cas).nodes([to_bytes(base)])[0]
    link = next(slot for slot in child if isinstance(slot, bytes))
    blocks = len(cas.blocks)
    with pytest.raises(InvalidInput, match="child node at depth 1"):
        to_hamt(days(0, 4), cas, base=link, mode="a")
    with pytest.raises(InvalidInput, match="built with a max_bucket_size above 1"):
        to_hamt(days(0, 4), cas, base=base, mode="a", max_bucket_size=1)
    with pytest.raises(BlockNotFound, match="the base is not in this store"):
        to_hamt(days(0, 4), InMemoryCAS(), base=base, mode="a")
    assert len(cas.blocks) == blocks


def test_a_missing_chunk_of_the_base_is_an_error_and_no_fill_value():
    """The first chunk of an append holds old values too; without them the append cannot be right."""
    cas = InMemoryCAS()
    base = to_hamt(days(0, 10), cas, encoding=ENCODING)
    lost = Tree(to_bytes(base), cas).pointer("t2m/c/2/0/0")
    del cas.blocks[lost]
    with pytest.raises(BlockNotFound):
        to_hamt(days(10, 12, 2), cas, base=base, append_dim="time")


def test_a_conflict_names_the_variable_and_its_chunks(monkeypatch):
    """Should a check in front of it ever miss that two tasks share a chunk."""
    monkeypatch.setattr("hamt_bulk.xarray.plan._refuse_shared_chunks", lambda *_: None)
    cas = InMemoryCAS()
    base = to_hamt(days(0, 10), cas, encoding=ENCODING)
    message = r"'t2m/c/[234]/0/[01]' was given .*Variable 't2m' has Dask chunks \(1, 1, 1, 1, 1, 1\).* and Zarr chunks \(4, 5, 3\)"
    with pytest.raises(Conflict, match=message):
        to_hamt(days(10, 16, 1), cas, base=base, append_dim="time", safe_chunks=False)
