"""One dataset, every scheduler, one root."""

import random

import dask
import dask.array as da
import dask.bag
import numpy as np
import pytest
import xarray as xr
from dask.utils import key_split
from distributed import Client, LocalCluster, get_client
from stored import assert_same, by_to_zarr, in_tree

from hamt_bulk import InMemoryCAS, PackCAS, build
from hamt_bulk.dask import build as build_on_dask
from hamt_bulk.dask.batches import windows_of
from hamt_bulk.errors import InvalidInput, NotPortable
from hamt_bulk.xarray import BuildProgress, to_hamt, to_hamt_async

pytestmark = pytest.mark.timeout(240)


def dataset() -> xr.Dataset:
    """303 chunks, whose tasks share tasks with each other."""
    values = da.arange(20 * 30 * 4, chunks=30, dtype="f4").reshape(20, 30, 4).rechunk((1, 2, 4))
    shifted = da.where(values % 7 == 0, np.nan, values) + values[:1].mean()
    variables = {
        "a": (("x", "y", "z"), shifted),
        "b": ("y", da.arange(30, chunks=12)),
        "c": ("z", np.arange(4)),
    }
    return xr.Dataset(variables, coords={"x": np.arange(20)})


@pytest.fixture(scope="module")
def expected():
    return build(by_to_zarr(dataset()), InMemoryCAS())


@pytest.fixture
def small_batches(monkeypatch):
    """Many batches, windows and parts, as a large dataset has."""
    monkeypatch.setattr("hamt_bulk.dask.batches.BATCH_BYTES", 500)
    monkeypatch.setattr("hamt_bulk.dask.graphs.windows_of", lambda batches, _: windows_of(batches, 1, 100))


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_in_this_process(expected, scheduler, workers):
    with dask.config.set(scheduler=scheduler, num_workers=workers):
        assert to_hamt(dataset(), InMemoryCAS()) == expected


@pytest.mark.parametrize("workers", [1, 3])
def test_in_processes(expected, workers, tmp_path):
    cas = PackCAS(tmp_path)
    with dask.config.set(scheduler="processes", num_workers=workers):
        assert to_hamt(dataset(), cas) == expected
    assert_same(in_tree(expected, PackCAS(tmp_path)), by_to_zarr(dataset()))


def test_without_any_dask_array(expected):
    encoding = {"a": {"chunks": (1, 2, 4)}, "b": {"chunks": (12,)}}
    assert to_hamt(dataset().compute(), InMemoryCAS(), encoding=encoding) == expected


def test_with_many_windows(expected, small_batches):
    assert to_hamt(dataset(), InMemoryCAS()) == expected


def test_work_that_all_blocks_share_is_done_once(small_batches):
    """Else each window would take the mean of everything."""
    calls = []

    def note(block):
        calls.append(block.size)
        return block

    values = da.arange(400, chunks=1, dtype="f8").map_blocks(note, dtype="f8", meta=np.zeros(0))
    root = to_hamt(xr.Dataset({"a": ("x", values - values.mean())}), InMemoryCAS(), progress=False)
    assert len(calls) == 400
    assert root == to_hamt(
        xr.Dataset({"a": ("x", np.arange(400.0) - 199.5)}), InMemoryCAS(), encoding={"a": {"chunks": (1,)}}
    )


@pytest.mark.parametrize("seed", range(5))
def test_in_shuffled_order(expected, small_batches, seed):
    """Which batch is finished first does not matter."""

    def shuffling(graph, keys, **_):
        shuffled = random.Random(seed).sample(keys, len(keys))
        found = dict(zip(shuffled, [dask.get(graph, [key])[0] for key in shuffled], strict=True))
        return [found[key] for key in random.Random(seed + 1).sample(keys, len(keys))]

    with dask.config.set(scheduler=shuffling):
        assert to_hamt(dataset(), InMemoryCAS()) == expected


@pytest.mark.parametrize("parts", [1, 2, 3, 16, 100, 255, 256])
def test_in_any_number_of_parts(expected, parts, monkeypatch):
    monkeypatch.setattr("hamt_bulk.dask.stages.part_count", lambda _: parts)
    assert to_hamt(dataset(), InMemoryCAS()) == expected


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_compute_false_gives_a_delayed_of_the_root(expected, scheduler, small_batches):
    delayed = to_hamt(dataset(), InMemoryCAS(), compute=False)
    with dask.config.set(scheduler=scheduler):
        assert delayed.compute() == expected


