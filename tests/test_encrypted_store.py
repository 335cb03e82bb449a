"""The Zarr store over an encrypted tree: zarr's own suite, equality, pickles, and what is shown."""

import asyncio
import logging
import pickle
import threading
from collections.abc import Iterator
from typing import Any

import cloudpickle
import keys_hidden
import numpy as np
import pytest
import zarr
from dask.base import tokenize
from encrypted_stores import (
    BOUND,
    EVERY,
    HIDING,
    IDS,
    REFUSALS,
    THREE,
    VALUES,
    new_store,
    stored,
    value,
    with_bytes,
)
from keys_hidden import KEY, assert_hidden
from stored import in_tree
from test_zarr_read import collect
from zarr.core.sync import sync
from zarr.testing.stateful import ZarrStoreStateMachine
from zarr_stores import SuiteStore, WritableTests, buffer, listed, new_hamt, run_machine

from hamt_bulk import Encryption, HashMap, InMemoryCAS, KeyFile, PackCAS, SimpleEncryptedZarrHAMTStore, errors
from hamt_bulk.hamt import HAMT
from hamt_bulk.zarr import ZarrHAMTStore

# The suite that zarr has for stores


@pytest.fixture(params=["bound", "hidden", "py-hamt-3", "hidden in a pack"])
def place(request, tmp_path) -> Iterator[tuple[Encryption, Any]]:
    cas = PackCAS(tmp_path / "store") if request.param.endswith("pack") else InMemoryCAS()
    yield {"bound": BOUND, "py-hamt-3": THREE}.get(request.param, HIDING), cas
    cas.flush()


class TestEncrypted(WritableTests[SuiteStore]):
    store_cls = SuiteStore

    async def set(self, store, key, value):
        encryption = store.encryption
        await store.hamt.set(encryption.name(key), encryption.seal(key, value.to_bytes()))

    async def get(self, store, key):
        encryption = store.encryption
        return buffer(encryption.open(key, await store.hamt.get(encryption.name(key))))

    @pytest.fixture
    def store_kwargs(self, place):
        encryption, cas = place
        return {"hamt": new_hamt(cas), "read_only": False, "encryption": encryption}

    def test_store_repr(self, store):
        assert repr(store) == f"ZarrHAMTStore({store.hamt!r}, encryption={store.encryption!r})"
        assert_hidden(store)

    async def test_serializable_store(self, store):
        with pytest.raises(errors.NotPortable, match="to_hamt"):
            await super().test_serializable_store(store)


@pytest.mark.parametrize("encryption", [HIDING, THREE], ids=["hidden", "py-hamt-3"])
def test_zarrs_state_machine_of_stores(encryption):
    store = new_store(encryption)
    run_machine(lambda: ZarrStoreStateMachine(store), examples=10, steps=20)


# Equality, pickles and what is shown


def test_stores_of_other_encryptions_are_others():
    root, cas = stored(BOUND, VALUES).root, InMemoryCAS()
    stores = [ZarrHAMTStore.open(root, cas, encryption=which) for which in (None, BOUND, HIDING, THREE)]
    assert all((a == b) == (a is b) for a in stores for b in stores)
    assert len({tokenize(store) for store in stores}) == 4
    again = ZarrHAMTStore.open(root, cas, encryption=Encryption(KEY, header=b"era5"))
    assert again == stores[1] and tokenize(again) == tokenize(stores[1])


@pytest.mark.parametrize("options", [{}, {"hide_names": True}, {"format": "py-hamt-3"}], ids=IDS)
def test_a_store_travels_with_its_encryption(tmp_path, options):
    (tmp_path / "key").write_bytes(KEY)
    encryption = Encryption(KeyFile(tmp_path / "key"), header=b"era5", **options)
    cas = PackCAS(tmp_path / "store")
    store = stored(encryption, VALUES, cas)
    for dumps in (pickle.dumps, cloudpickle.dumps):
        data = dumps(store)
        assert_hidden(data)
        again = pickle.loads(data)
        assert again == store and value(again, "a/c/0") == b"first"
    again = store.with_read_only(True)
    assert value(again, "a/c/0") == b"first" and again == store
    in_memory = ZarrHAMTStore.open(store.root, cas, encryption=Encryption(KEY, header=b"era5", **options))
    assert pickle.loads(pickle.dumps(in_memory)) == store


