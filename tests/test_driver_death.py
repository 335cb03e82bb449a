"""Drivers that are killed or interrupted, and called again."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import dask
import pytest
from disasters import BATCH, computed, dataset

from hamt_bulk import InMemoryCAS, PackCAS, check
from hamt_bulk.block import text, to_bytes
from hamt_bulk.journal.file import contents_of
from hamt_bulk.xarray import to_hamt

pytestmark = pytest.mark.timeout(200)

SEEDS = 20 if os.environ.get("HAMT_BULK_FULL") else 2
DRIVER = Path(__file__).with_name("driver.py")
WORKERS = 2


@pytest.fixture(scope="module")
def expected():
    with dask.config.set(scheduler="threads"):
        return text(to_bytes(to_hamt(dataset(None), InMemoryCAS())))


def driver(store: Path, log: Path, workers: int) -> "subprocess.Popen[str]":
    command = [sys.executable, "-W", "ignore", str(DRIVER), str(store), str(log), str(workers)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_until(log: Path, count: int, process: "subprocess.Popen[str]") -> None:
    """Returns when so many chunks were computed."""
    while sum(computed(log).values()) < count:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.002)


@pytest.mark.parametrize("workers", [0, WORKERS])
@pytest.mark.parametrize("seed", range(SEEDS))
def test_a_driver_that_is_killed_is_called_again_and_repeats_nothing_that_was_finished(
    expected, tmp_path, workers, seed
):
    store, log = tmp_path / "store", tmp_path / "log"
    first = driver(store, log, workers)
    wait_until(log, random.Random(seed).randrange(1, 225), first)
    time.sleep(random.Random(seed).uniform(0, 0.1))
    first.send_signal(signal.SIGKILL)
    first.communicate()
    # Workers see that their driver is gone, and end.
    before = computed(log)
    while time.sleep(1) or computed(log) != before:
        before = computed(log)
    [journal] = (store / "journals").iterdir()
    noted = sum(after - first for batch in contents_of(journal).batches for first, after in batch.blocks)

    again = driver(store, log, workers)
    root, errors = again.communicate()
    assert root.strip() == expected, errors
    assert not list((store / "journals").iterdir())
    assert check(expected, PackCAS(store)).ok
    after = computed(log)
    assert len(after) == 240
    assert sum(after.values()) - sum(before.values()) == 240 - noted, "what was noted was computed again"
    repeated = sum(after.values()) - 240
    print(
        f"{workers} workers, seed {seed}: {noted} noted, {repeated} of {sum(before.values())} chunks computed again"
    )
    # Of each worker: the batch that ran, and one that had just ended and was not yet noted.
    assert repeated <= 2 * WORKERS * BATCH


@pytest.mark.parametrize("workers", [0, WORKERS])
def test_an_interrupt_ends_a_build_within_seconds_and_it_goes_on_from_there(expected, tmp_path, workers):
    store, log = tmp_path / "store", tmp_path / "log"
    first = driver(store, log, workers)
    wait_until(log, 50, first)
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=60)
    assert "KeyboardInterrupt" in errors
    assert "of 240 Dask blocks are finished, and noted in" in errors
    stopped = sum(computed(log).values())
    assert stopped < 240
    again = driver(store, log, workers)
    assert again.communicate()[0].strip() == expected
    assert sum(computed(log).values()) <= 240 + 2 * WORKERS * BATCH
