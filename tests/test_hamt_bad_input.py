"""What a HAMT cannot use is refused with one error that says what to do, and leaves no trace."""

import asyncio
import hashlib
import math
import pickle
import re
from typing import Any

import dag_cbor
import pytest
from trees_made import collect, crowded_hashfn

from hamt_bulk import InMemoryCAS, PackCAS, blake3_hashfn, build, errors
from hamt_bulk.block import DAG_CBOR, identify, text, to_bytes, to_cid
from hamt_bulk.hamt import HAMT
from hamt_bulk.layout import PyHamt

POINTER = to_cid(identify(b"somewhere"))
CALLS = {
    "get": lambda hamt, key: hamt.get(key),
    "get_pointer": lambda hamt, key: hamt.get_pointer(key),
    "contains": lambda hamt, key: hamt.contains(key),
    "set": lambda hamt, key: hamt.set(key, b""),
    "set_pointer": lambda hamt, key: hamt.set_pointer(key, POINTER),
    "delete": lambda hamt, key: hamt.delete(key),
    "update": lambda hamt, key: hamt.update([("fine", b""), (key, b"")]),
}
EDITS = ["set", "set_pointer", "delete", "update"]


def numbered(count: int) -> dict[str, bytes]:
    return {str(number): b"value %d" % number for number in range(count)}


async def opened(items: dict[str, bytes], cas: InMemoryCAS | None = None, **options: Any) -> HAMT:
    cas = cas or InMemoryCAS()
    return await HAMT.build(cas=cas, root_node_id=build(items, cas), values_are_bytes=True, **options)


async def refused(
    hamt: HAMT, kind: type[Exception], message: str, call: Any, items: dict[str, bytes]
) -> BaseException:
    """The error of `call`, after which the HAMT is as it was and its store holds nothing more."""
    root, blocks = hamt.root_node_id, dict(hamt.cas.blocks)
    with pytest.raises(kind, match=message) as raised:
        await call
    assert type(raised.value) is kind and len(str(raised.value)) < 500
    await hamt.enable_write()
    assert await hamt.flush() == hamt.root_node_id == root
    assert hamt.cas.blocks == blocks
    assert sorted(await collect(hamt.keys())) == sorted(items)
    return raised.value


@pytest.mark.parametrize("name", EDITS)
async def test_edits_of_a_read_only_tree_name_the_way_to_write(name):
    items = numbered(5)
    hamt = await opened(items, read_only=True)
    what = name if name == "update" else rf"{name}\('new'\)"
    message = rf"^{what}: this HAMT is read-only; call `await hamt.enable_write\(\)`"
    error = await refused(hamt, errors.ReadOnly, message, CALLS[name](hamt, "new"), items)
    assert isinstance(error, PermissionError)


@pytest.mark.parametrize("name", ["get", "get_pointer", "delete"])
async def test_a_missing_key_is_named_with_the_tree(name):
    items = numbered(5)
    hamt = await opened(items)
    message = f"^'no/such' is not in the tree {hamt.root_node_id}$"
    error = await refused(hamt, errors.KeyNotFound, message, CALLS[name](hamt, "no/such"), items)
    assert isinstance(error, KeyError)


@pytest.mark.parametrize("key", [5, b"bytes", None, ("a",), ["a"], {}, "\ud800"], ids=repr)
@pytest.mark.parametrize("name", CALLS)
async def test_keys_that_are_no_text_are_refused(name, key):
    items = numbered(5)
    hamt = await opened(items)
    message = (
        "has no UTF-8 form" if isinstance(key, str) else f"^a key must be text, found {type(key).__name__} "
    )
    await refused(hamt, errors.InvalidInput, message, CALLS[name](hamt, key), items)


@pytest.mark.parametrize("value", ["text", 5, None, [b"bytes"]], ids=repr)
async def test_values_that_are_no_bytes_are_refused_where_values_are_bytes(value):
    items = numbered(5)
    hamt = await opened(items)
    message = rf"^the value of 'new' is a {type(value).__name__}, expected bytes: .*values_are_bytes=False"
    for call in (hamt.set("new", value), hamt.update({"a": b"", "new": value})):
        await refused(hamt, errors.InvalidInput, message, call, items)


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (math.nan, "NaN is not allowed"),
        (math.inf, "Infinity is not allowed"),
        (2**70, "out of range"),
        (object(), "not of IPLD kind"),
        ({1: 2}, "is not a string"),
        ({"deep": [{"er": {3}}]}, "not of IPLD kind"),
        ("\ud800", "surrogates"),
        (nested(100_000), "recursion"),
    ],
    ids=["nan", "inf", "2**70", "object", "key", "set", "surrogate", "deep"],
)
async def test_values_that_are_no_ipld_are_refused(value, why):
    hamt = await HAMT.build(cas=InMemoryCAS())
    await hamt.flush()
    message = f"^the value of 'new' is no IPLD value: .*{re.escape(why)}"
    for call in (hamt.set("new", value), hamt.update({"a": 1, "new": value})):
        await refused(hamt, errors.InvalidInput, message, call, {})


