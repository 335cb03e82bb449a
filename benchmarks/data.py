"""Datasets that are made in the tasks, at little cost, with no two chunks alike."""

from functools import cache, partial
from typing import Any, Literal, TypeAlias

import dask.array as da
import numpy as np
import xarray as xr
from numpy.typing import NDArray

Kind: TypeAlias = Literal["smooth", "random"]
"""
smooth  float32, a smooth field and measuring noise, from which zarr's own compressor takes about a fifth
random  uint32 that no compressor makes smaller
"""

KINDS: dict[Kind, np.dtype[Any]] = {"smooth": np.dtype(np.float32), "random": np.dtype(np.uint32)}


def maps(count: int, side: int, kind: Kind = "smooth", *, first: int = 0) -> xr.Dataset:
    """
    `count` maps of `side` x `side` values of four bytes, each map one Dask block and one Zarr chunk.

    first  the number of the first; maps of other numbers have other values
    """
    array = da.map_blocks(
        partial(_map, side, kind, first),
        chunks=((1,) * count, (side,), (side,)),
        dtype=KINDS[kind],
        meta=np.empty((0, 0, 0), KINDS[kind]),
    )
    return xr.Dataset({"t2m": (("time", "y", "x"), array)})


def _map(side: int, kind: Kind, first: int, block_id: tuple[int, int, int] = (0, 0, 0)) -> NDArray[Any]:
    number = first + block_id[0]
    field, noise = _background(side, kind)
    drawn = noise[(at := number * 7919 % (len(noise) - side * side)) : at + side * side].reshape(
        1, side, side
    )
    if kind == "random":
        return drawn ^ np.uint32(number)
    return field + (drawn + np.float32(number / 64))


@cache
def _background(side: int, kind: Kind) -> tuple[NDArray[Any], NDArray[Any]]:
    """What all maps of a process share: a field, and noise of which each map takes another part."""
    generator = np.random.default_rng(20)
    if kind == "random":
        return np.zeros(0, np.uint32), generator.integers(0, 1 << 32, 2 * side * side + 1, np.uint32)
    phase = np.linspace(0, 6, side, dtype=np.float32)
    field = 280 + 20 * np.sin(phase)[:, None] * np.cos(phase)
    return field, generator.standard_normal(2 * side * side + 1, np.float32) / 4


def grid(rows: int, columns: int) -> xr.Dataset:
    """`rows` x `columns` Dask blocks and Zarr chunks of one value each, its number."""
    array = da.map_blocks(
        partial(_number, columns),
        chunks=((1,) * rows, (1,) * columns),
        dtype=np.int64,
        meta=np.empty((0, 0), np.int64),
    )
    return xr.Dataset({"number": (("y", "x"), array)})


def _number(columns: int, block_id: tuple[int, int] = (0, 0)) -> NDArray[np.int64]:
    return np.array([[block_id[0] * columns + block_id[1] + 1]])


def pieces(files: int, blocks: int) -> xr.Dataset:
    """
    What `open_mfdataset` gives: a part of so many files, one after the other, of so many Dask blocks each.

    All Dask blocks are one Zarr chunk of one value.
    """
    values = np.arange(1, blocks + 1)
    arrays = [da.from_array(values, chunks=1, name=f"file-{number}") for number in range(files)]
    return xr.Dataset({"number": ("time", da.concatenate(arrays)[1:])})
