"""JavaScript's ipld-hashmap and IAMap read our IPLD HashMaps, we read theirs, and both write the same ones."""

import asyncio
import hashlib
import os
import random
from collections.abc import Iterable
from typing import Any

import dag_cbor
import pytest
from dag_cbor.ipld import IPLDKind
from hypothesis import event, given, settings
from js_vectors import entries_of
from multiformats import CID

from hamt_bulk import HAMT, HashMap, InMemoryCAS, build, open_root, register_hasher
from hamt_bulk.block import DAG_CBOR, Hasher, parse, text, to_bytes, to_cid
from hamt_bulk.errors import DepthExceeded, KeyNotFound
from hamt_bulk.formats.trees import HashMapRoot
from hamt_bulk.hashers import KeyHasher
from hamt_bulk.keys import any_key
from hamt_bulk.pointers import inline_value, is_inline

from .js_cases import Case, Item, a_key, all_maps, crowded_digest, inline_items, key_bytes, maps
from .js_hashmap import JsOptions, JsPeer, JsTree, Key
from .py_hamt import PeerError
from .test_js_peer import SMALL, options_of

MAPS = 2000 if os.environ.get("HAMT_BULK_FULL") == "1" else 200
EDITS = MAPS // 4


def store(tree: JsTree, hasher: Hasher = "sha2-256") -> InMemoryCAS:
    """A store with nothing but the nodes of a tree."""
    cas = InMemoryCAS(hasher)
    cas.blocks |= {to_bytes(cid): data for cid, data in tree.blocks.items()}
    return cas


def nodes_in(cas: InMemoryCAS) -> dict[str, bytes]:
    return {text(cid): bytes(data) for cid, data in cas.blocks.items() if parse(cid).codec == DAG_CBOR}


def built(items: Iterable[Item], case: Case) -> tuple[str, InMemoryCAS]:
    """The root of a new map of ours, and its store."""
    cas = InMemoryCAS(case.options.block_hasher)
    return str(build(items, cas, layout=case.layout)), cas


def exact(value: Any) -> Any:
    """The value in a form where 1, 1.0 and True differ, and CIDs are their bytes."""
    match value:
        case dict():
            return {key: exact(part) for key, part in value.items()}
        case list():
            return [exact(part) for part in value]
        case CID():
            return CID, bytes(value)
        case _:
            return type(value), value


def held(pointer: bytes) -> IPLDKind:
    """What a pointer says: an inline value, or a CID."""
    return inline_value(pointer) if is_inline(pointer) else to_cid(pointer)


def opened_map(root: str, cas: InMemoryCAS) -> HashMapRoot:
    opened = open_root(root, cas)
    assert isinstance(opened, HashMapRoot)
    return opened


def is_text(key: bytes) -> bool:
    return key.decode(errors="replace").encode() == key


def our_view(cas: InMemoryCAS, root: str, layout: HashMap) -> dict[bytes, IPLDKind]:
    """All that we read under `root`: by walking and by key the same."""
    opened = opened_map(root, cas)
    assert opened.layout == layout
    view: dict[bytes, IPLDKind] = {}
    for key, pointer in opened.pointers():
        assert opened.pointer(key) == pointer
        assert any_key(key) not in view
        view[any_key(key)] = held(pointer)
    assert sorted(opened.keys(), key=key_bytes) == [
        key.decode() if is_text(key) else key for key in sorted(view)
    ]
    assert all(key in opened for key in view)
    return view


def their_view(
    js: JsPeer, root: str, blocks: dict[str, bytes], options: JsOptions, absent: Iterable[Key] = ()
) -> dict[bytes, IPLDKind]:
    """All that the peer reads under `root`: by walking and by key the same, and none of the `absent` keys."""
    entries = js.read(root, blocks, options).entries
    view = dict(entries)
    assert len(view) == len(entries)
    found = js.read(root, blocks, options, [*view, *absent]).values
    assert exact(found) == exact(view)
    return view


@given(case=all_maps)
@settings(max_examples=MAPS)
def test_both_write_the_same_map_and_read_each_others(js: JsPeer, case: Case) -> None:
    items = case.items()
    expected = exact(case.after(items))
    steps = case.steps(items)
    theirs = js.edit(random.Random(case.seed).sample(steps, len(steps)), case.options)
    ours, cas = built(items, case)
    assert ours == theirs.root
    assert nodes_in(cas) == theirs.blocks
    assert exact(their_view(js, ours, nodes_in(cas), case.options, case.absent())) == expected
    received = store(theirs, case.options.block_hasher)
    assert exact(our_view(received, theirs.root, case.layout)) == expected
    opened = opened_map(theirs.root, received)
    assert not any(key in opened for key in case.absent())


