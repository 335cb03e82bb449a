"""Roots that other libraries wrote, opened: `old_writers` has a writer of each kind."""

import asyncio
import json
import pickle
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any

import dag_cbor
import mmh3
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from old_writers import (
    DOCUMENTS,
    Blocks,
    as_it_comes,
    hash_map,
    ipldstore,
    ipldstore_with_hamt,
    link,
    py_hamt_2,
    sha2_256,
    unixfs_file,
)
from stored import assert_same, by_to_zarr

from hamt_bulk import Encryption, InMemoryCAS, build, open_root
from hamt_bulk.block import DAG_CBOR, DAG_PB, RAW, identify, text
from hamt_bulk.crypto import transformers
from hamt_bulk.errors import (
    BlockNotFound,
    InvalidInput,
    KeyNotFound,
    MalformedNode,
    NotAuthentic,
    WrongKey,
)
from hamt_bulk.formats.root import Root
from hamt_bulk.layout import PyHamt

Writer = Callable[[Mapping[str, bytes], Blocks], bytes]

PY_HAMT_1 = ("hashAlg", "bucketSize", "hamt")


def linked(items: Mapping[Any, bytes], blocks: Blocks) -> dict[Any, Any]:
    return {key: link(blocks.put(value)) for key, value in items.items()}


def mixed(items: Mapping[str, bytes], blocks: Blocks) -> bytes:
    """Keys as text and as bytes in turn, values inline and linked in turn."""
    entries = [
        (key if number % 2 else key.encode(), value if number % 3 else link(blocks.put(value)))
        for number, (key, value) in enumerate(items.items())
    ]
    return hash_map(entries, blocks)


def emptied_2(items: Mapping[str, bytes], blocks: Blocks) -> bytes:
    """py-hamt 2 after as many other keys were deleted, which left nodes that are too small."""
    others = {f"other/{key}": b"other" for key in items}
    return py_hamt_2({**others, **items}, blocks, deleted=others)


WRITERS: dict[str, tuple[str, Writer]] = {
    "py-hamt 2": ("py-hamt-2", py_hamt_2),
    "py-hamt 2 after deletes": ("py-hamt-2", emptied_2),
    "py-hamt 2 inline": ("py-hamt-2", lambda items, blocks: py_hamt_2(items, blocks, inline=True)),
    "py-hamt 2 links": (
        "py-hamt-2",
        lambda items, blocks: py_hamt_2(linked(items, blocks), blocks, inline=True),
    ),
    "py-hamt 2 files": (
        "py-hamt-2",
        lambda items, blocks: py_hamt_2(
            {key: link(unixfs_file(value, blocks, 1000)) for key, value in items.items()}, blocks, inline=True
        ),
    ),
    "py-hamt 2 from the first byte": (
        "py-hamt-2",
        lambda items, blocks: py_hamt_2(items, blocks, first_byte=0),
    ),
    "py-hamt 1": (
        "hashmap",
        lambda items, blocks: hash_map(linked(items, blocks).items(), blocks, names=PY_HAMT_1),
    ),
    "py-hamt 1 of bytes": (
        "hashmap",
        lambda items, blocks: hash_map(
            linked({key.encode(): value for key, value in items.items()}, blocks).items(),
            blocks,
            names=("hash_alg", "bucket_size", "hamt"),
        ),
    ),
    "py-hamt 1 of both": ("hashmap", mixed),
    "py-hamt 1 of murmur3": (
        "hashmap",
        lambda items, blocks: hash_map(
            items.items(), blocks, digest=lambda key: mmh3.mmh3_32_digest(key)[::-1], code=0x23
        ),
    ),
    "js ipld-hashmap": (
        "hashmap",
        lambda items, blocks: hash_map(items.items(), blocks, bit_width=5, bucket_size=3),
    ),
    "ipldstore": ("ipldstore", ipldstore),
    "ipldstore with a HashMap": ("ipldstore", ipldstore_with_hamt),
}

EACH = pytest.mark.parametrize("name", WRITERS)


def as_it_comes_back(name: str, items: Mapping[str, bytes]) -> dict[str, bytes]:
    """The values, documents as they come out of an ipldstore: in the order of dag-cbor."""
    if WRITERS[name][0] != "ipldstore":
        return dict(items)
    found = {}
    for key, value in items.items():
        if key.rpartition("/")[2] in DOCUMENTS:
            value = json.dumps(dag_cbor.decode(dag_cbor.encode(json.loads(value)))).encode()
        found[key] = value
    return found


def dataset() -> xr.Dataset:
    """Chunks enough for nodes below the root, strings, a scalar."""
    return xr.Dataset(
        {
            "t2m": (("time", "x"), np.arange(60 * 12, dtype="f8").reshape(60, 12), {"units": "K"}),
            "names": ("x", np.array([f"station {number}" for number in range(12)])),
            "mask": ("x", np.arange(12, dtype="i2")),
            "height": ((), 2.0),
        },
        coords={"time": np.array("2020-01-01", "M8[ns]") + np.arange(60), "x": np.linspace(0, 1, 12)},
        attrs={"title": "old"},
    )


