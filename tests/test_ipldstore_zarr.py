"""ipldstore's Zarr store: zarr's own suite, and beside zarr's memory store under xarray."""

import asyncio
from pathlib import Path

import pytest
import xarray as xr
from dask.base import tokenize
from ipldstore_made import as_ipldstore_gives, frozen_naively
from test_zarr_read import dataset
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore
from zarr_stores import WritableTests

from hamt_bulk import PackCAS, errors
from hamt_bulk.block import identify, to_bytes
from hamt_bulk.formats import open_root
from hamt_bulk.ipldstore import IPLDStore
from hamt_bulk.ipldstore.zarr import IPLDZarrStore


class SuiteStore(IPLDZarrStore):
    """Opens with the arguments of the class, as zarr's stores do."""


class TestZarrStore(WritableTests[SuiteStore]):
    store_cls = SuiteStore

    async def set(self, store, key, value):
        store.mapping[key] = value.to_bytes()

    async def get(self, store, key):
        return cpu.Buffer.from_bytes(store.mapping[key])

    @pytest.fixture(params=["memory", "pack"])
    def store_kwargs(self, request, tmp_path):
        return {"mapping": IPLDStore(None if request.param == "memory" else tmp_path / "store")}

    def test_store_repr(self, store):
        assert repr(store) == str(store) == f"SuiteStore({store.mapping!r})"

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
