"""Builds and edits of trees, against a dict and a full rebuild."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hamt_bulk.block import Block, identify
from hamt_bulk.errors import DepthExceeded, InvalidInput, MalformedNode
from hamt_bulk.layout import WIDTH, PyHamt
from hamt_bulk.manifest import TOMBSTONE, Manifest, blake3_hashfn
from hamt_bulk.reads import drive
from hamt_bulk.tree import Found, differences, entries, lookup, update


class Blocks(dict[bytes, bytes]):
    """The blocks of trees, and a count of those that were read."""

    def __init__(self) -> None:
        self.reads: list[bytes] = []

    def emit(self, blocks: list[Block]) -> None:
        self.update((block.cid, bytes(block.data)) for block in blocks)

    def load(self, cids):
        self.reads += cids
        return [self[cid] for cid in cids]

    def update_root(self, root, changes, layout, hash_fn) -> bytes:
        """As with a writer that is flushed at the end: an update never reads what it has emitted."""
        edits = Manifest.of(((key, pointer(value)) for key, value in changes.items()), hash_fn)
        emitted: list[Block] = []
        new = drive(update(root, edits, layout, emitted.extend, hash_fn), self.load)
        self.emit(emitted)
        return new

    def items(self, root, layout) -> dict[str, bytes]:
        found: dict[str, bytes] = {}
        walk = entries(root, layout, batch=3)
        sent = None
        while True:
            try:
                step = walk.send(sent)
            except StopIteration:
                return found
            if isinstance(step, Found):
                assert not found.keys() & {key for key, _ in step}
                found.update(step)
                sent = None
            else:
                assert len(step) <= 3
                sent = self.load(step)


def pointer(value: int | None) -> bytes:
    return TOMBSTONE if value is None else identify(b"%d" % value)


def crowded_hashfn(data: bytes) -> bytes:
    """A hash whose first bytes take few values, so that small trees are deep."""
    return bytes(byte & 0x81 for byte in hashlib.sha256(data).digest()[:6]) + hashlib.sha256(data).digest()


keys = st.integers(0, 60).map(lambda n: "k" * (n % 3) + str(n)) | st.text(max_size=4)
trees = st.dictionaries(keys, st.integers(0, 9), max_size=80)
changes = st.dictionaries(keys, st.none() | st.integers(0, 9), max_size=60)
hash_fns = st.sampled_from([blake3_hashfn, crowded_hashfn])
layouts = st.sampled_from([PyHamt(), PyHamt(1), PyHamt(2, "sha2-256")])


@given(trees, st.lists(changes, max_size=4), hash_fns, layouts)
def test_editing_a_tree_gives_the_root_of_building_the_result(before, edits, hash_fn, layout):
    """The root CID depends on the entries alone, not on how they got there."""
    blocks = Blocks()
    root = blocks.update_root(None, before, layout, hash_fn)
    expected = dict(before)
    for change in edits:
        root = blocks.update_root(root, change, layout, hash_fn)
        expected |= change
        expected = {key: value for key, value in expected.items() if value is not None}
    assert root == Blocks().update_root(None, expected, layout, hash_fn)
    assert blocks.items(root, layout) == {key: pointer(value) for key, value in expected.items()}
    for key in [*expected, "absent", *before]:
        found = drive(lookup(root, key, layout, hash_fn), blocks.load)
        assert found == (pointer(expected[key]) if key in expected else None)


@given(trees, trees, layouts)
def test_emptied_trees_have_the_empty_root(before, also, layout):
    blocks = Blocks()
    root = blocks.update_root(None, before, layout, crowded_hashfn)
    root = blocks.update_root(root, dict.fromkeys([*before, *also]), layout, crowded_hashfn)
    assert root == blocks.update_root(None, {}, layout, crowded_hashfn)


@given(trees)
def test_setting_what_is_there_emits_nothing(before):
    blocks = Blocks()
    root = blocks.update_root(None, before, PyHamt(), crowded_hashfn)
    again: list[Block] = []
    edits = Manifest.of(((key, pointer(value)) for key, value in before.items()), crowded_hashfn)
    assert drive(update(root, edits, PyHamt(), again.extend, crowded_hashfn), blocks.load) == root
    assert again == []


def test_an_edit_reads_only_the_nodes_on_its_path():
    blocks = Blocks()
    root = blocks.update_root(None, {str(n): n for n in range(100_000)}, PyHamt(), blake3_hashfn)
    blocks.reads.clear()
    blocks.update_root(root, {"new": 1}, PyHamt(), blake3_hashfn)
    assert len(blocks.reads) <= 3


@given(st.dictionaries(keys, st.integers(0, 9), min_size=5, max_size=40), st.data())
def test_an_underfull_node_becomes_a_bucket_when_its_subtree_is_edited(tree, data):
    """py-hamt up to 3.3 left child nodes behind that hold no more than a bucket would."""
    layout, blocks = PyHamt(), Blocks()
    # A chain of nodes too small, two levels deep, in one slot of the root.
    names = sorted(tree)[: data.draw(st.integers(1, 4))]
    by_slot: dict[int, dict[str, bytes]] = {}
    for name in names:
        by_slot.setdefault(same_start(name.encode())[2], {})[name] = pointer(tree[name])
    inner = layout.encode_slots([by_slot.get(number, {}) for number in range(WIDTH)])
    outer = layout.encode_slots([inner.cid if number == 7 else {} for number in range(WIDTH)])
    top = layout.encode_slots([outer.cid if number == 7 else {} for number in range(WIDTH)])
    blocks.emit([inner, outer, top])
    root = blocks.update_root(top.cid, {"new": 1}, layout, same_start)
    assert root == blocks.update_root(
        None, {name: tree[name] for name in names} | {"new": 1}, layout, same_start
    )


def same_start(data: bytes) -> bytes:
    return b"\x07\x07" + blake3_hashfn(data)


@pytest.mark.parametrize("hasher", ["blake3", "sha2-256"])
def test_empty_nodes_that_an_old_py_hamt_left_behind_hold_nothing(hasher):
    """Several of them are one block; that no two slots can hold the same keys does not concern them."""
    blocks, layout = Blocks(), PyHamt(hasher=hasher)
    digests = {blake3_hashfn(b"a")[0]: {"a": pointer(1)}}
    empty = layout.encode_slots([{}] * WIDTH)
    links = [number for number in range(5) if number not in digests]
    slots = [empty.cid if number in links else digests.get(number, {}) for number in range(WIDTH)]
    root = layout.encode_slots(slots)
    blocks.emit([empty, root])
    sound = blocks.update_root(None, {"a": 1}, layout, blake3_hashfn)
    assert blocks.items(root.cid, layout) == {"a": pointer(1)}
    assert list(differences(root.cid, root.cid, layout)) == []
    walk = differences(root.cid, sound, layout)
    wanted = next(walk)
    with pytest.raises(StopIteration):
        walk.send(blocks.load(wanted))


def test_more_keys_than_a_bucket_with_one_hash_are_refused():
    with pytest.raises(DepthExceeded, match="more than 4 keys share all 2 bytes"):
        Blocks().update_root(None, {str(n): n for n in range(5)}, PyHamt(), lambda data: b"ab")


def test_a_bucket_of_keys_with_one_hash_is_sound():
    blocks = Blocks()
    root = blocks.update_root(None, {str(n): n for n in range(4)}, PyHamt(), lambda data: b"ab")
    root = blocks.update_root(root, {"2": None, "3": 8}, PyHamt(), lambda data: b"ab")
    assert blocks.items(root, PyHamt()) == {"0": pointer(0), "1": pointer(1), "3": pointer(8)}


def test_a_larger_bucket_than_asked_for_is_refused():
    blocks = Blocks()
    root = blocks.update_root(
        None, {str(n): n for n in range(9)}, PyHamt(9), lambda data: b"a" + blake3_hashfn(data)
    )
    with pytest.raises(InvalidInput, match=r"bucket of 9 entries.*above 4"):
        blocks.update_root(root, {"new": 1}, PyHamt(4), blake3_hashfn)


def test_a_tree_of_another_hash_is_refused_when_edited():
    blocks = Blocks()
    root = blocks.update_root(None, {str(n): n for n in range(50)}, PyHamt(), blake3_hashfn)
    with pytest.raises(MalformedNode, match="another hash_fn"):
        blocks.update_root(root, {str(n): n for n in range(999, 1999)}, PyHamt(), crowded_hashfn)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x00", "a int"),
        (b"", "not dag-cbor"),
        (b"\x81" * 100_000, "not dag-cbor"),
        (b"\xa3\x64hamt\x82\x41\x00\x80\x67hashAlg\x12\x6abucketSize\x03", "root of an IPLD HashMap"),
        (b"\xa2\x61B\xa0\x61L\xa0", "py-hamt 2"),
        (b"\x82\x41\x00\x80", "child node of an IPLD HashMap"),
        (b"\x80", "a list of 0, expected 256"),
        (b"\x99\x01\x00" + b"\xa0" * 255 + b"\x01", "slot 255: a int"),
        (b"\x99\x01\x00" + b"\xa0" * 255 + b"\xa1\x61a\x01", "must be CIDs"),
        (b"\x99\x01\x00" + b"\xa0" * 255 + b"\xa1\x61a\x40", "must be CIDs"),
        (b"\x99\x01\x00" + b"\xa0" * 255 + b"\x80", "slot 255: a list of 0"),
        (b"\x99\x01\x00" + b"\xa0" * 255 + b"\x60", "slot 255: a str"),
        (b"\x99\x01\x00" + b"\xa0" * 255, "not dag-cbor"),
    ],
)
def test_a_block_that_is_no_node_is_named(data, message):
    with pytest.raises(MalformedNode, match=message):
        PyHamt().decode(identify(data, 0x71), data)


@given(
    st.binary(max_size=300) | st.binary(max_size=40).map(lambda tail: b"\x99\x01\x00" + b"\xa0" * 240 + tail)
)
def test_decoding_foreign_bytes_gives_slots_or_a_typed_error(data):
    try:
        slots = PyHamt().decode(identify(data, 0x71), data)
    except MalformedNode:
        return
    assert len(slots) == WIDTH
