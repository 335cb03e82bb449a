"""The Zarr store of a root of any kind: zarr's own suite."""

import pytest
from ipldstore_made import frozen, root_of
from zarr_stores import ReadOnlyTests

from hamt_bulk import InMemoryCAS, PackCAS
from hamt_bulk.formats.ipldstore import IpldstoreRoot
from hamt_bulk.formats.root import Root
from hamt_bulk.zarr import StoreIsReadOnly
from hamt_bulk.zarr.roots import RootStore


class SuiteStore(RootStore):
    """Opens as zarr's stores do, with the arguments of the class, of which every store of theirs has `read_only`."""

    def __init__(self, source: Root, read_only: bool = True) -> None:
        if not read_only:
            raise StoreIsReadOnly("a root is read-only")
        super().__init__(source)


class TestReadOnly(ReadOnlyTests[SuiteStore]):
    store_cls = SuiteStore
    refusal = "a root is read-only"

    async def set(self, store, key, value):
        """Puts the store at the root which has this too."""
        source = store.source
        values = {key: source.get(key) for key in source} | {key: value.to_bytes()}
        fresh = SuiteStore(IpldstoreRoot(frozen(values, source.cas), source.cas))
        vars(store).update(source=fresh.source, _folders=None)

    @pytest.fixture(params=["memory", "pack"])
    def store_kwargs(self, request, tmp_path):
        cas = InMemoryCAS() if request.param == "memory" else PackCAS(tmp_path / "store")
        return {"source": root_of({}, cas), "read_only": True}

    def test_store_repr(self, store):
        assert repr(store) == f"RootStore(<ipldstore root {store.root} in {store.source.cas!r}>)"
        assert str(store) == f"ipfs://{store.root}"
