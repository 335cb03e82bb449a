"""A HAMT that many tasks, event loops and threads use at once: nothing hangs, nothing is lost, nothing done twice."""

import asyncio
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from trees_made import CountingCAS, collect, crowded_hashfn

from hamt_bulk import InMemoryCAS, PackCAS, build, errors
from hamt_bulk.block import to_bytes
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.hamt import HAMT

pytestmark = pytest.mark.timeout(60)


def numbered(count: int) -> dict[str, bytes]:
    return {str(number): b"value %d" % number for number in range(count)}


async def opened(items: dict[str, bytes], cas: InMemoryCAS | None = None, **options: Any) -> HAMT:
    """The HAMT of a tree that has these items, in a store that has not been asked for anything yet."""
    cas = cas or CountingCAS()
    options = {"hash_fn": crowded_hashfn, "values_are_bytes": True} | options
    root = build(items, cas, hash_fn=options["hash_fn"])
    hamt = HAMT(cas, root_node_id=root, **options)
    if isinstance(cas, CountingCAS):
        cas.loads.clear()
        cas.entered.clear()
    return hamt


def rebuilt(items: dict[str, bytes]):
    return build(items, InMemoryCAS(), hash_fn=crowded_hashfn)


async def seen(event: threading.Event) -> None:
    assert await asyncio.to_thread(event.wait, 30)


# Reading.


@pytest.mark.parametrize("read_only", [False, True])
async def test_64_cold_gets_at_once_load_each_node_once(read_only):
    hamt = await opened(numbered(1000), read_only=read_only)
    hamt.cas.delay = 0.01
    keys = [str(number) for number in range(0, 64 * 15, 15)]
    values = await asyncio.gather(*map(hamt.get, keys))
    assert values == [b"value %s" % key.encode() for key in keys]
    assert set(hamt.cas.loads.values()) == {1}
    assert len(hamt.cas.loads) > 64 + 10
    assert hamt.cas.loads[to_bytes(hamt.root_node_id)] == 1


@pytest.mark.parametrize("max_bytes", [0, 30_000, 100_000])
async def test_the_nodes_that_are_kept_never_take_more_than_the_limit(max_bytes):
    hamt = await opened(numbered(1000), max_cache_bytes=max_bytes)
    for start in range(0, 1000, 50):
        await asyncio.gather(*(hamt.get(str(number)) for number in range(start, start + 50)))
        assert await hamt.cache_size() <= max_bytes
    assert len(await collect(hamt.keys())) == 1000
    assert max_bytes // 2 <= await hamt.cache_size() <= max_bytes


async def test_few_values_are_loaded_before_the_first_is_asked_for():
    hamt = await opened(numbered(1000))
    items = hamt.items()
    await anext(items)
    values = {to_bytes(await hamt.get_pointer(key)) for key in numbered(1000)}
    assert 0 < len(values & hamt.cas.loads.keys()) <= 32
    assert len(await collect(items)) == 999


class SlowCAS(InMemoryCAS):
    """Takes its time before it looks at a value."""

    async def save_value(self, data, codec):
        await asyncio.sleep(0.01)
        return await super().save_value(data, codec)


async def test_a_value_is_that_of_the_moment_it_was_set():
    hamt = await opened({}, SlowCAS())
    value = bytearray(b"then")
    task = asyncio.ensure_future(hamt.set("key", value))
    await asyncio.sleep(0)
    value[:] = b"now"
    await task
    assert await hamt.get("key") == b"then"


@pytest.mark.parametrize("listing", ["keys", "items"])
@pytest.mark.parametrize("started", [False, True])
async def test_an_iteration_gives_the_entries_as_they_were_when_its_first_was_asked_for(listing, started):
    """Whatever is edited, flushed and forgotten meanwhile."""
    expected = numbered(300)
    hamt = await opened(expected, max_cache_bytes=20_000)
    await hamt.update({"waiting": b"1", "5": b"changed"})
    await hamt.delete("6")
    expected = {key: value for key, value in expected.items() if key != "6"}
    expected |= {"waiting": b"1", "5": b"changed"}
    iteration = getattr(hamt, listing)()
    found = [await anext(iteration)] if started else []
    now = dict(expected)
    for number in range(100, 200):
        await hamt.delete(str(number))
        await hamt.set(f"new{number}", b"")
        del now[str(number)]
        now[f"new{number}"] = b""
        if number % 30 == 0:
            await hamt.flush()
    await hamt.delete("waiting")
    del now["waiting"]
    await hamt.cache_vacate()
    found += await collect(iteration)
    if not started:
        expected = now
    assert sorted(found) == sorted(expected.items() if listing == "items" else expected)
    assert await hamt.len() == len(now)
    assert hamt.root_node_id == rebuilt(now)


# Everything at once.


