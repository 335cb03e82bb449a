"""The Zarr store that is written to: all its edits and reads beside zarr's memory store."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from stored import assert_same, in_store, in_tree
from test_zarr_read import keys
from trees_made import crowded_hashfn
from zarr.core.sync import sync
from zarr.storage import MemoryStore
from zarr_stores import PROTOTYPE, buffer, listed, new_store, run_machine

from hamt_bulk.manifest import blake3_hashfn
from hamt_bulk.zarr import ZarrHAMTStore, folders

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
