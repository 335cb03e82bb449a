"""Builds on a daemon that are gone on with: what the first call finished is held until the root is there."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

from hamt_bulk import InMemoryCAS, KuboCAS, convert
from hamt_bulk.cas.ipfs.holds import HOLD_PREFIX
from hamt_bulk.errors import InvalidInput
from hamt_bulk.journal import give_up, unfinished
from hamt_bulk.progress import BuildProgress
from hamt_bulk.xarray import to_hamt
from kubo.daemon import Daemon

NewKubo = Callable[..., Daemon]
COUNT, FINISHED = 4000, 20

KILLED = """
import os, sys
import dask, dask.array as da, numpy as np, xarray as xr
import hamt_bulk.dask.batches
from hamt_bulk import KuboCAS
from hamt_bulk.xarray import to_hamt

hamt_bulk.dask.batches.BATCH_BYTES = 4000
done = []

def last(block):
    if len(done) == 20:
        os.kill(os.getpid(), 9)
    done.append(1)
    return block

values = da.arange(4000, chunks=100, dtype="i8").map_blocks(last, dtype="i8", meta=np.zeros(0, "i8"))
with dask.config.set(scheduler="synchronous"):
    to_hamt(xr.Dataset({"a": ("x", values)}), KuboCAS(rpc_base_url=sys.argv[1]), journal=sys.argv[2])
