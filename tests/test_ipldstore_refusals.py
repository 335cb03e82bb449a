"""What is no ipldstore root and what it has no form for, and roots that are damaged, large or hostile."""

import json
import os
from typing import Any

import libipld
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ipldstore_made import (
    LINK,
    VECTOR,
    VECTOR_ITEMS,
    block_root,
    cbor_map,
    frozen,
    frozen_naively,
    hierarchies,
    root_of,
)

from hamt_bulk import InMemoryCAS
from hamt_bulk.block import identify, text
from hamt_bulk.errors import BlockMismatch, BlockNotFound, Conflict, InvalidInput, MalformedNode
from hamt_bulk.formats.ipldstore import IpldstoreRoot, is_ipldstore, why_no_ipldstore, write_ipldstore
from hamt_bulk.pointers import inline_pointer, is_inline

# What is no such root


@pytest.mark.parametrize(
    "content, said",
    [
        ([], "a list of 0, expected a map"),
        ("text", "the text 'text', expected a map"),
        (LINK, "a link, expected a map"),
        ({"a": 1}, "'a' is 1, expected a link to a value or a map, a folder"),
        ({"a": b"bytes"}, "'a' is a byte string of 5, expected a link"),
        ({"a": {"b": [1, 2]}}, "'a/b' is a list of 2, expected a link"),
        ({"a": None}, "'a' is null, expected a link"),
        ({"a": {".zarray": LINK}}, "'a/.zarray' is a link, expected the JSON of a document"),
        ({".zattrs": [1]}, "'.zattrs' is a list of 1, expected the JSON of a document"),
        ({".zattrs": {"a": [LINK]}}, "'.zattrs' is a link within it, expected the JSON"),
        ({".zattrs": {"a": {"b": b"x"}}}, "'.zattrs' is a byte string of 1 within it"),
        ({"a": identify(b"node", 0x71)}, "'a' links to codec 0x71, expected raw or dag-pb"),
        ({"hamt": [b"", []], "hashAlg": 18, "bucketSize": 5}, "'hamt' is a list of 2, expected a link"),
        ({"B": {"1": [{"k": LINK}]}, "L": {}}, "'B/1' is a list of 1"),
        ({"a": {"0": LINK}, "a/0": LINK}, "the key 'a/0' comes twice"),
        ({"a": LINK, "a/b/c": LINK}, "'a' is both a value and a folder"),
        ({"a": {"b": LINK}, "a/b/c/d": LINK}, "'a/b' is both a value and a folder"),
    ],
)
def test_what_is_no_root_is_refused_with_what_it_holds(content: Any, said: str) -> None:
    data = libipld.encode_dag_cbor(content)
    assert not is_ipldstore(data)
    assert said in (why_no_ipldstore(data) or "")
    with pytest.raises(MalformedNode, match="is no ipldstore root") as raised:
        list(block_root(data).pointers())
    assert said in str(raised.value) and "bafyrei" in str(raised.value)


def test_bytes_that_look_like_a_cid_are_no_link() -> None:
    """libipld gives both as the same bytes."""
    data = cbor_map([("a", b"\x58\x24" + LINK)])
    assert libipld.decode_dag_cbor(data) == {"a": bytes(LINK)}
    assert (
        why_no_ipldstore(data) == "'a' is a byte string of 36, expected a link to a value or a map, a folder"
    )


@pytest.mark.parametrize(
    "data", [b"\xa0", libipld.encode_dag_cbor({"a": {}}), libipld.encode_dag_cbor({"hamt": LINK})]
)
def test_small_roots_are_roots(data: bytes) -> None:
    assert is_ipldstore(data)


def test_a_block_of_another_codec_is_no_root() -> None:
    with pytest.raises(MalformedNode, match="its codec is 0x55, expected dag-cbor"):
        block_root(b"value", 0x55).pointer("a")


