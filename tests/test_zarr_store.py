"""The Zarr store that is written to: zarr's own suites, and beside zarr's memory store under xarray and dask."""

import asyncio
import gc
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from weakref import ref

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from dask.base import tokenize
from distributed import Client, LocalCluster
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from stored import assert_same, in_store, in_tree
from test_nodes import CountingCAS, crowded_hashfn
from test_zarr_read import collect, keys, links
from zarr.abc.store import Store
from zarr.core.buffer import cpu, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import MemoryStore
from zarr.testing.stateful import SyncStoreWrapper, ZarrHierarchyStateMachine, ZarrStoreStateMachine
from zarr.testing.store import StoreTests

from hamt_bulk import build, errors
from hamt_bulk.block import to_bytes
from hamt_bulk.cas import ContentAddressedStore, InMemoryCAS, PackCAS
from hamt_bulk.hamt import HAMT
from hamt_bulk.manifest import blake3_hashfn
from hamt_bulk.zarr import StoreIsReadOnly, ZarrHAMTStore, folders

PROTOTYPE = default_buffer_prototype()


def new_hamt(cas: ContentAddressedStore | None = None, **options) -> HAMT:
    return sync(HAMT.build(cas=cas or InMemoryCAS(), values_are_bytes=True, **options))


def new_store(cas: ContentAddressedStore | None = None, **options) -> ZarrHAMTStore:
    return ZarrHAMTStore(new_hamt(cas, **options))


def reopened(store: ZarrHAMTStore) -> ZarrHAMTStore:
    """A store of another HAMT, which begins with what this one has."""
    return new_store(store.hamt.cas, root_node_id=store.flush(), hash_fn=store.hamt.hash_fn)


def buffer(value: bytes) -> cpu.Buffer:
    return cpu.Buffer.from_bytes(value)


def listed(items) -> list[str]:
    """The names, sorted; each comes once."""
    found = sync(collect(items))
    assert len(found) == len(set(found))
    return sorted(found)


def assert_holds(store: ZarrHAMTStore, expected: dict[str, bytes]) -> None:
    """That all readers find these keys and values, and that the root is the one of a build of them."""
    values = {key: sync(store.get(key)).to_bytes() for key in listed(store.list())}
    assert_same(values, expected)
    root = store.flush()
    assert root == build(expected, InMemoryCAS())
    assert_same(in_tree(root, store.hamt.cas), expected)


# The suite that zarr has for stores


class SuiteStore(ZarrHAMTStore):
    """Opens as zarr's stores do, with the arguments of the class."""

    open = classmethod(Store.open.__func__)


@pytest.fixture(params=["memory", "pack"])
def cas(request, tmp_path) -> Iterator[ContentAddressedStore]:
    cas = InMemoryCAS() if request.param == "memory" else PackCAS(tmp_path / "store")
    yield cas
    cas.flush()  # what was saved in vain, before its folder goes


class TestWritable(StoreTests[SuiteStore, cpu.Buffer]):
    store_cls = SuiteStore
    buffer_cls = cpu.Buffer

    async def set(self, store, key, value):
        await store.hamt.set(key, value.to_bytes())

    async def get(self, store, key):
        return buffer(await store.hamt.get(key))

    @pytest.fixture
    def store_kwargs(self, cas):
        return {"hamt": new_hamt(cas), "read_only": False}

    def test_store_repr(self, store):
        assert repr(store) == f"ZarrHAMTStore({store.hamt!r})"
        assert str(store) == f"ipfs://{store.root}"

    def test_store_supports_writes(self, store):
        assert store.supports_writes and store.supports_deletes

    def test_store_supports_listing(self, store):
        assert store.supports_listing

    async def test_serializable_store(self, store):
        with pytest.raises(errors.NotPortable, match="to_hamt"):
            await super().test_serializable_store(store)


PREPARED_BY_WRITING = (
    "test_exists",
    "test_getsize_prefix",
    "test_list",
    "test_list_dir",
    "test_list_empty_path",
    "test_list_prefix",
    "test_serializable_store",
)
"""Tests of reading that write what they read: for a read-only store it comes into the tree in another way."""

