"""The reading side of a tree, against a dict, and what it makes of stores that fail or lie."""

import asyncio
import hashlib
import pickle
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trees_made import PlainCAS, build, collect, crowded_hashfn, numbered, pointers, save, tree_of

from hamt_bulk import errors, unixfs
from hamt_bulk.block import text
from hamt_bulk.cas import ContentAddressedStore, InMemoryCAS, PackCAS
from hamt_bulk.cas.wrap import VerifyingCAS, configuration, verified
from hamt_bulk.cas.wrapping import WrappingCAS
from hamt_bulk.nodecache import NodeCache
from hamt_bulk.nodes import Tree


@given(st.sets(st.text(max_size=4), max_size=60), st.sampled_from([0, 20_000, 1 << 20]), st.booleans())
@settings(deadline=None)
def test_a_tree_reads_as_the_dict_it_was_built_from(keys, max_bytes, plain):
    cas = InMemoryCAS()
    expected = pointers(keys)
    cache = NodeCache(max_bytes)
    root = build(cas, expected)
    tree = Tree(root, PlainCAS(cas) if plain else cas, hash_fn=crowded_hashfn, cache=cache)
    assert dict(tree.entries()) == dict(asyncio.run(collect(tree.entries_async()))) == expected
    for key in [*expected, "absent"]:
        found = tree.pointer(key), asyncio.run(tree.pointer_async(key))
        assert found == (expected.get(key),) * 2
        assert cache.nbytes <= max_bytes


def test_a_missing_root_is_said_to_be_the_root():
    tree, cas = tree_of(300)
    elsewhere = Tree(tree.root, InMemoryCAS())
    with pytest.raises(
        errors.BlockNotFound, match=f"the root {text(tree.root)} is not in this store, InMemory"
    ):
        elsewhere.pointer("1")
    with pytest.raises(errors.BlockNotFound, match="the root"):
        list(elsewhere.entries())
    [root] = tree.cache.get([tree.root], tree._load)
    del cas.blocks[next(slot for slot in root if isinstance(slot, bytes))]
    with pytest.raises(errors.BlockNotFound, match="no block"):
        list(tree.entries())