def test_missing_and_damaged_blocks_are_named() -> None:
    root = root_of(VECTOR_ITEMS)
    pointer = root.pointer("a/0")
    assert pointer is not None
    blocks = root.cas.blocks
    chunk, block = blocks.pop(pointer), blocks.pop(root.root)
    with pytest.raises(BlockNotFound, match=text(pointer)):
        root.get("a/0")
    fresh = IpldstoreRoot(root.root, root.cas)
    with pytest.raises(BlockNotFound, match=f"the root {VECTOR} is not in this store"):
        fresh.pointer("a/0")
    blocks[root.root] = block[:-1] + b"\2"
    with pytest.raises(BlockMismatch, match=VECTOR):
        fresh.pointer("a/0")
    blocks[root.root], blocks[pointer] = block, chunk[:-1] + b"\1"
    assert fresh.pointer("a/0") == pointer  # it did not keep the failure
    with pytest.raises(BlockMismatch, match=text(pointer)):
        fresh.get("a/0")


# What cannot be written


@pytest.mark.parametrize(
    "items, said",
    [
        ({".zattrs": b'{"a": NaN}'}, r"'\.zattrs' has no form .*nan is no number that IPLD has.*pyhamt"),
        ({"a/.zattrs": b'{"a": [-Infinity]}'}, r"'a/\.zattrs' has no form .*-inf is no number"),
        ({".zattrs": b'{"a": 1e999}'}, "inf is no number"),
        ({".zattrs": b'{"a": 18446744073709551616}'}, "a whole number of 65 bits, at most 64"),
        ({".zattrs": b'{"a": -18446744073709551617}'}, "a whole number of 65 bits, at most 64"),
        ({".zattrs": b'{"a": "\\ud800"}'}, "surrogates not allowed"),
        ({".zattrs": b"{"}, r"'\.zattrs' has no form .*Expecting property name"),
        ({".zgroup": b"[]"}, "a list of 0, expected an object"),
        ({".zgroup": b"\xff"}, "invalid start byte"),
        ({".zattrs": b'{"a":' + b"[" * 300 + b"]" * 300 + b"}"}, "nest deeper than 256"),
        ({"a": b"", "a/b/c": b""}, "'a' is a value, and other keys lie below it"),
        ({"a/.zattrs/b": b""}, r"what lies in a folder '\.zattrs'"),
        ({"a/" * 300: b""}, "too many slashes: lists or maps nest deeper than 256"),
        ({"\ud800": b""}, "has no UTF-8 form"),
    ],
)
def test_what_the_format_has_no_form_for_is_refused(items: dict[str, bytes], said: str) -> None:
    cas = InMemoryCAS()
    with pytest.raises(InvalidInput, match=said):
        frozen(items, cas)
    assert all(cid[1] == 0x55 for cid in cas.blocks)


def test_pointers_of_other_kinds_are_refused() -> None:
    cas = InMemoryCAS()
    with pytest.raises(InvalidInput, match="'a' has its value inline"):
        write_ipldstore([("a", inline_pointer(1))], cas)
    with pytest.raises(InvalidInput, match="'a' has a CID of codec 0x71"):
        write_ipldstore([("a", identify(b"", 0x71))], cas)
    with pytest.raises(InvalidInput, match="not a CID"):
        write_ipldstore([("a", b"value")], cas)
    with pytest.raises(Conflict, match="'a' is given two values"):
        write_ipldstore([("a", LINK), ("a", identify(b"other"))], cas)
    assert write_ipldstore([("a", LINK), ("a", LINK)], cas) == write_ipldstore([("a", LINK)], cas)


def test_a_root_that_cannot_travel_is_refused_and_the_refusal_names_what_to_use() -> None:
    cas = InMemoryCAS()
    entries = [(f"a/{number}", LINK) for number in range(50_000)]
    with pytest.raises(
        InvalidInput, match=r'50,000 keys make it 2\.\d MiB: .* 2\.0 MiB at most. Convert to "pyhamt"'
    ):
        write_ipldstore(entries, cas)
    assert not cas.blocks
    assert IpldstoreRoot(write_ipldstore(entries[:40_000], cas), cas).pointer("a/39999") == LINK