@given(case=maps)
@settings(max_examples=EDITS)
def test_our_edits_of_their_map_are_read_there_and_equal_a_rebuild(js: JsPeer, case: Case) -> None:
    theirs = js.edit(case.steps(case.items()), case.options)
    cas = store(theirs, case.options.block_hasher)
    root = str(build(case.edits(), cas, base=theirs.root, layout=case.layout))
    after = case.after([*case.items(), *case.edits()])
    assert root == built(inline_items(after), case)[0]
    gone = [item.key for item in case.items() if key_bytes(item.key) not in after]
    assert exact(their_view(js, root, nodes_in(cas), case.options, gone)) == exact(after)


@given(case=maps)
@settings(max_examples=EDITS)
def test_a_hamt_on_their_map_gets_sets_and_deletes(js: JsPeer, case: Case) -> None:
    theirs = js.edit(case.steps(case.items()), case.options)
    cas = store(theirs, case.options.block_hasher)
    root = asyncio.run(edited_by_hamt(case, cas, theirs.root))
    assert root == built(inline_items(case.after([*case.items(), *case.edits()])), case)[0]


async def edited_by_hamt(case: Case, cas: InMemoryCAS, root: str) -> str:
    hamt = await HAMT.build(cas=cas, root_node_id=root)
    values = case.after(case.items())
    for key, _ in case.items():
        value = values[key_bytes(key)]
        if isinstance(value, CID):
            assert await hamt.get_pointer(key) == value
        else:
            assert exact(await hamt.get(key)) == exact(value)
    for key in case.absent():
        with pytest.raises(KeyNotFound):
            await hamt.get(key)
    for key, value in case.edits():
        if value is None:
            await hamt.delete(key)
        else:
            await hamt.set(key, value)
    await hamt.make_read_only()
    return str(hamt.root_node_id)


@given(case=maps)
@settings(max_examples=EDITS)
def test_their_sets_on_our_map_equal_a_rebuild(js: JsPeer, case: Case) -> None:
    items = case.items(more=20)
    ours, cas = built(items[: case.count], case)
    theirs = js.edit(case.steps(items[case.count :]), case.options, ours, nodes_in(cas))
    assert theirs.root == built(items, case)[0]


