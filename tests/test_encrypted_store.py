"""The Zarr store over an encrypted tree: zarr's own suite, ranges, hidden names, and trees that were tampered with."""

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
from hypothesis import given, settings
from hypothesis import strategies as st
from keys_hidden import KEY, assert_hidden
from stored import in_tree
from test_nodes import CountingCAS
from test_zarr_read import collect
from test_zarr_store import SuiteStore, buffer, listed, new_hamt, run_machine
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import cpu
from zarr.core.sync import sync
from zarr.testing.stateful import ZarrStoreStateMachine
from zarr.testing.store import StoreTests

from hamt_bulk import (
    Encryption,
    HashMap,
    InMemoryCAS,
    KeyFile,
    PackCAS,
    SimpleEncryptedZarrHAMTStore,
    build,
    errors,
)
from hamt_bulk.block import text, to_cid
from hamt_bulk.crypto.bound import SEALED_BYTES, SEGMENT_BYTES
from hamt_bulk.hamt import HAMT
from hamt_bulk.zarr import ZarrHAMTStore

BOUND = Encryption(KEY, header=b"era5")
HIDING = Encryption(KEY, header=b"era5", hide_names=True)
THREE = Encryption(KEY, header=b"era5", format="py-hamt-3")
EVERY = [BOUND, HIDING, THREE]
IDS = ["bound", "hidden", "py-hamt-3"]

REFUSALS = (errors.WrongKey, errors.NotAuthentic)


def new_store(encryption: Encryption | None, cas: Any = None, **options: Any) -> ZarrHAMTStore:
    return ZarrHAMTStore(new_hamt(cas, **options), encryption=encryption)


def stored(encryption: Encryption, values: dict[str, bytes], cas: Any = None) -> ZarrHAMTStore:
    """The read-only store of a tree with these values."""
    store = new_store(encryption, cas)
    for key, value in values.items():
        sync(store.set(key, buffer(value)))
    return ZarrHAMTStore.open(store.flush(), store.hamt.cas, encryption=encryption)


def value(store: ZarrHAMTStore, key: str, byte_range: Any = None) -> bytes | None:
    found = sync(store.get(key, None, byte_range))
    return None if found is None else found.to_bytes()


# The suite that zarr has for stores


@pytest.fixture(params=["bound", "hidden", "py-hamt-3", "hidden in a pack"])
def place(request, tmp_path) -> Iterator[tuple[Encryption, Any]]:
    cas = PackCAS(tmp_path / "store") if request.param.endswith("pack") else InMemoryCAS()
    yield {"bound": BOUND, "py-hamt-3": THREE}.get(request.param, HIDING), cas
    cas.flush()


class TestEncrypted(StoreTests[SuiteStore, cpu.Buffer]):
    store_cls = SuiteStore
    buffer_cls = cpu.Buffer

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

    def test_store_supports_writes(self, store):
        assert store.supports_writes and store.supports_deletes

    def test_store_supports_listing(self, store):
        assert store.supports_listing

    async def test_serializable_store(self, store):
        with pytest.raises(errors.NotPortable, match="to_hamt"):
            await super().test_serializable_store(store)


@pytest.mark.parametrize("encryption", [HIDING, THREE], ids=["hidden", "py-hamt-3"])
def test_zarrs_state_machine_of_stores(encryption):
    store = new_store(encryption)
    run_machine(lambda: ZarrStoreStateMachine(store), examples=10, steps=20)


# Ranges and sizes

LARGE = np.random.default_rng(1).bytes((5 << 20) + 7)

sizes = st.builds(
    lambda segments, more: max(segments * SEGMENT_BYTES + more, 0),
    st.sampled_from([0, 1, 2, 15, 16, 17, 33]),
    st.integers(-2, 2),
)


@pytest.mark.parametrize("encryption", EVERY, ids=IDS)
@given(data=st.data())
@settings(max_examples=25)
def test_a_range_is_a_slice_of_the_value(encryption, data):
    """In values of one block and of several, around the borders of segments and blocks."""
    size = data.draw(sizes)
    plain = LARGE[:size]
    store = stored(encryption, {"a/c/0": plain})
    assert value(store, "a/c/0") == plain
    assert sync(store.getsize("a/c/0")) == size
    borders = [border + by for border in (0, SEGMENT_BYTES, SEALED_BYTES, 1 << 20, size) for by in (-1, 0, 1)]
    places = st.integers(0, size + 2) | st.sampled_from([place for place in borders if place >= 0])
    for start, stop in data.draw(st.lists(st.tuples(places, places), min_size=1, max_size=5)):
        assert value(store, "a/c/0", RangeByteRequest(start, stop)) == plain[start:stop]
        assert value(store, "a/c/0", OffsetByteRequest(start)) == plain[start:]
        assert value(store, "a/c/0", SuffixByteRequest(start)) == plain[max(size - start, 0) :]


