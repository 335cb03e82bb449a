"""`check` of trees and files that no build would make: keys, nodes and leaves out of place."""

import libipld
import pytest
from checked import LONG, MANY, found, place_of, put, with_changed_node
from trees_made import crowded_hashfn

from hamt_bulk import InMemoryCAS, build
from hamt_bulk.block import RAW, identify, text, to_bytes
from hamt_bulk.integrity import check
from hamt_bulk.layout import WIDTH, PyHamt, Slot
from hamt_bulk.manifest import blake3_hashfn


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