WRITES = {
    "test_clear": StoreIsReadOnly,
    "test_set_if_not_exists": StoreIsReadOnly,
    "test_set_many": StoreIsReadOnly,
    "test_set_not_open": StoreIsReadOnly,
    "test_set": AssertionError,  # these begin with `assert not store.read_only`
    "test_store_read_only": AssertionError,
}
"""How the tests of writing must fail for a read-only store. Those of deleting are skipped by the suite."""


class TestReadOnly(StoreTests[SuiteStore, cpu.Buffer]):
    store_cls = SuiteStore
    buffer_cls = cpu.Buffer

    @pytest.fixture(autouse=True)
    def as_it_can_be(self, request, monkeypatch):
        if request.node.originalname in PREPARED_BY_WRITING:
            monkeypatch.setattr(SuiteStore, "set", lambda *arguments: self.set(*arguments))
        if error := WRITES.get(request.node.originalname):
            request.applymarker(pytest.mark.xfail(raises=error, reason="writes", strict=True))

    async def set(self, store, key, value):
        """Puts the store at the root which has this too."""
        root = build({key: value.to_bytes()}, store.hamt.cas, base=store.root)
        vars(store).update(vars(ZarrHAMTStore.open(root, store.hamt.cas)))

    async def get(self, store, key):
        raise AssertionError("nothing can be written that would be looked for")

    @pytest.fixture
    def store_kwargs(self, cas):
        root = new_hamt(cas).root_node_id
        hamt = HAMT(cas, root_node_id=root, read_only=True, values_are_bytes=True)
        return {"hamt": hamt, "read_only": True}

    def test_store_repr(self, store):
        assert repr(store) == f"ZarrHAMTStore({str(store.root)!r}, {store.hamt.cas!r})"
        assert str(store) == f"ipfs://{store.root}"

    def test_store_supports_writes(self, store):
        assert not store.supports_writes and not store.supports_deletes

    def test_store_supports_listing(self, store):
        assert store.supports_listing

    @pytest.mark.parametrize("read_only", [True, False])
    async def test_store_open_read_only(self, open_kwargs, read_only):
        if read_only:
            await super().test_store_open_read_only(open_kwargs, read_only)
        else:
            with pytest.raises(StoreIsReadOnly, match="enable_write"):
                await super().test_store_open_read_only(open_kwargs, read_only)


# The state machines that zarr has for stores and for hierarchies


def run_machine(machine: Callable[[], RuleBasedStateMachine], examples: int, steps: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
        ),
    )


class StoreMachine(ZarrStoreStateMachine):
    """zarr's, and the store is flushed and reopened at any time."""

    @rule()
    def flush(self):
        self.store.store.flush()

    @rule()
    def reopen(self):
        self.store = SyncStoreWrapper(reopened(self.store.store))


class HierarchyMachine(ZarrHierarchyStateMachine):
    """zarr's, and the store is flushed and reopened at any time, and listed by one that has seen nothing."""

    @rule()
    def flush(self):
        self.store.flush()

    @rule()
    def reopen(self):
        self.store = reopened(self.store)

    @rule()
    def use_another_store(self):
        self.store = ZarrHAMTStore(self.store.hamt)


def test_zarrs_state_machine_of_stores(cas):
    store = new_store(cas)
    run_machine(lambda: StoreMachine(store), examples=60, steps=30)


def test_zarrs_state_machine_of_hierarchies(cas):
    store = new_store(cas)
    run_machine(lambda: HierarchyMachine(store), examples=25, steps=25)


# Beside a memory store


PATHS = ("", "a/", "a/b/", "b/", "0/")
NAMES = ("zarr.json", ".zarray", "c/0", "c/0/1", "c", "0", "0.0", "1/0")


