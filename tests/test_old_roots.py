"""Roots that other libraries wrote, read: `old_writers` has a writer of each kind."""

import asyncio
import pickle
from collections.abc import Iterator

import dag_cbor
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from old_kinds import EACH, EXAMPLES, WRITERS, as_it_comes_back, as_text, dataset, hierarchy, plain, written
from old_writers import Blocks, hash_map, link, py_hamt_2
from stored import assert_same

from hamt_bulk import Encryption, HashMap, convert, open_root
from hamt_bulk.block import DAG_CBOR
from hamt_bulk.crypto import transformers
from hamt_bulk.errors import InvalidInput, KeyNotFound, NotAuthentic, WrongKey

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


@settings(max_examples=EXAMPLES)
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


@settings(max_examples=EXAMPLES)
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


@pytest.mark.parametrize("to", ["pyhamt", HashMap()], ids=str)
def test_with_hidden_names_another_key_does_not_make_a_root_look_empty(to) -> None:
    blocks = Blocks()
    source = py_hamt_2({"a": b"1"}, blocks)
    cas, hidden = blocks.memory(), Encryption(bytes(32), hide_names=True)
    root = convert(source, cas, to, encryption=hidden)
    found = open_root(root, cas, encryption=hidden)
    assert found.get("a") == b"1" and "b" not in found and list(found) == ["a"]
    other = open_root(root, cas, encryption=Encryption(bytes(31) + b"1", hide_names=True))
    for look in (lambda: other.get("a"), lambda: "a" in other, lambda: list(other)):
        with pytest.raises((WrongKey, NotAuthentic)):
            look()
