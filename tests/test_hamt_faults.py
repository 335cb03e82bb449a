"""A HAMT whose store fails, and a HAMT that is given what it cannot use: nothing is lost, nothing half-written."""

import asyncio
import errno
import linecache
import multiprocessing
import subprocess
import sys
import threading
from contextlib import suppress
from functools import cache
from types import FrameType
from typing import Any

import pytest
from trees_made import CountingCAS, PlainCAS, collect, crowded_hashfn
from watching import Faults, failing, interrupted

from hamt_bulk import InMemoryCAS, PackCAS, build, draft, errors
from hamt_bulk.block import to_bytes, to_cid
from hamt_bulk.hamt import HAMT
from hamt_bulk.testing import Fail, FaultyCAS

BASE = {f"old{number}": b"%d" % number for number in range(12)}
MORE = {f"more{number}": b"more %d" % number for number in range(4)}
EDITS: list[tuple[Any, ...]] = [
    ("set", "new", b"1"),
    ("delete", "old3"),
    ("update", MORE),
    ("get", "old5"),
    ("flush",),
    ("set", "old7", b"changed"),
    ("items",),
    ("cache_vacate",),
    ("set", "last", b"3"),
    ("make_read_only",),
]
AFTER = {key: value for key, value in BASE.items() if key != "old3"} | MORE
AFTER |= {"new": b"1", "old7": b"changed", "last": b"3"}


async def done(hamt: HAMT, edit: tuple[Any, ...], expected: dict[str, bytes]) -> None:
    """One step of `EDITS`, in the HAMT and then in the dict."""
    name, *arguments = edit
    if name == "items":
        assert dict(await collect(hamt.items())) == expected
        return
    result = await getattr(hamt, name)(*arguments)
    match edit:
        case "set", key, value:
            expected[key] = value
        case "delete", key:
            del expected[key]
        case "update", items:
            expected |= items
        case "get", key:
            assert result == expected[key]


async def assert_reads(hamt: HAMT, expected: dict[str, bytes]) -> None:
    assert dict(await collect(hamt.items())) == expected
    assert [await hamt.get(key) for key in expected] == list(expected.values())


@pytest.mark.parametrize("cache_bytes", [0, 1 << 20], ids=["uncached", "cached"])
@pytest.mark.parametrize(
    ("kind", "kind_of_error"),
    [("memory", errors.CASError), ("threads", errors.CASError), ("plain", RuntimeError)],
)
def test_whatever_call_of_the_store_fails_the_tree_is_as_it_was_and_the_same_call_works_later(
    kind, kind_of_error, cache_bytes
):
    """Every call that the steps make fails once, in a run of its own."""

    @cache
    def rebuilt(items: frozenset[tuple[str, bytes]]) -> bytes:
        return to_bytes(build(items, InMemoryCAS(), hash_fn=crowded_hashfn))

    base = InMemoryCAS()
    base_root = to_bytes(build(BASE, base, hash_fn=crowded_hashfn))

    async def run(nth: int) -> bool:
        inner = CountingCAS() if kind == "threads" else InMemoryCAS()
        inner.blocks |= base.blocks
        cas = FaultyCAS(PlainCAS(inner) if kind == "plain" else inner)
        options = {"hash_fn": crowded_hashfn, "values_are_bytes": True, "max_waiting_edits": 3}
        hamt = HAMT(cas, root_node_id=base_root, max_cache_bytes=cache_bytes, **options)
        expected, flushed = dict(BASE), dict(BASE)
        cas.arm(Fail(nth=nth + 1, error=kind_of_error("the disk is gone")))
        for edit in EDITS:
            root, before, had_struck = hamt.draft.tree.root, dict(expected), cas.struck
            try:
                await done(hamt, edit, expected)
            except (kind_of_error, errors.CASError) as raised:
                assert "the disk is gone" in str(raised) and cas.struck and not had_struck
                assert not hamt.read_only
                await assert_reads(hamt, before)
                if hamt.draft.tree.root != root:
                    flushed = before
                await assert_reads(HAMT(cas, root_node_id=hamt.root_node_id, **options), flushed)
                await done(hamt, edit, expected)
            # When too many wait, they are flushed before the edit is recorded.
            if hamt.draft.tree.root != root:
                flushed = before
            assert hamt.draft.tree.root == rebuilt(frozenset(flushed.items()))
        struck = cas.struck
        cas.mend()
        assert hamt.read_only and expected == AFTER
        assert bytes(hamt.root_node_id) == rebuilt(frozenset(AFTER.items()))
        await assert_reads(HAMT(cas, root_node_id=hamt.root_node_id, **options), AFTER)
        return bool(struck)

    calls = 0
    while asyncio.run(run(calls)):
        calls += 1
    assert calls > 20


