"""The Zarr store that is written to: what it loads, lists and refuses, and its views and equals."""

import asyncio
import gc
import pickle
from weakref import ref

import numpy as np
import pytest
from dask.base import tokenize
from trees_made import CountingCAS
from zarr.core.buffer import cpu
from zarr.core.sync import sync
from zarr_stores import SizingCAS, buffer, listed, new_hamt, new_store, reopened

from hamt_bulk import errors
from hamt_bulk.block import to_bytes
from hamt_bulk.cas import InMemoryCAS
from hamt_bulk.hamt import HAMT
from hamt_bulk.zarr import StoreIsReadOnly, ZarrHAMTStore


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