"""


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hamt_bulk.dask.batches.BATCH_BYTES", 4000)


class Source:
    """A dataset whose chunks are counted as they are computed, and fail after `limit` of them."""

    def __init__(self, limit: int | None = None) -> None:
        self.computed: list[int] = []
        self.limit = limit

    def _one(self, block: np.ndarray) -> np.ndarray:
        if len(self.computed) == self.limit:
            raise ValueError("enough")
        self.computed.append(int(block[0]))
        return block

    @property
    def dataset(self) -> xr.Dataset:
        values = da.arange(COUNT, chunks=100, dtype="i8")
        return xr.Dataset({"a": ("x", values.map_blocks(self._one, dtype="i8", meta=np.zeros(0, "i8")))})


def on(daemon: Daemon, **options: object) -> KuboCAS:
    return KuboCAS(rpc_base_url=daemon.rpc_url, initial_delay=0.05, **options)


def stopped(daemon: Daemon, journal: Path, **options: object) -> None:
    """A call that ends in the middle."""
    with dask.config.set(scheduler="synchronous"), pytest.raises(ValueError, match="enough"):
        to_hamt(Source(FINISHED).dataset, on(daemon, **options), journal=journal)


def gone_on(daemon: Daemon, journal: Path, **options: object) -> tuple[str, int]:
    """The root of the next call, and how many chunks it computed. The daemon collects before its root is there."""

    def collect(progress: BuildProgress) -> None:
        if progress.stage == "write" and progress.done == progress.total:
            daemon.gc()

    source = Source()
    cas = on(daemon, **options.pop("store", {}))
    with dask.config.set(scheduler="synchronous"), pytest.warns(UserWarning, match="other names"):
        root = to_hamt(source.dataset, cas, journal=journal, progress=collect, pin="a", **options)
    return str(root), len(source.computed)


def expected() -> str:
    with dask.config.set(scheduler="synchronous"):
        return str(to_hamt(Source().dataset, InMemoryCAS()))


def holds(daemon: Daemon) -> list[str]:
    return [name for name in daemon.pins().values() if name.startswith(HOLD_PREFIX)]


def test_a_collection_between_two_calls_takes_nothing_that_was_finished(
    new_kubo: NewKubo, tmp_path: Path
) -> None:
    daemon, journal = new_kubo(), tmp_path / "journal"
    stopped(daemon, journal)
    assert holds(daemon)
    daemon.gc()
    root, computed = gone_on(daemon, journal)
    assert computed == COUNT // 100 - FINISHED
    assert root == expected()
    assert daemon.pins() == {root: "a"}, "nothing else is held now"
    daemon.gc()
    found = xr.open_dataset(root, engine="hamt", cas=on(daemon), chunks=None)["a"].values
    assert (found == np.arange(COUNT)).all()


def test_what_somebody_let_go_of_is_held_again(new_kubo: NewKubo, tmp_path: Path) -> None:
    daemon, journal = new_kubo(), tmp_path / "journal"
    stopped(daemon, journal)
    for pin in daemon.pins():
        daemon.rpc("pin/rm", {"arg": pin})
    assert gone_on(daemon, journal) == (expected(), COUNT // 100 - FINISHED)


def test_what_was_collected_is_computed_again(new_kubo: NewKubo, tmp_path: Path) -> None:
    daemon, journal = new_kubo(), tmp_path / "journal"
    stopped(daemon, journal)
    for pin in daemon.pins():
        daemon.rpc("pin/rm", {"arg": pin})
    daemon.gc()
    assert gone_on(daemon, journal) == (expected(), COUNT // 100)


def test_what_a_killed_driver_held_is_let_go_of_by_the_call_that_goes_on(
    new_kubo: NewKubo, tmp_path: Path
) -> None:
    daemon, journal = new_kubo(), tmp_path / "journal"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, daemon.rpc_url, journal], timeout=120, check=False, capture_output=True
    )
    assert killed.returncode == -9, killed.stderr.decode()
    assert holds(daemon)
    daemon.gc()
    root, computed = gone_on(daemon, journal)
    assert computed == COUNT // 100 - FINISHED
    assert daemon.pins() == {root: "a"}


def test_beginning_anew_lets_go_of_what_was_held(new_kubo: NewKubo, tmp_path: Path) -> None:
    daemon, journal = new_kubo(), tmp_path / "journal"
    stopped(daemon, journal)
    with dask.config.set(scheduler="synchronous"):
        root = to_hamt(Source().dataset, on(daemon), journal=journal, resume=False, pin="a")
    assert daemon.pins() == {str(root): "a"}


def test_calls_that_fail_one_after_the_other_hold_together(new_kubo: NewKubo, tmp_path: Path) -> None:
    daemon, journal = new_kubo(), tmp_path / "journal"
    stopped(daemon, journal)
    with dask.config.set(scheduler="synchronous"):
        for more in (5, 5):
            with pytest.raises(ValueError, match="enough"), pytest.warns(UserWarning, match="other names"):
                to_hamt(Source(more).dataset, on(daemon), journal=journal)
            daemon.gc()
    root, computed = gone_on(daemon, journal)
    assert computed == COUNT // 100 - FINISHED - 10
    assert (root, daemon.pins()) == (expected(), {root: "a"})


def test_a_spool_is_kept_for_the_call_that_goes_on(new_kubo: NewKubo, tmp_path: Path) -> None:
    """Kubo syncs nothing to disk: what it acknowledged to the first call may be gone when the second has ended."""
    daemon, journal, spool = new_kubo(), tmp_path / "journal", tmp_path / "spool"
    stopped(daemon, journal, spool=spool)
    assert len(list(spool.iterdir())) == 1
    secure = KuboCAS.secure
    with pytest.MonkeyPatch.context() as patch:

        def after_a_power_cut(self: KuboCAS, *arguments: object) -> None:
            daemon.kill()
            files = sorted((daemon.repo / "blocks").glob("*/*.data"))
            for path in [path for path in files if path.stat().st_size in range(400, 1000)]:
                path.unlink()
            daemon.start()
            secure(self, *arguments)

        patch.setattr(KuboCAS, "secure", after_a_power_cut)
        root, computed = gone_on(daemon, journal, store={"spool": spool})
    assert computed == COUNT // 100 - FINISHED
    assert not list(spool.iterdir())
    daemon.gc()
    found = xr.open_dataset(root, engine="hamt", cas=on(daemon), chunks=None)["a"].values
    assert (found == np.arange(COUNT)).all()


def test_a_conversion_that_stops_holds_what_it_has_converted(
    new_kubo: NewKubo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    daemon, journal = new_kubo(), tmp_path / "journal"
    source = InMemoryCAS()
    with dask.config.set(scheduler="synchronous"):
        root = to_hamt(Source().dataset, source)
        with monkeypatch.context() as patch:
            patch.setattr("hamt_bulk.conversion.verify_stages", lambda *arguments: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                convert(root, source, target=on(daemon), journal=journal)
        assert holds(daemon)
        daemon.gc()
        assert convert(root, source, target=on(daemon), journal=journal, pin="a") == root
    assert daemon.pins() == {str(root): "a"}


def test_without_a_journal_nothing_is_held_after_a_failure(new_kubo: NewKubo) -> None:
    daemon = new_kubo()
    with dask.config.set(scheduler="synchronous"):
        with pytest.raises(ValueError, match="enough"):
            to_hamt(Source(FINISHED).dataset, on(daemon))
        with pytest.raises(InvalidInput):
            to_hamt(Source().dataset, on(daemon), encoding={"b": {}})
    assert daemon.pins() == {}


def test_a_build_that_is_given_up_is_let_go_of(
    new_kubo: NewKubo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    daemon = new_kubo()
    with dask.config.set(scheduler="synchronous"), pytest.raises(ValueError, match="enough"):
        to_hamt(Source(FINISHED).dataset, on(daemon), journal=True)
    [waiting] = unfinished(on(daemon))
    assert (waiting.finished, waiting.total) == (FINISHED, COUNT // 100)
    assert holds(daemon)
    give_up(waiting.name, on(daemon))
    assert daemon.pins() == {}
    assert unfinished(on(daemon)) == []


def test_a_lease_that_is_none_lets_go_of_nothing(new_kubo: NewKubo, tmp_path: Path) -> None:
    daemon = new_kubo()
    stopped(daemon, tmp_path / "journal")
    before = daemon.pins()
    other = on(daemon).begin()
    other.take_over(["", "2", "hold", "a 2026-01-01 "], [])
    other.abandon()
    assert daemon.pins() == before