# Large and hostile roots


def test_a_root_that_only_disks_hold_is_read() -> None:
    """ipldstore writes them of any size."""
    keys = {
        str(number): LINK
        for number in range(1_000_000 if os.environ.get("HAMT_BULK_FULL") == "1" else 100_000)
    }
    root = block_root(libipld.encode_dag_cbor({"a": keys}))
    assert len(root) == len(keys)
    assert root.pointer("a/99999") == LINK


@pytest.mark.parametrize(
    "data, said",
    [
        (b"\xa1\x61a" * 100_000 + b"\xa0", "nest deeper than 256"),
        (b"\xa1\x67.zattrs\xa1\x61a" + b"\x81" * 100_000 + b"\xf6", "nest deeper than 256"),
        (b"\xbb" + b"\xff" * 8, "end within a value"),
        (b"\xa1\x67.zattrs\xa1\x61a\x9b" + b"\xff" * 8, "end within a value"),
        (b"\xa1\x61a\x5b" + b"\xff" * 8, r"bytes at byte \d+, and 0 are left"),
        (b"\xa1\x7b" + b"\xff" * 8, "bytes at byte 10, and 0 are left"),
        (b"\xa1\x67.zattrs\xa1\x61a\x9a\x00\x90\x00\x00" + b"\xf6" * 0x90_0000, "more than 8,388,608 values"),
        (b"\xa0\xa0", "1 bytes follow the value"),
        (b"\xbf\xff", "expected one with a definite length"),
        (b"\xa1\x01\x01", "a map key of major type 0"),
        (b"\xa1\x61\xff\xa0", "can't decode byte 0xff"),
        (b"\xa2\x61a\xa0\x61a\xa0", "the map key 'a' comes twice"),
        (b"\xa1\x61a\xc1\x41\x00", "tag 1 of major type 2"),
        (b"\xa1\x61a\xd8\x2a\x61\x00", "tag 42 of major type 3"),
        (b"\xa1\x61a\xd8\x2a\x42\x01\x55", "a link without its leading zero"),
        (b"\xa1\x61a\xd8\x2a\x42\x00\x55", "not a CID"),
        (b"\xa1\x61a\xf7", "simple value 23"),
        (b"\xa1\x61a\xf8\x16", "simple value 22"),
        (b"\xa1\x61a\xfb\x00", "8 bytes at byte 4, and 1 are left"),
        (b"\xa1\x61a", "end within a value"),
        (b"", "end within a value"),
    ],
)
def test_a_hostile_block_is_refused(data: bytes, said: str) -> None:
    with pytest.raises(MalformedNode, match=said):
        block_root(data).pointer("a")


def test_a_root_longer_than_is_read_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hamt_bulk.formats.ipldstore.MAX_ROOT_BYTES", 100)
    assert why_no_ipldstore(b"\xa0" + b"\0" * 100) == "101 B or more, and at most 100 B are read"


@given(st.binary(max_size=60) | hierarchies().map(frozen_naively), st.data())
def test_damaged_blocks_are_read_or_refused(data: bytes, draw: st.DataObject) -> None:
    """What is no root is told as such, and nothing else is ever raised."""
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(0, 3))):
        if damaged:
            damaged[draw.draw(st.integers(0, len(damaged) - 1))] = draw.draw(st.integers(0, 255))
    root = block_root(bytes(damaged[: draw.draw(st.integers(0, len(damaged)))]))
    try:
        keys = [key for key, pointer in root.pointers() if is_inline(pointer)]
    except MalformedNode:
        return
    for key in keys:
        assert isinstance(json.loads(root.get(key)), dict)
