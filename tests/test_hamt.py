"""The tree as a handle: each of py-hamt's names, and ours."""

import inspect
from collections.abc import Mapping
from typing import Any

import dag_cbor
import pytest
from multiformats import CID
from trees_made import CountingCAS, collect, crowded_hashfn

from hamt_bulk import InMemoryCAS, blake3_hashfn, build, errors
from hamt_bulk.block import identify, to_bytes, to_cid
from hamt_bulk.hamt import HAMT

EMPTY = "bafyr4igb3js3dqlnsvmbi533lhghfet3l4r35vbi7mlrvxjb6f3n5wkc3m"
OF_IPLD = [None, True, -1, 1.5, "text", b"bytes", [1, [2]], {"a": {"b": []}}, CID.decode(EMPTY)]


async def fresh(items: Mapping[str, Any], cas: InMemoryCAS | None = None, **options: Any) -> HAMT:
    """A HAMT with these items, flushed, from a new tree."""
    hamt = await HAMT.build(cas=cas or InMemoryCAS(), **{"values_are_bytes": True} | options)
    await hamt.update(items)
    await hamt.flush()
    return hamt


def numbered(count: int) -> dict[str, bytes]:
    return {str(number): b"value %d" % number for number in range(count)}


def rebuilt(items: Mapping[str, bytes], **options: Any) -> CID:
    return build(items, InMemoryCAS(), **options)


# What py-hamt documents, name by name.


def test_the_arguments_are_those_of_py_hamt_in_its_order():
    parameters = list(inspect.signature(HAMT.__init__).parameters.values())[1:]
    positional = [one for one in parameters if one.kind is one.POSITIONAL_OR_KEYWORD]
    assert [(one.name, one.default) for one in positional] == [
        ("cas", inspect.Parameter.empty),
        ("hash_fn", blake3_hashfn),
        ("root_node_id", None),
        ("read_only", False),
        ("max_bucket_size", 4),
        ("values_are_bytes", False),
    ]


@pytest.mark.parametrize("make", [HAMT, HAMT.build], ids=["constructor", "build"])
@pytest.mark.parametrize("named", [False, True], ids=["positional", "named"])
async def test_arguments_become_attributes(make, named):
    cas = InMemoryCAS()
    root = build({"key": b"value"}, cas, hash_fn=crowded_hashfn, max_bucket_size=2)
    names = "cas", "hash_fn", "root_node_id", "read_only", "max_bucket_size", "values_are_bytes"
    given = cas, crowded_hashfn, root, True, 2, True
    hamt = make(**dict(zip(names, given, strict=True))) if named else make(*given)
    if inspect.isawaitable(hamt):
        hamt = await hamt
    assert [getattr(hamt, name) for name in names] == list(given)
    assert hamt.cas is cas and hamt.hash_fn is crowded_hashfn and isinstance(hamt.root_node_id, CID)
    assert await hamt.get("key") == b"value"


async def test_a_new_tree_is_stored_when_it_is_built():
    cas = InMemoryCAS()
    hamt = await HAMT.build(cas=cas)
    assert str(hamt.root_node_id) == EMPTY == str(await hamt.flush())
    assert cas.has_many([EMPTY]) == [True]
    assert await hamt.len() == 0 and await collect(hamt.keys()) == []


@pytest.mark.parametrize("value", OF_IPLD, ids=repr)
async def test_values_are_any_ipld_and_stored_as_dag_cbor(value):
    hamt = await HAMT.build(cas=InMemoryCAS())
    await hamt.set("key", value)
    assert await hamt.get("key") == value
    await hamt.make_read_only()
    assert await hamt.get("key") == value and await collect(hamt.items()) == [("key", value)]
    assert await hamt.cas.load(await hamt.get_pointer("key")) == dag_cbor.encode(value)
    assert hamt.root_node_id == rebuilt({"key": dag_cbor.encode(value)})


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_values_that_are_bytes_are_stored_as_they_are(kind):
    """Also above 1 MiB, where a value is several blocks."""
    items = {"small": b"value", "none": b"", "large": bytes(range(256)) * 8200}
    hamt = await HAMT.build(cas=InMemoryCAS(), values_are_bytes=True)
    for key, value in items.items():
        await hamt.set(key, kind(value))
        assert await hamt.get(key) == value
    assert await hamt.flush() == rebuilt(items)
    assert dict(await collect(hamt.items())) == items


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), b"0123456789"),
        ((2,), b"23456789"),
        ((2, 3), b"234"),
        ((8, 9), b"89"),
        ((0, 0), b""),
        ((11, 1), b""),
        ((None, None, 3), b"789"),
        ((None, None, 99), b"0123456789"),
        ((None, None, 0), b""),
    ],
)
async def test_get_gives_ranges_of_values_that_are_bytes(arguments, expected):
    hamt = await HAMT.build(cas=InMemoryCAS(), values_are_bytes=True)
    await hamt.set("key", b"0123456789")
    names = dict(zip(("offset", "length", "suffix"), arguments, strict=False))
    for _ in range(2):
        assert await hamt.get("key", *arguments) == await hamt.get("key", **names) == expected
        await hamt.flush()


