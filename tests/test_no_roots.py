"""What `open_root` refuses, and what it says of it; and how it finds where keys lie."""

from typing import Any

import dag_cbor
import pytest
from old_kinds import EACH, PY_HAMT_1, WRITERS, hierarchy, names, written
from old_writers import Blocks, as_it_comes, hash_map, py_hamt_2, sha2_256, unixfs_file

from hamt_bulk import InMemoryCAS, build, open_root
from hamt_bulk.block import DAG_CBOR, DAG_PB, RAW, identify, text
from hamt_bulk.errors import BlockNotFound, InvalidInput, MalformedNode
from hamt_bulk.layout import PyHamt

# What is no root


WHAT = "a root of py-hamt 1, 2 or 3, of an IPLD HashMap or of ipldstore"


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ({"a": 1, "b": [2]}, "a map of 2 keys: 'a', 'b'; for an ipldstore, 'a' is 1, expected a link"),
        ({str(number): None for number in range(9)}, "a map of 9 keys: '0', '1', '2', '3', '4', …; for an"),
        ([1, 2, 3], "a list of 3, expected 256"),
        ([{}] * 255, "a list of 255, expected 256"),
        (7, "a int"),
        ("text", "a str"),
        (b"bytes", "bytes, 5 of them"),
        (None, "a NoneType"),
        ({"B": {}, "L": 5}, "a map of 2 keys: 'B', 'L'"),
        (
            {"hamt": 1, "hashAlg": 18, "bucketSize": 3},
            "a map of 3 keys: 'hamt', 'hashAlg', 'bucketSize'; for an",
        ),
    ],
    ids=repr,
)
def test_a_block_that_is_no_root_is_told_from_one_by_what_it_is(value: Any, seen: str) -> None:
    cid, cas = names(dag_cbor.encode(value))
    with pytest.raises(InvalidInput) as caught:
        open_root(cid, cas)
    assert str(caught.value).startswith(f"{text(cid)} is not {WHAT}: {seen}")


@pytest.mark.parametrize("data", [b"", b"\xff", b"not cbor", b"\xa3\x64hamt"])
def test_bytes_that_are_no_dag_cbor_are_told(data: bytes) -> None:
    cid, cas = names(data)
    with pytest.raises(
        InvalidInput, match=rf"{text(cid)} is not {WHAT}: {len(data)} bytes that are no dag-cbor \("
    ):
        open_root(cid, cas)


@pytest.mark.parametrize(
    ("codec", "seen"),
    [
        (RAW, f"names raw bytes, a value, and not {WHAT}"),
        (0x129, r"has the codec 0x129, and a root is dag-cbor \(0x71\)"),
    ],
)
def test_a_cid_of_another_codec_is_refused_unread(codec: int, seen: str) -> None:
    cid = b"\x01" + (bytes([codec]) if codec < 128 else b"\xa9\x02") + identify(b"1")[2:]
    with pytest.raises(InvalidInput, match=seen):
        open_root(cid, InMemoryCAS())


@pytest.mark.parametrize("value", [b"", b"a file", b"\xa1", dag_cbor.encode({"a": 1}), bytes(3000)])
def test_a_file_that_holds_no_ipldstore_is_a_file(value: bytes) -> None:
    blocks = Blocks()
    root = unixfs_file(value, blocks, 1000)
    with pytest.raises(InvalidInput, match=f"{text(root)} names a UnixFS file or folder, and not {WHAT}"):
        open_root(root, blocks.memory())


def test_a_folder_is_no_root() -> None:
    cid, cas = names(b"\x0a\x02\x08\x01", DAG_PB)
    with pytest.raises((InvalidInput, MalformedNode), match=text(cid)):
        open_root(cid, cas)


@pytest.mark.parametrize("codec", [DAG_CBOR, DAG_PB])
def test_a_cid_that_names_nothing_here_is_named_with_the_store(codec: int) -> None:
    cid = identify(b"1", codec)
    with pytest.raises(BlockNotFound, match=rf"the root {text(cid)} is not in this store, InMemoryCAS\('bl"):
        open_root(cid, InMemoryCAS())


@EACH
def test_an_absent_root_is_named_with_the_store(name: str) -> None:
    root = written(name, hierarchy(2)).root
    with pytest.raises(BlockNotFound, match=rf"the root {text(root)} is not in this store, InMemoryCAS\('bl"):
        open_root(root, InMemoryCAS())


