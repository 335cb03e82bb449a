"""The Zarr store that is written to: zarr's own suites and state machines."""

import pytest
from hypothesis.stateful import rule
from zarr.testing.stateful import SyncStoreWrapper, ZarrHierarchyStateMachine, ZarrStoreStateMachine
from zarr_stores import (
    ReadOnlyTests,
    SuiteStore,
    WritableTests,
    buffer,
    new_hamt,
    new_store,
    reopened,
    run_machine,
)

from hamt_bulk import build, errors
from hamt_bulk.hamt import HAMT
from hamt_bulk.zarr import ZarrHAMTStore


class TestWritable(WritableTests[SuiteStore]):
    store_cls = SuiteStore

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

    async def test_serializable_store(self, store):
        with pytest.raises(errors.NotPortable, match="to_hamt"):
            await super().test_serializable_store(store)


class TestReadOnly(ReadOnlyTests[SuiteStore]):
    store_cls = SuiteStore
    refusal = "enable_write"

    async def set(self, store, key, value):
        """Puts the store at the root which has this too."""
        root = build({key: value.to_bytes()}, store.hamt.cas, base=store.root)
        vars(store).update(vars(ZarrHAMTStore.open(root, store.hamt.cas)))

    @pytest.fixture
    def store_kwargs(self, cas):
        root = new_hamt(cas).root_node_id
        hamt = HAMT(cas, root_node_id=root, read_only=True, values_are_bytes=True)
        return {"hamt": hamt, "read_only": True}

    def test_store_repr(self, store):
        assert repr(store) == f"ZarrHAMTStore({str(store.root)!r}, {store.hamt.cas!r})"
        assert str(store) == f"ipfs://{store.root}"


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
