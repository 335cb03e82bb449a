"""ipldstore's roots, written and read: its own vector, and a writer that follows the format's text naively."""

import hashlib
import json
import math
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dag_cbor
import libipld
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from multiformats import CID
from stored import assert_same, by_to_zarr

from hamt_bulk import InMemoryCAS, PackCAS
from hamt_bulk.block import identify, text, to_bytes, to_cid
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.errors import BlockMismatch, BlockNotFound, Conflict, InvalidInput, KeyNotFound, MalformedNode
from hamt_bulk.formats.ipldstore import (
    IpldstoreRoot,
    _shared,
    is_ipldstore,
    why_no_ipldstore,
    write_ipldstore,
)
from hamt_bulk.formats.ipldstore_cbor import Link
from hamt_bulk.formats.ipldstore_tree import DOCUMENTS
from hamt_bulk.pointers import inline_pointer, is_inline

VECTOR = "bafyreibf3yn5ovxhrcwwdg4sm5sinnkwoyfx3wswghbjchz4zvwt55bhte"
"""What ipldstore's own documentation has for an array `a` of three numbers, written by xarray with zarr 2."""

ARRAY = {
    "chunks": [3],
    "compressor": None,
    "dtype": "<i8",
    "fill_value": None,
    "filters": None,
    "order": "C",
    "shape": [3],
    "zarr_format": 2,
}
VECTOR_ITEMS = {
    ".zattrs": b"{}",
    ".zgroup": b'{"zarr_format": 2}',
    ".zmetadata": json.dumps(
        {
            "zarr_consolidated_format": 1,
            "metadata": {
                ".zattrs": {},
                ".zgroup": {"zarr_format": 2},
                "a/.zarray": ARRAY,
                "a/.zattrs": {"_ARRAY_DIMENSIONS": ["a"]},
            },
        }
    ).encode(),
    "a/.zarray": json.dumps(ARRAY).encode(),
    "a/.zattrs": b'{"_ARRAY_DIMENSIONS": ["a"]}',
    "a/0": bytes.fromhex("010000000000000002000000000000000300000000000000"),
}


def frozen(items: dict[str, bytes], cas: ContentAddressedStore) -> bytes:
    """The root of these keys and values."""
    with cas.writer() as writer:
        entries = [
            (key, value if key.rpartition("/")[2] in DOCUMENTS else writer.save(value))
            for key, value in items.items()
        ]
        writer.flush()
    return write_ipldstore(entries, cas)


def frozen_naively(items: dict[str, bytes]) -> bytes:
    """The same as the format's text has it, by other libraries than ours."""
    root: dict[str, Any] = {}
    for key, value in items.items():
        *folders, name = key.split("/")
        folder = root
        for part in folders:
            folder = folder.setdefault(part, {})
        leaf = CID("base32", 1, "raw", ("sha2-256", hashlib.sha256(value).digest()))
        folder[name] = json.loads(value) if name in DOCUMENTS else leaf
    return dag_cbor.encode(root)


def root_of(items: dict[str, bytes], cas: ContentAddressedStore | None = None) -> IpldstoreRoot:
    cas = cas or InMemoryCAS("sha2-256")
    return IpldstoreRoot(frozen(items, cas), cas)


def block_root(data: bytes, codec: int = 0x71) -> IpldstoreRoot:
    """The root that is this block, whatever it holds."""
    cas = InMemoryCAS("sha2-256")
    cid = identify(data, codec, "sha2-256")
    cas.blocks[cid] = data
    return IpldstoreRoot(cid, cas)


def as_ipldstore_gives(items: dict[str, bytes]) -> dict[str, bytes]:
    """The values, documents as they come out of a root: in the order of dag-cbor."""
    return {
        key: json.dumps(dag_cbor.decode(dag_cbor.encode(json.loads(value)))).encode()
        if key.rpartition("/")[2] in DOCUMENTS
        else value
        for key, value in items.items()
    }


def everything(root: IpldstoreRoot) -> dict[str, bytes]:
    found = dict(root.items())
    assert len(found) == len(root) == len(list(root.pointers()))
    return found


# Against ipldstore and against the text


def test_the_root_is_that_of_ipldstore() -> None:
    root = root_of(VECTOR_ITEMS)
    assert text(root.root) == VECTOR
    assert str(root.cid) == VECTOR
    assert_same(everything(root), as_ipldstore_gives(VECTOR_ITEMS))


def test_xarrays_own_hierarchy_gives_the_same_chunks_and_is_read_again() -> None:
    """What zarr 3 writes of the vector differs in its metadata by what zarr has added since."""
    items = by_to_zarr(xr.Dataset({"a": ("a", [1, 2, 3])}), zarr_format=2)
    root = root_of(items)
    assert everything(root) == as_ipldstore_gives(items)
    assert is_ipldstore(root.cas.blocks[root.root])


