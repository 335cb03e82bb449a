"""What can be asked of `convert` besides a kind: another store, Zarr v3, encryption; and what contradicts itself."""

from collections.abc import Mapping
from typing import Any

import dag_cbor
import pytest
import xarray as xr
from converted import ITEMS, TO, is_document, made
from old_kinds import as_it_comes_back, dataset, hierarchy
from old_writers import Blocks, hash_map, link, py_hamt_2
from stored import assert_same

from hamt_bulk import (
    Encryption,
    HashMap,
    InMemoryCAS,
    PackCAS,
    build,
    check,
    convert,
    open_root,
)
from hamt_bulk.block import DAG_CBOR
from hamt_bulk.crypto import transformers
from hamt_bulk.errors import BlockNotFound, InvalidInput, NotAuthentic, WrongKey
from hamt_bulk.formats.root import Root

# Arguments


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"to": "py-hamt-2"}, r"to='py-hamt-2', expected \"pyhamt\", \"ipldstore\" or a HashMap"),
        ({"to": None}, "to=None, expected"),
        ({"zarr_format": 2}, "zarr_format=2, expected 3, or None"),
        ({"zarr_format": 3, "to": "ipldstore"}, 'zarr_format=3 and to="ipldstore": ipldstore holds Zarr v2'),
        ({"encryption": Encryption(bytes(32)), "to": "ipldstore"}, 'encryption= and to="ipldstore"'),
        ({"max_bucket_size": 3, "to": HashMap()}, 'max_bucket_size=3 is for to="pyhamt", found to=HashMap'),
        ({"max_bucket_size": 3, "to": "ipldstore"}, "max_bucket_size=3 is for"),
        ({"max_bucket_size": 0}, "max_bucket_size"),
        ({"resume": True}, "resume=True without a journal"),
        ({"zarr_format": 3}, "nothing here is Zarr v2"),
        ({"transformer_decode": lambda key, data: data}, "transformer_decode= is for roots of py-hamt 2"),
        (
            {"transformer_decode": lambda key, data: data, "decryption": Encryption(bytes(32))},
            "decoded by one of them",
        ),
    ],
    ids=str,
)
def test_arguments_that_contradict_each_other_are_refused_before_anything_is_written(options, said) -> None:
    cas = InMemoryCAS()
    root = build({"a": b"1"}, cas)
    before = set(cas.blocks)
    with pytest.raises(InvalidInput, match=said):
        convert(root, cas, **options)
    assert set(cas.blocks) == before


# Another store


@TO
@pytest.mark.parametrize("name", ["py-hamt 2", "ipldstore", "js ipld-hashmap"])
def test_another_store_has_all_of_the_result(name: str, to: Any, tmp_path) -> None:
    source = made(name, ITEMS)
    target = PackCAS(tmp_path, hasher=source.cas.hasher)
    root = convert(source.root, source.cas, to, target)
    assert root == convert(source.root, source.cas, to)
    source.cas.blocks.clear()
    expected = as_it_comes_back("ipldstore" if "ipldstore" in (to, name) else "pyhamt", ITEMS)
    assert_same(dict(open_root(root, target).items()), expected)
    if to != "ipldstore":
        assert check(root, target).ok


def test_structures_that_values_are_links_to_are_copied_whole() -> None:
    blocks = Blocks()
    leaf = link(blocks.put(b"leaf"))
    inner = link(blocks.put(dag_cbor.encode({"leaf": leaf}), DAG_CBOR))
    old = hash_map([("a", inner), ("b", {"c": [inner, leaf]}), ("d", b"1")], blocks)
    target = InMemoryCAS()
    root = convert(old, blocks.memory(), HashMap(4), target)
    found = open_root(root, target)
    assert dict(found.items()) == {"a": inner, "b": {"c": [inner, leaf]}, "d": b"1"}
    assert target.has_many([inner, leaf]) == [True, True]


def test_files_that_were_split_in_another_way_stay_in_their_store() -> None:
    """Their CIDs could not be kept."""
    source = made("ipldstore with a HashMap", ITEMS)
    with pytest.raises(InvalidInput, match="was split in another way than this store splits"):
        convert(source.root, source.cas, target=InMemoryCAS("sha2-256"))
    # py-hamt 2's values are decoded, and so written anew.
    source = made("py-hamt 2 files", ITEMS)
    target = InMemoryCAS()
    root = convert(source.root, source.cas, target=target)
    assert dict(open_root(root, target).items()) == ITEMS


