"""
A store on a disk that fills up, wherever in its files: one clear error, what was finished is kept, and once there is
space the same call gives the right root.
"""

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from filling import PAGE, SIZE, Quota, SmallDisk, limit_here, mounted, used
from stored import in_tree

from hamt_bulk import InMemoryCAS, PackCAS, build
from hamt_bulk.block import Block, identify
from hamt_bulk.cas.packfile import KINDS
from hamt_bulk.errors import BlockNotFound, CASError
from hamt_bulk.hamt import HAMT
from hamt_bulk.xarray import to_hamt

FULL = os.environ.get("HAMT_BULK_FULL") == "1"
FULL_DISK = "the disk is full: make space and call again, what was finished is kept"
OLD = {f"old {number}": os.urandom(300) for number in range(40)}


def dataset() -> xr.Dataset:
    """3 MiB that do not compress, in 48 chunks."""
    values = np.random.default_rng(1).random((48, 90, 90))
    return xr.Dataset({"a": (("t", "y", "x"), da.from_array(values, chunks=(1, 90, 90)))})


ROOT = to_hamt(dataset(), InMemoryCAS())


class Space:
    """Where the store is, and how its space comes and goes."""

    def __init__(self, store: Path, leave: Callable[[int], None], make_space: Callable[[], None]) -> None:
        self.store, self.leave, self.make_space = store, leave, make_space


@pytest.fixture(params=["a real disk", "the system's calls"])
def space(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Space]:
    """Both kinds; where no disk may be mounted, the calls twice."""
    with mounted(tmp_path / "disk") as disk:
        if disk is not None and request.param == "a real disk":
            yield Space(disk.path / "store", disk.leave, disk.make_space)
            return
        quota = Quota(tmp_path / "store", SIZE)
        quota.install(monkeypatch.setattr)

        def leave(free: int) -> None:
            quota.limit = used(tmp_path / "store") + free

        yield Space(tmp_path / "store", leave, lambda: leave(16 * SIZE))


def assert_left(store: Path, root: object = None) -> None:
    """What was there is there, in order; no failed writer has left anything behind."""
    cas = PackCAS(store)
    assert in_tree(build(OLD, InMemoryCAS()), cas) == OLD
    assert cas._index.damaged() == []
    for _ in range(1000):  # tasks that were running when another failed finish what they do
        if not (left := os.listdir(store / "tmp")):
            break
        time.sleep(0.02)
    assert left == []
    if root is not None:
        with pytest.raises(BlockNotFound):
            cas.load_many([root])


@pytest.mark.parametrize("free", [0, 5 * PAGE, 1 << 20, 2 << 20])
def test_a_build_on_threads_ends_with_what_to_do(space: Space, free: int) -> None:
    build(OLD, PackCAS(space.store))
    space.leave(free)
    with dask.config.set(scheduler="threads"), pytest.raises(CASError, match=FULL_DISK) as raised:
        to_hamt(dataset(), PackCAS(space.store), progress=False)
    assert str(space.store) in str(raised.value)
    assert_left(space.store, ROOT)
    space.make_space()
    assert to_hamt(dataset(), PackCAS(space.store), progress=False) == ROOT
    xr.testing.assert_equal(
        xr.open_dataset(ROOT, engine="hamt", cas=PackCAS(space.store)).compute(), dataset().compute()
    )


def test_a_build_on_workers_ends_with_what_to_do(tmp_path: Path) -> None:
    """And the cluster goes on. On a real disk, and at the system's calls."""
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
    with mounted(tmp_path / "disk") as disk, cluster, Client(cluster) as client:
        if disk is not None:
            space = Space(disk.path / "store", disk.leave, disk.make_space)
            fails_and_then_builds(client, space)
        plain = tmp_path / "plain"
        limit = partial(client.run, limit_here, plain)
        space = Space(plain, limit, lambda: limit(16 * SIZE))
        fails_and_then_builds(client, space)


def fails_and_then_builds(client: Client, space: Space) -> None:
    build(OLD, PackCAS(space.store))
    space.leave(1 << 20)
    with pytest.raises(CASError, match=FULL_DISK) as raised:
        to_hamt(dataset(), PackCAS(space.store), progress=False)
    assert str(space.store) in str(raised.value)
    client.submit(len, "").result()  # the workers go on
    assert_left(space.store, ROOT)
    space.make_space()
    assert to_hamt(dataset(), PackCAS(space.store), progress=False) == ROOT
    assert len(in_tree(ROOT, PackCAS(space.store))) == 50


