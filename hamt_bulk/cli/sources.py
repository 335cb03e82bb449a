"""What there is to ingest: files and folders in, one lazy dataset out."""

import glob
import os
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

import xarray as xr
import zarr

from hamt_bulk.cas.files import outside
from hamt_bulk.errors import HamtError, InvalidInput

Kind: TypeAlias = Literal["netcdf", "zarr", "grib"]

CHUNK_BYTES = 16 << 20
"""Chunks of files are joined up to this size. Readers fetch whole chunks, over a network, so it is not Dask's
128 MiB; and every chunk costs a key, so it is not much less."""

_ZARR_NAMES = ("zarr.json", ".zmetadata", ".zgroup", ".zarray")
_MAGIC: dict[bytes, Kind] = {b"CDF": "netcdf", b"\x89HDF\r\n\x1a\n": "netcdf", b"GRIB": "grib"}
_STORED = ("chunks", "shards", "preferred_chunks", "chunksizes")
_CODECS = ("compressor", "compressors", "filters", "serializer", "object_codec")


class Opened(NamedTuple):
    """
    A dataset to ingest.

    chosen       how its chunks were chosen, in words
    zarr_format  what to write; `None` is zarr's default
    """

    ds: xr.Dataset
    chosen: str
    zarr_format: int | None


def open_sources(
    names: Sequence[str],
    chunks: Mapping[str, int],
    *,
    engine: str | None,
    concat_dim: str | None,
    zarr_format: int | None,
) -> Opened:
    """
    The dataset that `names` hold together, in Dask chunks.

    names        paths, quoted globs and URLs
    chunks       by dimension, -1 for all of it; the others are chosen
    zarr_format  `None`: that of a source in Zarr
    """
    paths = [path for name in names for path in expanded(name)]
    kinds = {kind_of(path) for path in paths} if engine is None else set()
    if len(kinds) > 1:
        raise InvalidInput(f"the sources are of several kinds, {sorted(kinds)}: ingest each kind by itself")
    kind = kinds.pop() if kinds else None
    reader = engine or _engine_for(kind)
    if reader == "zarr":
        own, consolidated = _zarr_facts(paths)
        ds = _open(paths, concat_dim, engine=reader, consolidated=consolidated)
        ds, chosen = _zarr_chunked(ds, chunks, keep_codecs=zarr_format in (None, own))
        return Opened(ds, chosen, zarr_format or own)
    # cfgrib would leave an index beside each file.
    ds = _open(paths, concat_dim, engine=reader, **({"indexpath": ""} if reader == "cfgrib" else {}))
    sizes = chunk_sizes(ds, chunks)
    for variable in ds.variables.values():
        for key in _STORED:
            variable.encoding.pop(key, None)
    chosen = f"{_listed(sizes)}: of whole chunks of the file, up to {CHUNK_BYTES >> 20} MiB"
    return Opened(ds.chunk(sizes), chosen, zarr_format)


def expanded(name: str) -> list[str]:
    """The paths that a name stands for, absolute, since workers may have another folder; or a URL."""
    if "://" in name:
        return [name]
    path = os.path.abspath(os.path.expanduser(name))
    if os.path.exists(path):
        return [path]
    if found := sorted(glob.glob(path, recursive=True)):
        return found
    what = "no file matches" if glob.has_magic(name) else "no such file or folder"
    raise InvalidInput(f"{name}: {what}")


def kind_of(path: str) -> Kind:
    """What a source is, by its first bytes."""
    if "://" in path:
        return "netcdf" if path.partition("?")[0].endswith((".nc", ".nc4", ".h5")) else "zarr"
    if os.path.isdir(path):
        if any(os.path.exists(os.path.join(path, name)) for name in _ZARR_NAMES):
            return "zarr"
        raise InvalidInput(f"{path} is a folder, but not a Zarr store: give the files in it, '{path}/*.nc'")
    with outside("cannot read", Path(path)), open(path, "rb") as file:
        head = file.read(8)
    for magic, kind in _MAGIC.items():
        if head.startswith(magic):
            return kind
    raise InvalidInput(
        f"{path} starts with {head!r}, so it is neither netCDF nor GRIB: is there an --engine for it?"
    )


