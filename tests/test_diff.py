"""What differs between two trees, against the comparison of two dicts."""

import gc
import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiformats import CID
from test_tree import Blocks, crowded_hashfn, keys, pointer, same_start

import hamt_bulk
from hamt_bulk import InMemoryCAS, PackCAS, build, diff
from hamt_bulk.block import Block, identify, text, to_bytes, to_cid
from hamt_bulk.cas.wrap import Reader
from hamt_bulk.errors import BlockMismatch, BlockNotFound, DepthExceeded, InvalidInput, MalformedNode
from hamt_bulk.layout import WIDTH, PyHamt
from hamt_bulk.manifest import blake3_hashfn
from hamt_bulk.roots import Change
from hamt_bulk.roots.diff import changes
from hamt_bulk.tree import Changes, differences

trees = st.dictionaries(keys, st.integers(0, 9), max_size=80)
edits = st.dictionaries(keys, st.none() | st.integers(0, 9), max_size=20)
hash_fns = st.sampled_from([blake3_hashfn, crowded_hashfn])
layouts = st.builds(PyHamt, st.integers(1, 9), st.sampled_from(["blake3", "sha2-256"]))


@st.composite
def pairs(draw) -> tuple[dict[str, int], dict[str, int]]:
    """Two trees' entries: of nothing in common, or of much."""
    before = draw(trees)
    if draw(st.booleans()):
        return before, draw(trees)
    after = before | draw(edits)
    return before, {key: value for key, value in after.items() if value is not None}


def compared(a, b, blocks: Blocks, hash_fn, batch=4) -> dict[str, tuple[bytes | None, bytes | None]]:
    """The differences by key, each found once. `blocks` notes what was read."""
    blocks.reads.clear()
    found: dict[str, tuple[bytes | None, bytes | None]] = {}
    steps, sent = differences(a, b, PyHamt(), hash_fn, batch), None
    while True:
        try:
            step = steps.send(sent)
        except StopIteration:
            return found
        if isinstance(step, Changes):
            assert step and not found.keys() & {key for key, *_ in step}
            found.update((key, (old, new)) for key, old, new in step)
            sent = None
        else:
            assert 0 < len(step) <= batch and len(set(step)) == len(step)
            sent = blocks.load(step)


def expected(before: dict[str, int], after: dict[str, int]) -> dict[str, tuple[bytes | None, bytes | None]]:
    return {
        key: (
            pointer(before[key]) if key in before else None,
            pointer(after[key]) if key in after else None,
        )
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key)
    }


def nodes_below(root: bytes, blocks: Blocks) -> dict[bytes, bytes]:
    """Every node of a tree by its path."""
    found, waiting = {}, [(b"", root)]
    while waiting:
        path, cid = waiting.pop()
        found[path] = cid
        slots = PyHamt().decode(cid, blocks[cid])
        waiting += [(path + bytes((n,)), slot) for n, slot in enumerate(slots) if isinstance(slot, bytes)]
    return found


@given(pairs(), layouts, layouts, hash_fns)
def test_the_difference_of_two_trees_is_that_of_their_dicts(entries, first, second, hash_fn):
    """Whatever their bucket sizes and the hashes that name their blocks."""
    before, after = entries
    blocks = Blocks()
    a = blocks.update_root(None, before, first, hash_fn)
    b = blocks.update_root(None, after, second, hash_fn)
    assert compared(a, b, blocks, hash_fn) == expected(before, after)
    assert compared(None, b, blocks, hash_fn) == expected({}, after)
    assert compared(a, None, blocks, hash_fn) == expected(before, {})


@given(pairs(), layouts, layouts, hash_fns)
def test_just_the_nodes_that_are_not_the_same_at_their_paths_are_read(entries, first, second, hash_fn):
    """Each once. What both trees have at one path is not asked for, nor anything that lies below it."""
    blocks = Blocks()
    a, b = (
        blocks.update_root(None, tree, layout, hash_fn)
        for tree, layout in zip(entries, (first, second), strict=True)
    )
    old, new = nodes_below(a, blocks), nodes_below(b, blocks)
    differing = {cid for path, cid in old.items() if new.get(path) != cid}
    differing |= {cid for path, cid in new.items() if old.get(path) != cid}
    compared(a, b, blocks, hash_fn)
    assert sorted(blocks.reads) == sorted(differing)


