"""Builds whose readers fail in odd ways, whose workers come late, and whose callers lose patience."""

import errno
import fcntl
import os
import pickle
import threading
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cloudpickle
import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import Client, Future, LocalCluster
from keys_hidden import KEY

from hamt_bulk import Encryption, InMemoryCAS, PackCAS, RetryingCAS, convert
from hamt_bulk.block import AnyCID
from hamt_bulk.dask.cluster import ClientRunner
from hamt_bulk.dask.failures import noted
from hamt_bulk.dask.halt import Halt, Halted
from hamt_bulk.dask.stage import Stage
from hamt_bulk.errors import CASError, InvalidInput, NotPortable
from hamt_bulk.journal import Build, Resuming
from hamt_bulk.manifest import Manifest, blake3_hashfn
from hamt_bulk.xarray import to_hamt

pytestmark = pytest.mark.timeout(120)


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("no pickle")
        self.lock = threading.Lock()


class Unloadable(Exception):
    def __init__(self, one: int, other: int) -> None:
        super().__init__("no loads")


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError


FAILURES = {
    "an error that cannot be pickled": (Unpicklable, RuntimeError, "Unpicklable: no pickle"),
    "an error that cannot be unpickled": (lambda: Unloadable(1, 2), RuntimeError, "Unloadable: no loads"),
    "a message of a megabyte": (
        lambda: OSError("x" * 1_000_000),
        RuntimeError,
        "OSError: xxx.*1,000,000 char",
    ),
    "an error without a text": (Mute, RuntimeError, r"Mute: its text cannot be had \(ValueError\)"),
    "the end of the program": (lambda: SystemExit(3), RuntimeError, "SystemExit: 3"),
    "an error as any other": (lambda: OSError(errno.EIO, "HDF error", "a.nc"), OSError, "HDF error"),
}


def raised(name: str) -> BaseException:
    made: BaseException = FAILURES[name][0]()
    return made


def failing(name: str) -> xr.Dataset:
    """Ten chunks, of which the fourth cannot be had."""

    def read(block: np.ndarray) -> np.ndarray:
        if block.flat[0] == 24:
            raise raised(name)
        return block

    values = da.arange(80, chunks=8).map_blocks(read, dtype="i8", meta=np.zeros(0, "i8"))
    return xr.Dataset({"t2m": ("time", values)})


@pytest.mark.parametrize("name", FAILURES)
def test_whatever_a_reader_raises_the_chunk_is_named_and_the_workers_go_on(threads, tmp_path, name):
    _, kind, message = FAILURES[name]
    with pytest.raises(kind, match=message) as caught:
        to_hamt(failing(name), PackCAS(tmp_path))
    assert "in variable 't2m', chunk (3,) (time=24:32)" in caught.value.__notes__
    assert threads.submit(len, "ab", pure=False).result() == 2


def test_without_workers_it_is_the_readers_own_error(tmp_path):
    with dask.config.set(scheduler="threads"), pytest.raises(Unpicklable) as caught:
        to_hamt(failing("an error that cannot be pickled"), PackCAS(tmp_path))
    assert "in variable 't2m', chunk (3,) (time=24:32)" in caught.value.__notes__


@pytest.mark.parametrize("name", FAILURES)
def test_what_a_task_raises_arrives_in_another_process(name):
    error = noted(raised(name), "in a chunk", travels=True)
    there = pickle.loads(cloudpickle.dumps(error))
    assert type(there) is FAILURES[name][1]
    assert "".join(traceback.format_exception_only(there)).endswith("\nin a chunk\n")


def test_an_error_is_kept_where_what_it_came_from_cannot_travel():
    try:
        raise CASError("no answer") from Unpicklable()
    except CASError as caught:
        error = noted(caught, "in a chunk", travels=True)
    assert type(error) is CASError
    assert error.__cause__ is None


@pytest.mark.parametrize("made", [None, 7, [], [1], list(range(20)), [[1], [2]]])
def test_what_has_not_the_shape_that_its_array_says_is_refused(made):
    """Zarr would leave it out, repeat it, or cut it off."""

    def read(block: np.ndarray) -> Any:
        return (None if made is None else np.asarray(made)) if block.flat[0] == 24 else block

    values = da.arange(80, chunks=8).map_blocks(read, dtype="i8", meta=np.zeros(0, "i8"))
    with (
        dask.config.set(scheduler="sync"),
        pytest.raises(InvalidInput, match=r"says that it has the shape \(8,\)"),
    ):
        to_hamt(xr.Dataset({"t2m": ("time", values)}), InMemoryCAS())


def test_a_result_that_is_lost_and_cannot_be_made_again_ends_the_build(threads, tmp_path, monkeypatch):
    """Its worker died before it was fetched, and now the source is gone, too. It used to be waited for."""
    result = Future._result

    async def lost(self: Future, raiseit: bool = True) -> Any:
        if "hamt-write" in str(self.key):
            raise OSError("the source is gone")
        return await result(self, raiseit)

    monkeypatch.setattr(Future, "_result", lost)
    with pytest.raises(OSError, match="the source is gone"):
        to_hamt(xr.Dataset({"t2m": ("time", da.arange(80, chunks=8))}), PackCAS(tmp_path))


def test_a_build_within_a_task_leaves_its_thread_to_its_own_tasks(tmp_path):
    """Its worker has no other."""
    ds = xr.Dataset({"t2m": ("time", da.arange(80, chunks=8))})

    def build() -> str:
        return str(to_hamt(ds, PackCAS(tmp_path), progress=False))

    with dask.config.set(scheduler="sync"):
        expected = str(to_hamt(ds, InMemoryCAS()))
    with one_worker(processes=True) as cluster, Client(cluster) as client:
        assert client.submit(build).result(timeout=60) == expected


