"""Content-addressed stores: blocks by CID."""

from hamt_bulk.cas.base import ContentAddressedStore, LocalCAS, Receipt, Writer
from hamt_bulk.cas.car import CarCAS
from hamt_bulk.cas.memory import InMemoryCAS
from hamt_bulk.cas.pack import PackCAS
from hamt_bulk.cas.url import open_cas

__all__ = [
    "CarCAS",
    "ContentAddressedStore",
    "InMemoryCAS",
    "LocalCAS",
    "PackCAS",
    "Receipt",
    "Writer",
    "open_cas",
]