names = st.sampled_from(["a", "b", "0", "0.0", "", "é", "zarr.json", "hamt", "c"])
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=12), part, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(st.text(max_size=12), json_values, max_size=4).map(
    lambda content: json.dumps(content).encode()
)


@st.composite
def hierarchies(draw: st.DrawFn) -> dict[str, bytes]:
    """Keys of which none is a folder of another."""
    items: dict[str, bytes] = {}
    for folders in draw(st.lists(st.lists(names, max_size=3), max_size=6)):
        name = draw(names | st.sampled_from(DOCUMENTS))
        key = "/".join([*folders, name])
        if any(other.startswith(f"{key}/") or key.startswith(f"{other}/") for other in items):
            continue
        items[key] = draw(documents if name in DOCUMENTS else st.binary(max_size=5))
    return items


@given(hierarchies(), st.randoms())
def test_a_root_is_the_block_that_the_formats_text_gives(items: dict[str, bytes], random: Any) -> None:
    """Whatever the order of the keys."""
    root = root_of(items)
    assert root.cas.blocks[root.root] == frozen_naively(items)
    shuffled = random.sample(sorted(items), len(items))
    assert frozen({key: items[key] for key in shuffled}, root.cas) == root.root


@given(hierarchies())
def test_what_was_written_is_read(items: dict[str, bytes]) -> None:
    root = root_of(items)
    expected = as_ipldstore_gives(items)
    assert everything(root) == expected
    entries = list(root.pointers())
    assert root.sizes(entries) == [len(expected[key]) for key, _ in entries]
    for key, pointer in entries:
        assert root.pointer(key) == pointer and key in root
        assert is_inline(pointer) == (key.rpartition("/")[2] in DOCUMENTS)
        assert root.get(key) == root.read(key, pointer) == expected[key]
    assert write_ipldstore(entries, root.cas) == root.root


@given(documents, st.integers(0, 40), st.none() | st.integers(0, 40))
def test_ranges_of_a_document_are_slices_of_its_json(content: bytes, start: int, stop: int | None) -> None:
    root = root_of({".zattrs": content})
    whole = root.get(".zattrs")
    pointer = root.pointer(".zattrs")
    assert pointer == inline_pointer(json.loads(content))
    assert root.read(".zattrs", pointer, start, stop) == whole[start:stop]
    assert root.read(".zattrs", pointer, suffix=start) == whole[max(len(whole) - start, 0) :]


def test_a_key_that_is_not_there_is_told_from_one_that_is() -> None:
    root = root_of(VECTOR_ITEMS)
    for key in ("b", "a", "a/", "a/1", "", ".zarray", "a/0/"):
        assert root.pointer(key) is None and key not in root
    with pytest.raises(KeyNotFound, match=r"'a/1' is not in the ipldstore root bafyreibf3"):
        root.get("a/1")
    with pytest.raises(InvalidInput, match="a key must be text"):
        root.pointer(1)  # type: ignore[arg-type]
    assert sorted(root.keys("a/")) == ["a/.zarray", "a/.zattrs", "a/0"]


def test_values_of_several_blocks_are_put_together(tmp_path) -> None:
    value = os.urandom((2 << 20) + 5)
    root = root_of({"a/0": value, ".zattrs": b"{}"}, PackCAS(tmp_path / "store"))
    assert root.get("a/0") == value
    pointer = root.pointer("a/0")
    assert root.read("a/0", pointer, 5, 9) == value[5:9]
    assert root.read("a/0", pointer, suffix=7) == value[-7:]
    assert root.sizes([("a/0", pointer), (".zattrs", root.pointer(".zattrs"))]) == [len(value), 2]


# Relatives of the format


def test_the_oldest_version_had_whole_keys_in_one_map() -> None:
    keys = {
        "a/.zarray": ARRAY,
        "a/0": to_cid(identify(b"0", hasher="sha2-256")),
        ".zgroup": {"zarr_format": 2},
    }
    root = block_root(dag_cbor.encode(keys))
    root.cas.blocks[identify(b"0", hasher="sha2-256")] = b"0"
    assert everything(root) == {
        "a/.zarray": json.dumps(dag_cbor.decode(dag_cbor.encode(ARRAY))).encode(),
        "a/0": b"0",
        ".zgroup": b'{"zarr_format": 2}',
    }
    assert write_ipldstore(root.pointers(), root.cas) != root.root


def cbor_map(entries: list[tuple[str, bytes]]) -> bytes:
    """A map as it comes, of values that are encoded."""
    return bytes([0xA0 + len(entries)]) + b"".join(dag_cbor.encode(key) + value for key, value in entries)


