"""xarray: datasets to roots and back."""

from hamt_bulk.progress import BuildProgress
from hamt_bulk.xarray.accessor import HamtAccessor
from hamt_bulk.xarray.build import to_hamt, to_hamt_async
from hamt_bulk.xarray.engine import HamtBackendEntrypoint

__all__ = ["BuildProgress", "HamtAccessor", "HamtBackendEntrypoint", "to_hamt", "to_hamt_async"]
