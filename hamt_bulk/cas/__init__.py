"""Content-addressed stores: blocks by CID."""

from typing import TYPE_CHECKING, Any

from hamt_bulk.cas.base import ContentAddressedStore, Receipt, Writer
from hamt_bulk.cas.blocks import BlockCAS, LocalCAS
from hamt_bulk.cas.car import CarCAS
from hamt_bulk.cas.memory import InMemoryCAS
from hamt_bulk.cas.pack import PackCAS
from hamt_bulk.cas.retries import Retries
from hamt_bulk.cas.retrying import RetryingCAS
from hamt_bulk.cas.url import open_cas

if TYPE_CHECKING:
    from hamt_bulk.cas.ipfs import GatewayCAS, KuboCAS

__all__ = [
    "BlockCAS",
    "CarCAS",
    "ContentAddressedStore",
    "GatewayCAS",
    "InMemoryCAS",
    "KuboCAS",
    "LocalCAS",
    "PackCAS",
    "Receipt",
    "Retries",
    "RetryingCAS",
    "Writer",
    "open_cas",
]


def __getattr__(name: str) -> Any:
    # HTTP clients take 0.2 s to import, and stores on disk do without.
    if name in ("GatewayCAS", "KuboCAS"):
        from hamt_bulk.cas import ipfs

        return getattr(ipfs, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
