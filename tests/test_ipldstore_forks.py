"""Roots of ipldstore's fork, which keep their chunks in a HashMap."""

import pickle
from typing import Any

import dag_cbor
import pytest
from ipldstore_made import VECTOR_ITEMS, as_ipldstore_gives, frozen_naively
from test_zarr_read import collect
from zarr.core.sync import sync

from hamt_bulk import build, errors
from hamt_bulk.block import to_bytes, to_cid
from hamt_bulk.formats import open_root
from hamt_bulk.ipldstore import IPLDStore, MappingCAStore
from hamt_bulk.layout import HashMap

HASHMAP = HashMap(8, 5, "sha2-256")


@pytest.fixture
def forked() -> tuple[MappingCAStore, bytes, dict[str, bytes]]:
    """A store, the root in it, and what it holds."""
    cas = MappingCAStore()
    chunks = {f"a/{number}": b"chunk %d" % number for number in range(500)}
    hamt = build(chunks, cas, layout=HASHMAP)
    others = {key: value for key, value in VECTOR_ITEMS.items() if key != "a/0"}
    root = dag_cbor.decode(frozen_naively(others))
    assert isinstance(root, dict)
    return cas, to_bytes(cas.put(root | {"hamt": hamt})), chunks | as_ipldstore_gives(others)


def test_a_root_with_its_chunks_in_a_hashmap_is_read(forked) -> None:
    cas, cid, items = forked
    root = open_root(cid, cas)
    assert root.kind == "ipldstore" and dict(root.items()) == items and len(root) == len(items)
    assert [key for key in ("a/499", "a/500", ".zattrs", "hamt", "a") if key in root] == ["a/499", ".zattrs"]
    assert root.read("a/7", root.pointer("a/7"), 2, 5) == b"unk"
    assert sorted(sync(collect(root.store().list_dir("a"))))[:3] == [".zarray", ".zattrs", "0"]
    copy = pickle.loads(pickle.dumps(root))
    assert copy.get("a/499") == b"chunk 499"


def test_a_key_looked_up_in_a_hashmap_loads_no_other_chunk_and_not_all_nodes(forked) -> None:
    cas, cid, _ = forked
    loads: list[bytes] = []
    reading = cas.read_blocks
    cas.read_blocks = lambda cids: loads.extend(cids) or reading(cids)
    store = IPLDStore(cas)
    store.set_root(cid)
    assert store["a/77"] == b"chunk 77"
    assert len(loads) <= 6


def test_an_edit_of_such_a_root_gives_a_plain_one(forked) -> None:
    cas, cid, items = forked
    store = IPLDStore(cas)
    store.set_root(cid)
    assert store.freeze() == to_cid(cid) and dict(store) == items
    store["a/500"] = b"new"
    plain = frozen_naively(items | {"a/500": b"new"})
    assert cas.get_raw(store.freeze()) == plain


def test_a_key_in_both_is_that_of_the_hashmap() -> None:
    """As whoever wrote such a root looks it up."""
    cas = MappingCAStore()
    hamt = build({"a": b"theirs"}, cas, layout=HASHMAP)
    cid = cas.put({"a": cas.put(b"mine"), "b": cas.put(b"b"), "hamt": hamt})
    root = open_root(cid, cas)
    assert dict(root.items()) == {"a": b"theirs", "b": b"b"} and root.get("a") == b"theirs"


@pytest.mark.parametrize("value", [1, {"a": 1}])
def test_a_hashmap_that_holds_values_is_refused(value: Any) -> None:
    cas = MappingCAStore()
    hamt = build({"a": value}, cas, layout=HASHMAP)
    root = open_root(cas.put({"hamt": hamt}), cas)
    for call in (lambda: root.get("a"), lambda: list(root.pointers())):
        with pytest.raises(errors.MalformedNode, match="its HashMap has a value under 'a'"):
            call()


def test_a_hamt_that_is_missing_or_is_none_is_told(forked) -> None:
    cas, cid, _ = forked
    hamt = cas.get(cid)["hamt"]  # type: ignore[index,call-overload]
    del cas.mapping[str(cas.normalize_cid(hamt))]
    with pytest.raises(errors.BlockNotFound, match=str(cas.normalize_cid(hamt))):
        open_root(cid, cas).pointer("a/1")
    other = open_root(cas.put({"hamt": cas.put({"not": "a root"})}), cas)
    with pytest.raises(errors.InvalidInput, match="is not a root of"):
        other.pointer("a/1")
