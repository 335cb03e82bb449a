"""`to_hamt` that is called again: what is taken over, and what is another build."""

import asyncio
import random
from pathlib import Path
from typing import Any

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster

from hamt_bulk import InMemoryCAS, PackCAS, check
from hamt_bulk.errors import InvalidInput, JournalMismatch
from hamt_bulk.xarray import to_hamt, to_hamt_async

pytestmark = pytest.mark.filterwarnings("ignore:the Dask arrays of")


class Stop(Exception):
    """What ends the calls here."""


@pytest.fixture(autouse=True)
def small_batches(cut_batches):
    cut_batches(200)


def dataset(stop_at: int | None = None, size: int = 60, **attrs: Any) -> xr.Dataset:
    """Chunks of which some are all fill value. Computing them stops after `stop_at`."""
    computed = []

    def read(block: np.ndarray) -> np.ndarray:
        if len(computed) == stop_at:
            raise Stop
        computed.append(1)
        return block

    values = da.where(da.arange(size, chunks=2) % 12 < 4, 0.0, da.arange(size, chunks=2))
    values = values.map_blocks(read, dtype="f8", meta=np.zeros(0))
    encoding = {"_FillValue": 0.0}
    return xr.Dataset({"a": ("x", values, attrs, encoding)}, coords={"x": np.arange(size)})


def stopped(cas: PackCAS, at: int, journal: Any = True, **options: Any) -> None:
    with pytest.raises(Stop) as caught:
        to_hamt(dataset(at), cas, journal=journal, **options)
    assert any("the same call goes on from there" in note for note in caught.value.__notes__)


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_however_often_it_is_stopped_the_root_is_that_of_one_call(tmp_path, scheduler):
    base = xr.Dataset({"a": ("x", np.arange(60.0))}, coords={"x": np.arange(60)})
    for options in ({}, {"mode": "w"}, {"region": "auto"}, {"append_dim": "x"}):
        random.seed(3)
        store, other = PackCAS(tmp_path / f"{options}"), InMemoryCAS()
        if options:
            options["base"] = to_hamt(base, store, encoding={"a": {"chunks": (2,), "_FillValue": 0.0}})
            to_hamt(base, other, encoding={"a": {"chunks": (2,), "_FillValue": 0.0}})
        # The calls have other numbers of workers, and so other batches.
        for workers in (1, 2, 5):
            with dask.config.set(scheduler=scheduler, num_workers=workers):
                stopped(store, random.randrange(8), **options)
        assert to_hamt(dataset(), store, journal=True, resume=True, **options) == (
            root := to_hamt(dataset(), other, **options)
        )
        assert check(root, store).ok
        assert not list((Path(store.path) / "journals").iterdir())


def test_finished_blocks_are_not_computed_again(tmp_path):
    store = PackCAS(tmp_path)
    with dask.config.set(scheduler="synchronous"):
        stopped(store, 20)
        seen = []
        to_hamt(dataset(), store, journal=True, progress=seen.append)
    first = next(progress for progress in seen if progress.stage == "write")
    assert 0 < first.done <= 20
    assert first.total == 30


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (lambda ds, options: (ds.assign_coords(x=ds["x"] + 1), options), "values of 'x'"),
        (
            lambda ds, options: (dataset(units="K"), options),
            "metadata of 'a/zarr.json', metadata of 'zarr.json'",
        ),
        (lambda ds, options: (ds.chunk(x=4), options | {"encoding": {"a": {"chunks": (2,)}}}), "grid of 'a'"),
        (lambda ds, options: (ds, options | {"write_empty_chunks": True}), "grid of 'a'"),
        (lambda ds, options: (ds, options | {"max_bucket_size": 3}), "tree"),
        (lambda ds, options: (ds, options | {"group": "b"}), "grid of 'a', grid of 'b/a', metadata of"),
    ],
)
def test_another_build_is_refused_and_what_differs_is_said(tmp_path, change, what):
    store, journal = PackCAS(tmp_path / "store"), tmp_path / "journal"
    with dask.config.set(scheduler="synchronous"):
        stopped(store, 10, journal)
        ds, options = change(dataset(), {})
        with pytest.raises(JournalMismatch, match="another build") as caught:
            to_hamt(ds, store, journal=journal, **options)
        assert f"are: {what}" in str(caught.value)
        fresh = to_hamt(ds, InMemoryCAS(), **options)
        assert to_hamt(ds, store, journal=True, **options) == fresh, (
            "among the store's journals it has its own"
        )
        assert to_hamt(dataset(), store, journal=journal, resume=True) == to_hamt(dataset(), InMemoryCAS())


def test_a_journal_is_not_for_one_graph():
    with pytest.raises(InvalidInput, match="compute=True"):
        to_hamt(dataset(), InMemoryCAS(), journal="journal", compute=False)


async def test_an_asynchronous_call_that_is_cancelled_leaves_its_journal_to_the_next(tmp_path):
    journal = tmp_path / "journal"
    cluster = LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, asynchronous=True, dashboard_address=":0"
    )
    async with cluster, Client(cluster, asynchronous=True):
        for seconds in (0.0, 0.01, 0.05):
            call = asyncio.create_task(to_hamt_async(dataset(), PackCAS(tmp_path), journal=journal))
            await asyncio.sleep(seconds)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
        root = await to_hamt_async(dataset(), PackCAS(tmp_path), journal=journal)
    assert root == to_hamt(dataset(), InMemoryCAS())


@pytest.mark.parametrize("size", [23, 24])
def test_what_is_replaced_is_not_read(tmp_path, size):
    """A shard is padded with what was there before, where zarr finds it."""

    def made(size: int, start: float) -> xr.Dataset:
        values = da.arange(start, start + size, chunks=12)
        return xr.Dataset({"a": ("x", values)})

    encoding = {"a": {"shards": (12,), "chunks": (6,)}}
    cas = PackCAS(tmp_path)
    base = to_hamt(made(24, 100.0), cas, encoding=encoding)
    replaced = to_hamt(made(size, 0.0), cas, base=base, mode="w", encoding=encoding)
    assert replaced == to_hamt(made(size, 0.0), InMemoryCAS(), encoding=encoding)
