"""
The names that users of ipldstore know, on the parts of this package.

    store = IPLDStore()                                   # or get_ipfs_mapper(), or IPLDStore(PackCAS("store"))
    ds.to_zarr(store.zarr_store, zarr_format=2)
    root = store.freeze()

What is another than there: zarr 3 takes no mapping, so it is given `store.zarr_store`; `put` and `store[key] = value`
split a value above 1 MiB into a UnixFS file, where ipldstore writes one block of any length, which IPFS does not
exchange above 2 MiB; and a block that is missing is a `BlockNotFound`, never a `KeyError`, which means that there is
no such key.
"""

from typing import TYPE_CHECKING, Any

from hamt_bulk.ipldstore.castores import MappingCAStore, iter_links
from hamt_bulk.ipldstore.mapping import IPLDStore

if TYPE_CHECKING:
    from hamt_bulk.ipldstore.ipfs import IPFSStore, get_ipfs_mapper

__all__ = ["IPFSStore", "IPLDStore", "MappingCAStore", "get_ipfs_mapper", "iter_links"]


def __getattr__(name: str) -> Any:
    # HTTP clients take 0.2 s to import, and stores in memory do without.
    if name in ("IPFSStore", "get_ipfs_mapper"):
        from hamt_bulk.ipldstore import ipfs

        return getattr(ipfs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