def test_a_range_of_a_large_value_loads_the_segments_it_lies_in():
    cas = CountingCAS()
    store = stored(BOUND, {"a/c/0": LARGE}, cas)
    pointer = store.hamt.draft.tree.pointer("a/c/0")
    leaf = 1 << 20
    cas.loads.clear()
    assert value(store, "a/c/0", RangeByteRequest(3 * leaf, 3 * leaf + 10)) == LARGE[3 * leaf : 3 * leaf + 10]
    leaves = {text(cid): count for cid, count in cas.loads.items() if cid != pointer}
    assert len(leaves) <= 4  # nodes on the way to the key, and the leaf of the head
    before = set(cas.loads)
    cas.loads.clear()
    at = 2 * leaf + leaf // 2
    assert value(store, "a/c/0", RangeByteRequest(at, at + 100)) == LARGE[at : at + 100]
    assert set(cas.loads) - before and cas.loads.total() == 2  # what names the leaves, and one leaf
    assert sync(store.getsize("a/c/0")) == len(LARGE)
    cas.loads.clear()
    assert value(store, "a/c/0", SuffixByteRequest(5)) == LARGE[-5:]
    assert cas.loads.total() == 2


@pytest.mark.parametrize("encryption", EVERY, ids=IDS)
def test_a_range_that_is_none_is_refused(encryption):
    store = stored(encryption, {"small": b"v", "large": LARGE})
    for key in ("small", "large"):
        for wrong in (RangeByteRequest(-1, 2), OffsetByteRequest(-1), SuffixByteRequest(-1), "0-5"):
            with pytest.raises(errors.InvalidInput, match="Unexpected byte_range"):
                value(store, key, wrong)


def test_sizes_are_told_without_loading_values():
    class Sizing(CountingCAS):
        def size_blocks(self, cids):
            return [len(self.blocks[cid]) for cid in cids]

    for encryption in EVERY:
        cas = Sizing()
        store = stored(encryption, {"a/zarr.json": b"{}", "a/c/0": b"v" * 1000, "b": b""}, cas)
        assert listed(store.list()) == ["a/c/0", "a/zarr.json", "b"]
        cas.loads.clear()
        assert sync(store.getsize("a/c/0")) == 1000
        assert sync(store.getsize_prefix("a")) == 1002
        assert not cas.loads


def test_sizes_that_only_values_tell_are_those_of_the_values():
    encryption = Encryption(KEY, format="py-hamt-2")
    store = stored(encryption, {"a/zarr.json": b"{}", "a/c/0": b"v" * 1000, "b": b""})
    assert sync(store.getsize_prefix("a")) == 1002
    assert sync(store.getsize("a/c/0")) == 1000


# Hidden names


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


# Trees that were tampered with: their blocks are sound, and have other roots

VALUES = {"a/c/0": b"first", "a/c/1": b"second", "zarr.json": b"{}", "a/zarr.json": b"{ }"}


def rerooted(store: ZarrHAMTStore, changes: dict[str, bytes]) -> ZarrHAMTStore:
    """The store of a tree that has other pointers under some names."""
    links = {name: to_cid(pointer) for name, pointer in changes.items()}
    root = build(links, store.hamt.cas, base=store.root)
    return ZarrHAMTStore.open(root, store.hamt.cas, encryption=store.encryption)


def pointer(store: ZarrHAMTStore, key: str) -> bytes:
    found = store.hamt.draft.tree.pointer(store.name_of(key))
    assert found is not None
    return found


def with_bytes(store: ZarrHAMTStore, key: str, data: bytes) -> ZarrHAMTStore:
    root = build({store.name_of(key): data}, store.hamt.cas, base=store.root)
    return ZarrHAMTStore.open(root, store.hamt.cas, encryption=store.encryption)


@pytest.mark.parametrize("encryption", [BOUND, HIDING], ids=["bound", "hidden"])
def test_values_that_were_swapped_are_told(encryption):
    store = stored(encryption, VALUES)
    pairs = [("a/c/0", "a/c/1"), ("zarr.json", "a/zarr.json"), ("a/c/0", "zarr.json")]
    for one, other in pairs:
        swapped = rerooted(
            store,
            {store.name_of(one): pointer(store, other), store.name_of(other): pointer(store, one)},
        )
        for key in (one, other):
            for wanted in (None, RangeByteRequest(0, 1), OffsetByteRequest(9), SuffixByteRequest(0)):
                with pytest.raises(errors.NotAuthentic, match="moved here from another key"):
                    value(swapped, key, wanted)
        assert {key: value(swapped, key) for key in VALUES if key not in (one, other)} == {
            key: data for key, data in VALUES.items() if key not in (one, other)
        }