def test_progress_reaches_its_total():
    seen: list[BuildProgress] = []
    to_hamt(dataset(), InMemoryCAS(), progress=seen.append)
    last = {progress.stage: progress for progress in seen}
    assert last["write"] == BuildProgress("write", 303, 303)
    assert last["index"].done == last["index"].total
    assert [progress.done for progress in seen if progress.stage == "write"] == sorted(
        progress.done for progress in seen if progress.stage == "write"
    )


def test_processes_refuse_a_store_of_this_one_before_any_work():
    with dask.config.set(scheduler="processes"), pytest.raises(NotPortable, match=r'PackCAS\("folder"\)'):
        to_hamt(dataset(), InMemoryCAS())


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_on_a_cluster(expected, tmp_path, workers):
    cas = PackCAS(tmp_path)
    cluster = LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0")
    with cluster, Client(cluster) as client:
        assert to_hamt(dataset(), cas) == expected
        with pytest.raises(NotPortable, match=r'PackCAS\("folder"\)'):
            to_hamt(dataset(), InMemoryCAS())
        if workers == 2:
            assert to_hamt(dataset().persist(), cas) == expected
            assert to_hamt(dataset(), cas, compute=False).compute() == expected
            assert {"hamt-write", "hamt-index"} <= {key_split(key) for key in recent_tasks(client)}


def recent_tasks(client) -> list[tuple]:
    """The keys of the tasks that the workers ran."""
    keys = []
    for log in client.run(lambda dask_worker: [entry[0] for entry in dask_worker.state.log]).values():
        keys += [key for key in log if isinstance(key, tuple)]
    return keys


def test_on_a_cluster_in_this_process(expected, small_batches):
    with LocalCluster(n_workers=2, processes=False, dashboard_address=":0") as cluster, Client(cluster):
        assert to_hamt(dataset(), InMemoryCAS()) == expected


async def test_on_an_asynchronous_client(expected, tmp_path):
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, asynchronous=True, dashboard_address=":0")
    async with cluster, Client(cluster, asynchronous=True):
        with pytest.raises(InvalidInput, match=r"await.*to_hamt_async"):
            to_hamt(dataset(), PackCAS(tmp_path))
        assert not list(tmp_path.iterdir())
        assert await to_hamt_async(dataset(), PackCAS(tmp_path)) == expected
        with pytest.raises(InvalidInput, match="align_chunks"):
            await to_hamt_async(dataset(), PackCAS(tmp_path), encoding={"a": {"chunks": (1, 3, 4)}})


async def test_the_asynchronous_call_needs_such_a_client():
    with pytest.raises(ValueError, match=r"No .*client|call to_hamt"):
        get_client()
        await to_hamt_async(dataset(), InMemoryCAS())
    with pytest.raises(InvalidInput, match="call to_hamt"):
        await to_hamt_async(dataset(), InMemoryCAS())


def items(count: int) -> list[tuple[str, bytes]]:
    return [(f"key/{number}", b"%d" % number) for number in range(count)]


def test_any_keys_from_a_bag_or_from_delayed_pieces():
    expected = build(items(1000), InMemoryCAS())
    assert build_on_dask(dask.bag.from_sequence(items(1000), npartitions=7), InMemoryCAS()) == expected
    pieces = [dask.delayed(items(1000)[start::9]) for start in range(9)]
    random.Random(0).shuffle(pieces)
    assert build_on_dask(pieces, InMemoryCAS()) == expected
    as_dicts = [dask.delayed(dict)(piece) for piece in pieces]
    assert build_on_dask(as_dicts, InMemoryCAS()) == expected
    assert build_on_dask([], InMemoryCAS()) == build([], InMemoryCAS())


def test_a_base_is_changed_on_dask_as_in_one_process():
    cas = InMemoryCAS()
    base = build(items(1000), cas)
    changes = {"key/3": None, "key/5": b"new", "other": b"x"}
    pieces = [dask.delayed({key: value}) for key, value in changes.items()]
    assert build_on_dask(pieces, cas, base=base) == build(changes, cas, base=base)
    kept = {key: value for key, value in items(1000)} | changes
    assert build(changes, cas, base=base) == build(
        {k: v for k, v in kept.items() if v is not None}, InMemoryCAS()
    )
