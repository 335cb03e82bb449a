"""The names that users of ipldstore know: mappings, stores and the Zarr store, beside a dict and zarr's memory store."""

import asyncio
import hashlib
import json
import pickle
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import dag_cbor
import numpy as np
import pytest
import xarray as xr
import zarr
from dask.base import tokenize
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from multiformats import CID, multicodec, multihash
from test_ipldstore import VECTOR, VECTOR_ITEMS, as_ipldstore_gives, documents, frozen, frozen_naively
from test_zarr_read import collect, dataset
from test_zarr_store import run_machine
from zarr.core.buffer import cpu
from zarr.core.sync import sync
from zarr.storage import MemoryStore
from zarr.testing.store import StoreTests

from hamt_bulk import InMemoryCAS, PackCAS, build, errors
from hamt_bulk.block import identify, text, to_bytes, to_cid
from hamt_bulk.formats import open_root
from hamt_bulk.formats.ipldstore import write_ipldstore
from hamt_bulk.formats.ipldstore_tree import DOCUMENTS
from hamt_bulk.ipldstore import IPLDStore, MappingCAStore, iter_links
from hamt_bulk.ipldstore.zarr import IPLDZarrStore
from hamt_bulk.layout import HashMap
from hamt_bulk.testing.contract import LARGE, CASContract
from hamt_bulk.xarray import to_hamt


def filled(items: dict[str, bytes], castore: Any = None) -> IPLDStore:
    store = IPLDStore(castore)
    store.update(items)
    return store


# Stores


class TestMappingCAStore(CASContract):
    portable = False

    def fresh(self, folder: Path) -> MappingCAStore:
        return MappingCAStore()

    def corrupt(self, cas: MappingCAStore, cid: bytes) -> None:
        data = cas.blocks[cid]
        cas.blocks[cid] = bytes([data[0] ^ 1]) + data[1:]


