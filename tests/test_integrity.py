"""`check`: damage of each kind is found and named, and nothing else."""

import hashlib
from collections.abc import Callable

import libipld
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hamt_bulk import InMemoryCAS, PackCAS, build
from hamt_bulk.block import RAW, identify, text, to_bytes
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.errors import CASError, InvalidInput
from hamt_bulk.integrity import Problem, Report, check
from hamt_bulk.layout import WIDTH, PyHamt, Slot
from hamt_bulk.manifest import blake3_hashfn
from hamt_bulk.progress import BuildProgress
from hamt_bulk.reads import drive
from hamt_bulk.tree import lookup

MANY = {f"air/c/{n}": b"value %d" % n for n in range(3000)}
"""Enough for two levels below the root, and buckets of four."""

LONG = b"".join(n.to_bytes(4, "big") for n in range(900_000))
"""A value of four leaves and the node of its file."""


def crowded_hashfn(data: bytes) -> bytes:
    """A hash whose first bytes take few values, so that small trees are deep."""
    return bytes(byte & 0x81 for byte in hashlib.sha256(data).digest()[:6]) + hashlib.sha256(data).digest()


def found(report: Report) -> set[tuple[str, str, str]]:
    assert report.problem_count == len(report.problems)
    return {(problem.kind, problem.cid, problem.where) for problem in report.problems}


def place_of(cas: InMemoryCAS, root: bytes, key: str) -> list[bytes]:
    """The nodes on the way to `key`."""
    path: list[bytes] = []
    drive(lookup(root, key, PyHamt()), lambda cids: [path.extend(cids) or cas.blocks[cid] for cid in cids])
    return path


def path_of(key: str, depth: int) -> str:
    return "/" + blake3_hashfn(key.encode())[:depth].hex("/")


def with_changed_node(
    cas: InMemoryCAS, path: list[bytes], digest: bytes, change: Callable[[list[Slot]], None]
) -> list[bytes]:
    """The nodes of `path` after `change` of its last one, whatever a build would make of it."""
    layout, new = PyHamt(), []
    for depth in reversed(range(len(path))):
        slots = list(layout.decode(path[depth], cas.blocks[path[depth]]))
        if new:
            slots[digest[depth]] = new[-1]
        else:
            change(slots)
        new.append(put(cas, slots))
    return new[::-1]


def put(cas: InMemoryCAS, slots: list[Slot] | dict[int, Slot]) -> bytes:
    """A node with these slots."""
    if isinstance(slots, dict):
        slots = [slots.get(number, {}) for number in range(WIDTH)]
    block = PyHamt().encode_slots(slots)
    with cas.writer() as writer:
        writer.save_many([block])
        writer.flush()
    return block.cid


@settings(deadline=None)
@given(
    st.dictionaries(st.text(max_size=5) | st.integers(0, 99).map(str), st.binary(max_size=9), max_size=120),
    st.sampled_from([blake3_hashfn, crowded_hashfn]),
    st.integers(1, 23),
    st.sampled_from(["blake3", "sha2-256"]),
    st.booleans(),
)
def test_a_sound_tree_is_always_ok(items, hash_fn, bucket_size, hasher, tell):
    cas = InMemoryCAS(hasher)
    root = build(items, cas, max_bucket_size=bucket_size, hash_fn=hash_fn)
    report = check(root, cas, hash_fn=hash_fn, max_bucket_size=bucket_size if tell else None)
    assert report.ok, str(report)
    assert report.problems == ()
    assert report.entries == len(items)
    assert report.values == len(set(items.values()))
    assert report.blocks == len(cas.blocks)
    assert report.bytes == sum(map(len, cas.blocks.values()))
    assert 1 <= report.bucket_size <= bucket_size