class Twins(RuleBasedStateMachine):
    """
    Stores of one HAMT, and the HAMT itself, all of which edit and read, beside zarr's memory store.

    In some runs few edits may wait, so that any may flush the others, and few names of folders are remembered.
    """

    keys = st.builds("{}{}".format, st.sampled_from(PATHS), st.sampled_from(NAMES)) | keys
    prefixes = st.sampled_from(["", "a", "a/", "a/b", "b/", "0", "c/0/", "zz", "zz/"]) | keys
    values = st.binary(max_size=3)
    who = st.integers(0, 5)

    def __init__(self) -> None:
        super().__init__()
        self.model = MemoryStore()
        self.stores: list[ZarrHAMTStore] = []

    @initialize(
        max_waiting_edits=st.sampled_from([1, 3, 200_000]),
        hash_fn=st.sampled_from([blake3_hashfn, crowded_hashfn]),
        folder_names=st.sampled_from([3, 100_000]),
    )
    def begin(self, folder_names: int, **options) -> None:
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(folders, "FOLDER_NAMES", folder_names)
        self.options = options
        self.stores = [new_store(**options)]

    def store(self, who: int) -> ZarrHAMTStore:
        return self.stores[who % len(self.stores)]

    def in_both(self, who: int, method: str, *arguments) -> list:
        return [sync(getattr(store, method)(*arguments)) for store in (self.store(who), self.model)]

    @rule(key=keys, value=values, who=who, method=st.sampled_from(["set", "set_if_not_exists"]))
    def set(self, key, value, who, method):
        self.in_both(who, method, key, buffer(value))

    @rule(key=keys, value=values, who=who)
    def set_in_the_hamt(self, key, value, who):
        sync(self.store(who).hamt.set(key, value))
        sync(self.model.set(key, buffer(value)))

    @rule(key=keys, who=who)
    def delete(self, key, who):
        self.in_both(who, "delete", key)

    @precondition(lambda self: self.model._store_dict)
    @rule(data=st.data(), who=who, in_the_hamt=st.booleans())
    def delete_what_is_there(self, data, who, in_the_hamt):
        key = data.draw(st.sampled_from(sorted(self.model._store_dict)))
        sync(self.model.delete(key))
        sync((self.store(who).hamt if in_the_hamt else self.store(who)).delete(key))

    @rule(prefix=prefixes, who=who)
    def delete_dir(self, prefix, who):
        self.in_both(who, "delete_dir", prefix)

    @rule(who=who)
    def flush(self, who):
        assert self.store(who).flush() == self.store(who).root

    @rule()
    def reopen(self):
        cas, root = self.stores[0].hamt.cas, self.stores[0].flush()
        self.stores = [new_store(cas, root_node_id=root, **self.options)]

    @rule(who=who)
    def open_another_store(self, who):
        self.stores.append(ZarrHAMTStore(self.store(who).hamt))

    @rule(key=keys, who=who)
    def read(self, key, who):
        ours, theirs = self.in_both(who, "exists", key)
        assert ours == theirs
        ours, theirs = self.in_both(who, "get", key, PROTOTYPE)
        assert (ours and ours.to_bytes()) == (theirs and theirs.to_bytes())
        if theirs is None:
            with pytest.raises(FileNotFoundError):
                sync(self.store(who).getsize(key))
        else:
            assert sync(self.store(who).getsize(key)) == len(theirs)

    @rule(prefix=prefixes, who=who)
    def list_what_starts_with(self, prefix, who):
        store, theirs = self.store(who), in_store(self.model)
        assert listed(store.list_prefix(prefix)) == listed(self.model.list_prefix(prefix))
        folder = prefix.rstrip("/") + "/" if prefix else ""
        inside = {key: len(value) for key, value in theirs.items() if key.startswith(folder)}
        assert sync(store.getsize_prefix(prefix)) == sum(inside.values())
        assert sync(store.is_empty(prefix)) == (not inside)

    @rule(who=who)
    def list_folders(self, who):
        found = {folder for key in self.model._store_dict for folder in parents(key)}
        for folder in sorted(found | {"", "a", "zz/"}):
            assert listed(self.store(who).list_dir(folder)) == listed(self.model.list_dir(folder)), folder

    @invariant()
    def all_keys_are_listed(self):
        for store in self.stores[-1:]:
            assert listed(store.list()) == sorted(self.model._store_dict)

    def teardown(self):
        for who, store in enumerate(self.stores):
            self.list_folders(who)
            assert_same(in_tree(store.flush(), store.hamt.cas), in_store(self.model))
        if self.stores:
            self.patch.undo()


