"""ipldstore's mapping beside a dict: its keys, its roots, and what it refuses."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from ipldstore_made import VECTOR, VECTOR_ITEMS, as_ipldstore_gives, documents, filled, frozen, frozen_naively
from multiformats import CID
from zarr_stores import run_machine

from hamt_bulk import InMemoryCAS, PackCAS, errors
from hamt_bulk.block import text, to_bytes
from hamt_bulk.formats.ipldstore import write_ipldstore
from hamt_bulk.formats.ipldstore_tree import DOCUMENTS
from hamt_bulk.ipldstore import IPLDStore, MappingCAStore
from hamt_bulk.testing.contract import LARGE


def test_the_root_is_that_of_ipldstore() -> None:
    backend: dict[str, bytes] = {}
    store = filled(VECTOR_ITEMS, MappingCAStore(backend))
    assert store.root_cid is None
    assert str(store.freeze()) == VECTOR and store.root_cid == store.freeze()
    assert sorted(backend) == ["bafkreihc4ibtvz7btvualgou5mfbgwncwshmlovmoudgyml7x6crlhcu54", VECTOR]
    assert backend[VECTOR] == frozen_naively(VECTOR_ITEMS)
    assert len(store.to_car()) == 560  # as ipldstore's documentation has it


def test_the_examples_of_ipldstore_hold() -> None:
    castore = MappingCAStore()
    store = IPLDStore(castore)
    store["a"] = b"b"
    assert store["a"] == b"b" and len(store) == 1
    del store["a"]
    assert len(store) == 0
    with pytest.raises(KeyError):
        store["a"]
    store["a/b"] = b"c"
    assert "a" in castore.get(store.freeze())  # type: ignore[operator]
    store[".zgroup"] = b'{"test": 123}'
    store["d"] = b"e"
    assert sorted(store) == [".zgroup", "a/b", "d"]
    array = zarr.create_array(
        store.zarr_store, shape=5, dtype="i1", compressors=None, zarr_format=2, overwrite=True
    )
    array[:] = np.arange(5, dtype="i1")
    assert CID.decode("bafkreiaixnpf23vkyecj5xqispjq5ubcwgsntnnurw2bjby7khe4wnjihu") in castore


segments = st.sampled_from(["a", "b", "0", "0.0", ""])
paths = st.lists(segments, min_size=1, max_size=3).map("/".join)
doc_keys = st.builds("{}{}".format, st.sampled_from(["", "d/", "e/c/"]), st.sampled_from(DOCUMENTS))


class AsADict(RuleBasedStateMachine):
    """Beside a dict, with roots taken and set at any time."""

    @initialize(pack=st.booleans())
    def begin(self, pack: bool) -> None:
        self.store = IPLDStore("memory://ipldstore") if pack else IPLDStore()
        self.model: dict[str, bytes] = {}
        self.roots: list[tuple[CID, dict[str, bytes]]] = []

    @rule(key=paths, value=st.binary(max_size=3))
    def set(self, key: str, value: bytes) -> None:
        if not any(other.startswith(f"{key}/") or key.startswith(f"{other}/") for other in self.model):
            self.store[key] = self.model[key] = value

    @rule(key=doc_keys, value=documents)
    def set_a_document(self, key: str, value: bytes) -> None:
        self.store[key] = value
        self.model |= as_ipldstore_gives({key: value})

    @rule(key=paths | doc_keys)
    def delete(self, key: str) -> None:
        if key in self.model:
            del self.store[key], self.model[key]
        else:
            with pytest.raises(errors.KeyNotFound):
                del self.store[key]

    @rule()
    def clear(self) -> None:
        self.store.clear()
        self.model = {}

    @rule()
    def freeze(self) -> None:
        root = self.store.freeze()
        assert root == self.store.root_cid
        assert to_bytes(root) == frozen(self.model, InMemoryCAS(self.store.castore.hasher))
        self.roots.append((root, dict(self.model)))

    @rule(data=st.data())
    def go_back(self, data: st.DataObject) -> None:
        if self.roots:
            root, model = data.draw(st.sampled_from(self.roots))
            self.store.set_root(root)
            self.model = dict(model)
            assert self.store.freeze() == root

    @invariant()
    def both_hold_the_same(self) -> None:
        if hasattr(self, "model"):
            assert dict(self.store) == self.model and len(self.store) == len(self.model)
            assert all(key in self.store for key in self.model) and "absent" not in self.store


def test_it_is_a_dict_whose_states_have_roots() -> None:
    run_machine(AsADict, examples=60, steps=25)


def test_another_separator_gives_the_same_root() -> None:
    store = IPLDStore(sep=".")
    for key, value in {"a.b": b"1", "a.c.d": b"2"}.items():
        store[key] = value
    assert store.freeze() == filled({"a/b": b"1", "a/c/d": b"2"}).freeze()
    assert sorted(store) == ["a.b", "a.c.d"] and store["a.c.d"] == b"2"
    with pytest.raises(errors.InvalidInput, match="a key has no slashes"):
        store["a/b"] = b""
    with pytest.raises(errors.InvalidInput, match="sep=''"):
        IPLDStore(sep="")


def test_a_value_above_one_mib_is_a_file() -> None:
    store = filled({"a/0": LARGE})
    assert store["a/0"] == LARGE
    assert len(store.castore.mapping) == 4  # type: ignore[attr-defined]
    copy = IPLDStore.from_car(store.to_car())
    assert copy["a/0"] == LARGE and copy.freeze() == store.freeze()


@pytest.mark.parametrize("value", ["text", 1, None])
def test_what_is_no_bytes_is_refused(value: Any) -> None:
    with pytest.raises(errors.InvalidInput, match="'a': a value must be bytes"):
        IPLDStore()["a"] = value


def test_any_buffer_is_taken() -> None:
    store = filled({"a": bytearray(b"1"), "b": np.arange(2, dtype="u1"), "c": memoryview(b"xyz")[::2]})  # type: ignore[dict-item]
    assert dict(store) == {"a": b"1", "b": b"\0\1", "c": b"xz"}


def test_what_no_root_has_a_form_for_is_refused_and_changes_nothing() -> None:
    store = filled({"a": b"1"})
    root = store.freeze()
    with pytest.raises(errors.InvalidInput, match="nan is no number"):
        store[".zattrs"] = b'{"a": NaN}'
    with pytest.raises(errors.InvalidInput, match="a key must be text"):
        store[1] = b""  # type: ignore[index]
    assert store.freeze() == root and list(store) == ["a"]
    store["a/b"] = b"2"
    with pytest.raises(errors.InvalidInput, match="'a' is a value, and other keys lie below it"):
        store.freeze()


def test_a_root_that_is_missing_or_is_none_leaves_the_keys_as_they_were() -> None:
    store = filled({"a": b"1"})
    with pytest.raises(errors.BlockNotFound, match=r"the root .* is not in this store"):
        store.set_root(VECTOR)
    with pytest.raises(errors.MalformedNode, match="is no ipldstore root"):
        store.set_root(store.castore.put([1]))  # type: ignore[attr-defined]
    assert dict(store) == {"a": b"1"} and store.root_cid is None


def test_a_chunk_that_is_missing_is_no_missing_key() -> None:
    store = filled({"a": b"1"})
    store.castore.mapping.clear()  # type: ignore[attr-defined]
    with pytest.raises(errors.BlockNotFound) as raised:
        store["a"]
    assert not isinstance(raised.value, KeyError) and "a" in store


def test_a_frozen_one_travels_and_an_edited_one_refuses(tmp_path: Path) -> None:
    store = filled({"a": b"1"}, tmp_path / "store")
    with pytest.raises(errors.NotPortable, match="call `freeze` first"):
        pickle.dumps(store)
    store.freeze()
    copy = pickle.loads(pickle.dumps(store))
    assert dict(copy) == {"a": b"1"} and copy.freeze() == store.freeze()
    assert isinstance(store.castore, PackCAS) and VECTOR not in repr(store)
    assert repr(store) == f"IPLDStore({store.castore!r}, {store.freeze()})"


def test_ten_thousand_keys_are_written_and_read_back() -> None:
    keys = {f"a/{number}": LARGE[number : number + 4] for number in range(10_000)}
    store = filled(keys)
    assert dict(IPLDStore.from_car(store.to_car())) == keys


def test_roots_of_a_castore_are_those_of_any_store() -> None:
    store = filled(VECTOR_ITEMS)
    pointers = store._opened.pointers()
    assert text(write_ipldstore(pointers, InMemoryCAS("sha2-256"))) == str(store.freeze())
    assert json.loads(store["a/.zattrs"]) == {"_ARRAY_DIMENSIONS": ["a"]}