@cache
def hierarchy(zarr_format: int, rows: int = 1) -> dict[str, bytes]:
    return by_to_zarr(
        dataset(), zarr_format=zarr_format, encoding={"t2m": {"chunks": (rows, 3)}, "mask": {"chunks": (5,)}}
    )


def written(name: str, items: Mapping[str, bytes]) -> Root:
    blocks = Blocks()
    root = WRITERS[name][1](items, blocks)
    return open_root(root, blocks.memory())


# What is read


@EACH
def test_keys_and_values_are_those_that_were_set(name: str) -> None:
    items = hierarchy(2)
    root = written(name, items)
    expected = as_it_comes_back(name, items)
    assert root.kind == WRITERS[name][0] and root.kind in repr(root).lower()
    assert_same(dict(root.items()), expected)
    assert len(root) == len(items) and sorted(root) == sorted(root.keys()) == sorted(items)
    assert sorted(root.keys("t2m/")) == sorted(key for key in items if key.startswith("t2m/"))
    for key, value in expected.items():
        assert key in root and root.get(key) == value
        pointer = root.pointer(key)
        assert pointer is not None
        assert root.read(key, pointer, 1, 5) == value[1:5]
        assert root.read(key, pointer, suffix=3) == value[-3:]
        assert root.sizes([(key, pointer)]) == [len(value)]
    for absent in ("absent", "t2m", "t2m/99.99"):
        assert absent not in root and root.pointer(absent) is None
        with pytest.raises(KeyNotFound, match=rf"'{absent}' is not in the {root.kind} root baf"):
            root.get(absent)


@EACH
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_xarray_opens_its_store(name: str, zarr_format: int) -> None:
    store = written(name, hierarchy(zarr_format)).store()
    with xr.open_zarr(store) as found:
        xr.testing.assert_identical(found.load(), dataset())
    with xr.open_zarr(store, consolidated=False) as found:
        xr.testing.assert_identical(found.load(), dataset())


@EACH
def test_the_empty_root_has_no_keys(name: str) -> None:
    root = written(name, {})
    assert list(root.items()) == [] and len(root) == 0 and "a" not in root


@EACH
def test_a_root_travels(name: str, tmp_path) -> None:
    blocks = Blocks()
    root = open_root(WRITERS[name][1](hierarchy(2), blocks), blocks.packs(tmp_path / "store"))
    again = pickle.loads(pickle.dumps(root))
    assert (type(again), again.root, again.kind) == (type(root), root.root, root.kind)
    assert dict(again.items()) == dict(root.items())
    assert again.get("t2m/3.1") == root.get("t2m/3.1")
    assert root.store() == again.store() and root.store() == pickle.loads(pickle.dumps(root.store()))


@pytest.fixture
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client


def test_workers_read_roots_of_all_kinds(tmp_path, client: Client) -> None:
    sums = []
    for number, (_, write) in enumerate(WRITERS.values()):
        blocks = Blocks()
        root = open_root(write(hierarchy(3, 20), blocks), blocks.packs(tmp_path / str(number)))
        sums.append(xr.open_zarr(root.store())["t2m"].sum().data)
    expected = float(dataset()["t2m"].sum())
    assert [float(future.result()) for future in client.compute(sums)] == [expected] * len(WRITERS)


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text() | st.binary() | st.floats(0, 1),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(), inside, max_size=3),
    max_leaves=6,
)


@settings(max_examples=40)
@given(
    st.dictionaries(st.text(), plain, max_size=60),
    st.sets(st.integers(0, 59)),
    st.booleans(),
    st.sampled_from([1, 2, 256]),
)
def test_any_map_of_py_hamt_2_is_a_dict(items, deleted, inline, crowd) -> None:
    items = {f"{key}{number}": value for key, value in items.items() for number in range(crowd)}
    gone = [key for number, key in enumerate(items) if number % 60 in deleted]
    blocks = Blocks()
    root = open_root(py_hamt_2(items, blocks, deleted=gone, inline=inline), blocks.memory())
    left = {key: value for key, value in items.items() if key not in gone}
    assert dict(root.items()) == left
    for key in list(items)[:50]:
        assert (key in root) == (key in left)
        if key in left:
            assert root.get(key) == left[key]


@settings(max_examples=40)
@given(
    st.dictionaries(st.text() | st.binary(), plain, max_size=80),
    st.integers(3, 12),
    st.integers(1, 4),
)
def test_any_hash_map_is_a_dict(items, bit_width, bucket_size) -> None:
    items = {
        key: value for key, value in items.items() if isinstance(key, bytes) or key.encode() not in items
    }
    blocks = Blocks()
    written = hash_map(items.items(), blocks, bit_width=bit_width, bucket_size=bucket_size)
    root = open_root(written, blocks.memory())
    expected = {as_text(key): value for key, value in items.items()}
    assert dict(root.items()) == expected and set(root) == set(expected)
    for key, value in items.items():
        assert key in root and root.get(key) == value