def test_maps_in_another_order_are_read() -> None:
    """The fork's own encoder left them as they came; libipld refuses them."""
    link = libipld.encode_dag_cbor(identify(b"0", hasher="sha2-256"))
    attributes = cbor_map([("units", dag_cbor.encode("K")), ("b", dag_cbor.encode(1))])
    data = cbor_map([("b", cbor_map([("0.0", link), ("0", link)])), (".zattrs", attributes), ("a", link)])
    with pytest.raises(ValueError, match="sorted"):
        libipld.decode_dag_cbor(data)
    root = block_root(data)
    root.cas.blocks[identify(b"0", hasher="sha2-256")] = b"0"
    assert everything(root) == {"b/0.0": b"0", "b/0": b"0", "a": b"0", ".zattrs": b'{"b": 1, "units": "K"}'}
    again = write_ipldstore(root.pointers(), root.cas)
    assert libipld.decode_dag_cbor(root.cas.blocks[again])


@pytest.mark.parametrize(
    "number, shown",
    [
        ("fb7ff8000000000000", "NaN"),
        ("f97e00", "NaN"),
        ("fbfff0000000000000", "-Infinity"),
        ("f93e00", "1.5"),
    ],
)
def test_numbers_that_dag_cbor_has_not_are_read_where_a_fork_wrote_them(number: str, shown: str) -> None:
    """Kubo takes NaN in what it stores as dag-cbor, and zarr reads it from JSON."""
    root = block_root(cbor_map([(".zattrs", cbor_map([("a", bytes.fromhex(number))]))]))
    assert root.get(".zattrs") == f'{{"a": {shown}}}'.encode()
    assert root.sizes(list(root.pointers())) == [len(root.get(".zattrs"))]
    if shown != "1.5":
        with pytest.raises(InvalidInput, match=r"'\.zattrs' has no form .*: -?(nan|inf) is no number"):
            write_ipldstore(root.pointers(), root.cas)


def test_a_root_that_is_a_file_is_read() -> None:
    """A version of the fork had `ipfs add` take its roots."""
    data = frozen_naively(VECTOR_ITEMS)
    file = b"\x08\x02\x12" + libipld_varint(len(data)) + data + b"\x18" + libipld_varint(len(data))
    root = block_root(b"\x0a" + libipld_varint(len(file)) + file, 0x70)
    assert set(root) == set(VECTOR_ITEMS)


def libipld_varint(number: int) -> bytes:
    low, high = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + libipld_varint(high) if high else bytes([low])


# What is no such root

LINK = Link(identify(b"value", hasher="sha2-256"))
"""What libipld writes as a link."""


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


def test_the_store_names_the_root() -> None:
    assert text(frozen(VECTOR_ITEMS, InMemoryCAS("blake3"))).startswith("bafyr4i")
    assert len({frozen(VECTOR_ITEMS, InMemoryCAS(hasher)) for hasher in ("blake3", "sha2-256")}) == 2


def test_metadata_of_zarr_3_is_a_value_like_any_other() -> None:
    root = root_of({"zarr.json": b"{}", "a/zarr.json": b"{}"})
    assert [is_inline(pointer) for _, pointer in root.pointers()] == [False, False]
    assert root.get("a/zarr.json") == b"{}"


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


def test_numbers_come_back_as_they_were() -> None:
    content = {
        "int": 1,
        "float": 1.0,
        "big": (1 << 64) - 1,
        "small": -(1 << 64),
        "zero": -0.0,
        "tiny": 5e-324,
        "true": True,
    }
    found = json.loads(root_of({".zattrs": json.dumps(content).encode()}).get(".zattrs"))
    assert repr(found) == repr({key: content[key] for key in found}) and found == content
    assert math.copysign(1, found["zero"]) == -1


# A root in several threads and processes


def test_a_root_is_read_once_by_many_threads() -> None:
    class Counting(InMemoryCAS):
        loads = 0

        def read_blocks(self, cids):
            self.loads += 1
            return super().read_blocks(cids)

    cas = Counting()
    root = IpldstoreRoot(frozen({f"a/{number}": b"" for number in range(2000)}, cas), cas)
    barrier = threading.Barrier(4)

    def look(_: int) -> bool:
        barrier.wait()
        return "a/5" in root

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(look, range(4)))
    assert cas.loads == 1


def test_tasks_that_unpickle_a_root_read_it_once(tmp_path) -> None:
    _shared.cache_clear()
    cas = PackCAS(tmp_path / "store")
    root = IpldstoreRoot(frozen(VECTOR_ITEMS, cas), cas)
    parcel = pickle.dumps(root)
    assert len(parcel) < 500
    first, second = pickle.loads(parcel), pickle.loads(parcel)
    assert first.root == second.root == root.root
    assert first._hierarchy() is second._hierarchy()
    assert root._hierarchy() == first._hierarchy()
    assert to_bytes(first.cid) == root.root
