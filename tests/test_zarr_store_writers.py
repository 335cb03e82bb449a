"""The Zarr store that is written to: zarr, xarray, dask and threads on it, beside zarr's memory store."""

import asyncio
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from distributed import Client, LocalCluster
from stored import in_store
from test_zarr_read import collect, links
from zarr.abc.store import Store
from zarr.storage import MemoryStore
from zarr_stores import PROTOTYPE, assert_holds, buffer, new_store


def edit_by_zarr(store: Store, zarr_format: int) -> None:
    root = zarr.open_group(store, mode="w", zarr_format=zarr_format, attributes={"title": "t"})
    for name in ("a", "b", "b/inner", "c"):
        root.create_group(name)
    shards = {"shards": (8,)} if zarr_format == 3 else {}
    for group in ("a", "b/inner"):
        whole = root[group].create_array("v", shape=(10, 10), chunks=(3, 4), dtype="f8", fill_value=np.nan)
        whole[:] = np.arange(100).reshape(10, 10)
        part = root[group].create_array("w", shape=(20,), chunks=(4,), dtype="i4", **shards)
        part[5:] = np.arange(15)
    whole.resize((5, 14))
    whole[:, 10:] = 7
    whole[0, :] = np.nan  # chunks that are all fill value are deleted
    root["a/w"].append(np.arange(6))
    root["a/v"].attrs["units"] = "K"
    root["a"].create_array("scalar", shape=(), dtype="i8")[...] = 5
    del root["c"], root["b/inner/w"]
    zarr.consolidate_metadata(store, zarr_format=zarr_format)
    root.create_array("v", shape=(4,), chunks=(2,), dtype="i2")[:] = 1
    root.create_array("v", shape=(2,), chunks=(2,), dtype="i2", overwrite=True)[:] = 2
    assert sorted(name for name, _ in root.members(max_depth=None)) == [
        *("a", "a/scalar", "a/v", "a/w", "b", "b/inner", "b/inner/v", "v")
    ]
    assert "c" not in root and "v" in root


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_writes_what_it_writes_to_memory(cas, zarr_format):
    store, memory = new_store(cas), MemoryStore()
    edit_by_zarr(memory, zarr_format)
    edit_by_zarr(store, zarr_format)
    assert_holds(store, in_store(memory))
    edit_by_zarr(store, zarr_format)
    assert_holds(store, in_store(memory))
    del zarr.open_group(store)["a"], zarr.open_group(memory)["a"]
    assert_holds(store, in_store(memory))


def dataset(days: int, first: int = 0) -> xr.Dataset:
    rng = np.random.default_rng(first)
    return xr.Dataset(
        {
            "t2m": (("time", "y", "x"), rng.normal(size=(days, 6, 8)), {"units": "K"}),
            "mask": (("y", "x"), rng.integers(0, 2, (6, 8)).astype(bool)),
        },
        coords={
            "time": np.datetime64("2020-01-01", "ns")
            + np.arange(first, first + days) * np.timedelta64(1, "D"),
            "y": np.linspace(0, 1, 6),
        },
        attrs={"title": "a"},
    )


def edit_by_xarray(store: Store, chunked: bool, **options) -> Iterator[None]:
    def given(ds: xr.Dataset) -> xr.Dataset:
        return ds.chunk(time=2, y=3) if chunked else ds

    encoding = {"t2m": {"chunks": (2, 3, 8)}}
    given(dataset(6)).to_zarr(store, mode="w", encoding=encoding, **options)
    yield
    wind = xr.Dataset({"wind": (("time", "y"), np.ones((6, 6)))})
    given(wind).to_zarr(store, mode="a", **options)
    yield
    more = dataset(4, 6).drop_vars("mask").assign(wind=(("time", "y"), np.zeros((4, 6))))
    given(more).to_zarr(store, append_dim="time", **options)
    yield
    part = (dataset(4, 100) * 2)[["t2m"]].drop_vars(["y", "time"])
    given(part).to_zarr(store, region={"time": slice(2, 6)}, **options)
    yield
    given(dataset(2, 50)).to_zarr(store, group="inner/group", mode="w", **options)
    yield
    given(dataset(4, 9)).to_zarr(store, mode="w", **options)


