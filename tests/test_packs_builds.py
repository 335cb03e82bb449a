"""Builds and copies that run longer than a drop waits for: what they count on stays."""

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import Client

from hamt_bulk import HashMap, InMemoryCAS, PackCAS, build, check, convert, copy, update
from hamt_bulk.block import DAG_CBOR, identify, to_cid
from hamt_bulk.cas import packbuilds
from hamt_bulk.errors import BlockNotFound, CASError, InvalidInput
from hamt_bulk.packs import Dropped, drop, packs
from hamt_bulk.progress import BuildProgress
from hamt_bulk.xarray import to_hamt

ITEMS = {f"key {number}": b"value %d" % number for number in range(3000)}
DAYS = 2 * 86400.0


def marks(folder: Path) -> list[Path]:
    return sorted((folder / "tmp").glob("*.build"))


def dropped_in_days(folder: Path, *keep: object) -> Dropped:
    """A drop for which all that is there now is two days old."""
    return drop(folder, keep, now=time.time() + DAYS, progress=False)


def during(work: Callable[[], object], stage: str = "index") -> Callable[[BuildProgress], None]:
    """A progress function that does `work` once, in a stage of a build."""
    done: list[object] = []

    def show(progress: BuildProgress) -> None:
        if progress.stage == stage and not done:
            done.append(None)
            done.append(work())

    return show


def dataset(start: int = 0) -> xr.Dataset:
    values = da.arange(start, start + 2000, chunks=50, dtype="i8")
    return xr.Dataset({"a": ("x", values)})


@pytest.mark.parametrize("stage", ["write", "index"])
def test_what_a_running_build_has_written_stays(tmp_path: Path, stage: str) -> None:
    cas = PackCAS(tmp_path)
    kept = build({"another": b"root"}, cas)
    found: list[Dropped] = []
    show = during(lambda: found.append(dropped_in_days(tmp_path, kept)), stage)
    with dask.config.set(scheduler="synchronous"):
        root = to_hamt(dataset(), cas, progress=show)
    assert check(root, PackCAS(tmp_path)).ok
    assert len(found[0].running) == 1
    assert found[0].running[0].split("-")[-2] == str(os.getpid())
    assert "1 build under way" in str(found[0])
    assert marks(tmp_path) == []
    assert dropped_in_days(tmp_path, kept).blocks > 40, "once it has ended it is a root like any other"


def test_the_base_of_a_running_build_stays(tmp_path: Path) -> None:
    cas = PackCAS(tmp_path)
    kept = build({"another": b"root"}, cas)
    with dask.config.set(scheduler="synchronous"):
        base = to_hamt(dataset(), cas)
        show = during(lambda: dropped_in_days(tmp_path, kept))
        root = to_hamt(dataset(2000), cas, base=base, append_dim="x", progress=show)
        whole = to_hamt(xr.concat([dataset(), dataset(2000)], "x"), InMemoryCAS())
    assert root == whole
    assert check(root, PackCAS(tmp_path)).ok


def test_the_base_of_an_edit_stays(tmp_path: Path) -> None:
    cas = PackCAS(tmp_path)
    kept, base = build({"another": b"root"}, cas), build(ITEMS, cas)

    def items():
        yield "key 5", b"changed"
        dropped_in_days(tmp_path, kept)
        yield "key 6", b"changed"

    root = build(items(), cas, base=base)
    assert root == build(ITEMS | {"key 5": b"changed", "key 6": b"changed"}, InMemoryCAS())
    assert check(root, PackCAS(tmp_path)).ok


def test_what_a_running_copy_has_claimed_and_written_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = PackCAS(tmp_path / "source"), PackCAS(tmp_path / "target")
    root = build(ITEMS, source)
    kept = build({"another": b"root"}, target)
    build(
        {key: ITEMS[key] for key in list(ITEMS)[:1500]}, target
    )  # values that the copy will not write again
    found: list[Dropped] = []

    claim, claimed = PackCAS.claim_many, []

    def claim_many(self: PackCAS, cids: list[bytes]) -> list[bool]:
        claimed.extend(there := claim(self, cids))
        if sum(claimed) > 500 and len(claimed) > 2000 and not found:
            found.append(dropped_in_days(tmp_path / "target", kept))
        return there

    monkeypatch.setattr(PackCAS, "claim_many", claim_many)
    copy(root, source, target)
    assert found[0].running
    assert check(root, PackCAS(tmp_path / "target")).ok
    assert marks(tmp_path / "target") == []