@pytest.mark.parametrize("nth", range(4))
async def test_a_tree_that_failed_to_become_read_only_still_takes_edits(nth):
    """Whichever call fails: the store's flush, its writer, the nodes or their flush."""
    cas = FaultyCAS(InMemoryCAS())
    hamt = await HAMT.build(cas=cas, values_are_bytes=True)
    await hamt.set("a", b"1")
    root = hamt.root_node_id
    cas.arm(Fail(nth=nth + 1))
    with pytest.raises(errors.CASError, match="the disk or the network failed"):
        await hamt.make_read_only()
    assert cas.struck and not hamt.read_only and hamt.root_node_id == root
    await hamt.set("b", b"2")
    await hamt.make_read_only()
    assert hamt.root_node_id == build({"a": b"1", "b": b"2"}, InMemoryCAS())


async def test_two_that_fail_to_make_a_tree_read_only_leave_it_writable():
    cas = CountingCAS()
    hamt = await HAMT.build(cas=cas, root_node_id=build(BASE, cas), values_are_bytes=True)
    await hamt.cache_vacate()
    await hamt.set("new", b"1")
    cas.fails = dict.fromkeys([to_bytes(hamt.root_node_id)], errors.CASError("gone"))
    failures = await asyncio.gather(hamt.make_read_only(), hamt.make_read_only(), return_exceptions=True)
    assert [type(failure) for failure in failures] == [errors.CASError] * 2
    assert not hamt.read_only
    cas.fails.clear()
    await hamt.make_read_only()
    assert hamt.root_node_id == build(BASE | {"new": b"1"}, InMemoryCAS())


@pytest.mark.parametrize(
    "spoiled",
    [("key", object()), (5, b""), ("\ud800", b""), ("alone",), None, ZeroDivisionError("of the caller")],
    ids=repr,
)
async def test_an_update_that_fails_sets_nothing(spoiled):
    def items():
        yield "a", b"changed"
        if isinstance(spoiled, Exception):
            raise spoiled
        yield spoiled
        yield "b", b"new"

    cas = InMemoryCAS()
    hamt = await HAMT.build(cas=cas, root_node_id=build({"a": b"1"}, cas), values_are_bytes=True)
    blocks = dict(cas.blocks)
    with pytest.raises(type(spoiled) if isinstance(spoiled, Exception) else errors.InvalidInput):
        await hamt.update(items())
    await assert_reads(hamt, {"a": b"1"})
    assert await hamt.flush() == build({"a": b"1"}, InMemoryCAS())
    assert cas.blocks == blocks


def test_an_interrupted_flush_loses_no_edit(tmp_path):
    """Ctrl-C at any line that the caller's thread runs."""
    expected = build(BASE | MORE, InMemoryCAS())

    async def edited() -> HAMT:
        cas = InMemoryCAS()
        hamt = await HAMT.build(cas=cas, root_node_id=build(BASE, cas), values_are_bytes=True)
        await hamt.update(MORE)
        return hamt

    nth, struck = 0, True
    while struck:
        hamt = asyncio.run(edited())
        with signalled(nth) as strike:
            hamt.draft.flush_here()
        struck = strike.struck
        assert dict(asyncio.run(collect(hamt.items()))) == BASE | MORE, nth
        assert to_cid(hamt.draft.flush_here()) == expected, nth
        nth += 1
    assert nth > 5


class signalled(interrupted):
    """As a signal strikes: never between the last line of a `with` and what it does at its end."""

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        line = linecache.getline(frame.f_code.co_filename, frame.f_lineno)
        return self._trace if line.lstrip().startswith("with ") else super()._trace(frame, event, argument)


def test_a_flush_that_began_as_its_caller_was_interrupted_goes_on(monkeypatch):
    cas = CountingCAS()

    class InterruptedThread(threading.Thread):
        def start(self) -> None:
            super().start()
            assert cas.entered.wait(30)
            raise KeyboardInterrupt

    hamt = HAMT(cas, root_node_id=build(BASE, cas), values_are_bytes=True)
    asyncio.run(hamt.update({"new": b"1"}))
    cas.entered.clear()
    cas.gate.clear()
    with monkeypatch.context() as patched:
        patched.setattr(draft, "Thread", InterruptedThread)
        with pytest.raises(KeyboardInterrupt):
            hamt.draft.flush_here()
    asyncio.run(hamt.update({"later": b"2"}))
    cas.gate.set()
    expected = BASE | {"new": b"1", "later": b"2"}
    assert dict(asyncio.run(collect(hamt.items()))) == expected
    assert to_cid(hamt.draft.flush_here()) == build(expected, InMemoryCAS())