@settings(deadline=None)
@given(
    st.sets(st.integers(0, 99).map(str), max_size=60),
    st.dictionaries(st.integers(0, 99).map(str), st.none() | st.binary(max_size=2), max_size=60),
)
def test_an_edited_tree_is_ok(keys, edits):
    cas = InMemoryCAS()
    before = dict.fromkeys(keys, b"x")
    root = build(edits, cas, base=build(before, cas, hash_fn=crowded_hashfn), hash_fn=crowded_hashfn)
    assert check(root, cas, hash_fn=crowded_hashfn).ok


def test_counts_are_those_of_the_tree(tmp_path):
    cas = PackCAS(tmp_path)
    report = check(build(MANY | {"long": LONG}, cas), cas)
    assert report.ok
    assert (report.entries, report.values, report.depth, report.bucket_size) == (3001, 3001, 1, 4)
    assert report.nodes == 253
    assert report.blocks == 253 + 3000 + 5
    assert str(report).splitlines()[-1] == "sound"


def test_each_block_that_is_missing_is_named():
    cas = InMemoryCAS()
    root = to_bytes(build(MANY | {"long": LONG}, cas))
    node = place_of(cas, root, "air/c/7")[-1]
    leaf, value = identify(LONG[1 << 20 : 2 << 20]), identify(b"value 8")
    lost = [key for key in MANY if node in place_of(cas, root, key)]
    for cid in (node, leaf, value):
        del cas.blocks[cid]
    report = check(root, cas)
    assert found(report) == {
        ("missing", text(node), path_of("air/c/7", 1)),
        ("missing", text(leaf), "long"),
        ("missing", text(value), "air/c/8"),
    }
    assert report.entries == 3001 - len(lost)
    assert not report.ok
    assert "3 problems" in str(report)
    assert "missing: 'air/c/8': no block" in str(report)


def test_each_block_that_is_altered_is_named():
    cas = InMemoryCAS()
    root = to_bytes(build(MANY | {"long": LONG}, cas))
    node, value = place_of(cas, root, "air/c/7")[-1], identify(b"value 8")
    leaf = identify(LONG[: 1 << 20])
    for cid in (node, leaf, value):
        cas.blocks[cid] = cas.blocks[cid][:-1] + b"?"
    assert found(check(root, cas)) == {
        ("altered", text(node), path_of("air/c/7", 1)),
        ("altered", text(leaf), "long"),
        ("altered", text(value), "air/c/8"),
    }


def test_damage_in_a_pack_is_found(tmp_path):
    cas = PackCAS(tmp_path)
    root = build(MANY, cas)
    [pack] = (tmp_path / "packs" / "values").iterdir()
    data = pack.read_bytes()
    pack.write_bytes(data.replace(b"value 1234", b"value 1?34"))
    report = check(root, PackCAS(tmp_path))
    assert found(report) == {("altered", text(identify(b"value 1234")), "air/c/1234")}


def test_a_root_that_is_missing_or_no_node_is_a_problem_too():
    cas = InMemoryCAS()
    absent = identify(b"absent", 0x71)
    assert found(check(absent, cas)) == {("missing", text(absent), "/")}
    with cas.writer() as writer:
        writer.save(b"no node")
        writer.flush()
    report = check(identify(b"no node"), cas)
    assert found(report) == {("unreadable", text(identify(b"no node")), "/")}
    assert "not a node" in str(report)
    with pytest.raises(InvalidInput, match="not a CID"):
        check("no root", cas)


def test_a_value_that_several_keys_share_is_read_once_and_missed_under_each():
    cas = InMemoryCAS()
    items = {f"k{n}": b"fill" for n in range(500)}
    root = build(items, cas)
    report = check(root, cas)
    assert (report.values, report.blocks) == (1, len(cas.blocks))
    del cas.blocks[identify(b"fill")]
    assert found(check(root, cas)) == {("missing", text(identify(b"fill")), key) for key in items}


def test_without_values_only_nodes_are_read():
    cas = InMemoryCAS()
    root = to_bytes(build(MANY, cas))
    for value in MANY.values():
        del cas.blocks[identify(value)]
    report = check(root, cas, values=False)
    assert report.ok
    assert (report.entries, report.values, report.blocks) == (3000, 0, len(cas.blocks))


