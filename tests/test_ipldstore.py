"""ipldstore's roots, written and read: its own vector, and a writer that follows the format's text naively."""

import json
import math
import os
import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st
from ipldstore_made import (
    VECTOR,
    VECTOR_ITEMS,
    as_ipldstore_gives,
    documents,
    everything,
    frozen,
    frozen_naively,
    hierarchies,
    root_of,
)
from stored import assert_same, by_to_zarr

from hamt_bulk import InMemoryCAS, PackCAS
from hamt_bulk.block import text, to_bytes
from hamt_bulk.errors import InvalidInput, KeyNotFound
from hamt_bulk.formats.ipldstore import IpldstoreRoot, _shared, is_ipldstore, write_ipldstore
from hamt_bulk.formats.ipldstore_tree import DOCUMENTS
from hamt_bulk.pointers import inline_pointer, is_inline

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


def test_the_store_names_the_root() -> None:
    assert text(frozen(VECTOR_ITEMS, InMemoryCAS("blake3"))).startswith("bafyr4i")
    assert len({frozen(VECTOR_ITEMS, InMemoryCAS(hasher)) for hasher in ("blake3", "sha2-256")}) == 2


def test_metadata_of_zarr_3_is_a_value_like_any_other() -> None:
    root = root_of({"zarr.json": b"{}", "a/zarr.json": b"{}"})
    assert [is_inline(pointer) for _, pointer in root.pointers()] == [False, False]
    assert root.get("a/zarr.json") == b"{}"


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