@given(trees, layouts, layouts, hash_fns)
def test_the_same_entries_in_another_shape_do_not_differ(tree, first, second, hash_fn):
    blocks = Blocks()
    a = blocks.update_root(None, tree, first, hash_fn)
    b = blocks.update_root(None, tree, second, hash_fn)
    assert compared(a, b, blocks, hash_fn) == {}
    assert compared(a, a, blocks, hash_fn) == {} and blocks.reads == []


@given(pairs(), hash_fns, st.integers(1, 9))
def test_the_batch_makes_no_difference(entries, hash_fn, batch):
    before, after = entries
    blocks = Blocks()
    a = blocks.update_root(None, before, PyHamt(1), hash_fn)
    b = blocks.update_root(None, after, PyHamt(2), hash_fn)
    assert compared(a, b, blocks, hash_fn, batch=max(batch, 2)) == expected(before, after)


@pytest.fixture(scope="module")
def large() -> tuple[InMemoryCAS, dict[str, bytes], CID]:
    cas = InMemoryCAS()
    entries = {f"t2m/c/{n // 100}/{n % 100}": b"%d" % (n % 7) for n in range(100_000)}
    return cas, entries, build(entries, cas)


class Counted(Reader):
    """Counts the blocks that are read."""

    def __init__(self, cas) -> None:
        super().__init__(cas)
        self.reads: list[bytes] = []

    def blocks(self, cids):
        self.reads += cids
        return super().blocks(cids)


def test_two_roots_of_many_keys_that_differ_in_ten_read_few_nodes(large):
    cas, entries, root = large
    some = list(entries)[::10_000]
    edited = {key: b"new" for key in some[:4]} | dict.fromkeys(some[4:8]) | {"a": b"1", "b": b"2"}
    other = build(edited, cas, base=root)
    reader = Counted(cas)
    found = {key: (old, new) for key, old, new in changes(to_bytes(root), to_bytes(other), reader)}
    assert {key for key, (old, new) in found.items() if old and new} == set(some[:4])
    assert {key for key, (old, new) in found.items() if new is None} == set(some[4:8])
    assert {key for key, (old, new) in found.items() if old is None} == {"a", "b"}
    assert len(reader.reads) == len(set(reader.reads)) <= 60


def test_a_diff_of_everything_holds_little(large):
    """Less than the keys alone would take, of which it hands out one at a time."""
    cas, entries, root = large
    empty = build({}, cas)
    steps = changes(to_bytes(root), to_bytes(empty), Reader(cas))
    next(steps)
    gc.collect()
    tracemalloc.start()
    try:
        count = 1 + sum(1 for _ in steps)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert count == len(entries)
    assert peak < 12 << 20


def test_changes_name_cids_and_are_told_apart(tmp_path):
    url = str(tmp_path / "store")
    a = build({"same": b"1", "other": b"2", "gone": b"3"}, url)
    b = build({"other": b"22", "gone": None, "new": b"4"}, url, base=a)
    cids = {value: to_cid(identify(value)) for value in (b"2", b"3", b"4", b"22")}
    wanted = [
        Change("gone", cids[b"3"], None),
        Change("new", None, cids[b"4"]),
        Change("other", cids[b"2"], cids[b"22"]),
    ]
    assert sorted(diff(a, b, url), key=lambda change: change.key) == wanted
    assert sorted(diff(str(a), f"ipfs://{b}", PackCAS(url)), key=lambda change: change.key) == wanted
    assert all(isinstance(change.old or change.new, CID) for change in diff(bytes(a), bytes(b), url))
    assert pickle.loads(pickle.dumps(wanted)) == wanted
    assert list(diff(a, a, url)) == []
    assert hamt_bulk.diff is hamt_bulk.roots.diff


