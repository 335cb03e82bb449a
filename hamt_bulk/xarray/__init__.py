"""xarray: datasets to roots."""

from hamt_bulk.progress import BuildProgress
from hamt_bulk.xarray.build import to_hamt, to_hamt_async

__all__ = ["BuildProgress", "to_hamt", "to_hamt_async"]