@given(case=maps)
@settings(max_examples=EDITS)
def test_a_map_after_their_deletes_is_read_and_edited(js: JsPeer, case: Case) -> None:
    """
    Their deletes leave empty buckets, and drop a bucket that is its node's only one with all its entries: what is
    left is what they read themselves. Roots are not promised to be a rebuild's, neither before our edits nor after.
    """
    items, rng = case.items(), random.Random(case.seed)
    deleted = [item.key for item in rng.sample(items, len(items) * rng.choice([1, 2, 3, 4]) // 4)]
    theirs = js.edit([*case.steps(items), *((key,) for key in deleted)], case.options)
    left = their_view(js, theirs.root, theirs.blocks, case.options, deleted)
    event(f"keys lost: {len(left) < len(items) - len(deleted)}")
    event(f"canonical: {built(inline_items(left), case)[0] == theirs.root}")

    cas = store(theirs, case.options.block_hasher)
    assert exact(our_view(cas, theirs.root, case.layout)) == exact(left)
    opened = opened_map(theirs.root, cas)
    assert not any(key in opened for key in deleted)

    root = str(build(case.edits(), cas, base=theirs.root, layout=case.layout))
    after = case.after(case.edits(), left)
    assert exact(our_view(cas, root, case.layout)) == exact(after)
    assert exact(their_view(js, root, nodes_in(cas), case.options)) == exact(after)


@pytest.mark.parametrize("library", ["ipld-hashmap", "iamap"])
def test_a_bucket_that_they_emptied_is_read_and_the_next_edit_drops_it(js: JsPeer, library: Any) -> None:
    options, layout = JsOptions(5, 3, library), HashMap(bit_width=5, bucket_size=3)
    theirs = js.edit([("a", 1), ("b", 2), ("c", 3), ("b",)], options)
    node: Any = dag_cbor.decode(theirs.blocks[theirs.root])
    assert sorted(map(len, node["hamt"][1])) == [0, 1, 1]
    cas = store(theirs)
    assert our_view(cas, theirs.root, layout) == {b"a": 1, b"c": 3}
    root = str(build({"d": 4}, cas, base=theirs.root, layout=layout))
    assert root == str(build({"a": 1, "c": 3, "d": 4}, InMemoryCAS("sha2-256"), layout=layout))


def test_a_root_whose_only_bucket_they_dropped_is_an_empty_map(js: JsPeer) -> None:
    """One key of three is deleted, and all are gone: no error of ours."""
    keys = [key for key in map(str, range(100)) if hashlib.sha256(key.encode()).digest()[0] < 32][:3]
    options, layout = JsOptions(bit_width=3, bucket_size=3), HashMap(bit_width=3, bucket_size=3)
    theirs = js.edit([*((key, 1) for key in keys), (keys[0],)], options)
    assert their_view(js, theirs.root, theirs.blocks, options, keys) == {}
    assert our_view(store(theirs), theirs.root, layout) == {}
    assert theirs.root == str(build({}, InMemoryCAS("sha2-256"), layout=layout))


@pytest.fixture
def crowded() -> KeyHasher:
    return register_hasher("crowded", 0x300000, crowded_digest)


def crowded_options(bit_width: int, keys: Iterable[bytes]) -> JsOptions:
    digests = {key: crowded_digest(key) for key in keys}
    return JsOptions(bit_width, 4, "iamap", 0x300000, digests=digests)


@pytest.mark.parametrize("bit_width", range(3, 17))
def test_maps_that_reach_the_end_of_their_digests_are_the_same(
    js: JsPeer, crowded: KeyHasher, bit_width: int
) -> None:
    """Levels straddle bytes, and the last takes bits from beyond the digest, which are 0."""
    rng = random.Random(bit_width)
    others = {key_bytes(a_key(rng)) for _ in range(150)}
    keys = {b"%d" % number for number in range(64)} | {key for key in others if not key.isdigit()}
    entries = [(key, number) for number, key in enumerate(sorted(keys))]
    options = crowded_options(bit_width, keys)
    layout = HashMap(bit_width=bit_width, bucket_size=4, hasher=crowded)
    theirs = js.edit(entries, options)
    cas = InMemoryCAS("sha2-256")
    assert str(build(entries, cas, layout=layout)) == theirs.root
    assert their_view(js, theirs.root, nodes_in(cas), options) == dict(entries)
    assert our_view(store(theirs), theirs.root, layout) == dict(entries)


@pytest.mark.parametrize("bit_width", range(3, 17))
def test_both_refuse_more_keys_of_one_digest_than_a_bucket_holds(
    js: JsPeer, crowded: KeyHasher, bit_width: int
) -> None:
    """The key 00 has the digest of 0, 1, 2 and 3."""
    entries = [(key, 1) for key in (b"0", b"1", b"2", b"3", b"00")]
    layout = HashMap(bit_width=bit_width, bucket_size=4, hasher=crowded)
    with pytest.raises(PeerError, match="Overflow: maximum tree depth reached"):
        js.edit(entries, crowded_options(bit_width, dict(entries)))
    with pytest.raises(DepthExceeded):
        build(entries, InMemoryCAS(), layout=layout)
    root = build(entries[:4], InMemoryCAS("sha2-256"), layout=layout)
    assert str(root) == js.edit(entries[:4], crowded_options(bit_width, dict(entries))).root


@pytest.mark.parametrize("row", [row for row in SMALL if "hasher_option" in row], ids=lambda row: row["id"])
def test_a_map_of_ipld_hashmap_that_says_another_hash_is_read_and_edited(
    js: JsPeer, row: dict[str, Any]
) -> None:
    """It records the code of the hasher that it was given, and places keys by sha2-256 all the same."""
    expected = dict(entries_of(row))
    options = options_of(row)
    theirs = js.edit(expected.items(), options)
    assert theirs.root == row["root"]
    opened = opened_map(theirs.root, cas := store(theirs))
    assert {key: held(pointer) for key, pointer in opened.pointers()} == expected
    assert all(key in opened for key in expected) and "absent" not in opened
    some, *others = expected
    root = str(build({some: None, "new": 1}, cas, base=theirs.root))
    after = {key.encode(): expected[key] for key in others} | {b"new": 1}
    assert their_view(js, root, nodes_in(cas), options, [some]) == after