def parents(key: str) -> list[str]:
    return [key[:at] for at, char in enumerate(key) if char == "/"]


def test_stores_of_one_hamt_are_as_one_memory_store():
    run_machine(Twins, examples=150, steps=30)


class SizingCAS(CountingCAS):
    """Knows the sizes of blocks without loading them, as packs do."""

    def size_blocks(self, cids: Sequence[bytes]) -> list[int]:
        return [len(self.blocks[cid]) for cid in cids]


def test_asking_for_a_key_loads_no_value():
    cas = SizingCAS()
    values = {"small": b"v" * 1000, "big": np.random.default_rng(1).bytes(3 << 20)}
    store = new_store(cas)
    for key, value in values.items():
        sync(store.set(key, buffer(value)))
    store = reopened(store)
    cas.loads.clear()
    assert len(listed(store.list())) == 2
    nodes, blocks = set(cas.loads), set(cas.blocks)
    for key in values:
        assert sync(store.exists(key))
        sync(store.set_if_not_exists(key, buffer(b"another")))
    assert store.hamt.draft.waiting == 0
    assert set(cas.loads) == nodes and set(cas.blocks) == blocks
    for key, value in values.items():
        assert sync(store.getsize(key)) == len(value)
    assert sync(store.getsize_prefix("")) == 1000 + (3 << 20)
    # What names the leaves of a big value also has its size.
    assert set(cas.loads) - nodes == {to_bytes(sync(store.hamt.get_pointer("big")))}
    assert {key: sync(store.get(key)).to_bytes() for key in values} == values


HIERARCHY = {
    **{f"g{group}/v/zarr.json": b"v" for group in range(5)},
    **{f"g{group}/zarr.json": b"g" for group in range(5)},
    **{f"g{group}/v/c/{chunk}": b"%d" % chunk for group in range(5) for chunk in range(100)},
    "zarr.json": b"r",
}


def test_a_hierarchy_that_was_begun_here_is_listed_without_walking_the_tree():
    cas = CountingCAS()
    store = new_store(cas, max_cache_bytes=0)
    for key, value in HIERARCHY.items():
        sync(store.set(key, buffer(value)))
    store.flush()
    cas.loads.clear()
    assert listed(store.list_dir("")) == ["g0", "g1", "g2", "g3", "g4", "zarr.json"]
    assert listed(store.list_dir("g3/")) == ["v", "zarr.json"]
    assert listed(store.list_dir("g3/w")) == []
    assert not cas.loads
    assert len(listed(store.list_dir("g3/v/c"))) == 100
    assert cas.loads


def test_a_hierarchy_that_was_opened_is_walked_once_for_all_listings_and_edits():
    cas = CountingCAS()
    store = new_store(cas)
    for key, value in HIERARCHY.items():
        sync(store.set(key, buffer(value)))
    store = new_store(cas, root_node_id=store.flush(), max_cache_bytes=0)
    cas.loads.clear()
    assert listed(store.list_dir("g1")) == ["v", "zarr.json"]
    loads = cas.loads.total()
    sync(store.set("g1/w/zarr.json", buffer(b"w")))
    sync(store.hamt.set("g9/zarr.json", b"g"))
    assert listed(store.list_dir("g1")) == ["v", "w", "zarr.json"]
    assert listed(store.list_dir("")) == ["g0", "g1", "g2", "g3", "g4", "g9", "zarr.json"]
    assert cas.loads.total() == loads


def test_what_is_edited_while_a_folder_is_listed_is_in_the_next_listing():
    store = new_store()
    for number in range(9):
        sync(store.set(f"v{number}/zarr.json", buffer(b"{}")))
    store = reopened(store)

    async def edit_meanwhile() -> list[str]:
        listing = store.list_dir("")
        found = [await anext(listing)]
        await store.set("new/zarr.json", buffer(b"{}"))
        await store.delete("v0/zarr.json")
        return found + [name async for name in listing]

    assert sorted(sync(edit_meanwhile())) == [f"v{number}" for number in range(9)]
    for _ in range(2):
        assert listed(store.list_dir("")) == ["new", *(f"v{number}" for number in range(1, 9))]