class Folder(MutableMapping[str, bytes]):
    """Files, which another process can reach."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder

    def __getitem__(self, key: str) -> bytes:
        try:
            return (self.folder / key.replace("/", "_")).read_bytes()
        except FileNotFoundError:
            raise KeyError(key) from None

    def __setitem__(self, key: str, value: bytes) -> None:
        (self.folder / key.replace("/", "_")).write_bytes(value)

    def __delitem__(self, key: str) -> None:
        (self.folder / key).unlink()

    def __iter__(self) -> Iterator[str]:
        return (path.name for path in self.folder.iterdir())

    def __len__(self) -> int:
        return sum(1 for _ in self)


class TestAnyMapping(TestMappingCAStore):
    """In another base and with the other hash, too."""

    portable = True

    def fresh(self, folder: Path) -> MappingCAStore:
        return MappingCAStore(Folder(folder), "blake3", "base58btc")


@pytest.mark.parametrize("call", ["saving", "loading", "asking"])
def test_a_mapping_that_fails_is_the_outside(call: str, tmp_path: Path) -> None:
    """Also where it raises what zarr takes for a chunk that is not there."""
    folder = Folder(tmp_path / "folder")
    store = MappingCAStore(folder)
    cid = store.put(b"value")
    folder.folder = tmp_path / "gone"
    if call != "saving":
        folder.folder.write_bytes(b"a file")
    with pytest.raises(errors.CASError, match=r"Folder failed on block .*: \w+Error") as raised:
        {
            "saving": lambda: store.put(b"other"),
            "loading": lambda: store.get(cid),
            "asking": lambda: cid in store,
        }[call]()
    assert not isinstance(raised.value, FileNotFoundError)


test_cid = CID("base58btc", 1, "raw", "12206e6ff7950a36187a801613426e858dce686cd7d7e3c0fc42ee0330072d245c95")
IPLD_VALUES = [
    *(
        b"hallo",
        "hallo",
        {"a": 1},
        [1, 2, 3],
        1,
        1.34,
        True,
        False,
        None,
        test_cid,
        [test_cid],
        {"foo": test_cid},
    ),
    *([b"bytes", {"b": [None, b""]}], {}, LARGE),
]


@pytest.mark.parametrize("value", IPLD_VALUES, ids=lambda value: repr(value)[:20])
def test_a_value_is_put_and_got(value: Any) -> None:
    store = MappingCAStore()
    cid = store.put(value)
    assert store.get(cid) == value and cid in store
    if value is not LARGE:
        data = value if isinstance(value, bytes) else dag_cbor.encode(value)
        codec = "raw" if isinstance(value, bytes) else "dag-cbor"
        assert cid == CID("base32", 1, codec, ("sha2-256", hashlib.sha256(data).digest()))
        assert store.mapping == {str(cid): data} and store.get_raw(cid) == data


@pytest.mark.parametrize("codec", ["dag-json", 0x0129, multicodec.get("dag-json")], ids=repr)
def test_a_block_has_the_codec_that_is_said_and_any_length(codec: Any) -> None:
    store = MappingCAStore()
    cid = store.put_raw(bytes(3 << 20), codec)
    assert cid.codec.name == "dag-json" and store.get_raw(cid) == bytes(3 << 20)
    with pytest.raises(errors.InvalidInput, match="codec 0x129, and values are read as raw"):
        store.get(cid)
    assert len(store.mapping) == 1


@pytest.mark.parametrize(
    "options, said",
    [
        ({"default_hash": "md5"}, "default_hash='md5': blocks can be named with 'blake3', 'sha2-256'"),
        ({"default_base": "base3"}, "default_base='base3': no multibase"),
    ],
)
def test_what_is_no_hash_or_base_is_refused(options: dict[str, str], said: str) -> None:
    with pytest.raises(errors.InvalidInput, match=said):
        MappingCAStore(**options)


@pytest.mark.parametrize(
    "given", ["sha2-256", 0x12, multihash.get("sha2-256"), multihash.Multihash(codec="sha2-256")]
)
def test_a_hash_is_named_in_any_way(given: Any) -> None:
    assert MappingCAStore(default_hash=given).hasher == "sha2-256"


def test_what_cannot_be_put_is_refused() -> None:
    store = MappingCAStore()
    with pytest.raises(errors.InvalidInput, match="no multicodec"):
        store.put_raw(b"", "nonsense")
    with pytest.raises(errors.InvalidInput, match="a block must be bytes"):
        store.put_raw("text", "raw")  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidInput, match="is no IPLD value"):
        store.put({"a": object()})  # type: ignore[dict-item]
    cid = store.put_raw(b"\xff", "dag-cbor")
    with pytest.raises(errors.MalformedNode, match=f"{cid} is not dag-cbor"):
        store.get(cid)
    with pytest.raises(errors.BlockNotFound):
        store.get(test_cid)
    assert test_cid not in store


def test_the_mapping_has_texts_of_one_base_and_version() -> None:
    store = MappingCAStore(default_base="base58btc")
    cid = store.put(b"value")
    [name] = store.mapping
    assert name == str(store.normalize_cid(cid)) and name.startswith("z")
    block = b"\x0a\x04\x08\x02\x18\x00"
    old = b"\x12\x20" + hashlib.sha256(block).digest()
    store.put_raw(block, "dag-pb")
    assert store.get_raw(CID.decode(old)) == block and store.get(CID.decode(old)) == b""
    assert str(store.normalize_cid(CID.decode(old))) in store.mapping


def test_a_mapping_is_a_store_for_all_else_here() -> None:
    """A tree of another layout and a Zarr hierarchy, both by its CIDs."""
    store = MappingCAStore()
    root = build({"a": b"1"}, store)
    assert open_root(root, store).get("a") == b"1"
    ds = dataset()
    found = to_hamt(ds, store)
    assert xr.open_zarr(open_root(found, store).store()).identical(ds)
    assert all(name.startswith("b") for name in store.mapping)


def test_links_of_a_value_come_in_order() -> None:
    first, second = (to_cid(identify(data)) for data in (b"1", b"2"))
    assert list(iter_links({"a": [first, {"b": second}], "c": first, "d": 1})) == [first, second, first]
    assert list(iter_links("text")) == []


# The mapping


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


# Roots of the fork, which keep their chunks in a HashMap

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


# The Zarr store


class SuiteStore(IPLDZarrStore):
    """Opens with the arguments of the class, as zarr's stores do."""