@pytest.mark.parametrize("elsewhere", [False, True])
def test_what_a_running_conversion_reads_and_writes_stays(tmp_path: Path, elsewhere: bool) -> None:
    cas = PackCAS(tmp_path / "store")
    kept, root = build({"another": b"root"}, cas), build(ITEMS, cas)
    target = PackCAS(tmp_path / "target") if elsewhere else cas
    folder = tmp_path / ("target" if elsewhere else "store")
    other = build({"a": b"b"}, target)
    found: list[Dropped] = []
    show = during(lambda: found.append(dropped_in_days(folder, other if elsewhere else kept)))
    with dask.config.set(scheduler="synchronous"):
        new = convert(root, cas, to=HashMap(), target=target, progress=show)
    assert found[0].running
    assert check(new, target).ok
    assert check(root, cas).ok
    assert marks(folder) == []


@pytest.mark.parametrize("journal", [None, True])
def test_a_build_that_failed_runs_no_more(tmp_path: Path, journal: bool | None) -> None:
    def fail(block: np.ndarray) -> np.ndarray:
        raise ValueError("enough")

    values = da.arange(2000, chunks=50, dtype="i8").map_blocks(fail, dtype="i8", meta=np.zeros(0, "i8"))
    broken = xr.Dataset({"a": ("x", values)})
    with dask.config.set(scheduler="synchronous"), pytest.raises(ValueError, match="enough"):
        to_hamt(broken, PackCAS(tmp_path), journal=journal)
    assert marks(tmp_path) == []


def test_a_call_that_is_refused_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        to_hamt(dataset(), PackCAS(tmp_path / "store"), append_dim="x")
    assert not (tmp_path / "store").exists()


KILLED = """
import os, sys
from hamt_bulk import PackCAS, build

def items():
    yield from ((f"key {number}", b"%d" % number) for number in range(100))
    os.kill(os.getpid(), 9)

build(items(), PackCAS(sys.argv[1]))
"""


def test_a_build_that_runs_is_listed(tmp_path: Path) -> None:
    cas = PackCAS(tmp_path).begin()
    cas.started(None)
    assert f"{marks(tmp_path)[0].name}  the build that it is for is running" in str(packs(tmp_path))
    cas.finish()
    assert "the build" not in str(packs(tmp_path))


def test_a_killed_build_counts_for_an_hour(tmp_path: Path) -> None:
    kept = build({"another": b"root"}, PackCAS(tmp_path))
    killed = subprocess.run([sys.executable, "-c", KILLED, tmp_path], timeout=60, check=False)
    assert killed.returncode == -9
    [mark] = marks(tmp_path)
    soon = time.time() + packbuilds.STALE_SECONDS / 2
    assert drop(tmp_path, [kept], now=soon, older_than_hours=0, progress=False).running
    later = dropped_in_days(tmp_path, kept)
    assert not later.running
    assert mark.name in later.temporary
    assert marks(tmp_path) == []


def test_a_build_on_another_host_counts_while_it_is_touched(tmp_path: Path) -> None:
    cas = PackCAS(tmp_path)
    kept, other = build({"another": b"root"}, cas), build(ITEMS, cas)
    ours = packbuilds.begin(tmp_path, None)
    there = ours.with_name(f"another-host-77-{'0' * 16}.build")
    ours.rename(there)
    packbuilds.end(ours)
    moment = time.time() + 30 * 3600
    os.utime(there, (moment - 600, moment - 600))
    assert drop(tmp_path, [kept], now=moment, progress=False).blocks == 0
    assert check(other, cas).ok
    assert drop(tmp_path, [kept], now=moment + 3600, progress=False).blocks > len(ITEMS)


def test_a_base_that_is_not_whole_refuses_the_drop_and_names_the_build(tmp_path: Path) -> None:
    cas = PackCAS(tmp_path)
    kept = build({"another": b"root"}, cas)
    build(ITEMS, cas)
    mark = packbuilds.begin(tmp_path, identify(b"absent", DAG_CBOR))
    with pytest.raises(BlockNotFound) as raised:
        dropped_in_days(tmp_path, kept)
    assert any(mark.name in note and note.endswith("end that first") for note in raised.value.__notes__)
    packbuilds.end(mark)
    assert dropped_in_days(tmp_path, kept).blocks > len(ITEMS)