def test_of_many_who_set_a_key_that_is_not_there_one_does(cas):
    store = new_store(cas)

    async def set_at_once() -> None:
        await asyncio.gather(*(store.set_if_not_exists("a", buffer(b"%d" % n)) for n in range(9)))

    sync(set_at_once())
    assert store.hamt.draft.version == 1 and sync(store.exists("a"))


@pytest.mark.parametrize("size", [8, 1 << 18, 1 << 20])
def test_a_value_is_that_of_the_moment_it_was_set(cas, size):
    array = np.arange(size)
    store = new_store(cas)
    sync(store.set("a", cpu.Buffer.from_array_like(array.view("B"))))
    array[:] = 0
    store.flush()
    assert sync(store.get("a")).to_bytes() == np.arange(size).tobytes()


def test_what_is_no_buffer_is_refused():
    with pytest.raises(TypeError, match="must be a Buffer instance"):
        sync(new_store().set("a", b"bytes"))


def test_a_hamt_of_other_values_or_that_is_read_only_is_refused():
    with pytest.raises(errors.InvalidInput, match="values_are_bytes=True"):
        ZarrHAMTStore(sync(HAMT.build(cas=InMemoryCAS())))
    hamt = new_hamt()
    sync(hamt.make_read_only())
    with pytest.raises(StoreIsReadOnly, match="enable_write"):
        ZarrHAMTStore(hamt)
    assert ZarrHAMTStore(hamt, read_only=True).read_only


def test_a_read_only_view_sees_edits_and_takes_none():
    store = new_store()
    view = store.with_read_only(True)
    assert view.read_only and not view._is_open and not store.read_only
    assert view != store and view.with_read_only(False) == store
    sync(store.set("a", buffer(b"1")))
    assert listed(view.list_dir("")) == ["a"] and sync(view.get("a")).to_bytes() == b"1"
    with pytest.raises(StoreIsReadOnly, match="to_hamt"):
        sync(view.set("a", buffer(b"2")))
    with pytest.raises(errors.NotPortable, match="to_hamt"):
        pickle.dumps(view)


def test_a_store_follows_its_hamt_into_being_read_only_and_back():
    store = new_store()
    sync(store.hamt.make_read_only())
    assert store.read_only and not store.supports_writes and not store.supports_deletes
    with pytest.raises(StoreIsReadOnly, match="to_hamt"):
        sync(store.set("a", buffer(b"1")))
    sync(store.hamt.enable_write())
    sync(store.set("a", buffer(b"1")))
    assert store.supports_writes and listed(store.list()) == ["a"]


def test_a_store_of_a_hamt_that_takes_edits_again_does_not_travel():
    """Its reads see the edits that wait, and what another process would open does not have them."""
    cas = InMemoryCAS()
    hamt = HAMT(cas, root_node_id=new_store(cas).root, read_only=True, values_are_bytes=True)
    store = ZarrHAMTStore(hamt, read_only=True)
    before = tokenize(store)
    assert pickle.loads(pickle.dumps(store)) == store
    sync(hamt.enable_write())
    sync(hamt.set("a", b"1"))
    assert listed(store.list()) == ["a"] and tokenize(store) != before
    with pytest.raises(errors.NotPortable, match="to_hamt"):
        pickle.dumps(store)


def test_a_hamt_keeps_none_of_its_stores():
    hamt = new_hamt()
    stores = [ref(ZarrHAMTStore(hamt)) for _ in range(3)]
    gc.collect()
    sync(hamt.set("a", b"1"))
    assert [store() for store in stores] == [None] * 3
    assert listed(ZarrHAMTStore(hamt).list_dir("")) == ["a"]
    assert len(hamt.draft._listeners) == 1


