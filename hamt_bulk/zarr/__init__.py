"""Trees as Zarr stores."""

from hamt_bulk.keys import METADATA_NAMES, is_metadata
from hamt_bulk.zarr.store import StoreIsReadOnly, ZarrHAMTStore

__all__ = ["METADATA_NAMES", "StoreIsReadOnly", "ZarrHAMTStore", "is_metadata"]