def test_problems_are_listed_up_to_a_limit_and_all_are_counted():
    cas = InMemoryCAS()
    root = build(MANY, cas)
    for value in MANY.values():
        del cas.blocks[identify(value)]
    report = check(root, cas, max_problems=3)
    assert (len(report.problems), report.problem_count) == (3, 3000)
    assert "and 2,997 more" in str(report)


def test_keys_of_another_hash_are_misplaced():
    cas = InMemoryCAS()
    root = build({"a": b"1", "b": b"2"}, cas, hash_fn=crowded_hashfn)
    report = check(root, cas)
    assert found(report) == {("misplaced", text(to_bytes(root)), key) for key in "ab"}
    assert "another hash_fn?" in str(report)


def test_a_key_in_the_wrong_slot_is_misplaced():
    """A writer with another bucket size left keys where `get` does not look, though `keys` lists them."""
    cas = InMemoryCAS()
    root = to_bytes(build(MANY, cas))
    path, digest = place_of(cas, root, "air/c/7"), blake3_hashfn(b"air/c/7")
    free = next(n for n, slot in enumerate(PyHamt().decode(path[-1], cas.blocks[path[-1]])) if slot == {})

    def move(slots: list[Slot]) -> None:
        bucket = dict(slots[digest[1]])
        slots[free] = {"air/c/7": bucket.pop("air/c/7")}
        slots[digest[1]] = bucket

    new = with_changed_node(cas, path, digest, move)
    report = check(new[0], cas)
    assert found(report) == {("misplaced", text(new[1]), "air/c/7")}
    [problem] = report.problems
    assert f"leads to /{digest[:2].hex('/')}" in problem.message
    assert f"lies at /{digest[0]:02x}/{free:02x}" in problem.message


@pytest.mark.parametrize("right, wrong", [(1, 2), (2, 1)])
def test_a_node_in_two_places_is_right_in_one(right, wrong):
    cas = InMemoryCAS()
    root = to_bytes(build(MANY, cas))
    slots = list(PyHamt().decode(root, cas.blocks[root]))
    node = slots[wrong] = slots[right]
    keys = [key for key in MANY if blake3_hashfn(key.encode())[0] == right]
    named = {where for kind, cid, where in found(check(put(cas, slots), cas))}
    # Which of them is seen first does not matter to the keys.
    assert named == ({*keys} if wrong == 1 else {f"/{wrong:02x}"})
    assert node


def test_links_that_multiply_are_not_followed_for_ever():
    """Each of 31 levels links the next one 256 times: 256 ** 31 ways to one key."""
    cas = InMemoryCAS()
    node = put(cas, {7: {"k": to_bytes(build({}, cas))}})
    for _ in range(31):
        node = put(cas, [node] * WIDTH)
    report = check(node, cas, values=False)
    assert report.nodes < 31 * WIDTH + 2
    # The one way that is followed to its end ends in a node of one key.
    assert {problem.kind for problem in report.problems} == {"misplaced", "not canonical"}


def test_a_node_below_the_whole_hash_is_named():
    cas = InMemoryCAS()
    node = inner = put(cas, {1: {}, 2: {"k": identify(b"x")}})
    for _ in range(32):
        node = put(cas, {0: node})
    report = check(node, cas, values=False)
    assert found(report) == {("not canonical", text(inner), "/" + bytes(32).hex("/"))}


def test_an_empty_child_node_is_not_canonical():
    """py-hamt up to 3.3 left them behind after deletes."""
    cas = InMemoryCAS()
    root = to_bytes(build(dict(list(MANY.items())[:300]), cas))
    empty = to_bytes(build({}, cas))
    slots = list(PyHamt().decode(root, cas.blocks[root]))
    free = next(number for number, slot in enumerate(slots) if slot == {})
    slots[free] = empty
    report = check(put(cas, slots), cas)
    assert found(report) == {("not canonical", text(empty), f"/{free:02x}")}