def test_a_root_that_was_opened_stays_as_it_is():
    store = new_store()
    sync(store.set("a", buffer(b"1")))
    opened = ZarrHAMTStore.open(store.flush(), store.hamt.cas)
    sync(store.set("a", buffer(b"2")))
    sync(store.set("b", buffer(b"2")))
    assert opened.root != store.flush()
    assert listed(opened.list_dir("")) == ["a"] and sync(opened.get("a")).to_bytes() == b"1"


def test_stores_of_one_hamt_are_equal_and_edits_change_the_token():
    store = new_store()
    same = ZarrHAMTStore(store.hamt)
    assert store == same and hash(store) == hash(same) and tokenize(store) == tokenize(same)
    assert store != reopened(store) and tokenize(store) != tokenize(reopened(store))
    before = tokenize(store)
    sync(same.set("a", buffer(b"1")))
    assert tokenize(store) != before


# zarr, xarray and dask on it


def edit_by_zarr(store: Store, zarr_format: int) -> None:
    root = zarr.open_group(store, mode="w", zarr_format=zarr_format, attributes={"title": "t"})
    for name in ("a", "b", "b/inner", "c"):
        root.create_group(name)
    shards = {"shards": (8,)} if zarr_format == 3 else {}
    for group in ("a", "b/inner"):
        whole = root[group].create_array("v", shape=(10, 10), chunks=(3, 4), dtype="f8", fill_value=np.nan)
        whole[:] = np.arange(100).reshape(10, 10)
        part = root[group].create_array("w", shape=(20,), chunks=(4,), dtype="i4", **shards)
        part[5:] = np.arange(15)
    whole.resize((5, 14))
    whole[:, 10:] = 7
    whole[0, :] = np.nan  # chunks that are all fill value are deleted
    root["a/w"].append(np.arange(6))
    root["a/v"].attrs["units"] = "K"
    root["a"].create_array("scalar", shape=(), dtype="i8")[...] = 5
    del root["c"], root["b/inner/w"]
    zarr.consolidate_metadata(store, zarr_format=zarr_format)
    root.create_array("v", shape=(4,), chunks=(2,), dtype="i2")[:] = 1
    root.create_array("v", shape=(2,), chunks=(2,), dtype="i2", overwrite=True)[:] = 2
    assert sorted(name for name, _ in root.members(max_depth=None)) == [
        *("a", "a/scalar", "a/v", "a/w", "b", "b/inner", "b/inner/v", "v")
    ]
    assert "c" not in root and "v" in root


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_zarr_writes_what_it_writes_to_memory(cas, zarr_format):
    store, memory = new_store(cas), MemoryStore()
    edit_by_zarr(memory, zarr_format)
    edit_by_zarr(store, zarr_format)
    assert_holds(store, in_store(memory))
    edit_by_zarr(store, zarr_format)
    assert_holds(store, in_store(memory))
    del zarr.open_group(store)["a"], zarr.open_group(memory)["a"]
    assert_holds(store, in_store(memory))


def dataset(days: int, first: int = 0) -> xr.Dataset:
    rng = np.random.default_rng(first)
    return xr.Dataset(
        {
            "t2m": (("time", "y", "x"), rng.normal(size=(days, 6, 8)), {"units": "K"}),
            "mask": (("y", "x"), rng.integers(0, 2, (6, 8)).astype(bool)),
        },
        coords={
            "time": np.datetime64("2020-01-01", "ns")
            + np.arange(first, first + days) * np.timedelta64(1, "D"),
            "y": np.linspace(0, 1, 6),
        },
        attrs={"title": "a"},
    )


def edit_by_xarray(store: Store, chunked: bool, **options) -> Iterator[None]:
    def given(ds: xr.Dataset) -> xr.Dataset:
        return ds.chunk(time=2, y=3) if chunked else ds

    encoding = {"t2m": {"chunks": (2, 3, 8)}}
    given(dataset(6)).to_zarr(store, mode="w", encoding=encoding, **options)
    yield
    wind = xr.Dataset({"wind": (("time", "y"), np.ones((6, 6)))})
    given(wind).to_zarr(store, mode="a", **options)
    yield
    more = dataset(4, 6).drop_vars("mask").assign(wind=(("time", "y"), np.zeros((4, 6))))
    given(more).to_zarr(store, append_dim="time", **options)
    yield
    part = (dataset(4, 100) * 2)[["t2m"]].drop_vars(["y", "time"])
    given(part).to_zarr(store, region={"time": slice(2, 6)}, **options)
    yield
    given(dataset(2, 50)).to_zarr(store, group="inner/group", mode="w", **options)
    yield
    given(dataset(4, 9)).to_zarr(store, mode="w", **options)


