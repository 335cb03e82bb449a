"""The node cache: what is loaded once, what is kept, and who waits for whom."""

import asyncio
import multiprocessing
import sys
import threading
import time
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pytest
from trees_made import PlainCAS, build, crowded_hashfn, numbered, pointers, tree_of

from hamt_bulk import errors
from hamt_bulk.cas import InMemoryCAS
from hamt_bulk.manifest import blake3_hashfn
from hamt_bulk.nodecache import NodeCache, node_bytes
from hamt_bulk.nodes import Tree
from hamt_bulk.tree import Found, entries


@pytest.mark.parametrize("store", [lambda cas: cas, PlainCAS])
def test_a_node_that_many_want_at_once_is_loaded_once(store):
    """64 cold reads from four threads and four event loops."""
    tree, cas = tree_of(300)
    tree = Tree(tree.root, store(cas), hash_fn=crowded_hashfn)
    cas.delay = 0.02
    keys = [str(number) for number in range(8)]

    def in_a_thread() -> list:
        return [tree.pointer(key) for key in keys]

    def in_a_loop() -> list:
        async def reads():
            return await asyncio.gather(*map(tree.pointer_async, keys))

        return list(asyncio.run(reads()))

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(task) for task in [in_a_thread, in_a_loop] * 4]
        assert all(answer.result() == list(numbered(8).values()) for answer in answers)
    assert len(cas.loads) > 8
    assert set(cas.loads.values()) == {1}


def test_listing_loads_each_node_once_and_no_value():
    tree, cas = tree_of(2000, NodeCache(0))
    assert dict(tree.entries()) == numbered(2000)
    assert set(cas.loads.values()) == {1}
    assert len(cas.loads) == len(cas.blocks)


def test_the_cache_keeps_to_its_limit_and_drops_the_least_recently_used():
    tree, cas = tree_of(1000, NodeCache(60_000))
    for key in numbered(1000):
        tree.pointer(key)
        assert tree.cache.nbytes <= 60_000
    assert cas.loads[tree.root] == 1  # every lookup uses it
    assert max(cas.loads.values()) > 1


def test_a_listing_pushes_nothing_out_of_the_cache():
    tree, cas = tree_of(3000, NodeCache(60_000))
    for _ in range(2):
        tree.pointer("7")
    cas.loads.clear()
    list(tree.entries())
    cas.loads.clear()
    tree.pointer("7")
    assert not cas.loads


def test_the_estimate_of_a_node_is_its_memory():
    cas = InMemoryCAS()
    root = build(cas, pointers(f"t2m/c/0/{number}/{number % 7}" for number in range(5000)), blake3_hashfn)
    tree = Tree(root, cas)
    list(tree.entries())  # what is made only once
    tree.cache = NodeCache()
    tracemalloc.start()
    try:
        list(tree.entries())
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.8 < tree.cache.nbytes / used < 1.25
    assert node_bytes([{}] * 256) < 4000


def test_a_failed_load_is_everyones_error_and_is_not_kept(monkeypatch):
    tree, cas = tree_of(300)
    waiting = threading.Semaphore(0)

    def claim(*wanted):
        claims = NodeCache._claim(tree.cache, *wanted)
        waiting.release()
        return claims

    monkeypatch.setattr(tree.cache, "_claim", claim)
    cas.fails[tree.root] = errors.CASError("out of reach")
    cas.gate.clear()

    def in_a_loop():
        return asyncio.run(tree.pointer_async("1"))

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(task) for task in [lambda: tree.pointer("1"), in_a_loop] * 4]
        assert all(waiting.acquire(timeout=30) for _ in answers)
        cas.gate.set()
        for answer in answers:
            with pytest.raises(errors.CASError, match="out of reach"):
                answer.result()
    assert cas.loads[tree.root] == 1
    cas.fails.clear()
    assert tree.pointer("1") == numbered(2)["1"]