@pytest.mark.parametrize("free", [0, PAGE, 16 * PAGE])
async def test_edits_wait_until_there_is_space(space: Space, free: int) -> None:
    """Those whose values the full disk lost are named, and set again."""
    cas = PackCAS(space.store)
    base = build(OLD, cas)
    edits = {f"new {number}": os.urandom(3000) for number in range(60)}
    hamt = await HAMT.build(cas=cas, root_node_id=base, values_are_bytes=True)
    space.leave(free)
    with pytest.raises(CASError, match="the disk is full"):
        for key, value in edits.items():
            await hamt.set(key, value)
        await hamt.flush()
    assert hamt.root_node_id == base
    with suppress(CASError):  # of values that were lost
        await asyncio.to_thread(cas.close)
    assert_left(space.store)
    space.make_space()
    for key, value in edits.items():
        await hamt.set(key, value)
    assert await hamt.flush() == build(OLD | edits, InMemoryCAS())
    assert in_tree(hamt.root_node_id, PackCAS(space.store)) == OLD | edits


# Every class of positions in what is written.


NODES = [Block(identify(data, 0x71), data) for data in (b"node %d " % n * 40 for n in range(9))]
VALUES = [Block(identify(data), data) for data in (b"value %d " % n * 40 for n in range(9))]


def write(store: Path) -> None:
    """A flush of nodes and values, and what the end of a build does."""
    cas = PackCAS(store)
    with cas.writer() as writer:
        writer.save_many(NODES)
        writer.save_many(VALUES)
        writer.flush()
    cas.finish()


def positions(written: list[tuple[str, int]]) -> dict[int, str]:
    """After how many bytes the disk is full: before, in and at the end of each write; and what is written there."""
    found: dict[int, str] = {}
    count = 0
    packs: dict[str, int] = {}
    for path, size in written:
        number = packs[path] = packs.get(path, 0) + 1
        name = "format or index file" if path.rpartition("/")[2] in written[0][0] else f"write {number}"
        for at in (0, 1, size // 2, size - 1):
            found.setdefault(count + at, f"{name}, byte {at} of {size}")
        count += size
    return found


@pytest.mark.parametrize("old", [True, False], ids=["a store", "no store yet"])
def test_wherever_the_space_ends_the_old_state_or_the_new_is_there(tmp_path: Path, old: bool) -> None:
    """In the payload, the pack's index, its header, the index over packs or the format file, at any of their ends."""
    recorded = tmp_path / "recorded"
    if old:
        build(OLD, PackCAS(recorded))
    quota = Quota(recorded, 1 << 40, by_writes=True)
    with pytest.MonkeyPatch.context() as patch:
        quota.install(patch.setattr)
        write(recorded)
    # Each pack: payload, index, header; and the index over packs; and the format of a new store.
    assert len(quota.written) == 2 * 3 + 1 + (not old)
    failed = 0
    for limit in positions(quota.written):
        store = tmp_path / str(limit)
        if old:
            build(OLD, PackCAS(store))
        with pytest.MonkeyPatch.context() as patch:
            Quota(store, limit, by_writes=True).install(patch.setattr)
            with pytest.raises(CASError, match=FULL_DISK):
                write(store)
            failed += 1
        cas = PackCAS(store)
        if old:
            assert in_tree(build(OLD, InMemoryCAS()), cas) == OLD
        for some in (NODES, VALUES):
            there = cas.has_many([cid for cid, _ in some])
            assert len({*there}) == 1
            assert not there[0] or cas.load_many([cid for cid, _ in some]) == [data for _, data in some]
        assert cas._index.damaged() == []
        if (store / "tmp").exists():
            assert list((store / "tmp").iterdir()) == []
        write(store)
        assert PackCAS(store).has_many([cid for cid, _ in NODES + VALUES]) == [True] * 18
        assert {path.parent.name for path in store.glob("packs/*/*.car")} == {*KINDS}
        assert list(store.glob("index/*.mpi"))
    assert failed >= 4 * len(quota.written) - 8


@pytest.mark.parametrize("number", range(12 if FULL else 6))
def test_a_real_disk_that_is_full_at_any_page(tmp_path: Path, number: int) -> None:
    """Where none may be mounted, the calls tell of it in the same steps."""
    with mounted(tmp_path / "disk") as disk:
        store = tmp_path / ("disk" if disk else "plain") / "store"
        build(OLD, PackCAS(store))
        if disk:
            disk.leave(number * PAGE)
            fill(store, disk)
            return
        with pytest.MonkeyPatch.context() as patch:
            Quota(store, number * PAGE // 2, by_writes=True).install(patch.setattr)
            fill(store, None)


def fill(store: Path, disk: SmallDisk | None) -> None:
    values = {f"new {number}": os.urandom(1000) for number in range(60)}
    with pytest.raises(CASError, match=FULL_DISK):
        build(values, PackCAS(store))
    assert_left(store, build(values, InMemoryCAS()))
    if disk is not None:
        disk.make_space()
        assert in_tree(build(values, PackCAS(store)), PackCAS(store)) == values
