"""What a garbage collection takes, and what it never does."""

import asyncio
import contextlib
import gc
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr

from hamt_bulk import HAMT, InMemoryCAS, KuboCAS, PackCAS, build, copy, delete, update
from hamt_bulk.block import identify, text
from hamt_bulk.cas.ipfs import pins, rest, uploads
from hamt_bulk.errors import BlockNotFound, CASError, InvalidInput
from hamt_bulk.xarray import to_hamt
from kubo.daemon import Daemon
from kubo.faults import Drop
from kubo.proxy import Proxy

ITEMS = {f"key {number}": b"value %d" % number * 20 for number in range(2000)}
OTHERS = {f"key {number}": b"another %d" % number for number in range(1990, 2010)}
NewKubo = Callable[..., Daemon]


def on(daemon: Daemon, **options: object) -> KuboCAS:
    return KuboCAS(
        rpc_base_url=daemon.rpc_url, gateway_base_url=daemon.gateway_url, initial_delay=0.05, **options
    )


def read(root: object, cas: KuboCAS) -> dict[str, bytes]:
    """All that is under a root, read by a client that has nothing yet."""

    async def items() -> dict[str, bytes]:
        hamt = await HAMT.build(cas=cas, root_node_id=root, read_only=True, values_are_bytes=True)
        return {key: value async for key, value in hamt.items()}

    return asyncio.run(items())


class Collecting(threading.Thread):
    """Garbage collections, one after the other, as long as it runs."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__()
        self.daemon, self.count, self.ended = daemon, 0, threading.Event()
        self.start()

    def run(self) -> None:
        while not self.ended.is_set():
            self.daemon.gc()
            self.count += 1

    def __enter__(self) -> "Collecting":
        return self

    def __exit__(self, *error: object) -> None:
        self.ended.set()
        self.join()


@pytest.fixture
def small_imports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many requests, as a large build has."""
    monkeypatch.setattr(uploads, "MAX_IMPORT_BLOCKS", 100)


@pytest.mark.usefixtures("small_imports")
def test_collections_in_the_middle_of_a_build_take_nothing_of_it(new_kubo: NewKubo) -> None:
    daemon = new_kubo()
    litter = [daemon.put(b"litter %d" % number) for number in range(10)]

    def slowly() -> Iterator[tuple[str, bytes]]:
        for number, item in enumerate(ITEMS.items()):
            if number % 200 == 0:
                daemon.gc()
            yield item

    with Collecting(daemon) as collecting:
        root = build(slowly(), on(daemon), pin="kept")
    assert collecting.count > 2
    assert not any(map(daemon.has, litter))
    assert root == build(ITEMS, InMemoryCAS())
    assert daemon.pins() == {str(root): "kept"}
    daemon.gc()
    assert read(root, on(daemon)) == ITEMS


def test_collections_in_the_middle_of_to_hamt_take_nothing_of_it(new_kubo: NewKubo) -> None:
    daemon = new_kubo()
    values = np.arange(40_000, dtype="f4").reshape(200, 200)
    ds = xr.Dataset({"t": (("x", "y"), da.from_array(values, chunks=(5, 20)))})
    cas = on(daemon)
    with Collecting(daemon), dask.config.set(scheduler="threads", num_workers=4):
        root = to_hamt(ds, cas, pin="t")
        grown = to_hamt(ds, cas, base=root, append_dim="x", pin="t")
    daemon.gc()
    assert daemon.pins() == {str(grown): "t"}
    opened = xr.open_dataset(grown, engine="hamt", cas=on(daemon))
    np.testing.assert_array_equal(opened.t.values, np.concatenate([values, values]))
    memory = InMemoryCAS()
    assert grown == to_hamt(ds, memory, base=to_hamt(ds, memory), append_dim="x")


def test_an_unpinned_root_is_collected_and_the_error_says_so(new_kubo: NewKubo) -> None:
    daemon = new_kubo()
    root = build(ITEMS, on(daemon))
    assert daemon.pins() == {}, "nothing is held once the build has ended"
    assert read(root, on(daemon)) == ITEMS
    daemon.gc()
    with pytest.raises(BlockNotFound, match=rf"{root}.*garbage collection.*pin"):
        read(root, on(daemon))


def test_a_root_with_a_hole_is_named_with_the_block_that_lacks(new_kubo: NewKubo) -> None:
    daemon = new_kubo()
    cas = on(daemon)
    root = build(ITEMS, cas)
    lost = text(identify(ITEMS["key 77"]))
    daemon.rpc("block/rm", {"arg": lost})
    with pytest.raises(BlockNotFound, match=lost):
        asyncio.run(cas.pin_cid(root, name="holed"))
    assert daemon.pins() == {}
    with pytest.raises(BlockNotFound, match=lost):
        read(root, on(daemon))
    copy(root, memory_with(ITEMS), cas)
    asyncio.run(cas.pin_cid(root, name="whole"))
    assert daemon.pins()[str(root)] == "whole"


