"""
Parallel bulk builds of content-addressed Zarr hierarchies.

    from hamt_bulk import PackCAS
    from hamt_bulk.xarray import to_hamt

    root = to_hamt(ds, PackCAS("store"))
"""

from hamt_bulk.bulk import build
from hamt_bulk.cas import (
    CarCAS,
    ContentAddressedStore,
    InMemoryCAS,
    LocalCAS,
    PackCAS,
    Receipt,
    Writer,
    open_cas,
)
from hamt_bulk.integrity import check
from hamt_bulk.manifest import blake3_hashfn

__version__ = "0.1.0"

__all__ = [
    "CarCAS",
    "ContentAddressedStore",
    "InMemoryCAS",
    "LocalCAS",
    "PackCAS",
    "Receipt",
    "Writer",
    "__version__",
    "blake3_hashfn",
    "build",
    "check",
    "open_cas",
]