class OwnKeyError(errors.BlockNotFound, KeyError):
    """An error as a careless store would define it."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyError("k"), errors.CASError),
        (FileNotFoundError("f"), errors.CASError),
        (TimeoutError(), errors.CASError),
        (AssertionError("a"), errors.CASError),
        (errors.KeyNotFound("k"), errors.CASError),
        (OwnKeyError("gone"), errors.BlockNotFound),
        (errors.CASError("c"), None),
        (errors.BlockNotFound("b"), None),
        (errors.BlockMismatch("m"), None),
        (errors.NotPortable("p"), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_store_raises_comes_out_as_an_error_of_ours(error, expected):
    tree, cas = tree_of(1)
    pointer = save(cas, b"value")
    cas.fails = dict.fromkeys(cas.blocks, error)
    for attempt in (
        lambda: tree.pointer("0"),
        lambda: asyncio.run(tree.pointer_async("0")),
        lambda: list(tree.entries()),
        lambda: tree.read(pointer),
        lambda: asyncio.run(tree.read_async(pointer, 1, 2)),
        lambda: tree.sizes([pointer]),
    ):
        with pytest.raises(errors.HamtError) as raised:
            attempt()
        chain = [
            raised.value,
            raised.value.__cause__,
            raised.value.__cause__ and raised.value.__cause__.__cause__,
        ]
        assert not isinstance(raised.value, (KeyError, FileNotFoundError))
        assert isinstance(raised.value, expected or type(error))
        assert any(type(link) is type(error) and link.args == error.args for link in chain)
        if expected:
            assert any(
                f"CountingCAS could not load {text(cid)}" in str(link) for link in chain for cid in cas.fails
            )


def test_a_tree_of_another_hash_is_not_taken_for_one_without_the_key():
    cas = InMemoryCAS()
    root = build(cas, numbered(300), lambda data: hashlib.sha256(data).digest())
    with pytest.raises(errors.MalformedNode, match=r"no telling whether .* has 'absent': .* another hash_fn"):
        Tree(root, cas).pointer("absent")


def test_a_store_that_verifies_is_not_hashed_again():
    cas = InMemoryCAS()
    assert verified(cas) is cas
    plain = verified(PlainCAS(cas))
    assert isinstance(plain, VerifyingCAS)
    assert verified(plain) is plain


def test_the_whole_contract_is_passed_on_by_what_is_put_around_a_store():
    """A method that is added to the contract must not be answered by its default."""
    contract = {name for name, member in vars(ContentAddressedStore).items() if callable(member)}
    public = {name for name in contract if not name.startswith("_")}
    assert public <= vars(WrappingCAS).keys()


VALUE = bytes(range(256)) * 5000


@given(
    st.integers(0, len(VALUE) + 9), st.none() | st.integers(0, len(VALUE) + 9), st.sampled_from([100, None])
)
@settings(deadline=None, max_examples=20)
def test_ranges_of_a_store_that_cannot_verify_are_cut_from_the_whole(start, stop, length):
    cas = InMemoryCAS()
    value = VALUE[:length]
    pointer = save(cas, value)
    reader = Tree(b"", PlainCAS(cas))
    expected = value[start : None if stop is None else max(start, stop)]
    assert (
        reader.read(pointer, start, stop) == asyncio.run(reader.read_async(pointer, start, stop)) == expected
    )
    suffix = value[max(len(value) - start, 0) :]
    assert (
        reader.read(pointer, suffix=start) == asyncio.run(reader.read_async(pointer, suffix=start)) == suffix
    )
    assert reader.sizes([pointer]) == asyncio.run(reader.sizes_async([pointer])) == [len(value)]


@pytest.mark.parametrize("value", [b"value", VALUE], ids=["raw", "file"])
def test_a_store_that_lies_is_caught(value):
    cas = InMemoryCAS()
    pointer = save(cas, value)
    root = build(cas, numbered(1))
    plain = PlainCAS(cas)
    plain.lies = {pointer: value + b"!", root: cas.blocks[root].replace(b"\xa0", b"\xa0\xa0", 1)}
    tree = Tree(root, plain)
    for attempt in (
        lambda: tree.pointer("0"),
        lambda: asyncio.run(tree.pointer_async("0")),
        lambda: tree.read(pointer, 0, 1),
        lambda: asyncio.run(tree.read_async(pointer, 0, 1)),
    ):
        with pytest.raises(errors.BlockMismatch):
            attempt()


def test_a_file_that_was_split_otherwise_cannot_be_verified_and_is_refused():
    cas = InMemoryCAS()
    pointer, blocks = unixfs.split(VALUE, "blake3", leaf_bytes=1 << 18)
    cas.blocks.update((block.cid, bytes(block.data)) for block in blocks)
    assert Tree(b"", cas).read(pointer) == VALUE
    with pytest.raises(errors.BlockMismatch, match="split otherwise"):
        Tree(b"", PlainCAS(cas)).read(pointer)


def test_stores_are_told_apart_by_their_configuration(tmp_path):
    stores = [
        PackCAS(tmp_path / "a"),
        PackCAS(tmp_path / "b"),
        InMemoryCAS(),
        InMemoryCAS(),
        PlainCAS(InMemoryCAS()),
    ]
    stores += [VerifyingCAS(store) for store in stores]
    assert len(set(map(configuration, stores))) == len(stores)
    for store in stores:
        assert configuration(pickle.loads(pickle.dumps(store))) == configuration(store)
    unportable = PlainCAS(InMemoryCAS())
    unportable.lies = threading.Lock()
    assert configuration(unportable) == configuration(unportable)