def test_py_hamts_format_lets_them_be_swapped():
    """What its documentation here warns of."""
    store = stored(THREE, VALUES)
    swapped = rerooted(store, {"a/c/0": pointer(store, "a/c/1")})
    assert value(swapped, "a/c/0") == b"second"


@pytest.mark.parametrize("encryption", [BOUND, HIDING], ids=["bound", "hidden"])
@pytest.mark.parametrize(
    "other", [Encryption(KEY, header=b"era6"), Encryption(bytes(32), header=b"era5")], ids=["header", "key"]
)
def test_a_value_from_a_root_of_another_header_or_key_is_told(encryption, other):
    store = stored(encryption, VALUES)
    foreign = stored(other, VALUES, store.hamt.cas)
    mixed = rerooted(store, {store.name_of("a/c/0"): pointer(foreign, "a/c/0")})
    with pytest.raises(errors.WrongKey, match="either the key or the header is another one"):
        value(mixed, "a/c/0")
    assert value(mixed, "a/c/1") == b"second"


@pytest.mark.parametrize("encryption", EVERY, ids=IDS)
def test_a_plain_value_in_the_place_of_an_encrypted_one_is_told(encryption):
    store = stored(encryption, VALUES)
    for key, plain in (
        ("a/c/0", b"first"),
        ("zarr.json", b'{"zarr_format": 3, "node_type": "group", "attributes": {}}'),
    ):
        changed = with_bytes(store, key, plain)
        for wanted in (None, RangeByteRequest(0, 1)):
            with pytest.raises(REFUSALS):
                value(changed, key, wanted)


@pytest.mark.parametrize("encryption", [BOUND, HIDING], ids=["bound", "hidden"])
def test_a_value_that_was_cut_is_told_at_every_length(encryption):
    store = stored(encryption, VALUES)
    [data] = store.hamt.cas.load_many([pointer(store, "a/c/0")])
    for length in range(len(data)):
        with pytest.raises(errors.NotAuthentic):
            value(with_bytes(store, "a/c/0", data[:length]), "a/c/0")


def test_a_large_value_that_was_cut_between_segments_is_told_by_ranges_that_reach_its_end():
    store = stored(BOUND, {"a/c/0": LARGE})
    data = store.hamt.cas.load_range(pointer(store, "a/c/0"), 0, None)
    for segments in (1, 2, 16, 40, 80):
        cut = with_bytes(store, "a/c/0", data[: 32 + segments * SEALED_BYTES])
        end = segments * SEGMENT_BYTES
        for wanted in (
            None,
            SuffixByteRequest(1),
            OffsetByteRequest(end - 1),
            OffsetByteRequest(end + 10),
            RangeByteRequest(end - 5, end),
            RangeByteRequest(end, end + 5),
            RangeByteRequest(len(LARGE) - 1, len(LARGE)),
        ):
            with pytest.raises(errors.NotAuthentic):
                value(cut, "a/c/0", wanted)


def test_segments_of_a_large_value_that_changed_places_are_told():
    store = stored(BOUND, {"a/c/0": LARGE})
    data = store.hamt.cas.load_range(pointer(store, "a/c/0"), 0, None)
    a, b = (data[32 + n * SEALED_BYTES :][:SEALED_BYTES] for n in (20, 21))
    changed = with_bytes(store, "a/c/0", data.replace(a + b, b + a))
    for segment in (20, 21):
        with pytest.raises(errors.NotAuthentic, match=f"its segment {segment} of"):
            value(changed, "a/c/0", RangeByteRequest(segment * SEGMENT_BYTES, segment * SEGMENT_BYTES + 1))
    assert value(changed, "a/c/0", RangeByteRequest(0, 5)) == LARGE[:5]


@pytest.mark.parametrize("encryption", EVERY, ids=IDS)
def test_every_bit_that_is_flipped_is_told(encryption):
    store = stored(encryption, {"a/c/0": b"v"})
    [data] = store.hamt.cas.load_many([pointer(store, "a/c/0")])
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(REFUSALS):
            value(with_bytes(store, "a/c/0", bytes(flipped)), "a/c/0")


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


def test_no_refusal_is_taken_for_a_missing_chunk():
    store = stored(BOUND, {})
    group = zarr.open_group(new_store(BOUND, store.hamt.cas), mode="w")
    array = group.create_array("a", shape=(4,), chunks=(2,), dtype="i4", fill_value=7)
    array[:] = [1, 2, 3, 4]
    written = ZarrHAMTStore.open(group.store.flush(), store.hamt.cas, encryption=BOUND)
    assert list(zarr.open_array(written, path="a", mode="r")) == [1, 2, 3, 4]
    swapped = rerooted(written, {"a/c/1": pointer(written, "a/c/0")})
    with pytest.raises(errors.NotAuthentic):
        zarr.open_array(swapped, path="a", mode="r")[:]


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