def memory_with(items: dict[str, bytes]) -> InMemoryCAS:
    memory = InMemoryCAS()
    build(items, memory)
    return memory


def test_a_pin_moves_from_the_base_to_the_new_root(new_kubo: NewKubo) -> None:
    daemon = new_kubo()
    cas = on(daemon)
    first = build(ITEMS, cas, pin="data")
    second = update(first, OTHERS, cas, pin="data")
    assert daemon.pins() == {str(second): "data"}
    third = delete(second, cas, ["key 1"], pin="other name")
    assert daemon.pins() == {str(second): "data", str(third): "other name"}
    daemon.gc()
    assert read(second, on(daemon)) == ITEMS | OTHERS


def test_what_somebody_pinned_is_not_taken_over(new_kubo: NewKubo) -> None:
    """Else the next append would move the pin, and the release be collected."""
    daemon = new_kubo()
    cas = on(daemon)
    root = build(ITEMS, cas, pin="release 1")
    with pytest.warns(UserWarning, match=r"pinned already, as 'release 1'"):
        assert build(ITEMS, cas, pin="latest") == root
    grown = update(root, OTHERS, cas, pin="latest")
    assert daemon.pins() == {str(root): "release 1", str(grown): "latest"}
    daemon.gc()
    assert read(root, on(daemon)) == ITEMS


def test_the_same_build_twice_is_pinned_once(new_kubo: NewKubo) -> None:
    daemon = new_kubo()
    roots = {build(ITEMS, on(daemon), pin="data") for _ in range(3)}
    assert daemon.pins() == dict.fromkeys(map(str, roots), "data")


async def test_pins_by_hand(new_kubo: NewKubo) -> None:
    daemon = new_kubo()
    cas = on(daemon)
    root = await asyncio.to_thread(build, ITEMS, cas)
    other = await asyncio.to_thread(build, OTHERS, cas)
    await cas.pin_cid(root)
    assert (await cas.pin_ls())[str(root)] == {"Type": "recursive", "Name": ""}
    await cas.pin_cid(root, name="named")
    assert daemon.pins() == {str(root): "named"}
    await cas.pin_cid(root, name="again")
    await cas.pin_cid(root, name="again")
    assert await cas.pin_ls(name="gai") == {str(root): {"Type": "recursive", "Name": "again"}}
    assert await cas.pin_ls(name="nothing like it") == {}
    await cas.pin_update(root, other)
    assert daemon.pins() == {str(other): "again"}
    await cas.unpin_cid(other)
    await cas.unpin_cid(other)
    assert daemon.pins() == {}


async def test_what_was_saved_and_not_flushed_is_pinned_too(new_kubo: NewKubo) -> None:
    daemon = new_kubo()
    cas = on(daemon)
    cid = await cas.save(b"waits", "raw")
    assert not daemon.has(str(cid))
    await cas.pin_cid(cid)
    assert daemon.get(str(cid)) == b"waits"


def test_saved_values_of_an_unflushed_tree_survive(new_kubo: NewKubo, small_imports: None) -> None:
    """A HAMT that waits for its flush, as a notebook has for hours; another of the same store is flushed meanwhile."""
    daemon = new_kubo()

    async def edit(cas: KuboCAS) -> object:
        async with await HAMT.build(cas=cas, values_are_bytes=True) as hamt:
            other = await HAMT.build(cas=cas, values_are_bytes=True)
            for key, value in ITEMS.items():
                await hamt.set(key, value)
            await other.set("other", b"other")
            await other.flush()
            await asyncio.to_thread(daemon.gc)
            return await hamt.flush()

    with contextlib.closing(on(daemon)) as cas:
        root = asyncio.run(edit(cas))
        daemon.gc()
        assert read(root, on(daemon)) == ITEMS, "held until the store is closed"
    assert daemon.pins() == {}


def test_a_build_has_what_was_saved_before_it(new_kubo: NewKubo) -> None:
    daemon = new_kubo()
    cas = on(daemon)
    cid = asyncio.run(cas.save(b"saved", "raw"))
    root = build({"key": cid}, cas)
    assert read(root, on(daemon)) == {"key": b"saved"}


def test_a_store_that_is_dropped_leaves_nothing_behind(new_kubo: NewKubo) -> None:
    daemon = new_kubo()
    cas = on(daemon)
    cid = asyncio.run(cas.save(b"saved and dropped", "raw"))
    del cas
    gc.collect()
    rest.settle_left()
    assert daemon.get(str(cid)) == b"saved and dropped"
    assert daemon.pins() == {}


