"""Datasets to merge: small tables, and edits of them, each a function from a root to the next."""

import json

import numpy as np
import xarray as xr
from stored import in_tree

from hamt_bulk import build
from hamt_bulk.xarray import to_hamt


def table(sizes, value=1.0, chunks=4, **coords):
    """Variables of so many steps, by name: `{"a": {"t": 4}}` has one along `t`."""
    arrays = {
        name: xr.DataArray(np.full(tuple(d.values()), value), dims=tuple(d)) for name, d in sizes.items()
    }
    for name, array in arrays.items():
        array.encoding["chunks"] = tuple(min(chunks, size) for size in array.shape)
        arrays[name] = array
    return xr.Dataset(arrays, coords)


def store(cas, dataset, **options):
    return lambda base: to_hamt(dataset, cas, base=base, **options)


def document(cas, key, change):
    """An edit of one metadata document."""

    def edit(base):
        parsed = json.loads(in_tree(base, cas)[key])
        change(parsed)
        return build({key: json.dumps(parsed).encode()}, cas, base=base)

    return edit


def attributes(cas, path, zarr_format, **changed):
    if zarr_format == 2:
        return document(cas, f"{path}/.zattrs", lambda parsed: parsed.update(changed))
    return document(cas, f"{path}/zarr.json", lambda parsed: parsed["attributes"].update(changed))


def more(cas, count, *names, **options):
    """An append of so many steps along `t`."""
    return store(cas, table({name: {"t": count} for name in names}), append_dim="t", **options)