class TestZarrStore(StoreTests[SuiteStore, cpu.Buffer]):
    store_cls = SuiteStore
    buffer_cls = cpu.Buffer

    async def set(self, store, key, value):
        store.mapping[key] = value.to_bytes()

    async def get(self, store, key):
        return cpu.Buffer.from_bytes(store.mapping[key])

    @pytest.fixture(params=["memory", "pack"])
    def store_kwargs(self, request, tmp_path):
        return {"mapping": IPLDStore(None if request.param == "memory" else tmp_path / "store")}

    def test_store_repr(self, store):
        assert repr(store) == str(store) == f"SuiteStore({store.mapping!r})"

    def test_store_supports_writes(self, store):
        assert store.supports_writes and store.supports_deletes

    def test_store_supports_listing(self, store):
        assert store.supports_listing

    async def test_serializable_store(self, store):
        with pytest.raises(errors.NotPortable, match="freeze it"):
            await super().test_serializable_store(store)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("consolidated", [True, False])
def test_what_xarray_writes_is_read_from_its_root(zarr_format, consolidated, tmp_path: Path) -> None:
    ds = dataset()
    store, memory = IPLDStore(PackCAS(tmp_path / "store", "sha2-256")), MemoryStore()
    for target in (store.zarr_store, memory):
        ds.to_zarr(
            target, zarr_format=zarr_format, consolidated=consolidated, encoding={"t2m": {"chunks": (2, 6)}}
        )
    items = {key: value.to_bytes() for key, value in memory._store_dict.items()}
    assert dict(store) == as_ipldstore_gives(items)
    root = store.freeze()
    assert to_bytes(root) == identify(frozen_naively(items), 0x71, "sha2-256")
    with xr.open_zarr(open_root(root, tmp_path / "store").store(), consolidated=consolidated) as found:
        assert found.identical(ds)


def test_xarray_appends_and_the_older_root_stays() -> None:
    ds = dataset()
    store = IPLDStore()
    ds.isel(time=slice(2)).to_zarr(store.zarr_store, zarr_format=2, encoding={"t2m": {"chunks": (2, 6)}})
    first = store.freeze()
    ds.isel(time=slice(2, None)).drop_vars(["x", "count"]).to_zarr(store.zarr_store, append_dim="time")
    assert xr.open_zarr(store.zarr_store, chunks=None).load().identical(ds)
    assert xr.open_zarr(open_root(first, store.castore).store()).sizes["time"] == 2
    assert store.freeze() != first


def test_its_stores_are_equal_and_their_tokens_change_with_edits() -> None:
    store = IPLDStore()
    one, other = store.zarr_store, store.zarr_store
    assert one == other and hash(one) == hash(other) and tokenize(one) == tokenize(other)
    assert one != one.with_read_only(True) and one != IPLDStore().zarr_store
    before = tokenize(one)
    store["a"] = b"1"
    assert tokenize(one) == tokenize(other) != before
    assert asyncio.run(other.get("a")).to_bytes() == b"1"


def test_a_read_only_one_refuses() -> None:
    store = IPLDStore().zarr_store.with_read_only(True)
    value = cpu.Buffer.from_bytes(b"1")
    for attempt in (
        lambda: store.set("a", value),
        lambda: store.set_if_not_exists("a", value),
        lambda: store.set_partial_values([]),
        lambda: store.delete("a"),
        lambda: store.delete_dir(""),
        lambda: store.clear(),
    ):
        with pytest.raises(errors.ReadOnly, match="read-only mode"):
            asyncio.run(attempt())


def test_ten_thousand_keys_are_written_and_read_back() -> None:
    keys = {f"a/{number}": LARGE[number : number + 4] for number in range(10_000)}
    store = filled(keys)
    assert dict(IPLDStore.from_car(store.to_car())) == keys


def test_roots_of_a_castore_are_those_of_any_store() -> None:
    store = filled(VECTOR_ITEMS)
    pointers = store._opened.pointers()
    assert text(write_ipldstore(pointers, InMemoryCAS("sha2-256"))) == str(store.freeze())
    assert json.loads(store["a/.zattrs"]) == {"_ARRAY_DIMENSIONS": ["a"]}