def test_what_a_dead_process_held_is_told_by_its_name(new_kubo: NewKubo) -> None:
    daemon = new_kubo()
    program = (
        "import os, sys; from hamt_bulk import KuboCAS\n"
        "writer = KuboCAS(rpc_base_url=sys.argv[1]).begin().writer()\n"
        "writer.save_many([(b'\\x01\\x55\\x12\\x20' + __import__('hashlib').sha256(b'v').digest(), b'v')])\n"
        "writer.flush(); os._exit(1)"
    )
    subprocess.run([sys.executable, "-c", program, daemon.rpc_url])
    pins = daemon.pins()
    notes = [cid for cid, name in pins.items() if name.startswith("hamt_bulk hold ")]
    assert [daemon.get(note).decode() for note in notes] == [cid for cid, name in pins.items() if not name]
    assert len(pins) == 2


def test_a_builds_values_of_a_lost_answer_are_let_go_of(new_kubo: NewKubo) -> None:
    daemon = new_kubo()
    with Proxy(daemon.rpc_url) as proxy:
        proxy.rule(
            Drop(after=True), when=lambda request: "dag/import" in request.path and "stats" in request.path
        )
        cas = KuboCAS(rpc_base_url=proxy.url, initial_delay=0.01, max_retries=0)
        with pytest.raises(CASError):
            build(ITEMS, cas)
    assert len(daemon.pins()) <= 1


def test_pin_on_add_keeps_all_that_is_saved(new_kubo: NewKubo) -> None:
    daemon = new_kubo()
    root = build(ITEMS, on(daemon, pin_on_add=True))
    daemon.gc()
    assert read(root, on(daemon)) == ITEMS


def test_a_build_that_fails_leaves_no_pins(new_kubo: NewKubo, small_imports: None) -> None:
    daemon = new_kubo()

    def items() -> Iterator[tuple[str, bytes]]:
        yield from ITEMS.items()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        build(items(), on(daemon))
    assert daemon.pins() == {}


def test_a_pin_that_fails_names_the_root(new_kubo: NewKubo) -> None:
    daemon = new_kubo()
    with Proxy(daemon.rpc_url) as proxy:
        proxy.rule(Drop(), when=lambda request: "name=kept" in request.path)
        cas = KuboCAS(rpc_base_url=proxy.url, initial_delay=0.01, max_retries=1)
        expected = build(ITEMS, InMemoryCAS())
        with pytest.raises(CASError, match=rf"root is {expected}.*could not be pinned as 'kept'"):
            build(ITEMS, cas, pin="kept")
        daemon.gc()
        assert read(expected, on(daemon)) == ITEMS, "it is held until somebody pins it"


@pytest.mark.parametrize("name", ["", "n" * 256, 5, b"name"])
def test_what_is_no_name_of_a_pin_is_refused_before_any_work(name: object) -> None:
    with pytest.raises(InvalidInput, match=r"pin="):
        build(ITEMS, KuboCAS(rpc_base_url="http://127.0.0.1:9"), pin=name)


async def test_a_root_that_gets_another_name_is_never_unpinned(new_kubo: NewKubo) -> None:
    """pin/add takes the old pin away before it walks; another holds the root meanwhile."""
    daemon = new_kubo()
    with Proxy(daemon.rpc_url) as proxy:
        cas = KuboCAS(rpc_base_url=proxy.url, initial_delay=0.01)
        root = await asyncio.to_thread(build, ITEMS, cas, pin="old")
        proxy.rule(Drop(after=True), when=lambda request: "/pin/add" in request.path)
        lost = text(identify(ITEMS["key 5"]))
        whole = pins.complete

        async def complete(*arguments: object) -> None:
            await whole(*arguments)
            await asyncio.to_thread(daemon.rpc, "block/rm", {"arg": lost, "force": True})

        with pytest.MonkeyPatch.context() as patch, pytest.raises(CASError):
            patch.setattr(pins, "complete", complete)
            await cas.pin_cid(root, name="new")
        assert daemon.pins(), "something still holds the root"


def test_a_pack_store_takes_a_pin_and_keeps_everything_anyway(tmp_path: Path) -> None:
    assert build(ITEMS, PackCAS(tmp_path), pin="any") == build(ITEMS, InMemoryCAS())


def test_a_base_that_another_daemon_has_is_said_to_be_missing(new_kubo: NewKubo) -> None:
    first, second = new_kubo(), new_kubo()
    base = build(ITEMS, on(first))
    both = KuboCAS(rpc_base_url=second.rpc_url, gateway_base_url=first.gateway_url)
    with pytest.warns(UserWarning, match=rf"does not have the base {base}.*only in part"):
        changed = update(base, OTHERS, both)
    with pytest.raises(BlockNotFound, match="is not complete"):
        update(base, OTHERS, both, pin="all")
    copy(changed, both, on(second))
    assert read(changed, on(second)) == ITEMS | OTHERS
    assert update(changed, ITEMS, on(second)) == build(OTHERS | ITEMS, InMemoryCAS()), "without a warning"
