"""`convert`: a root of any kind becomes one of another, with the same keys and values."""

from collections.abc import Iterator, Mapping
from typing import Any

import dag_cbor
import dask
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from old_kinds import WRITERS, as_it_comes_back, as_text, dataset, hierarchy, plain
from old_writers import DOCUMENTS, Blocks, hash_map, ipldstore, link, py_hamt_2
from stored import assert_same

from hamt_bulk import (
    Encryption,
    HashMap,
    Inline,
    InMemoryCAS,
    KeyFile,
    PackCAS,
    build,
    check,
    convert,
    open_root,
)
from hamt_bulk.block import DAG_CBOR, RAW, parse
from hamt_bulk.crypto import transformers
from hamt_bulk.errors import BlockNotFound, InvalidInput, NotAuthentic, NotPortable, WrongKey
from hamt_bulk.formats.root import Root
from hamt_bulk.pointers import inline_value, is_inline

TARGETS: dict[str, Any] = {
    "pyhamt": "pyhamt",
    "HashMap of the specification": HashMap(),
    "HashMap of js": HashMap(5, 3),
    "HashMap of IAMap": HashMap(8, 5, "murmur3-128"),
    "HashMap of py-hamt 1": HashMap(8, 5, text_keys=True),
    "HashMap of one": HashMap(3, 1, "blake3"),
    "ipldstore": "ipldstore",
}

SOURCES = {**WRITERS, "pyhamt": ("pyhamt", lambda items, blocks: as_pyhamt(items, blocks))}

ITEMS = hierarchy(2, 6)

MANY = {f"a/c/{number}": b"%d" % number for number in range(2000)}

TO = pytest.mark.parametrize("to", TARGETS.values(), ids=list(TARGETS))


def as_pyhamt(items: Mapping[str, bytes], blocks: Blocks) -> bytes:
    cas = InMemoryCAS()
    root = bytes(build(items, cas))
    blocks.update(cas.blocks)
    return root


def made(name: str, items: Mapping[str, bytes]) -> Root:
    """The root of a writer, in a store whose hasher is that of its chunks."""
    blocks = Blocks()
    root = SOURCES[name][1](items, blocks)
    return open_root(root, blocks.memory("sha2-256" if SOURCES[name][0] == "ipldstore" else "blake3"))


def is_document(key: str) -> bool:
    return key.rpartition("/")[2] in DOCUMENTS


def rebuilt(source: Root, to: Any) -> Any:
    """The root of a build, key by key, of what the source has: its links where values have blocks of their own."""
    items: dict[str, Any] = {}
    for key, pointer in source.pointers():
        if source.kind in ("py-hamt-2", "ipldstore") and (source.kind == "py-hamt-2" or is_inline(pointer)):
            items[key] = source.get(key)
        elif not is_inline(pointer):
            items[key] = link(pointer)
        else:
            items[key] = Inline(inline_value(pointer)) if isinstance(to, HashMap) else inline_value(pointer)
    return build(items, source.cas, layout=to)


# Every kind, to every kind


@TO
@pytest.mark.parametrize("name", SOURCES)
def test_the_result_has_the_same_chunks_and_the_root_of_a_build(name: str, to: Any) -> None:
    source = made(name, ITEMS)
    root = convert(source.root, source.cas, to)
    found = open_root(root, source.cas)
    expected = as_it_comes_back("ipldstore" if to == "ipldstore" else name, as_it_comes_back(name, ITEMS))
    assert_same(dict(found.items()), expected)
    assert all(found.get(key) == value for key, value in ITEMS.items() if not is_document(key))
    if to == "ipldstore":
        naive = Blocks()
        if all(parse(pointer).codec == RAW for _, pointer in found.pointers() if not is_inline(pointer)):
            expected_root = ipldstore(ITEMS, naive)
            if source.cas.hasher == "sha2-256":
                assert bytes(root) == expected_root
    else:
        assert root == rebuilt(source, to)
        if not any(is_inline(pointer) for _, pointer in found.pointers()):
            assert check(root, source.cas).ok


