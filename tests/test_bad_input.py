"""What `to_hamt` and the cluster refuse: one clear error, before work is lost."""

import re
import signal
import subprocess
import sys

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from stored import by_to_zarr, in_tree

from hamt_bulk import InMemoryCAS, PackCAS, build
from hamt_bulk.dask import build as build_on_dask
from hamt_bulk.errors import CASError, Conflict, HamtError, InvalidInput, VersionMismatch
from hamt_bulk.xarray import to_hamt


def simple(chunks=(7, 7, 6)) -> xr.Dataset:
    return xr.Dataset({"a": ("x", da.from_array(np.arange(20), chunks=(chunks,)))})


@pytest.mark.parametrize(
    ("dataset", "options", "message"),
    [
        (simple((7, 6, 7)), {}, "(?s)align_chunks=True.*ds.chunk.*encoding="),
        (simple(), {"encoding": {"a": {"chunks": (5,)}}}, "(?s)align_chunks=True.*ds.chunk.*encoding="),
        (
            simple(),
            {"encoding": {"a": {"chunks": (5,)}}, "safe_chunks": False},
            r"variable 'a', axis 0: Dask chunks \(7, 7, 6\) share Zarr chunks of 5.*align_chunks=True",
        ),
        (
            simple(),
            {"encoding": {"a": {"chunks": (5,), "shards": (10,)}}, "safe_chunks": False},
            "share Zarr chunks of 10",
        ),
        (simple(), {"encoding": {"a": {"bogus": 1}}}, "bogus"),
        (simple(), {"encoding": {"b": {"chunks": (5,)}}}, "b"),
        (simple(), {"zarr_format": 7}, "7"),
        (simple(), {"encoding": {"a": {"compressors": "zstd"}}}, "."),
        (simple().rename(a=3), {}, "names in a Zarr group are text.*found 3"),
        (simple().rename(a=""), {}, "names in a Zarr group are text"),
        (xr.Dataset({"a": ("x", np.array([object()], dtype=object))}), {}, "."),
        (xr.Dataset(attrs={"bad": object()}), {}, "."),
        ({"a": 1}, {}, "expected a Dataset, DataArray or DataTree, found dict"),
        (xr.DataTree(simple()), {"group": "g"}, "group= is not for a DataTree"),
        (xr.DataTree(simple()), {"encoding": {"/other": {}}}, r"encoding names the groups \['/other'\]"),
        (simple(), {"max_bucket_size": 0}, "expected 1 to 23"),
    ],
)
def test_what_cannot_be_stored_is_refused_with_what_works(dataset, options, message):
    cas = InMemoryCAS()
    with pytest.raises(InvalidInput, match=message):
        to_hamt(dataset, cas, **options)


@pytest.mark.parametrize(
    ("chunks", "options"),
    [
        ((31, 28, 31), {}),
        ((7, 6, 7), {}),
        ((7, 7, 6), {"encoding": {"a": {"chunks": (5,)}}}),
        ((7, 7, 6), {"encoding": {"a": {"chunks": (5,)}}, "safe_chunks": False}),
    ],
)
def test_the_advice_for_unaligned_chunks_works(chunks, options):
    """The call that the message proposes, literally."""
    dataset = xr.Dataset({"a": ("x", da.arange(sum(chunks), chunks=(chunks,)))})
    with pytest.raises(InvalidInput) as refused:
        to_hamt(dataset, InMemoryCAS(), **options)
    [proposed] = re.findall("What works: (.*), which rechunks", str(refused.value))
    options |= eval(f"dict({proposed})")
    cas = InMemoryCAS()
    assert in_tree(to_hamt(dataset, cas, **options), cas) == by_to_zarr(dataset, **options)


def test_a_store_that_is_none_is_refused():
    with pytest.raises(InvalidInput, match="no store of kind 'ftp'"):
        to_hamt(simple(), "ftp://host/x")
    with pytest.raises(InvalidInput, match="not a store: int"):
        to_hamt(simple(), 3)


def test_two_tasks_that_give_one_key_different_bytes():
    pieces = [dask.delayed([("k/1", b"a"), ("same", b"s")]), dask.delayed([("k/1", b"b"), ("same", b"s")])]
    with pytest.raises(Conflict, match=r"'k/1' was given bafkr.* and bafkr.*different|align_chunks=True"):
        build_on_dask(pieces, InMemoryCAS())
    deleting = [dask.delayed([("k", b"a")]), dask.delayed([("k", None)])]
    with pytest.raises(Conflict, match="a deletion"):
        build_on_dask(deleting, InMemoryCAS())


def test_a_task_that_ran_twice_is_no_conflict():
    pieces = [dask.delayed([("k/1", b"a")], pure=False), dask.delayed([("k/1", b"a")], pure=False)]
    assert build_on_dask(pieces, InMemoryCAS()) == build({"k/1": b"a"}, InMemoryCAS())


@pytest.mark.parametrize("pieces", ["text", 3, [("k", b"v")], {"k": b"v"}])
def test_pieces_that_are_not_dasks(pieces):
    with pytest.raises(InvalidInput, match="a Bag or a list of Delayed"):
        build_on_dask(pieces, InMemoryCAS())