async def test_what_is_deleted_is_gone_and_cannot_be_deleted_again():
    hamt = await fresh(numbered(20))
    await hamt.delete("7")
    for attempt in (hamt.get, hamt.delete, hamt.get_pointer):
        with pytest.raises(KeyError):
            await attempt("7")
    assert await hamt.len() == 19
    await hamt.set("7", b"again")
    assert await hamt.get("7") == b"again"


async def test_a_pointer_is_the_cid_that_the_store_gave_the_value():
    hamt = await fresh({"old": b"1"})
    await hamt.set("new", b"2")
    for key, value in (("old", b"1"), ("new", b"2")):
        pointer = await hamt.get_pointer(key)
        assert isinstance(pointer, CID) and pointer == await hamt.cas.save(value, "raw")


async def test_keys_and_len_include_what_is_not_flushed():
    hamt = await fresh(numbered(20))
    await hamt.set("new", b"")
    await hamt.set("3", b"changed")
    await hamt.delete("5")
    expected = sorted(numbered(20).keys() - {"5"} | {"new"})
    assert sorted(await collect(hamt.keys())) == expected
    assert await hamt.len() == 20
    await hamt.make_read_only()
    assert sorted(await collect(hamt.keys())) == expected
    assert await hamt.len() == 20


async def test_read_only_trees_refuse_edits_until_writing_is_enabled():
    hamt = await fresh(numbered(20))
    await hamt.set("new", b"1")
    assert not hamt.read_only
    await hamt.make_read_only()
    assert hamt.read_only
    root = hamt.root_node_id
    assert root == rebuilt(numbered(20) | {"new": b"1"})
    for attempt in (hamt.set("new", b"2"), hamt.delete("new")):
        with pytest.raises(Exception, match="read-only"):
            await attempt
    await hamt.make_read_only()
    assert hamt.root_node_id == root and await hamt.get("new") == b"1"
    await hamt.enable_write()
    assert not hamt.read_only
    await hamt.delete("new")
    await hamt.make_read_only()
    assert hamt.root_node_id == rebuilt(numbered(20))


async def test_enabling_writes_again_keeps_the_waiting_edits():
    hamt = await fresh({})
    await hamt.set("key", b"value")
    await hamt.enable_write()
    assert await hamt.get("key") == b"value"
    assert await hamt.flush() == rebuilt({"key": b"value"})


@pytest.mark.parametrize("read_only", [False, True])
async def test_the_cache_grows_with_reads_and_is_empty_once_vacated(read_only):
    cas = CountingCAS()
    root = build(numbered(3000), cas)
    hamt = await HAMT.build(cas=cas, root_node_id=root, read_only=read_only, values_are_bytes=True)
    small = await hamt.cache_size()
    assert await hamt.len() == 3000
    assert await hamt.cache_size() > 10 * small > 0
    await hamt.cache_vacate()
    assert await hamt.cache_size() == 0
    cas.loads.clear()
    assert await hamt.get("7") == b"value 7" and cas.loads[to_bytes(root)] == 1


async def test_vacating_the_cache_loses_no_edit():
    hamt = await HAMT.build(cas=InMemoryCAS(), values_are_bytes=True)
    await hamt.update(numbered(100))
    assert await hamt.cache_size() > 100 * 100
    await hamt.cache_vacate()
    assert await hamt.cache_size() == 0
    assert dict(await collect(hamt.items())) == numbered(100)
    assert hamt.root_node_id == rebuilt(numbered(100))


async def test_the_root_is_the_one_that_was_flushed_last():
    hamt = await fresh({"a": b"1"})
    root = hamt.root_node_id
    await hamt.set("b", b"2")
    assert hamt.root_node_id == root == rebuilt({"a": b"1"})
    await hamt.make_read_only()
    assert hamt.root_node_id == rebuilt({"a": b"1", "b": b"2"})
    assert await (await HAMT.build(hamt.cas, root_node_id=root, values_are_bytes=True)).len() == 1