async def busy(hamt: HAMT, own: list[str], seed: int) -> dict[str, bytes]:
    """Edits keys that are nobody else's, and does everything else meanwhile; what these keys have at the end."""
    dice = random.Random(seed)
    mine: dict[str, bytes] = {}
    for turn in range(30):
        key = dice.choice(own)
        match dice.randrange(8):
            case 0 | 1 | 2:
                mine[key] = b"%d" % dice.randrange(1000)
                await hamt.set(key, mine[key])
            case 3:
                if mine.pop(key, None) is None:
                    with pytest.raises(KeyError):
                        await hamt.delete(key)
                else:
                    await hamt.delete(key)
            case 4:
                items = {name: b"%d" % turn for name in own[:3]}
                await hamt.update(items)
                mine |= items
            case 5:
                listed = dict(await collect(hamt.items(own[0][:2])))
                assert listed == mine
            case 6:
                await hamt.flush()
            case 7:
                await hamt.cache_vacate()
        assert await hamt.contains(key) == (key in mine)
        if key in mine:
            assert await hamt.get(key) == mine[key]
    return mine


def names_of(worker: int) -> list[str]:
    return [f"{worker:02}-{number}" for number in range(12)]


def in_one_loop(hamt: HAMT, workers: int) -> list[dict[str, bytes]]:
    async def run() -> list[dict[str, bytes]]:
        return list(await asyncio.gather(*(busy(hamt, names_of(one), one) for one in range(workers))))

    return asyncio.run(run())


def in_two_loops(hamt: HAMT, workers: int) -> list[dict[str, bytes]]:
    async def run(first: int) -> list[dict[str, bytes]]:
        return list(
            await asyncio.gather(*(busy(hamt, names_of(one), one) for one in range(first, workers, 2)))
        )

    with ThreadPoolExecutor(2) as pool:
        return [mine for half in pool.map(lambda first: asyncio.run(run(first)), range(2)) for mine in half]


def in_threads(hamt: HAMT, workers: int) -> list[dict[str, bytes]]:
    """Each thread has an event loop of its own."""
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(lambda one: asyncio.run(busy(hamt, names_of(one), one)), range(workers)))


@pytest.mark.parametrize("run", [in_one_loop, in_two_loops, in_threads])
@pytest.mark.parametrize("make", [InMemoryCAS, CountingCAS, None], ids=["inline", "threads", "packs"])
@pytest.mark.parametrize("max_waiting_edits", [4, 1000])
def test_whatever_is_done_at_once_gives_the_root_of_a_rebuild(run, make, max_waiting_edits, tmp_path):
    cas: ContentAddressedStore = PackCAS(tmp_path / "store") if make is None else make()
    base = numbered(100)
    hamt = asyncio.run(opened(base, cas, max_waiting_edits=max_waiting_edits, max_cache_bytes=100_000))
    of_each = run(hamt, 8)
    root = asyncio.run(hamt.flush())
    expected = base | {key: value for mine in of_each for key, value in mine.items()}
    assert root == rebuilt(expected)
    again = cas if make else PackCAS(tmp_path / "store")
    reader = HAMT(again, crowded_hashfn, root, values_are_bytes=True)
    assert dict(asyncio.run(collect(reader.items()))) == expected


@pytest.mark.parametrize("limit", [1, 10])
async def test_no_more_edits_wait_than_were_allowed(limit):
    """As many again while a flush is under way."""
    hamt = await opened(numbered(10), max_waiting_edits=limit)
    most = 0

    async def watch() -> None:
        nonlocal most
        while True:
            most = max(most, hamt.draft.waiting)
            await asyncio.sleep(0)

    watcher = asyncio.ensure_future(watch())
    await asyncio.gather(*(hamt.set(f"new{number}", b"") for number in range(100)))
    watcher.cancel()
    assert limit <= most <= 2 * limit
    for number in range(100):
        await hamt.set(f"more{number}", b"")
        assert hamt.draft.waiting <= limit
    for number in range(100):
        await hamt.delete(f"new{number}")
        assert hamt.draft.waiting <= limit


async def test_a_flush_that_many_await_is_done_once():
    hamt = await opened(numbered(100))
    writers = 0
    writer = hamt.cas.writer

    def counted():
        nonlocal writers
        writers += 1
        return writer()

    hamt.cas.writer = counted
    await hamt.set("new", b"1")
    roots = await asyncio.gather(*(hamt.flush() for _ in range(50)), hamt.make_read_only())
    assert {*roots[:-1], hamt.root_node_id} == {rebuilt(numbered(100) | {"new": b"1"})}
    assert writers == 1


async def test_an_edit_during_a_flush_is_in_the_next_one():
    hamt = await opened(numbered(100))
    await hamt.set("first", b"1")
    hamt.cas.gate.clear()
    flush = asyncio.ensure_future(hamt.flush())
    await seen(hamt.cas.entered)
    await hamt.set("second", b"2")
    await hamt.set("first", b"3")
    assert await hamt.contains("second")
    second = asyncio.ensure_future(hamt.flush())
    await asyncio.sleep(0.01)
    hamt.cas.gate.set()
    assert await flush == rebuilt(numbered(100) | {"first": b"1"})
    expected = numbered(100) | {"first": b"3", "second": b"2"}
    assert await second == hamt.root_node_id == rebuilt(expected)
    assert dict(await collect(hamt.items())) == expected


