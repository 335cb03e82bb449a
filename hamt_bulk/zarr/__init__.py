"""Trees as Zarr stores."""

from hamt_bulk.keys import METADATA_NAMES, is_metadata
from hamt_bulk.zarr.simple import SimpleEncryptedZarrHAMTStore
from hamt_bulk.zarr.store import StoreIsReadOnly, ZarrHAMTStore
from hamt_bulk.zarr.transformed import TransformedStore

__all__ = [
    "METADATA_NAMES",
    "SimpleEncryptedZarrHAMTStore",
    "StoreIsReadOnly",
    "TransformedStore",
    "ZarrHAMTStore",
    "is_metadata",
]
