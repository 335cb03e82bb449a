"""`ds.hamt`: the build as a method of datasets."""

from typing import Any

import xarray as xr

from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.xarray.build import to_hamt
from hamt_bulk.xarray.plan import XarrayObject


@xr.register_dataset_accessor("hamt")
@xr.register_dataarray_accessor("hamt")
@xr.register_datatree_accessor("hamt")
class HamtAccessor:
    """Content-addressed storage of this object."""

    def __init__(self, ds: XarrayObject) -> None:
        self._ds = ds

    def build(self, cas: ContentAddressedStore | str, **options: Any) -> Any:
        """The root of this object: `hamt_bulk.xarray.to_hamt` with the same arguments."""
        return to_hamt(self._ds, cas, **options)