@pytest.mark.parametrize("tell", [True, False])
def test_an_underfull_chain_is_not_canonical(tell):
    """Each of its nodes holds no more than a bucket would; which size that is, the other buckets tell."""
    cas = InMemoryCAS()
    items = dict(list(MANY.items())[:400])
    root = to_bytes(build(items, cas))
    digests = {key: blake3_hashfn(key.encode()) for key in items}
    slots = list(PyHamt().decode(root, cas.blocks[root]))
    number = next(n for n, slot in enumerate(slots) if isinstance(slot, dict) and len(slot) == 1)
    [(key, pointer)] = slots[number].items()
    inner = put(cas, {digests[key][2]: {key: pointer}})
    outer = put(cas, {digests[key][1]: inner})
    slots[number] = outer
    report = check(put(cas, slots), cas, max_bucket_size=4 if tell else None)
    assert report.bucket_size == 4
    assert found(report) == {
        ("not canonical", text(outer), f"/{number:02x}"),
        ("not canonical", text(inner), f"/{digests[key][:2].hex('/')}"),
    }


def test_a_bucket_of_another_size_than_the_trees_is_not_canonical():
    cas = InMemoryCAS()
    root = to_bytes(build(MANY, cas))
    path, digest = place_of(cas, root, "air/c/7"), blake3_hashfn(b"air/c/7")
    extra = [f"extra {n}" for n in range(400_000)]
    extra = [key for key in extra if blake3_hashfn(key.encode())[:2] == digest[:2]][:5]
    assert len(extra) == 5

    def crowd(slots: list[Slot]) -> None:
        slots[digest[1]] = dict(slots[digest[1]]) | {key: identify(b"value 1") for key in extra}

    new = with_changed_node(cas, path, digest, crowd)
    report = check(new[0], cas)
    assert report.bucket_size == 4
    assert found(report) == {("not canonical", text(new[1]), f"/{digest[:2].hex('/')}")}
    assert "expected at most 4" in report.problems[0].message


def test_the_bucket_size_that_is_told_is_the_measure():
    cas = InMemoryCAS()
    root = build(MANY, cas, max_bucket_size=9)
    report = check(root, cas)
    assert (report.ok, report.bucket_size) == (True, 9)
    assert {problem.kind for problem in check(root, cas, max_bucket_size=4).problems} == {"not canonical"}


def test_a_node_that_a_build_would_encode_otherwise_is_not_canonical():
    cas = InMemoryCAS()
    root = to_bytes(build({"a": b"1"}, cas))
    # The list's length in four bytes in place of two: the same node, other bytes.
    data = b"\x9a\x00\x00\x01\x00" + cas.blocks[root][3:]
    cas.blocks[other := identify(data, 0x71)] = data
    assert found(check(other, cas)) == {("not canonical", text(other), "/")}
    cas.blocks[raw := identify(cas.blocks[root], RAW)] = cas.blocks[root]
    assert found(check(raw, cas)) == {("not canonical", text(raw), "/")}


def test_a_pointer_that_is_no_cid_is_unreadable():
    cas = InMemoryCAS()
    slots: list[Slot] = [{} for _ in range(WIDTH)]
    slots[blake3_hashfn(b"k")[0]] = {"k": b"bytes"}
    data = libipld.encode_dag_cbor(slots)
    cas.blocks[root := identify(data, 0x71)] = data
    report = check(root, cas)
    assert [(problem.kind, problem.where) for problem in report.problems] == [("unreadable", "k")]
    assert "not a CID" in report.problems[0].message