def as_text(key: str | bytes) -> str | bytes:
    """A key as `items` gives it: text where it can be."""
    try:
        return key.decode() if isinstance(key, bytes) else key
    except UnicodeDecodeError:
        return key


# Values


def test_a_value_that_is_no_bytes_is_a_value_and_no_chunk() -> None:
    values = {"number": 5, "text": "a", "none": None, "map": {"a": [1, 2.5]}, "bytes": b"1"}
    blocks = Blocks()
    for made in (
        py_hamt_2(values, blocks),
        py_hamt_2(values, blocks, inline=True),
        hash_map(values.items(), blocks),
    ):
        root = open_root(made, blocks.memory())
        assert dict(root.items()) == values
        store = root.store()
        assert asyncio.run(store.get("bytes")).to_bytes() == b"1"
        for key, kind in [("number", "int"), ("text", "str"), ("none", "NoneType"), ("map", "dict")]:
            with pytest.raises(
                InvalidInput, match=f"value of '{key}' is a {kind}, and a Zarr store holds bytes"
            ):
                asyncio.run(store.get(key))


def test_a_link_to_a_structure_is_a_link() -> None:
    blocks = Blocks()
    structure = link(blocks.put(dag_cbor.encode([1]), DAG_CBOR))
    root = open_root(hash_map([("a", structure), ("b", b"1")], blocks), blocks.memory())
    assert root.get("a") == structure
    with pytest.raises(InvalidInput, match="'a' is a link, and a Zarr store holds bytes"):
        asyncio.run(root.store().get("a"))


def test_values_that_are_dag_cbor_by_half_were_transformed() -> None:
    blocks = Blocks()
    made = py_hamt_2(
        {f"a/{number}": b"1" for number in range(9)},
        blocks,
        encode=lambda key, value: b"\xff" + value if key < "a/5" else value,
    )
    with pytest.raises(InvalidInput, match="some are dag-cbor and some are not: pass the transformer_decode"):
        open_root(made, blocks.memory()).get("a/1")
    root = open_root(
        made, blocks.memory(), transformer_decode=lambda key, data: data[1:] if key < "a/5" else data
    )
    assert dict(root.items()) == {f"a/{number}": b"1" for number in range(9)}


def test_what_py_hamt_2_encrypted_is_read_with_its_key() -> None:
    key, header = bytes(range(32)), b"header"
    encryption = Encryption(key, header=header, exclude_vars=["x", "time"], format="py-hamt-2")
    blocks = Blocks()
    made = py_hamt_2(hierarchy(3), blocks, encode=transformers(encryption)[0])
    # Who reads need not know what was excluded.
    root = open_root(made, blocks.memory(), encryption=Encryption(key, header=header, format="py-hamt-2"))
    assert_same(dict(root.items()), hierarchy(3))
    with xr.open_zarr(root.store()) as found:
        xr.testing.assert_identical(found.load(), dataset())
    other = open_root(made, blocks.memory(), encryption=Encryption(bytes(32), format="py-hamt-2"))
    assert other.get("x/c/0") == hierarchy(3)["x/c/0"]
    with pytest.raises((WrongKey, NotAuthentic), match="'t2m/c/0/0' cannot be decrypted"):
        other.get("t2m/c/0/0")
    with pytest.raises(InvalidInput, match="pass Encryption\\(…, format=\"py-hamt-2\"\\), found 'bound'"):
        open_root(made, blocks.memory(), encryption=Encryption(key))


# What is no root


def names(data: bytes, codec: int = DAG_CBOR) -> tuple[bytes, InMemoryCAS]:
    blocks = Blocks()
    return blocks.put(data, codec), blocks.memory()


WHAT = "a root of py-hamt 1, 2 or 3, of an IPLD HashMap or of ipldstore"


@pytest.mark.parametrize(
    ("value", "seen"),
    [
        ({"a": 1, "b": [2]}, "a map of 2 keys: 'a', 'b'; for an ipldstore, 'a' is 1, expected a link"),
        ({str(number): None for number in range(9)}, "a map of 9 keys: '0', '1', '2', '3', '4', …; for an"),
        ([1, 2, 3], "a list of 3, expected 256"),
        ([{}] * 255, "a list of 255, expected 256"),
        (7, "a int; for an ipldstore, 7, expected a map"),
        ("text", "a str"),
        (b"bytes", "bytes, 5 of them"),
        (None, "a NoneType"),
        ({"B": {}, "L": 5}, "a map of 2 keys: 'B', 'L'"),
        (
            {"hamt": 1, "hashAlg": 18, "bucketSize": 3},
            "it is the root of an IPLD HashMap; for an ipldstore, 'h",
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