def test_a_flush_that_gets_no_thread_loses_no_edit(monkeypatch):
    def start(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    hamt = HAMT(InMemoryCAS(), values_are_bytes=True)
    asyncio.run(hamt.update(MORE))
    with monkeypatch.context() as patched:
        patched.setattr(draft.Thread, "start", start)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            hamt.draft.flush_here()
    assert to_cid(hamt.draft.flush_here()) == build(MORE, InMemoryCAS())


# Packs: what is flushed is on the disk.

READER = """
import asyncio, sys
from hamt_bulk import PackCAS
from hamt_bulk.hamt import HAMT

async def main(folder, root):
    hamt = await HAMT.build(cas=PackCAS(folder), root_node_id=root, read_only=True, values_are_bytes=True)
    items = [(key, await hamt.get(key)) async for key, value in hamt.items()]
    print(sorted(items))

asyncio.run(main(*sys.argv[1:]))
"""


async def test_what_was_flushed_is_read_by_another_process(tmp_path):
    large = bytes(range(256)) * 8200
    hamt = await HAMT.build(cas=PackCAS(tmp_path / "store"), values_are_bytes=True)
    await hamt.set("large", large)
    await hamt.update(MORE)
    root = await hamt.flush()
    await hamt.set("not flushed", b"")
    command = [sys.executable, "-c", READER, str(tmp_path / "store"), str(root)]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    assert output.strip() == repr(sorted((MORE | {"large": large}).items()))


@pytest.mark.parametrize("end", ["flush", "make_read_only", "cache_vacate", "__aexit__", "max_waiting_edits"])
async def test_every_way_to_flush_makes_durable(tmp_path, end):
    """Also the empty root of a new tree, which no edit brought."""
    for items in ({}, MORE, BASE | MORE):
        waiting = {"max_waiting_edits": 1} if end == "max_waiting_edits" else {}
        hamt = await HAMT.build(cas=PackCAS(tmp_path / "store"), values_are_bytes=True, **waiting)
        for key, value in items.items():
            await hamt.set(key, value)
        if end == "max_waiting_edits":
            await hamt.set("one more", b"")
            if not items:
                continue
        else:
            await getattr(hamt, end)(*[None] * 3 * (end == "__aexit__"))
        other = await HAMT.build(
            cas=PackCAS(tmp_path / "store"), root_node_id=hamt.root_node_id, values_are_bytes=True
        )
        await assert_reads(other, items)


@pytest.mark.parametrize("when", ["flush", "set"])
@pytest.mark.filterwarnings("ignore:the build is complete")
def test_values_that_a_full_disk_lost_are_missed_before_a_root_names_them(tmp_path, monkeypatch, when):
    """A pack store drops what it could not write; the edits still wait, and may be set again."""
    faults = Faults(monkeypatch)
    expected = build(BASE | MORE, InMemoryCAS())
    missed: list[int] = []

    async def run(nth: int) -> bool:
        folder = tmp_path / str(nth)
        cas = PackCAS(folder)
        hamt = await HAMT.build(cas=cas, root_node_id=build(BASE, cas), values_are_bytes=True)
        root = hamt.root_node_id
        *first, last = MORE.items()
        for item in first:
            await hamt.set(*item)
        with faults.armed(nth, failing(errno.ENOSPC)), suppress(errors.CASError):
            await hamt.set(*last)
            if when == "flush":
                await hamt.flush()
        if not faults.struck:
            return False
        if when == "set":
            assert await hamt.contains(first[0][0]) and not await hamt.contains(last[0])
        with suppress(errors.CASError):
            cas.close()
        try:
            await hamt.flush()
        except errors.BlockNotFound as error:
            missed.append(nth)
            assert hamt.root_node_id == root and "set them again" in str(error)
            with pytest.raises(errors.BlockNotFound, match="more0"):
                await hamt.flush()
        for item in MORE.items():
            await hamt.set(*item)
        assert await hamt.flush() == expected
        other = await HAMT.build(cas=PackCAS(folder), root_node_id=expected, values_are_bytes=True)
        await assert_reads(other, BASE | MORE)
        return True

    calls = 0
    while asyncio.run(run(calls)):
        calls += 1
    assert missed


@pytest.mark.skipif(sys.platform != "linux", reason="fork is for Linux")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("is_flushed", [False, True])
def test_a_forked_child_makes_no_root_of_values_that_only_its_parent_has(tmp_path, is_flushed):
    """The edits wait in both; the values that were not flushed are the parent's."""
    hamt = HAMT(PackCAS(tmp_path / "store"), values_are_bytes=True)
    for item in MORE.items():
        asyncio.run(hamt.set(*item))
    if is_flushed:
        hamt.cas.flush()
    process = multiprocessing.get_context("fork").Process(target=_flush_in_child, args=(hamt, is_flushed))
    process.start()
    process.join(30)
    assert process.exitcode == 0
    assert to_cid(hamt.draft.flush_here()) == build(MORE, InMemoryCAS())


def _flush_in_child(hamt: HAMT, is_flushed: bool) -> None:
    if is_flushed:
        hamt.draft.flush_here()
        assert dict(asyncio.run(collect(hamt.items()))) == MORE
    else:
        with pytest.raises(errors.BlockNotFound, match="set them again"):
            hamt.draft.flush_here()
