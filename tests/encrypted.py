"""Encrypted datasets of the tests, and what is in their trees."""

from typing import Any

import dask.array as da
import numpy as np
import xarray as xr
from stored import in_tree

OPTIONS: dict[str, dict[str, Any]] = {
    "bound": {},
    "hidden": {"hide_names": True},
    "excluded": {"exclude_vars": ["time", "group/x"]},
    "open metadata": {"encrypt_metadata": False},
    "py-hamt-3": {"format": "py-hamt-3"},
    "py-hamt-2": {"format": "py-hamt-2", "exclude_vars": ["time"]},
}


def dataset(size: int = 20, start: int = 0) -> xr.Dataset:
    """Names that occur in nothing else, text, and a variable that is in memory."""
    values = da.arange(start * 4, (start + size) * 4, chunks=8, dtype="f4").reshape(size, 4)
    variables = {
        "t2m": (("time", "x"), values.rechunk((2, 4)), {"units": "secret-units"}),
        "station_names": ("x", np.array(["a", "b", "c", "dé"], dtype=object)),
    }
    return xr.Dataset(variables, coords={"time": np.arange(start, start + size), "x": np.arange(4.0)})


def opened(root, cas, encryption, **options) -> xr.Dataset:
    return xr.open_dataset(root, engine="hamt", cas=cas, encryption=encryption, **options)


def plain(root, cas, encryption) -> dict[str, bytes]:
    """Every key of an encrypted tree and its value."""
    found = {encryption.key_of(name): stored for name, stored in in_tree(root, cas).items()}
    return {key: encryption.open(key, stored) for key, stored in found.items()}