@EACH
def test_a_root_that_was_cut_off_is_no_root(name: str) -> None:
    """Nor does any part of it pass for one that says less."""
    blocks = Blocks()
    data = blocks[WRITERS[name][1](hierarchy(2), blocks)]
    for end in {0, 1, 2, 5, 7, 40, len(data) // 2, len(data) - 1}:
        cid, cas = names(data[:end])
        with pytest.raises((InvalidInput, MalformedNode), match=text(cid)):
            open_root(cid, cas)
    cid, cas = names(data + b"\0")
    with pytest.raises((InvalidInput, MalformedNode), match=text(cid)):
        open_root(cid, cas)


MANY = {f"a/{number}": b"%d" % number for number in range(3000)}


def child(root: bytes, cas: InMemoryCAS) -> bytes:
    """The child of `root` whose name comes first."""
    return min(cid for cid in cas.blocks if cid[1] == DAG_CBOR and cid != root)


def test_a_child_of_py_hamt_3_is_no_root() -> None:
    cas = InMemoryCAS()
    root = bytes(build(MANY, cas))
    below = child(root, cas)
    with pytest.raises(
        InvalidInput, match=rf"{text(below)} is not the root of a tree but a child node at depth 1"
    ):
        open_root(below, cas)


def test_a_child_of_py_hamt_2_is_no_root() -> None:
    blocks = Blocks()
    root = py_hamt_2(MANY, blocks)
    below = child(root, blocks.memory())
    with pytest.raises(
        InvalidInput,
        match=rf"{text(below)} is not the root of a tree of py-hamt 2 but a child node at depth 1",
    ):
        open_root(below, blocks.memory())


def test_a_child_of_a_hash_map_is_no_root() -> None:
    blocks = Blocks()
    root = hash_map(MANY.items(), blocks)
    below = child(root, blocks.memory())
    with pytest.raises(
        InvalidInput, match=rf"{text(below)} is not .*: .* it is a child node of an IPLD HashMap"
    ):
        open_root(below, blocks.memory())


# How keys are placed


def test_a_hash_that_nobody_registered_is_named() -> None:
    blocks = Blocks()
    root = hash_map(MANY.items(), blocks, digest=lambda key: sha2_256(key)[::-1], code=0xB220)
    with pytest.raises(
        InvalidInput,
        match=rf"{text(root)} is the root of an IPLD HashMap: hash code 0xb220 is not registered: .*register_hasher",
    ):
        open_root(root, blocks.memory())


def test_keys_that_lie_where_no_known_hash_puts_them_are_told() -> None:
    blocks = Blocks()
    root = hash_map(MANY.items(), blocks, digest=lambda key: sha2_256(key)[::-1], code=0x1E)
    with pytest.raises(
        MalformedNode,
        match=r"HashMap of the hash blake3 \(0x1e\), but its keys lie where neither that nor sha2-256",
    ):
        open_root(root, blocks.memory())


def test_a_map_of_js_that_records_another_hash_is_read() -> None:
    """js ipld-hashmap records what it is told, and places keys by sha2-256."""
    for code in (0x1E, 0x22, 0xB220):
        blocks = Blocks()
        root = open_root(hash_map(MANY.items(), blocks, code=code), blocks.memory())
        assert len(root) == len(MANY) and root.get("a/7") == b"7"


def test_a_tree_of_py_hamt_2_with_keys_in_other_places_is_listed_and_not_looked_up() -> None:
    """What a lookup does not find might be there."""
    blocks = Blocks()
    tree = dag_cbor.encode({"B": {"3": [{"a": b"1"}], "5": [{"b": b"2"}]}, "L": {}})
    root = open_root(blocks.put(tree, DAG_CBOR), blocks.memory())
    assert dict(root.items()) == {"a": b"1", "b": b"2"}
    with pytest.raises(MalformedNode, match="no telling whether"):
        root.get("a")


def test_an_entry_of_a_pyhamt_root_in_another_place_does_not_keep_it_shut() -> None:
    cas = InMemoryCAS()
    layout = PyHamt()
    slots = layout.decode(b"", cas.blocks[bytes(build({"a": b"1", "b": b"2"}, cas))])
    entry = next(slot for slot in slots if slot)
    place = slots.index(entry)
    slots[place], slots[(place + 1) % 256] = {}, entry
    block = layout.encode_slots(slots)
    cas.blocks[block.cid] = bytes(block.data)
    assert dict(open_root(block.cid, cas).items()) == {"a": b"1", "b": b"2"}


def test_a_root_whose_keys_are_in_another_order_is_still_one() -> None:
    blocks = Blocks()
    roots = [
        hash_map(MANY.items(), blocks, names=order)
        for order in [PY_HAMT_1, ("bucketSize", "hamt", "hashAlg"), ("hamt", "bucketSize", "hashAlg")]
    ]
    assert len(set(roots)) == 3
    for root in roots:
        assert dict(open_root(root, blocks.memory()).items()) == MANY


@pytest.mark.parametrize(
    "value",
    [
        {"hashAlg": 18, "bucketSize": 3, "hash_alg": 18},
        {"hashAlg": 18, "bucketSize": 3, "other": 18},
        {"hashAlg": 18, "bucketSize": -3, "hamt": [bytes(32), []]},
        {"hashAlg": 18, "hamt": [bytes(32), []], "more": 1},
        {"hashAlg": 18, "bucketSize": 0, "hamt": [bytes(32), []]},
    ],
    ids=repr,
)
def test_a_hash_map_root_that_says_something_else_is_refused(value: dict[str, Any]) -> None:
    cid, cas = names(as_it_comes(value))
    with pytest.raises((MalformedNode, InvalidInput)):
        open_root(cid, cas)