@pytest.mark.parametrize("close", [True, False], ids=["its loop is closed", "its loop is blocked"])
def test_whoever_was_cancelled_leaves_those_who_wait_alone(close):
    """Also when it was the first, whose load it was, and when its event loop goes or stands still."""
    tree, cas = tree_of(300)
    cas.gate.clear()
    loop = asyncio.new_event_loop()

    async def first() -> None:
        task = asyncio.ensure_future(tree.pointer_async("1"))
        await asyncio.to_thread(cas.entered.wait, 30)
        if close:
            task.cancel()

    loop.run_until_complete(first())
    if close:
        loop.close()

    async def second() -> list:
        tasks = [asyncio.ensure_future(tree.pointer_async("1")) for _ in range(3)]
        await asyncio.sleep(0.05)
        tasks[0].cancel()
        cas.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    cancelled, *answers = asyncio.run(second())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert answers == [numbered(2)["1"]] * 2
    assert tree.pointer("1") == numbered(2)["1"]
    assert cas.loads[tree.root] == 1
    if not close:
        loop.run_until_complete(asyncio.sleep(0.05))
        loop.close()


def test_a_listing_that_fails_does_not_fail_those_who_wait_for_another_node():
    tree, cas = tree_of(300)
    [root] = tree.cache.get([tree.root], tree._load)
    sound, missing, *_ = (slot for slot in root if isinstance(slot, bytes))
    key = next(key for key in numbered(300) if root[crowded_hashfn(key.encode())[0]] == sound)
    cas.fails[missing] = errors.BlockNotFound("gone")
    cas.gate.clear()
    cas.entered.clear()
    with ThreadPoolExecutor(2) as pool:
        listing = pool.submit(lambda: list(tree.entries()))
        assert cas.entered.wait(30)
        lookup = pool.submit(tree.pointer, key)
        time.sleep(0.1)
        cas.gate.set()
        with pytest.raises(errors.BlockNotFound, match="gone"):
            listing.result()
        assert lookup.result() == numbered(300)[key]


@pytest.mark.skipif(sys.platform != "linux", reason="fork is for Linux")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_reads_what_its_parent_was_loading():
    """It has neither the parent's threads nor the end of what they were loading."""
    tree, cas = tree_of(300)
    cas.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(lambda: asyncio.run(tree.pointer_async("1")))
        assert cas.entered.wait(30)
        shut, cas.gate = cas.gate, threading.Event()
        cas.gate.set()
        child = multiprocessing.get_context("fork").Process(target=_read_both_ways, args=(tree,))
        child.start()
        child.join(30)
        shut.set()
        assert loading.result() == numbered(2)["1"]
    assert child.exitcode == 0


def _read_both_ways(tree: Tree) -> None:
    assert tree.pointer("1") == asyncio.run(tree.pointer_async("1")) == numbered(2)["1"]


def test_a_walk_decodes_few_heavy_nodes_together(monkeypatch):
    monkeypatch.setattr("hamt_bulk.nodes.SCAN_BYTES", 5_000)
    tree, cas = tree_of(4000, NodeCache(0))
    together: list[int] = []
    read = cas.read_blocks

    def read_blocks(cids):
        together.append(len(cids))
        return read(cids)

    cas.read_blocks = read_blocks
    found = list(tree.entries())
    assert dict(found) == numbered(4000)
    assert len(found) == 4000
    assert together[:3] == [1, 4, 16], "as many as there are, until it shows that they are too many"
    assert max(together[3:]) <= 12
    [children] = [slot for slot in tree.root_slots() if isinstance(slot, bytes)][:1]
    assert dict(tree.entries_below([children])).items() <= numbered(4000).items()


def test_entries_are_handed_out_few_at_a_time(monkeypatch):
    monkeypatch.setattr("hamt_bulk.tree.walk.FOUND_AT_ONCE", 50)
    tree, cas = tree_of(3000)
    walk, sent, sizes = entries(tree.root, tree.layout), None, []
    while (step := next(walk) if sent is None else walk.send(sent)) is not None:
        sent = None
        if isinstance(step, Found):
            sizes.append(len(step))
        else:
            sent = cas.load_blocks(step)
        if sum(sizes) == 3000:
            break
    assert max(sizes) < 50 + 1024
    assert len(sizes) > 5