def one_worker(*, processes: bool) -> LocalCluster:
    return LocalCluster(
        n_workers=1, threads_per_worker=1, processes=processes, dashboard_address="127.0.0.1:0"
    )


class OtherDisk(PackCAS):
    """A store that all workers but the first have on a disk of their own."""

    asked = 0

    def preflight(self, token: str) -> None:
        OtherDisk.asked += 1
        super().preflight(token if OtherDisk.asked == 1 else "of another disk")


def test_a_worker_that_comes_late_and_has_another_disk_is_noticed_before_there_is_a_root(tmp_path):
    nothing = Stage("write", 0, iter(()))
    with one_worker(processes=False) as cluster, Client(cluster) as client:
        runner = ClientRunner(client)
        runner.check(OtherDisk(tmp_path))
        for _ in range(2):
            assert runner.results(nothing, lambda units: None) == []
        assert OtherDisk.asked == 1
        cluster.scale(2)
        client.wait_for_workers(2)
        with pytest.raises(CASError, match=r"the worker inproc.* is not the folder that the driver sees"):
            runner.results(nothing, lambda units: None)


BEGUN, ENDED = threading.Event(), threading.Event()


def works_on() -> None:
    BEGUN.set()
    try:
        for _ in range(6000):
            Halt("of another process").heed()
            time.sleep(0.01)
    except Halted:
        ENDED.set()
        raise


def test_a_batch_that_was_taken_back_ends_on_its_worker(threads):
    """After Ctrl-C nobody waits for it, and it may have minutes to go."""
    future = threads.submit(works_on, pure=False)
    assert BEGUN.wait(30)
    future.cancel()
    assert ENDED.wait(30)


@pytest.mark.parametrize(
    "what, kind",
    [
        ("the store", "pyhamt"),
        ("the store", "ipldstore"),
        ("a store within another", "pyhamt"),
        ("a store within another", "ipldstore"),
        ("the key", "pyhamt"),
    ],
)
def test_readers_in_other_processes_are_told_that_they_cannot_have(processes, tmp_path, what, kind):
    """They used to be lost as they unpickled it, one after the other, and the caller waited."""
    stores = {"the store": InMemoryCAS(), "a store within another": RetryingCAS(InMemoryCAS())}
    cas = stores.get(what) or PackCAS(tmp_path)
    encryption = Encryption(KEY) if what == "the key" else None
    ds = xr.Dataset({"t2m": ("time", da.arange(80, chunks=8))})
    with dask.config.set(scheduler="threads"):
        root = to_hamt(ds, cas, encryption=encryption)
        if kind != "pyhamt":
            root = convert(root, cas, to=kind, progress=False)
        opened = xr.open_dataset(root, engine="hamt", cas=cas, encryption=encryption, chunks={})
        xr.testing.assert_equal(opened.compute(), ds.compute())
    with pytest.raises(NotPortable, match=r"lives in process|given as bytes in process"):
        opened.compute()
    assert processes.submit(os.getpid, pure=False).result() != os.getpid()


# The journal.


def begin(resuming: Resuming) -> None:
    nothing = Manifest.of([])
    resuming.begin(Build({"grid": {"t2m": b"1"}}), {}, {}, 10, nothing, blake3_hashfn, lambda progress: None)


def test_a_second_interrupt_leaves_the_journal_to_the_next_call(tmp_path, monkeypatch):
    """In a notebook the process stays, and would go on holding it."""

    def impatient(path: Path) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("hamt_bulk.journal.resuming.contents_of", impatient)
        with pytest.raises(KeyboardInterrupt), Resuming(tmp_path / "a", None, InMemoryCAS()) as first:
            begin(first)
            raise KeyboardInterrupt
    with Resuming(tmp_path / "a", True, InMemoryCAS()) as second:
        begin(second)


def test_where_a_file_system_has_no_locks_it_is_said(tmp_path, monkeypatch):
    def flock(file: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)
    with (
        pytest.raises(
            CASError, match=r"cannot lock .*/a: its file system has no locks .*path on another disk"
        ),
        Resuming(tmp_path / "a", None, InMemoryCAS()) as resuming,
    ):
        begin(resuming)


class Late(PackCAS):
    """A folder on a file server that lists what others have added a while later."""

    looks = 0

    def has_many(self, cids: Sequence[AnyCID]) -> list[bool]:
        type(self).looks += 1
        return super().has_many(cids) if self.looks > 3 else [False] * len(cids)


def test_what_a_file_server_lists_late_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hamt_bulk.dask.stages.LOOK_SECONDS", 0.01)
    monkeypatch.setattr(Late, "looks", 0)
    ds = xr.Dataset({"a": ("x", da.arange(100, chunks=10))})
    with dask.config.set(scheduler="synchronous"):
        assert to_hamt(ds, Late(tmp_path)) == to_hamt(ds, InMemoryCAS())
        monkeypatch.setattr(Late, "looks", -10)
        monkeypatch.setattr(Late, "unseen_seconds", 0.05)
        monkeypatch.setattr("hamt_bulk.dask.stages.LOOK_SECONDS", 0.06)
        with pytest.raises(NotPortable, match=r"is not in (Late|PackCAS)"):
            to_hamt(ds, Late(tmp_path))