def test_a_value_that_is_missing_and_kept_stays_missing() -> None:
    source = made("py-hamt 1", ITEMS)
    pointer = source.pointer("t2m/3.1")
    assert pointer is not None
    del source.cas.blocks[pointer]
    root = convert(source.root, source.cas)
    report = check(root, source.cas)
    assert [problem.where for problem in report.problems] == ["t2m/3.1"]
    with pytest.raises(BlockNotFound):
        convert(source.root, source.cas, target=InMemoryCAS())


# Zarr v3


@pytest.mark.parametrize(
    "name", ["pyhamt", "py-hamt 2", "py-hamt 1", "ipldstore", "ipldstore with a HashMap"]
)
@pytest.mark.parametrize("to", ["pyhamt", HashMap(5, 3)], ids=str)
def test_documents_of_zarr_v2_become_those_of_v3(name: str, to: Any) -> None:
    source = made(name, ITEMS)
    root = convert(source.root, source.cas, to, zarr_format=3)
    found = open_root(root, source.cas)
    chunks = {key: value for key, value in ITEMS.items() if not is_document(key)}
    assert {key: value for key, value in found.items() if not key.endswith("zarr.json")} == chunks
    with xr.open_zarr(found.store(), zarr_format=3) as opened:
        xr.testing.assert_identical(opened.load(), dataset())
    again = {key: value for key, value in found.items() if key.endswith("zarr.json")}
    assert root == rebuilt_with(source, again, to)


def rebuilt_with(source: Root, documents: Mapping[str, Any], to: Any) -> Any:
    chunks = {
        key: source.get(key) if source.kind == "py-hamt-2" else link(pointer)
        for key, pointer in source.pointers()
        if not is_document(key)
    }
    return build({**chunks, **documents}, source.cas, layout=to)


# Encryption

OURS = Encryption(bytes(range(32)), header=b"ours", deterministic=True)
HIDDEN = Encryption(bytes(range(32)), hide_names=True, deterministic=True)


@pytest.mark.parametrize("encryption", [OURS, HIDDEN], ids=["ours", "hidden"])
@pytest.mark.parametrize("to", ["pyhamt", HashMap(5, 3)], ids=str)
@pytest.mark.parametrize("name", ["pyhamt", "py-hamt 2", "js ipld-hashmap", "ipldstore"])
def test_what_is_encrypted_on_the_way_is_read_with_the_key_and_comes_back(name, to, encryption) -> None:
    source = made(name, ITEMS)
    root = convert(source.root, source.cas, to, encryption=encryption)
    expected = as_it_comes_back(name, ITEMS)
    assert_same(dict(open_root(root, source.cas, encryption=encryption).items()), expected)
    assert root == convert(source.root, source.cas, to, encryption=encryption)
    plain = dict(open_root(root, source.cas).items())
    assert not set(plain.values()) & set(expected.values())
    assert bool(set(plain) & set(expected)) is (encryption is OURS)
    other = Encryption(bytes(32), header=b"ours", hide_names=encryption is HIDDEN)
    with pytest.raises((WrongKey, NotAuthentic)):
        dict(open_root(root, source.cas, encryption=other).items())
    back = convert(root, source.cas, decryption=encryption)
    assert back == build(expected, source.cas)
    anew = convert(root, source.cas, decryption=encryption, encryption=OURS)
    assert anew == convert(back, source.cas, encryption=OURS)
    with xr.open_zarr(open_root(anew, source.cas, encryption=OURS).store()) as opened:
        xr.testing.assert_identical(opened.load(), dataset())


def test_what_py_hamt_2_encrypted_becomes_plain_or_ours() -> None:
    old = Encryption(bytes(range(32)), header=b"old", exclude_vars=["x", "time"], format="py-hamt-2")
    blocks = Blocks()
    root = py_hamt_2(hierarchy(3, 10), blocks, encode=transformers(old)[0])
    cas = blocks.memory()
    assert convert(root, cas, decryption=old) == build(hierarchy(3, 10), cas)
    assert convert(root, cas, transformer_decode=transformers(old)[1]) == build(hierarchy(3, 10), cas)
    new = convert(root, cas, HashMap(), decryption=old, encryption=OURS)
    assert dict(open_root(new, cas, encryption=OURS).items()) == hierarchy(3, 10)
    with pytest.raises((WrongKey, NotAuthentic), match="cannot be decrypted"):
        convert(root, cas, decryption=Encryption(bytes(32), format="py-hamt-2"))