def test_a_block_that_fails_leaves_the_store_usable(tmp_path):
    def fail(block, block_id):
        if block_id == (3,):
            raise OSError("tape drive on fire")
        return block

    good = xr.Dataset({"a": ("x", da.arange(40, chunks=5))})
    bad = xr.Dataset({"a": ("x", da.arange(40, chunks=5).map_blocks(fail, dtype=int, meta=np.zeros(0, int)))})
    cas = PackCAS(tmp_path)
    for scheduler in ("synchronous", "threads"):
        with dask.config.set(scheduler=scheduler), pytest.raises(OSError, match="tape drive on fire"):
            to_hamt(bad, cas)
        if scheduler == "synchronous":  # threads that were busy when another failed finish what they do
            assert not [path for path in (tmp_path / "tmp").iterdir() if path.is_file()]
    assert in_tree(to_hamt(good, cas), cas) == by_to_zarr(good)


def test_every_refusal_is_an_error_of_ours():
    assert issubclass(InvalidInput, HamtError)
    with pytest.raises(ValueError, match="align_chunks"):
        to_hamt(simple((7, 6, 7)), InMemoryCAS())


def test_zarr_itself_accepts_what_we_accept(tmp_path):
    cas = PackCAS(tmp_path)
    items = in_tree(to_hamt(simple(), cas), cas)
    store = zarr.storage.MemoryStore(
        {key: zarr.core.buffer.cpu.Buffer.from_bytes(v) for key, v in items.items()}
    )
    assert (zarr.open_array(store, path="a", mode="r")[:] == np.arange(20)).all()


SLOW_BUILD = """
import sys, time
import dask, dask.array as da, numpy as np, xarray as xr
from hamt_bulk import PackCAS
from hamt_bulk.xarray import to_hamt

def slow(block, block_id):
    print(block_id[0], flush=True)
    time.sleep(60 if block_id[0] == 30 else 0)
    return block

array = da.arange(40, chunks=1).map_blocks(slow, dtype=int, meta=np.zeros(0, int))
with dask.config.set(scheduler="synchronous"):
    to_hamt(xr.Dataset({"a": ("x", array)}), PackCAS(sys.argv[1]), progress=False)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_build_that_is_interrupted_leaves_the_store_usable(tmp_path, how):
    command = [sys.executable, "-W", "ignore", "-c", SLOW_BUILD, str(tmp_path / "s")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        while process.stdout.readline() != b"30\n":
            assert process.poll() is None
        process.send_signal(how)
        assert process.wait(30) != 0
    cas = PackCAS(tmp_path / "s")
    dataset = xr.Dataset({"a": ("x", da.arange(40, chunks=1))})
    assert in_tree(to_hamt(dataset, cas), PackCAS(tmp_path / "s")) == by_to_zarr(dataset)


def pretend(package: str, version: str) -> None:
    from hamt_bulk.dask import workers

    workers.versions()[package] = version  # the cached answer of this process


@pytest.mark.parametrize("package", ["hamt-bulk", "zarr"])
def test_a_worker_with_another_version_is_named_before_any_work(processes, tmp_path, package):
    worker = min(processes.scheduler_info()["workers"])
    processes.run(pretend, package, "0.0.1", workers=[worker])
    try:
        with pytest.raises(
            VersionMismatch, match=rf"{worker} has {package} 0.0.1, expected .*install the same"
        ):
            to_hamt(simple((7, 7, 6)), PackCAS(tmp_path))
        with pytest.raises(VersionMismatch, match=worker):
            build_on_dask([dask.delayed([("k", b"v")])], PackCAS(tmp_path))
        assert not list(tmp_path.rglob("*.car"))
    finally:
        processes.run(forget_versions)


def forget_versions() -> None:
    from hamt_bulk.dask import workers

    workers.versions.cache_clear()


def test_a_worker_that_joins_later_with_another_version_does_nothing():
    from hamt_bulk.dask.workers import require_versions, versions

    with pytest.raises(VersionMismatch, match=r"this worker has zarr .*, expected 99"):
        require_versions({**versions(), "zarr": "99"})


class ElsewhereCAS(PackCAS):
    """On workers the path leads to another disk, as `/data` may on a cluster."""

    def __reduce__(self):
        return PackCAS, (str(self.path) + "-elsewhere", self.hasher)


def test_workers_that_see_another_folder_are_named_before_any_work(processes, tmp_path):
    with pytest.raises(
        CASError, match=r"the worker tcp.*is not the folder that the driver sees.*all workers share"
    ):
        to_hamt(simple(), ElsewhereCAS(tmp_path / "store"))


def test_nothing_to_build_is_the_empty_tree_on_a_cluster_too(processes, tmp_path):
    """There is no task to wait for."""
    assert build_on_dask([], PackCAS(tmp_path)) == build({}, InMemoryCAS())
    assert build_on_dask([dask.delayed([])], PackCAS(tmp_path)) == build({}, InMemoryCAS())


def test_an_error_on_a_worker_is_the_error_that_the_caller_gets(processes, tmp_path):
    with pytest.raises(InvalidInput, match="the value of 'k' is a float"):
        build_on_dask([dask.delayed([("k", 1.5)])], PackCAS(tmp_path))