async def test_bytes_read_as_ipld_are_named_with_the_option_that_reads_them():
    cas = InMemoryCAS()
    root = build({"key": b"\xff plain"}, cas)
    hamt = await HAMT.build(cas=cas, root_node_id=root)
    message = "^the value of 'key' is not dag-cbor, .* values_are_bytes=True"
    await refused(hamt, errors.InvalidInput, message, hamt.get("key"), {"key": b""})
    await refused(hamt, errors.InvalidInput, message, anext(hamt.items()), {"key": b""})


@pytest.mark.parametrize("arguments", [(1,), (0, 2), (None, 2), (None, None, 2)], ids=repr)
async def test_ranges_of_ipld_values_are_refused(arguments):
    cas = InMemoryCAS()
    hamt = await HAMT.build(cas=cas, root_node_id=build({"key": dag_cbor.encode([1, 2, 3])}, cas))
    message = "^'key': a range is of bytes, and this HAMT has values_are_bytes=False$"
    await refused(hamt, errors.InvalidInput, message, hamt.get("key", *arguments), {"key": b""})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1,), "offset=-1, expected a whole number of bytes, 0 or more"),
        ((0, -1), "length=-1"),
        ((1.5,), "offset=1.5"),
        ((None, None, -1), "suffix=-1"),
        ((0, None, 1), "suffix goes without offset and length"),
    ],
    ids=repr,
)
async def test_ranges_that_are_none_are_refused(arguments, message):
    hamt = await opened({"key": b"value"})
    await refused(hamt, errors.InvalidInput, message, hamt.get("key", *arguments), {"key": b""})


@pytest.mark.parametrize("pointer", [5, "text", b"bytes", None], ids=repr)
async def test_pointers_that_are_no_cid_are_refused(pointer):
    hamt = await opened({})
    call = hamt.set_pointer("key", pointer)
    await refused(hamt, errors.InvalidInput, "^not a CID: ", call, {})


@pytest.mark.parametrize("items", [5, [5], ["abc"], [("a", b"", b"")]], ids=repr)
async def test_items_that_are_no_pairs_are_refused(items):
    hamt = await opened({})
    kind = TypeError if items == 5 else errors.InvalidInput
    await refused(
        hamt, kind, r"not iterable|^items must be \(key, value\) pairs, found", hamt.update(items), {}
    )


# Roots.


def node_of(cas: InMemoryCAS, root: Any) -> bytes:
    """A child node of a root."""
    slots = PyHamt().decode(to_bytes(root), cas.blocks[to_bytes(root)])
    return next(slot for slot in slots if isinstance(slot, bytes))


def stored(cas: InMemoryCAS, value: Any, codec: int = DAG_CBOR) -> bytes:
    data = dag_cbor.encode(value) if codec == DAG_CBOR else value
    cas.blocks[identify(data, codec)] = data
    return identify(data, codec)


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize(
    ("root", "kind", "message"),
    [
        (lambda cas, root: node_of(cas, root), errors.InvalidInput, "is not the root of a tree but a child node at depth 1"),
        (lambda cas, root: stored(cas, [b"\0" * 32, []]), errors.MalformedNode, "a child node of an IPLD HashMap"),
        (lambda cas, root: stored(cas, {"B": {}, "L": {}}), errors.MalformedNode, "it is a node of py-hamt 2"),
        (lambda cas, root: stored(cas, {"a": 1}), errors.MalformedNode, "a map of 1 keys"),
        (lambda cas, root: stored(cas, b"bytes", 0x55), errors.MalformedNode, "is not dag-cbor"),
        (lambda cas, root: to_bytes(POINTER), errors.BlockNotFound, "^the root b.* is not in this store, InMemoryCAS"),
        (lambda cas, root: "no cid", errors.InvalidInput, "^not a CID: 'no cid'"),
        (lambda cas, root: 5, errors.InvalidInput, "^not a CID: int 5"),
    ],
    ids=["child", "HashMap child", "py-hamt 2", "map", "raw", "absent", "text", "number"],
)  # fmt: skip
async def test_a_root_that_is_none_is_refused_when_it_is_opened(root, kind, message, read_only):
    cas = InMemoryCAS()
    given = root(cas, build(numbered(3000), cas))
    with pytest.raises(kind, match=message) as raised:
        await HAMT.build(cas=cas, root_node_id=given, read_only=read_only)
    assert type(raised.value) is kind
    if isinstance(given, bytes):
        assert text(given) in str(raised.value)


