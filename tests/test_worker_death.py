"""Workers that are killed, come late, go early, or die of what they compute."""

import os
import random
import signal
import threading
import time
from collections import Counter

import dask
import pytest
import xarray as xr
from disasters import BATCH, SlowPacks, cluster, computed, dataset, processes
from distributed import Client, LocalCluster
from stored import assert_same, in_tree

from hamt_bulk import InMemoryCAS, PackCAS, check
from hamt_bulk.errors import WorkersDied
from hamt_bulk.progress import BuildProgress
from hamt_bulk.xarray import to_hamt

pytestmark = pytest.mark.timeout(280)

SEEDS = 50 if os.environ.get("HAMT_BULK_FULL") else 2


@pytest.fixture(scope="module")
def expected():
    with dask.config.set(scheduler="threads"):  # whichever client there is
        return to_hamt(dataset(None), InMemoryCAS())


@pytest.fixture(scope="module")
def client():
    with cluster() as client:
        yield client


@pytest.fixture(autouse=True)
def small_batches(monkeypatch, cut_batches):
    cut_batches(BATCH * 64)
    monkeypatch.setattr("hamt_bulk.dask.stages.part_count", lambda _: 8)


class Killer:
    """Kills a worker at a random moment of a stage."""

    def __init__(self, client: Client, stage: str, seed: int) -> None:
        self._client = client
        self._stage = stage
        self._random = random.Random(seed)
        self._left = {"write": self._random.randrange(200), "index": self._random.randrange(6)}.get(stage)
        self.killed: list[int] = []
        self._waiting: list[threading.Timer] = []

    def __call__(self, progress: BuildProgress) -> None:
        if progress.stage == self._stage and progress.done >= self._left and not self._waiting:
            self._waiting = [threading.Timer(self._random.uniform(0, 0.2), self.kill)]
            self._waiting[0].start()

    def kill(self) -> None:
        victim = self._random.choice(processes(self._client))
        os.kill(victim, signal.SIGKILL)
        self.killed.append(victim)

    def wait(self) -> None:
        for timer in self._waiting:
            timer.join()


@pytest.mark.parametrize("stage", ["write", "index", "root"])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_worker_that_is_killed_costs_what_it_was_doing(
    client, expected, tmp_path, monkeypatch, record_property, stage, seed
):
    client.wait_for_workers(2)
    killer = Killer(client, stage, seed)
    if stage == "root":
        from hamt_bulk.bulk import write_root

        def killing(*arguments):
            killer.kill()
            return write_root(*arguments)

        monkeypatch.setattr("hamt_bulk.dask.stages.write_root", killing)
    log = tmp_path / "log"
    root = to_hamt(dataset(log, 0.01), SlowPacks(tmp_path / "store"), progress=killer, journal=True)
    killer.wait()
    assert root == expected
    assert len(killer.killed) == 1
    repeated = sum(computed(log).values()) - 240
    record_property("repeated", repeated)
    print(f"{stage} {seed}: {repeated} of 240 chunks were computed twice")
    # The batch that ran, and one that had just ended and was not yet handed over.
    assert repeated <= (2 * BATCH if stage == "write" else 0)
    assert len(computed(log)) == 240
    assert check(root, PackCAS(tmp_path / "store")).ok


@pytest.mark.parametrize("stage", ["hamt-write", "hamt-index", "hamt-root"])
def test_with_compute_false_too(client, expected, tmp_path, stage):
    client.wait_for_workers(2)
    log = tmp_path / "log"
    delayed = to_hamt(dataset(log, 0.005), SlowPacks(tmp_path / "store"), compute=False)
    future = client.compute(delayed)
    while not (victims := _at(client, stage)) and not future.done():
        time.sleep(0.005)
    assert victims
    os.kill(victims[0], signal.SIGKILL)
    assert future.result(timeout=120) == expected
    assert check(expected, PackCAS(tmp_path / "store")).ok


