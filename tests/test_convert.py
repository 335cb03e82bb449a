"""`convert`: a root of any kind becomes one of another, with the same keys and values."""

from collections.abc import Iterator
from typing import Any

import dask
import numpy as np
import pytest
import xarray as xr
from converted import ITEMS, MANY, SOURCES, TO, is_document, made, rebuilt
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from old_kinds import EXAMPLES, as_it_comes_back, as_text, dataset, plain
from old_writers import Blocks, hash_map, ipldstore, py_hamt_2
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
from hamt_bulk.block import RAW, parse
from hamt_bulk.errors import InvalidInput, NotPortable
from hamt_bulk.pointers import is_inline

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


@settings(max_examples=EXAMPLES)
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


@settings(max_examples=EXAMPLES)
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