@pytest.mark.parametrize("options", [{"zarr_format": 3}, {"zarr_format": 2}, {"consolidated": False}])
@pytest.mark.parametrize("chunked", [False, True], ids=["numpy", "dask"])
def test_xarray_writes_what_it_writes_to_memory(cas, chunked, options):
    store, memory = new_store(cas), MemoryStore()
    with dask.config.set(scheduler="threads"):
        ours, theirs = (edit_by_xarray(target, chunked, **options) for target in (store, memory))
        for _ in zip(ours, theirs, strict=True):
            assert_holds(store, in_store(memory))
            with xr.open_zarr(store, consolidated=options.get("consolidated")) as found:
                assert found.identical(xr.open_zarr(memory, consolidated=options.get("consolidated")))
    assert_holds(store, in_store(memory))


@pytest.fixture(scope="module", params=[True, False], ids=["processes", "one process"])
def client(request) -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=request.param, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.mark.parametrize("how", ["at once", "lazily", "into a region", "reading"])
def test_a_cluster_is_refused_and_the_refusal_names_what_to_use(client, cas, how):
    """Whatever workers wrote would be lost, and they do not have what waits here."""
    store = new_store(cas)
    ds = dataset(6).chunk(time=2)
    attempts: dict[str, Callable[[], object]] = {
        "at once": lambda: ds.to_zarr(store),
        "lazily": lambda: ds.to_zarr(store, compute=False).compute(),
        "into a region": lambda: ds.drop_vars("y").to_zarr(store, region={"time": slice(0, 6)}),
        "reading": lambda: xr.open_zarr(store, chunks={}).load(),
    }
    if how in ("into a region", "reading"):
        dataset(6).drop_vars("mask").to_zarr(store, encoding={"t2m": {"chunks": (2, 6, 8)}})
        ds = ds.drop_vars("mask")
    with pytest.raises(Exception) as caught:
        attempts[how]()
    assert any("to_hamt" in str(link) for link in links(caught.value))


def test_what_needs_no_worker_is_written_though_there_is_a_cluster(client, cas):
    store, memory = new_store(cas), MemoryStore()
    for target in (store, memory):
        dataset(6).to_zarr(target)
    assert_holds(store, in_store(memory))


def test_threads_with_an_event_loop_each_write_at_once(cas):
    """The edits of each are its own, so the result is the same whoever comes first."""
    store = new_store(cas, max_waiting_edits=50)
    memory = MemoryStore()

    async def edit(target: Store, name: str) -> None:
        async def one(number: int) -> None:
            key = f"{name}/c/{number}"
            await target.set(key, buffer(f"{name} {number}".encode()))
            if number % 3 == 0:
                await target.delete(key)
            await target.set_if_not_exists(key, buffer(b"again"))
            assert await target.exists(key)
            assert (await target.get(key, PROTOTYPE)).to_bytes() != b""

        await target.set(f"{name}/zarr.json", buffer(b"{}"))
        for start in range(0, 90, 30):
            await asyncio.gather(*(one(number) for number in range(start, start + 30)))
            assert "zarr.json" in await collect(target.list_dir(name))
            assert name in await collect(target.list_dir(""))
            if target is store:
                await store.hamt.flush()
        await target.set(f"{name}-old/c/0", buffer(b"old"))
        await target.delete_dir(f"{name}-old")

    def run(name: str) -> None:
        asyncio.run(edit(store, name))

    names = [f"v{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, names))
    for name in names:
        asyncio.run(edit(memory, name))
    assert len(in_store(memory)) == 8 * 91
    assert_holds(store, in_store(memory))