@TO
def test_xarray_opens_what_became_of_a_root_and_a_second_call_gives_it_again(to: Any) -> None:
    source = made("py-hamt 2", ITEMS)
    before = dict(source.cas.blocks)
    root = convert(source.root, source.cas, to)
    assert before.items() <= source.cas.blocks.items()
    after = dict(source.cas.blocks)
    assert convert(source.root, source.cas, to) == root and source.cas.blocks == after
    with xr.open_zarr(open_root(root, source.cas).store()) as opened:
        xr.testing.assert_identical(opened.load(), dataset())


SAME_ROOT_AFTER_A_WAY_THROUGH: dict[tuple[str, str], bool] = {
    # Trees record a link a key, and nothing of how they came about. An ipldstore keeps what documents say and not
    # their bytes, so whatever was one comes back with documents in the order of dag-cbor.
    ("pyhamt", "HashMap"): True,
    ("pyhamt", "ipldstore"): False,
    ("HashMap", "pyhamt"): True,
    ("HashMap", "HashMap"): True,
    ("HashMap", "ipldstore"): False,
    ("ipldstore", "pyhamt"): True,
    ("ipldstore", "HashMap"): True,
}


@pytest.mark.parametrize(("there", "through"), SAME_ROOT_AFTER_A_WAY_THROUGH)
def test_a_way_through_another_kind_and_back_gives_the_same_root_where_it_keeps_all(there, through) -> None:
    kinds = {"pyhamt": "pyhamt", "HashMap": HashMap(5, 3), "ipldstore": "ipldstore"}
    cas = InMemoryCAS("sha2-256")
    first = convert(build(ITEMS, cas), cas, kinds[there])
    to = HashMap(8, 5, text_keys=True) if there == through else kinds[through]
    back = convert(convert(first, cas, to), cas, kinds[there])
    assert (back == first) is SAME_ROOT_AFTER_A_WAY_THROUGH[there, through]
    # What came back once stays as it is.
    assert convert(convert(back, cas, to), cas, kinds[there]) == back


@TO
def test_an_empty_root_becomes_an_empty_root(to: Any) -> None:
    for name in SOURCES:
        source = made(name, {})
        root = convert(source.root, source.cas, to)
        assert len(open_root(root, source.cas)) == 0
        if to != "ipldstore":
            assert root == build({}, source.cas, layout=to)


def test_max_bucket_size_is_that_of_the_result() -> None:
    source = made("py-hamt 1", MANY)
    roots = {size: convert(source.root, source.cas, max_bucket_size=size) for size in (1, 4, 9)}
    assert len(set(roots.values())) == 3
    for size, root in roots.items():
        assert root == build(MANY, source.cas, max_bucket_size=size)


# Any map


@settings(max_examples=30)
@given(
    st.dictionaries(st.text() | st.binary(), plain, max_size=60),
    st.builds(HashMap, st.integers(3, 9), st.integers(1, 4), st.sampled_from(["sha2-256", "blake3"])),
    st.integers(3, 9),
)
def test_any_map_becomes_one_of_another_shape(items, shape, bit_width) -> None:
    items = {
        key: value for key, value in items.items() if isinstance(key, bytes) or key.encode() not in items
    }
    blocks = Blocks()
    old = hash_map(items.items(), blocks, bit_width=bit_width)
    cas = blocks.memory()
    root = convert(old, cas, shape)
    assert dict(open_root(root, cas).items()) == {as_text(key): value for key, value in items.items()}
    assert root == build({key: Inline(value) for key, value in items.items()}, cas, layout=shape)


@settings(max_examples=30)
@given(st.dictionaries(st.text(), plain, max_size=20))
def test_any_map_of_py_hamt_2_becomes_a_hash_map(items) -> None:
    blocks = Blocks()
    old = py_hamt_2(items, blocks)
    cas = blocks.memory()
    root = convert(old, cas, HashMap())
    assert dict(open_root(root, cas).items()) == items
    if all(isinstance(value, bytes) for value in items.values()):
        assert convert(old, cas) == build(items, cas)
    else:
        with pytest.raises(InvalidInput, match="what is converted to holds bytes: convert to a HashMap"):
            convert(old, cas)


