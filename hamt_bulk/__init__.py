"""
Parallel bulk builds of content-addressed Zarr hierarchies.

    from hamt_bulk import PackCAS
    from hamt_bulk.xarray import to_hamt

    root = to_hamt(ds, PackCAS("store"))
"""

from typing import TYPE_CHECKING, Any

from hamt_bulk import cas
from hamt_bulk.bulk import build, update
from hamt_bulk.cas import (
    BlockCAS,
    CarCAS,
    ContentAddressedStore,
    InMemoryCAS,
    LocalCAS,
    PackCAS,
    Receipt,
    Retries,
    RetryingCAS,
    Writer,
    open_cas,
)
from hamt_bulk.crypto import Encryption, KeyEnv, KeyFile
from hamt_bulk.formats import Root, open_root
from hamt_bulk.hamt import HAMT
from hamt_bulk.hashers import KeyHasher, register_hasher
from hamt_bulk.integrity import check
from hamt_bulk.layout import HashMap
from hamt_bulk.manifest import blake3_hashfn
from hamt_bulk.pointers import Inline
from hamt_bulk.roots import copy, delete, diff, merge

if TYPE_CHECKING:
    from hamt_bulk.cas import GatewayCAS, KuboCAS
    from hamt_bulk.conversion import convert
    from hamt_bulk.zarr import SimpleEncryptedZarrHAMTStore, TransformedStore, ZarrHAMTStore

__version__ = "0.1.0"

__all__ = [
    "HAMT",
    "BlockCAS",
    "CarCAS",
    "ContentAddressedStore",
    "Encryption",
    "GatewayCAS",
    "HashMap",
    "InMemoryCAS",
    "Inline",
    "KeyEnv",
    "KeyFile",
    "KeyHasher",
    "KuboCAS",
    "LocalCAS",
    "PackCAS",
    "Receipt",
    "Retries",
    "RetryingCAS",
    "Root",
    "SimpleEncryptedZarrHAMTStore",
    "TransformedStore",
    "Writer",
    "ZarrHAMTStore",
    "__version__",
    "blake3_hashfn",
    "build",
    "check",
    "convert",
    "copy",
    "delete",
    "diff",
    "merge",
    "open_cas",
    "open_root",
    "register_hasher",
    "update",
]


def __getattr__(name: str) -> Any:
    # zarr takes half a second to import, and a tree of keys and values does without.
    if name in ("SimpleEncryptedZarrHAMTStore", "TransformedStore", "ZarrHAMTStore"):
        from hamt_bulk import zarr

        return getattr(zarr, name)
    if name == "convert":
        from hamt_bulk.conversion import convert

        return convert
    if name in ("GatewayCAS", "KuboCAS"):
        return getattr(cas, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
