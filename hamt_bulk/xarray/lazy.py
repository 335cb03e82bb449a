"""Variables that are lazy but not chunked, such as those of a file that was opened without `chunks=`."""

import math
import warnings
from collections.abc import Callable, Hashable, Mapping
from typing import Any, NamedTuple

import xarray as xr
import zarr
from zarr.storage import MemoryStore

MAX_EAGER_BYTES = 64 << 20
"""A variable that is lazy, but not chunked, is loaded whole up to this size."""

LAZY_CHUNK_BYTES = 64 << 20
"""About how large the Dask blocks are into which a larger one is cut."""


class Place(NamedTuple):
    """
    Where a variable goes in an array that is there already.

    chunks  the shape of the pieces that are written at once, shards or chunks
    start   the index of the variable's first element
    """

    chunks: tuple[int, ...]
    start: tuple[int, ...]


def prepared(
    dataset: xr.Dataset, encoding: Mapping[Hashable, Any], places: Callable[[Hashable], Place | None]
) -> xr.Dataset:
    """
    `dataset` with no variable left that would be loaded whole on the driver, if it is large.

    places  where a variable goes that is there already; `None` for one that is new
    """
    for variable in dataset.variables.values():
        if variable.size == 0:
            variable.load()
    large = {
        name: variable
        for name, variable in dataset.variables.items()
        if name not in dataset.indexes
        and not variable._in_memory
        and variable.chunks is None
        and variable.nbytes > MAX_EAGER_BYTES
    }
    if not large:
        return dataset
    dataset = dataset.copy()
    for name, variable in large.items():
        place = places(name)
        own = dict(encoding.get(name, {}))
        chunks, start = place or Place(_target_chunks(variable, own), (0,) * variable.ndim)
        blocks = _grown(chunks, variable.shape, variable.dtype.itemsize)
        sizes = map(_cut, variable.shape, blocks, start)
        chunked = variable.chunk(dict(zip(variable.dims, sizes, strict=True)))
        if place is None and not own.get("shards", variable.encoding.get("shards")):
            chunked.encoding = {**variable.encoding, "chunks": chunks}
        dataset[name] = chunked
        warnings.warn(
            f"{name!r} is lazy but not chunked, and its {variable.nbytes >> 20} MiB would be loaded whole: it is "
            f"read in blocks of {blocks}, which are whole Zarr chunks. Open it with chunks= to choose others",
            stacklevel=2,
        )
    return dataset


def _cut(size: int, block: int, start: int) -> tuple[int, ...]:
    """An axis of `size` in blocks that end where multiples of `block` do, when it begins at `start`."""
    ends = [*range(block - start % block, size, block), size]
    return tuple(end - begin for begin, end in zip([0, *ends], ends, strict=False))


def _target_chunks(variable: xr.Variable, encoding: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape of the pieces that are written at once, shards or chunks, which zarr would choose."""
    own = {**variable.encoding, **encoding}
    if own.get("shards"):
        return tuple(own["shards"])
    if own.get("chunks"):
        return tuple(own["chunks"])
    encoded = xr.conventions.encode_cf_variable(variable.chunk())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about the data type, which the real array gives again
        array = zarr.create(variable.shape, dtype=encoded.dtype, store=MemoryStore())
    return tuple(array.chunks)


def _grown(chunks: tuple[int, ...], shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """`chunks` times whole numbers, to about `LAZY_CHUNK_BYTES`, the last axes first."""
    grown = list(chunks)
    for axis in reversed(range(len(chunks))):
        room = LAZY_CHUNK_BYTES // max(math.prod(grown) * itemsize, 1)
        most = math.ceil(shape[axis] / chunks[axis])
        grown[axis] = chunks[axis] * max(1, min(room, most))
    return tuple(grown)
