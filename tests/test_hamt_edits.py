"""A HAMT after any edits, against a dict and a rebuild."""

import asyncio
import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import dag_cbor
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from multiformats import CID
from trees_made import collect, crowded_hashfn
from uncanonical import left_by_py_hamt_3_3, subtree_sizes

from hamt_bulk import InMemoryCAS, blake3_hashfn, build, errors
from hamt_bulk.block import to_bytes
from hamt_bulk.hamt import HAMT
from hamt_bulk.layout import PyHamt

NAMES = [f"{'k' * (number % 3)}{number}" for number in range(24)]


def same_start(data: bytes) -> bytes:
    """A hash by which all keys share two levels."""
    return b"\x07\x07" + hashlib.sha256(data).digest()


@dataclass(frozen=True)
class Options:
    """How a tree is made and edited."""

    hash_fn: Callable[[bytes], bytes]
    max_bucket_size: int
    values_are_bytes: bool
    max_waiting_edits: int

    async def open(self, cas: InMemoryCAS, root: CID | bytes | None) -> HAMT:
        return await HAMT.build(cas=cas, root_node_id=root, **vars(self))

    def encoded(self, items: Mapping[str, bytes]) -> dict[str, bytes]:
        encode = bytes if self.values_are_bytes else dag_cbor.encode
        return {key: encode(value) for key, value in items.items()}

    def build(self, items: Mapping[str, bytes], cas: InMemoryCAS) -> CID:
        return build(self.encoded(items), cas, hash_fn=self.hash_fn, max_bucket_size=self.max_bucket_size)

    def left_behind(self, items: Mapping[str, bytes], deleted: set[str], cas: InMemoryCAS) -> bytes:
        """The root of `items` without those `deleted`, as py-hamt 3.3 left it."""
        deleted = deleted & items.keys()
        return left_by_py_hamt_3_3(self.encoded(items), deleted, cas, self.hash_fn, self.max_bucket_size)


keys = st.sampled_from(NAMES)
values = st.sampled_from([b"0", b"1", b"2"])
trees = st.dictionaries(keys, values, max_size=24)
every_options = st.builds(
    Options,
    st.sampled_from([crowded_hashfn, same_start, blake3_hashfn]),
    st.sampled_from([1, 2, 4]),
    st.booleans(),
    st.sampled_from([1, 3, 1000]),
)
edits = (
    st.tuples(st.just("set"), keys, values)
    | st.tuples(st.just("delete"), keys)
    | st.tuples(st.just("update"), st.dictionaries(keys, values, max_size=12))
)
steps = st.lists(edits | st.sampled_from([("flush",), ("reopen",)]), max_size=14)


async def edited(hamt: HAMT, expected: dict[str, bytes], edit: tuple[Any, ...]) -> None:
    """Both of them after an edit."""
    match edit:
        case "set", key, value:
            await hamt.set(key, value)
            expected[key] = value
        case "delete", key if key in expected:
            await hamt.delete(key)
            del expected[key]
        case "delete", key:
            with pytest.raises(errors.KeyNotFound):
                await hamt.delete(key)
        case "update", items:
            await hamt.update(items)
            expected |= items


def names_in(edit: tuple[Any, ...]) -> set[str]:
    """The keys that an edit is of."""
    return set() if len(edit) == 1 else {edit[1]} if isinstance(edit[1], str) else set(edit[1])


async def assert_same(hamt: HAMT, expected: dict[str, bytes], names: Iterable[str] = NAMES) -> None:
    """All that is listed agrees with the dict, and so does what is asked for by one of the `names`."""
    assert await hamt.len() == len(expected)
    assert sorted(await collect(hamt.keys())) == sorted(expected)
    items = await collect(hamt.items())
    assert len(items) == len(expected) and dict(items) == expected
    for key in names:
        assert await hamt.contains(key) == (key in expected)
        if key in expected:
            assert await hamt.get(key) == expected[key]
        else:
            with pytest.raises(errors.KeyNotFound):
                await hamt.get(key)