@pytest.mark.parametrize("encryption", [None, *EVERY], ids=["plain", *IDS])
def test_a_store_in_a_hashmap_travels_too(encryption):
    cas = InMemoryCAS()
    store = new_store(encryption, cas, layout=HashMap())
    sync(store.set("a/c/0", buffer(b"first")))
    root = store.flush()
    hamt = sync(HAMT.build(cas=cas, root_node_id=root, read_only=True, values_are_bytes=True))
    store = ZarrHAMTStore(hamt, read_only=True, encryption=encryption)
    again = pickle.loads(pickle.dumps(store))
    assert again == store and value(again, "a/c/0") == b"first"
    assert listed(again.list()) == ["a/c/0"]


def test_no_event_loop_waits_for_a_key(tmp_path, monkeypatch):
    store = stored(HIDING, VALUES)
    threads = []
    monkeypatch.setattr(keys_hidden, "seen", threads.append, raising=False)
    for call in ("get", "exists", "list", "list_dir", "is_empty", "getsize", "getsize_prefix"):
        encryption = Encryption(keys_hidden.noting, header=b"era5", hide_names=True)
        other = ZarrHAMTStore.open(store.root, store.hamt.cas, encryption=encryption)

        async def use(store=other, call=call) -> None:
            result = getattr(store, call)(*([] if call == "list" else ["a/c/0"]))
            await (collect(result) if call.startswith("list") else result)

        asyncio.run(use())
    assert len(threads) == 7 and threading.get_ident() not in threads


def test_nothing_that_a_store_says_has_the_key_in_it(caplog):
    caplog.set_level(logging.DEBUG)
    for encryption in EVERY:
        store = stored(encryption, VALUES)
        assert_hidden(store, str(store), tokenize(store), pickle.dumps(store), vars(store))
        with pytest.raises(REFUSALS) as caught:
            value(with_bytes(store, "a/c/0", b"plain"), "a/c/0")
        assert_hidden(caught.value)
    assert_hidden(caplog.text)


def test_what_is_no_encryption_is_refused_and_not_shown():
    with pytest.raises(errors.InvalidInput, match="encryption= is a bytes, expected Encryption") as caught:
        ZarrHAMTStore(new_hamt(), encryption=KEY)
    assert_hidden(caught.value)


# py-hamt's class


def test_the_store_with_py_hamts_name_and_arguments_reads_what_it_writes():
    store = SimpleEncryptedZarrHAMTStore(new_hamt(), False, KEY, b"era5")
    group = zarr.open_group(store, mode="w")
    group.create_array("a", data=np.arange(5))
    root = store.flush()
    for data in in_tree(root, store.hamt.cas).values():
        assert b"zarr_format" not in data
    hamt = HAMT(store.hamt.cas, root_node_id=root, read_only=True, values_are_bytes=True)
    reading = SimpleEncryptedZarrHAMTStore(hamt, True, KEY, b"era5")
    for again in (
        reading,
        SimpleEncryptedZarrHAMTStore.open(root, store.hamt.cas, KEY, b"era5"),
        pickle.loads(pickle.dumps(reading)),
        reading.with_read_only(True),
    ):
        assert type(again) is SimpleEncryptedZarrHAMTStore
        assert list(zarr.open_array(again, path="a", mode="r")) == [0, 1, 2, 3, 4]
    with pytest.raises(errors.WrongKey):
        zarr.open_group(SimpleEncryptedZarrHAMTStore(hamt, True, KEY, b""), mode="r")
    with pytest.raises(ValueError, match="31 bytes, expected 32"):
        SimpleEncryptedZarrHAMTStore(hamt, True, KEY[:31], b"")