def test_keys_that_are_no_text_need_a_hash_map() -> None:
    blocks = Blocks()
    old = hash_map([(b"\xff", b"1"), ("a", b"2")], blocks)
    cas = blocks.memory()
    assert dict(open_root(convert(old, cas, HashMap(5)), cas).items()) == {b"\xff": b"1", "a": b"2"}
    with pytest.raises(InvalidInput, match=r"the key b'\\xff' is no text, .*: convert to a HashMap"):
        convert(old, cas)
    for to in ("ipldstore", HashMap(text_keys=True)):
        with pytest.raises(InvalidInput):
            convert(old, cas, to)


def test_values_that_are_no_bytes_need_a_hash_map() -> None:
    blocks = Blocks()
    old = hash_map([("a", {"b": [1]})], blocks)
    for to in ("pyhamt", "ipldstore"):
        with pytest.raises(InvalidInput, match="'a' is a dict, and what is converted to holds bytes"):
            convert(old, blocks.memory(), to)


def test_a_key_that_is_a_folder_has_no_form_in_an_ipldstore() -> None:
    cas = InMemoryCAS()
    root = build({"a": b"1", "a/b": b"2"}, cas)
    with pytest.raises(InvalidInput, match="'a' is a value, and other keys lie below it"):
        convert(root, cas, "ipldstore")


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
@pytest.mark.parametrize("name", ["pyhamt", "py-hamt 2", "py-hamt 1", "ipldstore", "js ipld-hashmap"])
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


# Schedulers


@pytest.fixture
def client() -> Iterator[Client]:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_each_local_scheduler_gives_the_same_root(scheduler: str) -> None:
    source = made("py-hamt 2", MANY)
    with dask.config.set(scheduler=scheduler):
        for to in ("pyhamt", HashMap(5, 3), HashMap(9, 2)):
            assert convert(source.root, source.cas, to) == build(MANY, source.cas, layout=to)


def test_a_cluster_of_processes_gives_the_same_roots(tmp_path, client: Client) -> None:
    key = tmp_path / "key"
    key.write_bytes(bytes(range(32)))
    key.chmod(0o600)
    encryption = Encryption(KeyFile(key), deterministic=True)
    for name, to in (
        ("py-hamt 2", "pyhamt"),
        ("js ipld-hashmap", HashMap(9, 2)),
        ("ipldstore", HashMap(5, 3)),
    ):
        blocks = Blocks()
        root = SOURCES[name][1](MANY, blocks)
        cas, memory = blocks.packs(tmp_path / name), blocks.memory()
        with dask.config.set(scheduler="threads"):
            plain_root = convert(root, memory, to)
            sealed_root = convert(root, memory, to, encryption=encryption)
        assert convert(root, cas, to) == plain_root
        assert convert(root, cas, to, encryption=encryption) == sealed_root
        target = PackCAS(tmp_path / f"{name} target")
        assert convert(root, cas, to, target=target) == plain_root
        assert dict(open_root(plain_root, target).items()) == MANY
    with pytest.raises(NotPortable):
        convert(root, cas, encryption=Encryption(bytes(32)))
    with pytest.raises(NotPortable):
        convert(root, memory)


def test_progress_counts_the_parts_and_looks_again() -> None:
    source = made("py-hamt 2", MANY)
    seen: list[Any] = []
    convert(source.root, source.cas, progress=seen.append)
    stages = list(dict.fromkeys(progress.stage for progress in seen))
    assert stages[0] == "convert" and stages[-1] == "verify"
    last = [progress for progress in seen if progress.stage == "convert"][-1]
    assert last.done == last.total > 1
    assert np.all(np.diff([progress.done for progress in seen if progress.stage == "convert"]) >= 0)
