"""Any Zarr store with its values in another form."""

import gzip
import pickle
import threading

import numpy as np
import pytest
import xarray as xr
import zarr
from keys_hidden import KEY
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore
from zarr_stores import WritableTests, buffer

from hamt_bulk import Encryption, InMemoryCAS, TransformedStore
from hamt_bulk.crypto import transformers
from hamt_bulk.errors import WrongKey
from hamt_bulk.hamt import HAMT
from hamt_bulk.zarr import ZarrHAMTStore

threads: list[int] = []


def encode(key: str, value: bytes) -> bytes:
    """With the key ahead, so that it is known to be that of the value."""
    threads.append(threading.get_ident())
    return key.encode() + b"\n" + gzip.compress(value, mtime=0)


def decode(key: str, stored: bytes) -> bytes:
    start = key.encode() + b"\n"
    assert stored.startswith(start)
    return gzip.decompress(stored.removeprefix(start))


class SuiteStore(TransformedStore):
    """Takes the argument that the suite gives."""

    def __init__(self, store, encode, decode, read_only=None) -> None:
        super().__init__(store if read_only is None else store.with_read_only(read_only), encode, decode)


class TestTransformed(WritableTests[SuiteStore]):
    store_cls = SuiteStore

    async def set(self, store, key, value):
        await store.store.set(key, buffer(encode(key, value.to_bytes())))

    async def get(self, store, key):
        return buffer(decode(key, (await store.store.get(key, default_buffer_prototype())).to_bytes()))

    @pytest.fixture
    def store_kwargs(self, tmp_path):
        return {"store": LocalStore(tmp_path), "encode": encode, "decode": decode}

    @pytest.fixture
    def open_kwargs(self, tmp_path):
        return {"store": LocalStore(tmp_path), "encode": encode, "decode": decode}

    def test_store_repr(self, store):
        assert repr(store) == str(store) == f"SuiteStore({store.store!r})"


def test_ranges_and_sizes_are_those_of_the_values():
    store = TransformedStore(MemoryStore(), encode, decode)
    value = bytes(range(256)) * 1000
    sync(store.set("a/c/0", buffer(value)))
    sync(store.set("a/b", buffer(b"")))
    assert sync(store.getsize("a/c/0")) == len(value) == sync(store.getsize_prefix("a"))
    for wanted, expected in (
        (RangeByteRequest(5, 9), value[5:9]),
        (OffsetByteRequest(len(value) - 3), value[-3:]),
        (SuffixByteRequest(7), value[-7:]),
        (SuffixByteRequest(len(value) + 7), value),
    ):
        assert sync(store.get("a/c/0", None, wanted)).to_bytes() == expected
    assert len(store.store._store_dict["a/c/0"].to_bytes()) < len(value)
    with pytest.raises(FileNotFoundError):
        sync(store.getsize("nothing"))


def test_large_values_are_encoded_in_threads():
    store = TransformedStore(MemoryStore(), encode, decode)
    threads.clear()
    sync(store.set("a", buffer(b"v")))
    sync(store.set("a", buffer(bytes(1 << 20))))
    assert len(threads) == 2 and threads[0] != threads[1]


def test_it_pickles_if_its_parts_do(tmp_path):
    store = TransformedStore(LocalStore(tmp_path), encode, decode)
    sync(store.set("a", buffer(b"v")))
    again = pickle.loads(pickle.dumps(store))
    assert again == store
    assert sync(again.get("a")).to_bytes() == b"v"
    assert again != TransformedStore(LocalStore(tmp_path), encode, encode)
    assert again != LocalStore(tmp_path)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(TransformedStore(LocalStore(tmp_path), lambda key, value: value, decode))


def test_a_dataset_goes_through_it(tmp_path):
    """zarr's newer calls, which its own wrapper hands on to the store within, included."""
    ds = xr.Dataset({"a": (("x", "y"), np.arange(64.0).reshape(8, 8))}).chunk(x=4, y=4)
    for inner in (
        LocalStore(tmp_path),
        ZarrHAMTStore(sync(HAMT.build(cas=InMemoryCAS(), values_are_bytes=True))),
    ):
        store = TransformedStore(inner, encode, decode)
        ds.to_zarr(store, encoding={"a": {"shards": (4, 4), "chunks": (2, 2)}})
        xr.testing.assert_identical(xr.open_zarr(store).load(), ds.load())
        assert zarr.open_array(store, path="a", mode="r")[3, 3] == 27


def test_it_takes_what_py_hamt_2_gave():
    """Its transformers work on values in dag-cbor form, here on bytes that are one."""
    encryption = Encryption(KEY, header=b"h", format="py-hamt-2", exclude_vars=["lat"])
    inner = MemoryStore()
    store = TransformedStore(inner, *transformers(encryption))
    sync(store.set("t/c/0", buffer(b"\x45value")))
    sync(store.set("lat/c/0", buffer(b"\x45value")))
    assert inner._store_dict["lat/c/0"].to_bytes() == b"\x45value" != inner._store_dict["t/c/0"].to_bytes()
    assert encryption.open("t/c/0", inner._store_dict["t/c/0"].to_bytes()) == b"value"
    assert sync(store.get("t/c/0")).to_bytes() == b"\x45value"
    other = Encryption(bytes(32), header=b"h", format="py-hamt-2")
    with pytest.raises(WrongKey):
        sync(TransformedStore(inner, *transformers(other)).get("t/c/0"))


def test_an_encryption_seals_what_any_store_holds():
    encryption = Encryption(KEY)
    store = TransformedStore(MemoryStore(), encryption.seal, encryption.open)
    xr.Dataset({"a": ("x", np.arange(5))}).to_zarr(store)
    assert list(xr.open_zarr(store).a.values) == [0, 1, 2, 3, 4]
    assert not any(b"zarr_format" in value.to_bytes() for value in store.store._store_dict.values())
