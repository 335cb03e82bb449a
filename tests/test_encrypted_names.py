"""The Zarr store over an encrypted tree whose names are hidden."""

import pytest
import zarr
from encrypted_stores import HIDING, VALUES, new_store, pointer, rerooted, stored, value
from keys_hidden import KEY
from stored import in_tree
from test_zarr_read import collect
from zarr.core.sync import sync
from zarr_stores import buffer, listed, new_hamt

from hamt_bulk import Encryption, build, errors
from hamt_bulk.zarr import ZarrHAMTStore


def test_the_tree_has_no_name_in_it_and_the_store_has_them_all():
    values = {"zarr.json": b"{}", "secret/zarr.json": b"{}", "secret/c/0": b"v", "secret/c/1": b"w"}
    store = stored(HIDING, values)
    names = in_tree(store.root, store.hamt.cas)
    assert not any(b"secret" in block for block in store.hamt.cas.blocks.values())
    assert sorted(map(HIDING.key_of, names)) == sorted(values) == listed(store.list())
    assert listed(store.list_dir("")) == ["secret", "zarr.json"]
    assert listed(store.list_dir("secret")) == ["c", "zarr.json"]
    assert sync(store.exists("secret/c/1")) and not sync(store.exists("secret/c/2"))


def test_folders_and_keys_are_deleted_by_the_names_that_they_stand_for():
    store = new_store(HIDING)
    for key in ("a/zarr.json", "a/c/0", "ab/c/0", "b/c/0"):
        sync(store.set(key, buffer(b"v")))
    sync(store.delete_dir("a"))
    sync(store.delete("b/c/0"))
    sync(store.delete("nothing"))
    assert listed(store.list()) == ["ab/c/0"]
    assert sync(store.is_empty("a")) and not sync(store.is_empty("ab"))


def test_a_foreign_name_in_the_tree_is_told_by_every_listing():
    store = stored(HIDING, {"zarr.json": b"{}", "a/c/0": b"v"})
    root = build({"plain/c/0": b"v"}, store.hamt.cas, base=store.root)
    store = ZarrHAMTStore.open(root, store.hamt.cas, encryption=HIDING)
    for listing in (store.list(), store.list_prefix("a"), store.list_dir(""), store.list_dir("a")):
        with pytest.raises(errors.NotAuthentic, match="the key 'plain/c/0', which is not a hidden name"):
            sync(collect(listing))
    for call in (store.is_empty("b"), store.getsize_prefix("")):
        with pytest.raises(errors.NotAuthentic):
            sync(call)


def test_what_somebody_puts_into_the_tree_of_a_store_by_another_name_is_told():
    store = new_store(HIDING)
    sync(store.set("a/zarr.json", buffer(b"{}")))
    assert listed(store.list_dir("")) == ["a"]
    sync(store.hamt.set("plain", b"v"))
    with pytest.raises(errors.NotAuthentic):
        sync(collect(store.list_dir("")))


def test_another_key_finds_no_names_and_says_so():
    """No name is found with it, and an empty tree would be taken for a new one."""
    store = stored(HIDING, {"zarr.json": b"{}"})
    for other in (Encryption(bytes(32), header=b"era5", hide_names=True), Encryption(KEY, hide_names=True)):
        wrong = ZarrHAMTStore.open(store.root, store.hamt.cas, encryption=other)
        for call in (wrong.get("zarr.json"), wrong.exists("zarr.json"), wrong.getsize("zarr.json")):
            with pytest.raises(errors.WrongKey, match="which this key and header do not give"):
                sync(call)
        with pytest.raises(errors.WrongKey):
            zarr.open_group(wrong, mode="r")
        writing = ZarrHAMTStore(new_hamt(store.hamt.cas, root_node_id=store.root), encryption=other)
        with pytest.raises(errors.WrongKey):
            zarr.open_group(writing, mode="w")
    assert sync(store.get("nothing")) is None


def test_hidden_names_that_were_swapped_are_told():
    """Two names that change places are two values that do."""
    store = stored(HIDING, VALUES)
    one, other = HIDING.name("a/c/0"), HIDING.name("zarr.json")
    swapped = rerooted(store, {one: pointer(store, "zarr.json"), other: pointer(store, "a/c/0")})
    for key in ("a/c/0", "zarr.json"):
        with pytest.raises(errors.NotAuthentic):
            value(swapped, key)
    with pytest.raises(errors.NotAuthentic):
        zarr.open_group(swapped, mode="r")
    renamed = rerooted(store, {HIDING.name("a/c/7"): pointer(store, "a/c/0")})
    with pytest.raises(errors.NotAuthentic):
        value(renamed, "a/c/7")