@pytest.mark.parametrize("options", [{"zarr_format": 3}, {"zarr_format": 2}, {"consolidated": False}])
@pytest.mark.parametrize("chunked", [False, True], ids=["numpy", "dask"])
def test_xarray_writes_what_it_writes_to_memory(cas, chunked, options):
    store, memory = new_store(cas), MemoryStore()
    with dask.config.set(scheduler="threads"):
        ours, theirs = (edit_by_xarray(target, chunked, **options) for target in (store, memory))
        for _ in zip(ours, theirs, strict=True):
            assert_holds(store, in_store(memory))
            with xr.open_zarr(store, consolidated=options.get("consolidated")) as found:
                assert found.identical(xr.open_zarr(memory, consolidated=options.get("consolidated")))
    assert_holds(store, in_store(memory))


@pytest.fixture(scope="module", params=[True, False], ids=["processes", "one process"])
def client(request) -> Iterator[Client]:
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=request.param, dashboard_address=":0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.mark.parametrize("how", ["at once", "lazily", "into a region", "reading"])
def test_a_cluster_is_refused_and_the_refusal_names_what_to_use(client, cas, how):
    """Whatever workers wrote would be lost, and they do not have what waits here."""
    store = new_store(cas)
    ds = dataset(6).chunk(time=2)
    attempts: dict[str, Callable[[], object]] = {
        "at once": lambda: ds.to_zarr(store),
        "lazily": lambda: ds.to_zarr(store, compute=False).compute(),
        "into a region": lambda: ds.drop_vars("y").to_zarr(store, region={"time": slice(0, 6)}),
        "reading": lambda: xr.open_zarr(store, chunks={}).load(),
    }
    if how in ("into a region", "reading"):
        dataset(6).drop_vars("mask").to_zarr(store, encoding={"t2m": {"chunks": (2, 6, 8)}})
        ds = ds.drop_vars("mask")
    with pytest.raises(Exception) as caught:
        attempts[how]()
    assert any("to_hamt" in str(link) for link in links(caught.value))


def test_what_needs_no_worker_is_written_though_there_is_a_cluster(client, cas):
    store, memory = new_store(cas), MemoryStore()
    for target in (store, memory):
        dataset(6).to_zarr(target)
    assert_holds(store, in_store(memory))


def test_threads_with_an_event_loop_each_write_at_once(cas):
    """The edits of each are its own, so the result is the same whoever comes first."""
    store = new_store(cas, max_waiting_edits=50)
    memory = MemoryStore()

    async def edit(target: Store, name: str) -> None:
        async def one(number: int) -> None:
            key = f"{name}/c/{number}"
            await target.set(key, buffer(f"{name} {number}".encode()))
            if number % 3 == 0:
                await target.delete(key)
            await target.set_if_not_exists(key, buffer(b"again"))
            assert await target.exists(key)
            assert (await target.get(key, PROTOTYPE)).to_bytes() != b""

        await target.set(f"{name}/zarr.json", buffer(b"{}"))
        for start in range(0, 90, 30):
            await asyncio.gather(*(one(number) for number in range(start, start + 30)))
            assert "zarr.json" in await collect(target.list_dir(name))
            assert name in await collect(target.list_dir(""))
            if target is store:
                await store.hamt.flush()
        await target.set(f"{name}-old/c/0", buffer(b"old"))
        await target.delete_dir(f"{name}-old")

    def run(name: str) -> None:
        asyncio.run(edit(store, name))

    names = [f"v{number}" for number in range(8)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(run, names))
    for name in names:
        asyncio.run(edit(memory, name))
    assert len(in_store(memory)) == 8 * 91
    assert_holds(store, in_store(memory))