async def test_a_tree_of_another_hash_function_is_refused_when_it_is_opened():
    cas = InMemoryCAS()
    root = build(numbered(50), cas, hash_fn=lambda data: hashlib.sha256(data).digest())
    for read_only in (False, True):
        with pytest.raises(errors.MalformedNode, match="built with another hash_fn"):
            await HAMT.build(cas=cas, root_node_id=root, read_only=read_only)


@pytest.mark.parametrize("size", [0, -1, 24])
async def test_bucket_sizes_that_no_tree_has_are_refused(size):
    with pytest.raises(ValueError, match=f"max_bucket_size={size}: expected 1 to 23"):
        await HAMT.build(cas=InMemoryCAS(), max_bucket_size=size)


async def test_a_bucket_size_that_contradicts_the_tree_is_refused_before_an_edit():
    cas = InMemoryCAS()
    items = numbered(2000)
    root = build(items, cas, max_bucket_size=9)
    message = r"^node b\w+ has a bucket of \d entries, so this tree was built with a max_bucket_size above 4"
    with pytest.raises(errors.InvalidInput, match=message):
        await HAMT.build(cas=cas, root_node_id=root, values_are_bytes=True)
    hamt = await HAMT.build(cas=cas, root_node_id=root, values_are_bytes=True, read_only=True)
    await hamt.enable_write()
    await hamt.set("new", b"1")
    with pytest.raises(errors.InvalidInput, match=message):
        await hamt.flush()
    assert hamt.root_node_id == root and await hamt.get("new") == b"1" and await hamt.len() == 2001


async def test_there_is_nothing_to_read_in_no_tree():
    with pytest.raises(errors.InvalidInput, match=r"^read_only=True without a root"):
        await HAMT.build(cas=InMemoryCAS(), read_only=True)


@pytest.mark.parametrize("number", [0, -5])
def test_some_edits_must_be_allowed_to_wait(number):
    with pytest.raises(errors.InvalidInput, match=f"^max_waiting_edits={number}: expected 1 or more"):
        HAMT(InMemoryCAS(), max_waiting_edits=number)


async def test_more_keys_of_one_hash_than_a_bucket_holds_are_named_and_can_be_taken_back():
    hamt = await HAMT.build(cas=InMemoryCAS(), hash_fn=lambda data: b"same", values_are_bytes=True)
    for number in range(5):
        await hamt.set(str(number), b"")
    with pytest.raises(
        errors.DepthExceeded, match=r"more than 4 keys share all 4 bytes of their hash: .*'0'"
    ):
        await hamt.flush()
    assert await hamt.len() == 5
    await hamt.delete("3")
    await hamt.flush()
    assert sorted(await collect(hamt.keys())) == ["0", "1", "2", "4"]


# Pickling.


@pytest.mark.parametrize("when", ["writable", "waiting"])
async def test_a_hamt_that_takes_edits_does_not_travel(when):
    hamt = await opened(numbered(5))
    if when == "waiting":  # as while `make_read_only` flushes
        await hamt.set("new", b"1")
        hamt.draft.read_only = True
    with pytest.raises(errors.NotPortable, match=r"takes edits.*hamt_bulk\.xarray\.to_hamt"):
        pickle.dumps(hamt)


async def test_a_read_only_hamt_travels_with_all_its_options(tmp_path):
    cas = PackCAS(tmp_path / "store")
    root = build(numbered(5), cas, hash_fn=crowded_hashfn, max_bucket_size=2)
    hamt = await HAMT.build(cas, crowded_hashfn, root, True, 2, True, max_cache_bytes=12345)
    again = await asyncio.to_thread(lambda: pickle.loads(pickle.dumps(hamt)))
    assert again.read_only and again.root_node_id == root and again.values_are_bytes
    assert (again.hash_fn, again.max_bucket_size) == (crowded_hashfn, 2) != (blake3_hashfn, 4)
    assert again.draft.tree.cache.max_bytes == 12345
    assert dict(await collect(again.items())) == numbered(5)
    await again.enable_write()
    await again.set("new", b"1")
    assert await again.flush() == build(
        numbered(5) | {"new": b"1"}, InMemoryCAS(), hash_fn=crowded_hashfn, max_bucket_size=2
    )