def test_a_tree_of_another_hash_is_compared_with_that_hash():
    cas = InMemoryCAS()
    entries = {str(n): b"%d" % n for n in range(99)}
    a = build(entries, cas, hash_fn=crowded_hashfn)
    b = build(entries | {"5": b"new", "x": b""}, cas, hash_fn=crowded_hashfn, max_bucket_size=1)
    assert {change.key for change in diff(a, b, cas, hash_fn=crowded_hashfn)} == {"5", "x"}
    with pytest.raises(MalformedNode, match="another hash_fn"):
        list(diff(a, b, cas))


def test_arguments_are_looked_at_before_anything_is_read():
    root = build({"a": b""}, cas := InMemoryCAS())
    for arguments in (("nonsense", root, cas), (root, 7, cas), (root, root, "ftp://host"), (root, root, 7)):
        with pytest.raises(InvalidInput):
            diff(*arguments)


# what is not as it should be


@pytest.fixture
def two() -> tuple[InMemoryCAS, CID, CID]:
    cas = InMemoryCAS()
    a = build({str(n): b"%d" % n for n in range(5000)}, cas)
    return cas, a, build({"7": b"new"}, cas, base=a)


@pytest.mark.parametrize("which", [0, 1])
def test_a_root_that_is_not_there_is_named(two, which):
    cas, *roots = two
    roots[which] = to_cid(identify(b"absent", 0x71))
    with pytest.raises(BlockNotFound, match=f"the root {roots[which]} is not in this store, InMemoryCAS"):
        list(diff(*roots, cas))


def test_a_node_that_is_missing_is_named(two):
    cas, a, b = two
    reader = Counted(cas)
    assert len(list(changes(to_bytes(a), to_bytes(b), reader))) == 1
    for cid in reader.reads[2:]:
        data = cas.blocks.pop(cid)
        with pytest.raises(BlockNotFound, match=text(cid)) as caught:
            list(diff(a, b, cas))
        assert "root" not in str(caught.value)
        cas.blocks[cid] = data
    assert len(reader.reads) > 2


def test_every_block_is_verified(two):
    cas, a, b = two
    cas.blocks[to_bytes(b)] = bytes(cas.blocks[to_bytes(a)])
    with pytest.raises(BlockMismatch, match=str(b)):
        list(diff(a, b, cas))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"value", "not dag-cbor"),
        (
            b"\xa3\x64hamt\x82\x41\x00\x80\x67hashAlg\x12\x6abucketSize\x03",
            "one root is .*HashMap.*convert one",
        ),
        (b"\x82\x41\x00\x80", "child node of an IPLD HashMap"),
        (b"\x80", "a list of 0, expected 256"),
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_what_is_no_root_is_refused(two, data, message, turned):
    cas, a, _ = two
    cid = identify(data, 0x71)
    cas.blocks[cid] = data
    with pytest.raises((MalformedNode, InvalidInput), match=message):
        list(diff(*((cid, a) if turned else (a, cid)), cas))


def test_a_child_node_is_refused_as_a_root(two):
    cas, a, b = two
    child = next(slot for slot in PyHamt().decode(a, cas.blocks[to_bytes(a)]) if isinstance(slot, bytes))
    for roots in ((child, b), (a, child)):
        with pytest.raises(InvalidInput, match="not the root of a tree but a child node at depth 1"):
            list(diff(*roots, cas))


def node(slots: dict[int, dict[str, bytes] | bytes]) -> Block:
    return PyHamt().encode_slots([slots.get(number, {}) for number in range(WIDTH)])


def hostile(nodes: list[Block]) -> tuple[Blocks, bytes]:
    """The last one is the root."""
    blocks = Blocks()
    blocks.emit(nodes)
    return blocks, nodes[-1].cid


def test_a_tree_deeper_than_the_hash_is_refused():
    """Its last node belongs nowhere, whatever it has."""
    chain = [node({0: {"a": pointer(1)}})]
    for _ in range(3):
        chain.append(node({7: chain[-1].cid}))
    blocks, root = hostile(chain)
    for a, b in ((root, None), (None, root)):
        with pytest.raises(DepthExceeded, match="below the whole hash 070707"):
            compared(a, b, blocks, lambda data: b"\x07\x07\x07")