@pytest.mark.parametrize("form", [lambda cid: cid, str, bytes, "ipfs://{}".format])
async def test_a_root_may_be_given_in_any_form(form):
    cas = InMemoryCAS()
    root = build({"key": b"value"}, cas)
    hamt = await HAMT.build(cas=cas, root_node_id=form(root), values_are_bytes=True)
    assert hamt.root_node_id == root and await hamt.get("key") == b"value"


@pytest.mark.parametrize("size", [1, 9])
async def test_a_tree_is_read_whatever_its_bucket_size(size):
    """py-hamt: "For reading a HAMT that was written with a different max bucket size, this does not need to match"."""
    cas = InMemoryCAS()
    root = build(numbered(2000), cas, max_bucket_size=size)
    hamt = await HAMT.build(cas=cas, root_node_id=root, read_only=True, values_are_bytes=True)
    assert await hamt.len() == 2000 and await hamt.get("1999") == b"value 1999"


# What is new.


async def test_pointers_are_set_without_the_value():
    hamt = await fresh({})
    pointer = to_cid(identify(b"somewhere else"))
    for key, form in (("a", pointer), ("b", str(pointer)), ("c", bytes(pointer))):
        await hamt.set_pointer(key, form)
        assert await hamt.get_pointer(key) == pointer
    assert await hamt.flush() == rebuilt(dict.fromkeys("abc", pointer))
    with pytest.raises(errors.BlockNotFound):
        await hamt.get("a")


async def test_items_are_keys_and_values_of_those_that_start_so():
    hamt = await fresh(numbered(100))
    await hamt.set("17", b"changed")
    expected = numbered(100) | {"17": b"changed"}
    items = await collect(hamt.items())
    assert dict(items) == expected and len(items) == 100
    assert dict(await collect(hamt.items("1"))) == {k: v for k, v in expected.items() if k.startswith("1")}


async def test_keys_may_be_those_that_start_so():
    hamt = await fresh(numbered(100))
    await hamt.set("2-new", b"")
    await hamt.delete("25")
    expected = sorted({key for key in numbered(100) if key.startswith("2")} - {"25"} | {"2-new"})
    assert sorted(await collect(hamt.keys(prefix="2"))) == sorted(await collect(hamt.keys("2"))) == expected


@pytest.mark.parametrize("form", [dict, list, iter], ids=["mapping", "pairs", "iterator"])
async def test_update_sets_many_keys_of_which_the_last_counts(form):
    pairs = [("a", b"1"), ("b", b"2"), ("a", b"3")]
    hamt = await fresh({"b": b"old", "c": b"old"})
    await hamt.update(form(pairs))
    expected = {"a": b"3", "b": b"2", "c": b"old"}
    assert dict(await collect(hamt.items())) == expected
    assert await hamt.flush() == rebuilt(expected)


async def test_contains_tells_whether_there_is_a_key_and_loads_no_value():
    hamt = await fresh({"a": b"1", "b": b"2"})
    await hamt.set("new", b"3")
    await hamt.delete("b")
    for pointer in (await hamt.get_pointer("a"), await hamt.get_pointer("new")):
        del hamt.cas.blocks[bytes(pointer)]
    assert [await hamt.contains(key) for key in ("a", "b", "new", "absent")] == [True, False, True, False]


async def test_a_block_of_code_is_flushed_at_its_end_unless_it_failed():
    cas = InMemoryCAS()
    async with await HAMT.build(cas=cas, values_are_bytes=True) as hamt:
        await hamt.set("a", b"1")
    assert hamt.root_node_id == rebuilt({"a": b"1"})
    with pytest.raises(ZeroDivisionError):
        async with hamt:
            await hamt.set("b", b"2")
            raise ZeroDivisionError
    assert hamt.root_node_id == rebuilt({"a": b"1"})
    async with hamt:
        await hamt.make_read_only()


async def test_flush_without_edits_is_the_last_root_and_writes_nothing():
    hamt = await fresh(numbered(50))
    blocks = dict(hamt.cas.blocks)
    assert await hamt.flush() == hamt.root_node_id == rebuilt(numbered(50))
    await hamt.set("7", b"value 7")
    assert await hamt.flush() == rebuilt(numbered(50))
    assert hamt.cas.blocks == blocks