def _at(client: Client, stage: str) -> list[int]:
    """The processes of workers that have a task of a stage."""
    busy = client.processing()
    found = {address for address, keys in busy.items() if any(stage in str(key) for key in keys)}
    return [
        nanny.pid for nanny in client.cluster.workers.values() if nanny.worker_address in found and nanny.pid
    ]


def test_chunks_that_kill_their_workers_are_named_and_all_others_kept(
    client, expected, tmp_path, monkeypatch
):
    monkeypatch.setattr("hamt_bulk.dask.batches.BATCH_BYTES", 64 * 64)
    client.wait_for_workers(2)
    store, log = tmp_path / "store", tmp_path / "log"
    with pytest.raises(WorkersDied) as caught:
        to_hamt(dataset(log, 0.0, frozenset([100])), PackCAS(store), journal=True)
    assert str(caught.value).startswith(
        "variable 't2m', chunk (25, 0) (time=25:26, cell=0:8): 4 workers worked on it, and all died. It takes more memory"
    )
    [note] = caught.value.__notes__
    assert note.startswith("239 of 240 Dask blocks are finished, and noted in ")
    assert len(computed(log)) == 239
    before = sum(computed(log).values())
    with pytest.warns(UserWarning, match="Dask arrays of 't2m' have other names"):
        assert to_hamt(dataset(log), PackCAS(store), journal=True) == expected
    assert sum(computed(log).values()) == before + 1


def test_where_every_chunk_kills_its_worker_a_few_are_enough(client, tmp_path, monkeypatch):
    """Workers that are too small for any chunk must not die for all of them."""
    monkeypatch.setattr("hamt_bulk.dask.running.MAX_SUSPECTS", 2)
    monkeypatch.setattr("hamt_bulk.dask.running.MAX_GUILTY", 1)
    client.wait_for_workers(2)
    with pytest.raises(WorkersDied, match=r"variable 't2m', chunk .*no more were looked for"):
        to_hamt(dataset(None, 0.0, frozenset(range(240))), PackCAS(tmp_path))


def test_what_a_reader_raises_comes_with_the_chunk_it_was_for(client, tmp_path):
    def broken(block, block_info=None):
        if block_info[0]["chunk-location"] == (3, 1):
            raise OSError("NetCDF: HDF error")
        return block

    values = dataset(None)["t2m"].data.map_blocks(broken, dtype="i8")
    with pytest.raises(OSError, match="NetCDF: HDF error") as caught:
        to_hamt(xr.Dataset({"t2m": (("time", "cell"), values)}), PackCAS(tmp_path))
    assert "in variable 't2m', chunk (3, 1) (time=3:4, cell=8:16)" in caught.value.__notes__


def test_a_cluster_that_scales_up_and_down(expected, tmp_path):
    log = tmp_path / "log"
    made = LocalCluster(n_workers=0, threads_per_worker=1, dashboard_address=":0")
    with made, Client(made):
        made.adapt(minimum=0, maximum=3, interval="100 ms", wait_count=1, target_duration="300 ms")
        sizes: Counter[int] = Counter()
        root = to_hamt(
            dataset(log, 0.01),
            SlowPacks(tmp_path / "store"),
            progress=lambda progress: sizes.update([len(made.scheduler.workers)]),
        )
        assert root == expected
        assert max(sizes) > 1
    assert computed(log).keys() == set(range(240))


def test_a_task_that_runs_twice_at_once_does_no_harm(expected, tmp_path, monkeypatch):
    """As a scheduler does that takes a slow worker for a dead one."""
    from hamt_bulk.xarray import write

    once = write.write_batch

    def twice(*arguments):
        results = []
        threads = [threading.Thread(target=lambda: results.append(once(*arguments))) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 2
        return results[0]

    monkeypatch.setattr("hamt_bulk.xarray.write.write_batch", twice)
    cas = PackCAS(tmp_path)
    assert to_hamt(dataset(None), cas) == expected
    alone = PackCAS(tmp_path / "alone")
    monkeypatch.undo()
    assert to_hamt(dataset(None), alone) == expected
    assert_same(in_tree(expected, cas), in_tree(expected, alone))