def _engine_for(kind: Kind | None) -> str | None:
    """xarray's name for what reads a kind. Raises `InvalidInput` with the command that installs it."""
    match kind:
        case "grib" if find_spec("cfgrib") is None:
            raise InvalidInput("GRIB needs cfgrib: pip install 'hamt-bulk[grib]'")
        case "grib":
            return "cfgrib"
        case "netcdf":
            for package, engine in (("netCDF4", "netcdf4"), ("h5netcdf", "h5netcdf")):
                if find_spec(package) is not None:
                    return engine
            raise InvalidInput("netCDF needs a reader: pip install 'hamt-bulk[netcdf]'")
        case _:
            return kind


def _zarr_facts(paths: Sequence[str]) -> tuple[int, bool]:
    """The format of Zarr sources, and whether each has all its metadata in one place."""
    try:
        groups = [zarr.open_group(path, mode="r").metadata for path in paths]
    except Exception as error:  # readers raise whatever they like
        raise InvalidInput(f"cannot read {_few(paths)}: {type(error).__name__}: {error}") from error
    return groups[0].zarr_format, all(group.consolidated_metadata is not None for group in groups)


def _open(paths: Sequence[str], concat_dim: str | None, **options: Any) -> xr.Dataset:
    options["chunks"] = {}
    try:
        if len(paths) == 1:
            return xr.open_dataset(paths[0], **options)
        # What differs between files is joined or refused: never filled up, and never taken from one of them.
        options |= {"data_vars": "minimal", "coords": "different", "compat": "equals", "join": "exact"}
        if concat_dim is None:
            return xr.open_mfdataset(paths, combine="by_coords", combine_attrs="override", **options)
        options |= {"combine": "nested", "concat_dim": concat_dim}
        return xr.open_mfdataset(paths, combine_attrs="override", **options)
    except HamtError:
        raise
    except ImportError as error:
        raise InvalidInput(f"cannot read {_few(paths)}: {error}") from error
    except Exception as error:  # readers raise whatever they like
        advice = ""
        if len(paths) > 1:
            advice = ". Files are joined by their coordinates; --concat-dim DIM joins them in the order given"
        raise InvalidInput(f"cannot read {_few(paths)}: {type(error).__name__}: {error}{advice}") from error


def _zarr_chunked(ds: xr.Dataset, chunks: Mapping[str, int], *, keep_codecs: bool) -> tuple[xr.Dataset, str]:
    """A dataset from Zarr, whose chunks were chosen for readers already."""
    sizes = _resolved(ds, chunks)
    for variable in ds.variables.values():
        if sizes.keys() & set(variable.dims):
            for key in _STORED:
                variable.encoding.pop(key, None)
        if not keep_codecs:
            # Codecs of one format are refused by the other.
            for key in _CODECS:
                variable.encoding.pop(key, None)
    if not sizes:
        return ds, "as they are in the source"
    return ds.chunk(sizes), f"{_listed(sizes)}, all others as they are in the source"


def chunk_sizes(ds: xr.Dataset, chunks: Mapping[str, int]) -> dict[str, int]:
    """
    One size for each dimension that is not in `chunks`: whole chunks of the file, joined up to `CHUNK_BYTES`.

    The largest variable decides first, since its chunks are what readers wait for.
    """
    from dask.array.core import normalize_chunks

    sizes = _resolved(ds, chunks)
    for variable in sorted(ds.variables.values(), key=lambda variable: -variable.nbytes):
        if all(dim in sizes for dim in variable.dims):
            continue
        preferred = variable.encoding.get("preferred_chunks", {})
        chosen = normalize_chunks(
            tuple(sizes.get(str(dim), "auto") for dim in variable.dims),
            variable.shape,
            limit=CHUNK_BYTES,
            dtype="f8" if variable.dtype.hasobject else variable.dtype,
            previous_chunks=tuple(
                preferred.get(dim, size) for dim, size in zip(variable.dims, variable.shape, strict=True)
            ),
        )
        for dim, pieces in zip(variable.dims, chosen, strict=True):
            sizes.setdefault(str(dim), int(max(pieces, default=1)))
    return sizes


def _resolved(ds: xr.Dataset, chunks: Mapping[str, int]) -> dict[str, int]:
    if unknown := [dim for dim in chunks if dim not in ds.sizes]:
        known = ", ".join(f"{dim} ({size})" for dim, size in ds.sizes.items())
        raise InvalidInput(f"--chunks names {', '.join(unknown)}; the dimensions are {known}")
    return {dim: ds.sizes[dim] if size == -1 else size for dim, size in chunks.items()}


def _listed(sizes: Mapping[str, int]) -> str:
    return ", ".join(f"{dim}={size}" for dim, size in sizes.items())


def _few(paths: Iterable[str]) -> str:
    first, *others = paths
    return first if not others else f"{first} and {len(others)} more"