def test_files_whose_nodes_disagree_are_unreadable():
    """The size that a node records of a link is not that of the block."""
    cas = InMemoryCAS()
    root = to_bytes(build({"long": LONG}, cas))
    [pointer] = [cid for cid in cas.blocks if cid[1] == 0x70]
    leaf = identify(LONG[: 1 << 20])
    node = cas.blocks[pointer].replace(leaf, identify(b"short"))
    cas.blocks[identify(b"short")] = b"short"
    cas.blocks[wrong := identify(node, 0x70)] = node
    root = to_bytes(build({"long": b""}, cas))
    slots = list(PyHamt().decode(root, cas.blocks[root]))
    slots[blake3_hashfn(b"long")[0]] = {"long": wrong}
    report = check(put(cas, slots), cas)
    assert found(report) == {("unreadable", text(identify(b"short")), "long")}
    assert "expected the 1048576 that its parent records" in report.problems[0].message


def test_a_file_of_equal_leaves_reads_each_once():
    cas = InMemoryCAS()
    root = build({"zeros": bytes(400 << 20)}, cas)
    report = check(root, cas)
    assert report.ok
    assert report.blocks == len(cas.blocks)
    del cas.blocks[identify(bytes(1 << 20))]
    assert found(check(root, cas)) == {("missing", text(identify(bytes(1 << 20))), "zeros")}


def test_a_file_that_is_a_directory_is_unreadable():
    cas = InMemoryCAS()
    directory = b"\x0a\x02\x08\x01"
    cas.blocks[cid := identify(directory, 0x70)] = directory
    root = put(cas, {blake3_hashfn(b"k")[0]: {"k": cid}})
    assert found(check(root, cas)) == {("unreadable", text(cid), "k")}


class Plain(ContentAddressedStore):
    """A store with nothing but `save` and `load`, and whole values."""

    def __init__(self, inner: InMemoryCAS) -> None:
        self.inner = inner
        self.asked: list[bytes] = []
        self.down = False

    async def save(self, data, codec):
        return await self.inner.save(data, codec)

    async def load(self, id, offset=None, length=None, suffix=None):
        self.asked.append(to_bytes(id))
        if self.down:
            raise ConnectionError("gone")
        return await self.inner.load(id, offset, length, suffix)


def test_stores_that_give_whole_values_are_checked_too():
    inner = InMemoryCAS()
    root = build(MANY | {"long": LONG}, inner)
    report = check(root, Plain(inner))
    assert report.ok
    assert (report.entries, report.values) == (3001, 3001)
    del inner.blocks[identify(b"value 8")]
    assert found(check(root, Plain(inner))) == {("missing", text(identify(b"value 8")), "air/c/8")}


def test_a_store_that_is_out_of_reach_is_no_damage():
    inner = InMemoryCAS()
    plain = Plain(inner)
    root = build(MANY, inner)

    def cut(progress: BuildProgress) -> None:
        plain.down = progress.done > 20

    with pytest.raises(CASError, match="gone"):
        check(root, plain, progress=cut)


def test_progress_goes_from_nothing_to_all():
    cas = InMemoryCAS()
    steps: list[BuildProgress] = []
    check(build(MANY, cas), cas, progress=steps.append)
    assert [step.done for step in steps] == list(range(1, 254))
    assert {(step.stage, step.total) for step in steps} == {("check", 253)}


def test_no_more_than_a_few_blocks_are_asked_for_at_a_time():
    class Counting(InMemoryCAS):
        most = 0

        def load_blocks(self, cids):
            self.most = max(self.most, len(cids))
            assert len(set(cids)) == len(cids)
            return super().load_blocks(cids)

    cas = Counting()
    root = build({f"{n}": b"%d" % n for n in range(20_000)} | {"long": LONG}, cas)
    assert check(root, cas).ok
    assert cas.most <= 256


def test_reports_and_problems_compare_and_print():
    problem = Problem("missing", "bafk", "a/b", "no block")
    assert str(problem) == "missing: 'a/b': no block (bafk)"
    one = Report("bafy", 1, 1, 1, 1, 1, 0, 1, (problem,), 1)
    assert str(one).splitlines()[-2:] == ["1 problem", f"  {problem}"]