async def test_an_edit_during_a_flush_that_fails_is_not_undone():
    hamt = await opened(numbered(100))
    root = to_bytes(hamt.root_node_id)
    await hamt.update({"a": b"1", "b": b"1"})
    hamt.cas.fails[root] = errors.CASError("the disk is gone")
    hamt.cas.gate.clear()
    flush = asyncio.ensure_future(hamt.flush())
    await seen(hamt.cas.entered)
    await hamt.update({"a": b"2", "c": b"2"})
    hamt.cas.gate.set()
    with pytest.raises(errors.CASError, match="the disk is gone"):
        await flush
    hamt.cas.fails.clear()
    expected = numbered(100) | {"a": b"2", "b": b"1", "c": b"2"}
    assert dict(await collect(hamt.items())) == expected
    assert await hamt.flush() == rebuilt(expected)


async def test_of_many_who_delete_one_key_one_succeeds():
    hamt = await opened(numbered(100))
    hamt.cas.delay = 0.01
    answers = await asyncio.gather(*(hamt.delete("5") for _ in range(8)), return_exceptions=True)
    assert sorted(type(answer).__name__ for answer in answers) == ["KeyNotFound"] * 7 + ["NoneType"]
    assert await hamt.len() == 99


# Cancellation.


async def cancelled(hamt: HAMT, call: Callable[[], Any]) -> None:
    """Cancels a call while it waits for the store, which then goes on."""
    hamt.cas.entered.clear()
    hamt.cas.gate.clear()
    task = asyncio.ensure_future(call())
    await seen(hamt.cas.entered)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    hamt.cas.gate.set()


@pytest.mark.parametrize("name", ["flush", "make_read_only", "cache_vacate"])
async def test_a_flush_that_was_cancelled_loses_no_edit(name):
    hamt = await opened(numbered(100))
    await hamt.set("new", b"1")
    await cancelled(hamt, getattr(hamt, name))
    assert not hamt.read_only
    assert await hamt.get("new") == b"1"
    await hamt.set("later", b"2")
    expected = numbered(100) | {"new": b"1", "later": b"2"}
    assert await hamt.flush() == rebuilt(expected)
    assert dict(await collect(hamt.items())) == expected


async def test_a_cancelled_get_leaves_the_others_alone():
    hamt = await opened(numbered(100))
    hamt.cas.gate.clear()
    tasks = [asyncio.ensure_future(hamt.get(str(number))) for number in range(20)]
    await seen(hamt.cas.entered)
    for task in tasks[:10]:
        task.cancel()
    hamt.cas.gate.set()
    answers = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(answer, asyncio.CancelledError) for answer in answers[:10])
    assert answers[10:] == [b"value %d" % number for number in range(10, 20)]
    assert await hamt.get("5") == b"value 5" and await hamt.len() == 100


@pytest.mark.parametrize("is_set", [True, False], ids=["set", "delete"])
async def test_a_cancelled_edit_is_made_or_not_made(is_set):
    """A set waits here for the edits that are flushed before it, a delete for the nodes that it reads."""
    hamt = await opened(numbered(100), max_waiting_edits=1)
    if is_set:
        await hamt.set("first", b"1")
    await cancelled(hamt, lambda: hamt.set("5", b"2") if is_set else hamt.delete("5"))
    expected = numbered(100) | ({"first": b"1"} if is_set else {})
    with suppress(KeyError):
        if await hamt.get("5") != b"value 5":
            expected["5"] = b"2"
    if not await hamt.contains("5"):
        del expected["5"]
    assert dict(await collect(hamt.items())) == expected
    assert await hamt.flush() == rebuilt(expected)


async def test_an_iteration_that_is_given_up_leaves_the_tree_usable():
    hamt = await opened(numbered(300))
    async for _ in hamt.items():
        break
    iteration = hamt.keys()
    await anext(iteration)
    await iteration.aclose()
    await hamt.set("new", b"1")
    assert await hamt.flush() == rebuilt(numbered(300) | {"new": b"1"})


def test_what_one_event_loop_left_waiting_the_next_one_flushes():
    """Also when a flush was under way as the first one ended."""
    hamt = asyncio.run(opened(numbered(100)))

    async def first() -> None:
        await hamt.set("a", b"1")
        hamt.cas.gate.clear()
        flush = asyncio.ensure_future(hamt.flush())
        await seen(hamt.cas.entered)
        await hamt.set("b", b"2")
        flush.cancel()

    asyncio.run(first())
    hamt.cas.gate.set()
    assert asyncio.run(hamt.flush()) == rebuilt(numbered(100) | {"a": b"1", "b": b"2"})