def test_a_file_that_says_nothing_keeps_all(tmp_path: Path) -> None:
    cas = PackCAS(tmp_path)
    kept = build({"another": b"root"}, cas)
    build(ITEMS, cas)
    mark = packbuilds.begin(tmp_path, None)
    for content in (b"", b"soon\n", b"\xff" * 500):
        mark.write_bytes(content)
        assert dropped_in_days(tmp_path, kept).blocks == 0
    packbuilds.end(mark)
    assert dropped_in_days(tmp_path, kept).blocks > len(ITEMS)


def test_a_build_that_runs_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packbuilds, "BEAT_SECONDS", 0.02)
    monkeypatch.setattr(packbuilds, "_heart", packbuilds._Heart())  # another may be waiting for its next beat
    PackCAS(tmp_path).writer().close()
    first, second = packbuilds.begin(tmp_path, None), packbuilds.begin(tmp_path, None)
    second.unlink()  # as if another process had ended it
    os.utime(first, (1, 1))
    while first.stat().st_mtime == 1:
        time.sleep(0.01)
    packbuilds.end(first)
    assert marks(tmp_path) == []


def test_a_forked_child_ends_no_build_of_its_parent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packbuilds, "BEAT_SECONDS", 0.02)
    PackCAS(tmp_path).writer().close()
    mark = packbuilds.begin(tmp_path, None)
    code = (
        "import os, sys\nfrom hamt_bulk import PackCAS, build\nfrom hamt_bulk.cas import packbuilds\n"
        "store = PackCAS(sys.argv[1]).begin()\nstore.started(None)\n"
        "child = os.fork()\nif child == 0:\n    os._exit(0)\n"
        "assert os.waitpid(child, 0)[1] == 0\n"
        "assert store._build.exists()\nstore.finish()\nassert not store._build\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, tmp_path], timeout=60, check=True)
    assert marks(tmp_path) == [mark]
    packbuilds.end(mark)


def test_the_worker_that_ends_a_build_ends_its_mark(tmp_path: Path, processes: Client) -> None:
    planned = to_hamt(dataset(), PackCAS(tmp_path), compute=False)
    assert len(marks(tmp_path)) == 1
    root = processes.compute(planned).result(120)
    assert check(root, PackCAS(tmp_path)).ok
    assert marks(tmp_path) == []


def test_a_store_that_travels_is_the_same_with_and_without_a_build(tmp_path: Path) -> None:
    cas = PackCAS(tmp_path)
    built = cas.begin()
    built.started(None)
    again = pickle.loads(pickle.dumps(built))
    assert again.__dask_tokenize__() == cas.__dask_tokenize__()
    again.finish()
    assert marks(tmp_path) == []
    built.finish()
    assert pickle.dumps(cas) == pickle.dumps(PackCAS(tmp_path))


def test_a_build_sees_what_was_saved_before_it(tmp_path: Path) -> None:
    cas = PackCAS(tmp_path)
    writer = cas._implicit_writer()
    pointer = writer.save(b"not flushed yet")
    root = build({"key": to_cid(pointer)}, cas)
    assert check(update(root, {"other": b"value"}, cas), PackCAS(tmp_path)).ok


def test_a_worker_on_another_disk_writes_nothing(tmp_path: Path, processes: Client) -> None:
    """Also one that came after all workers had been looked at, and where nobody looks: with compute=False."""
    store = tmp_path / "store"
    planned = to_hamt(dataset(), PackCAS(store), compute=False)
    store.rename(tmp_path / "elsewhere")
    with pytest.raises(CASError, match=r"store on .* is no store, .* not the folder that the driver sees"):
        processes.compute(planned).result(120)
    assert not store.exists()
    (tmp_path / "elsewhere").rename(store)
    with dask.config.set(scheduler="threads"):
        roots = {planned.compute(), planned.compute()}
    assert check(roots.pop(), PackCAS(store)).ok
    assert not roots, "also when it is computed twice"