@given(trees, st.sets(keys), steps, every_options)
@settings(max_examples=300)
def test_a_hamt_reads_as_a_dict_at_every_step_and_its_root_is_a_rebuilds(before, deleted, steps, options):
    async def run() -> None:
        cas = InMemoryCAS()
        expected = dict(before)
        hamt = await options.open(cas, options.build(before, cas))
        for key in deleted:
            await edited(hamt, expected, ("delete", key))
        for step in steps:
            if step == ("flush",):
                assert await hamt.flush() == options.build(expected, cas)
            elif step == ("reopen",):
                hamt = await options.open(cas, await hamt.flush())
            else:
                await edited(hamt, expected, step)
            await assert_same(hamt, expected, names_in(step))
        await assert_same(hamt, expected)
        assert await hamt.flush() == hamt.root_node_id == options.build(expected, InMemoryCAS())
        await hamt.update(dict.fromkeys(NAMES, b"0"))
        for key in NAMES:
            await hamt.delete(key)
        assert await hamt.flush() == options.build({}, cas)

    asyncio.run(run())


@given(
    trees,
    st.sets(keys),
    st.lists(st.lists(st.tuples(st.none() | values, st.booleans()), max_size=3), min_size=12, max_size=12),
    every_options,
)
@settings(max_examples=250)
def test_tasks_that_edit_keys_of_their_own_give_the_root_of_a_rebuild(before, deleted, of_each, options):
    """Whatever they wait for, and however flushes come between."""

    async def run() -> None:
        cas = InMemoryCAS()
        hamt = await options.open(cas, options.left_behind(before, deleted, cas))
        expected = {key: value for key, value in before.items() if key not in deleted}
        await asyncio.gather(
            *(task(hamt, key, edits, expected) for key, edits in zip(NAMES, of_each, strict=False))
        )
        await assert_same(hamt, expected)
        # What no edit went to is as py-hamt 3.3 left it.
        for key, value in list(expected.items()):
            await hamt.set(key, value)
        assert await hamt.flush() == options.build(expected, cas)

    async def task(hamt: HAMT, key: str, edits: list, expected: dict[str, bytes]) -> None:
        for value, flushes in edits:
            await edited(hamt, expected, ("delete", key) if value is None else ("set", key, value))
            if flushes:
                await hamt.flush()
            assert await hamt.contains(key) == (key in expected)

    asyncio.run(run())


@given(trees, st.sets(keys), st.lists(edits, min_size=1, max_size=8), every_options)
@settings(max_examples=400)
def test_a_tree_that_py_hamt_3_3_left_behind_is_put_right_where_edits_come(before, deleted, edits, options):
    async def run() -> None:
        cas = InMemoryCAS()
        layout = PyHamt(options.max_bucket_size)
        hamt = await options.open(cas, options.left_behind(before, deleted, cas))
        expected = {key: value for key, value in before.items() if key not in deleted}
        await assert_same(hamt, expected)
        touched: set[str] = set()
        for edit in edits:
            was = set(expected)
            await edited(hamt, expected, edit)
            if edit[0] != "delete" or edit[1] in was:
                touched |= names_in(edit)
        root = to_bytes(await hamt.flush())
        await assert_same(hamt, expected)
        for key in touched:
            sizes = subtree_sizes(root, key, cas, options.hash_fn, layout)
            assert all(size > options.max_bucket_size for size in sizes), key
        await hamt.update(expected)
        assert await hamt.flush() == options.build(expected, cas)

    asyncio.run(run())


def test_what_py_hamt_3_3_left_behind_is_not_what_a_rebuild_gives():
    """Else the tests above would show nothing."""
    options, cas = Options(crowded_hashfn, 2, True, 1000), InMemoryCAS()
    items = dict.fromkeys(NAMES, b"0")
    kept = {key: items[key] for key in NAMES[:5]}
    root = options.left_behind(items, items.keys() - kept.keys(), cas)
    assert root != to_bytes(options.build(kept, cas))
    sizes = [
        size
        for key in kept
        for size in subtree_sizes(root, key, cas, options.hash_fn, PyHamt(options.max_bucket_size))
    ]
    assert min(sizes) <= options.max_bucket_size