def test_a_bucket_against_a_tree_deeper_than_the_hash_is_refused():
    chain = [node({7: {"a": pointer(1)}})]
    chain.append(node({7: chain[-1].cid}))
    blocks, root = hostile(chain)
    blocks.emit([other := node({7: {"b": pointer(2)}})])
    with pytest.raises(DepthExceeded):
        compared(root, other.cid, blocks, lambda data: b"\x07")


def test_entries_below_another_path_than_their_hash_says_are_refused():
    child = node({9: {"a": pointer(1)}})
    blocks, root = hostile([child, node({7: child.cid})])
    for a, b in ((root, None), (None, root)):
        with pytest.raises(MalformedNode, match=r"'a' hashes to 0707.* but lies below 0709"):
            compared(a, b, blocks, same_start)


def test_an_entry_of_a_bucket_that_has_to_be_sent_down_and_lies_elsewhere_is_refused():
    """One that no look at a sample comes upon."""
    sound = {str(n): n for n in range(9)}
    blocks = Blocks()
    a = blocks.update_root(None, sound, PyHamt(), same_start)
    first, last = sorted(sound)[0], "stray"
    astray: Callable[[bytes], bytes] = lambda data: (  # noqa: E731
        b"\x08" + blake3_hashfn(data) if data == b"stray" else same_start(data)
    )
    blocks.emit([other := node({7: {first: pointer(0), last: pointer(5)}})])
    with pytest.raises(MalformedNode, match=r"'stray' hashes to 08.* but lies below 07"):
        compared(a, other.cid, blocks, astray)


def test_a_node_that_links_one_child_twice_is_refused():
    child = node({7: {"a": pointer(1)}})
    blocks, root = hostile([child, node({7: child.cid, 9: child.cid})])
    with pytest.raises(MalformedNode, match="links one child twice"):
        compared(root, None, blocks, same_start)


@pytest.mark.parametrize("entries", [{}, {5: {"a": pointer(1)}}])
def test_few_nodes_that_are_linked_from_very_many_places_end_soon(entries):
    """Two a level, both linked by both above: 2**30 paths to one node, which is empty or has an entry."""
    leaf = node(entries)
    nodes = [leaf, node({1: leaf.cid}), node({2: leaf.cid})]
    for _ in range(29):
        one, other = nodes[-2:]
        nodes += [node({1: one.cid, 2: other.cid}), node({1: one.cid, 3: other.cid})]
    blocks, root = hostile(nodes)
    with pytest.raises(MalformedNode, match="lies below"):
        compared(root, None, blocks, blake3_hashfn)
    assert len(blocks.reads) < 200


def test_emptied_nodes_are_read_as_empty():
    """py-hamt up to 3.3 left them behind, the same one in many places."""
    empty = node({})
    inner = [node({number: empty.cid}) for number in (1, 2)]
    blocks, root = hostile([empty, *inner, node({1: inner[0].cid, 2: inner[1].cid, 3: empty.cid})])
    assert compared(root, None, blocks, blake3_hashfn) == {}
    blocks.emit([other := node({blake3_hashfn(b"a")[0]: {"a": pointer(1)}})])
    assert compared(root, other.cid, blocks, blake3_hashfn) == {"a": (None, pointer(1))}


def test_a_pointer_that_is_no_cid_is_refused_by_its_key():
    cas = InMemoryCAS()
    block = node({blake3_hashfn(b"a")[0]: {"a": b"\x01\x55garbage"}})
    cas.blocks[block.cid] = bytes(block.data)
    with pytest.raises(MalformedNode, match="the pointer of 'a' is not a CID"):
        list(diff(build({}, cas), block.cid, cas))


def test_a_diff_that_is_left_early_is_closed(two):
    cas, a, _ = two
    steps: Iterator[Change] = diff(build({}, cas), a, cas)
    assert len(list(islice(steps, 3))) == 3
    steps.close()
    with pytest.raises(StopIteration):
        next(steps)
