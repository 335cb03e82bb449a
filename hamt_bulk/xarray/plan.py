"""
What xarray's own writer would store, split into what is known now and what Dask has to compute.

Metadata, encoding and checks are xarray's: the dataset is dumped through `ZarrStore` into a record, by a
writer that keeps the Dask arrays back.
"""

import math
import warnings
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from dask.base import is_dask_collection
from xarray.backends import ZarrStore
from xarray.backends.api import DATAARRAY_NAME, DATAARRAY_VARIABLE
from zarr.storage import MemoryStore

from hamt_bulk.block import Data
from hamt_bulk.errors import InvalidInput
from hamt_bulk.zarr.recording import RecordingStore

ZarrArray: TypeAlias = "zarr.Array[Any]"
"""In quotes: before zarr 3.1.6 the class takes no parameter."""

XarrayObject: TypeAlias = xr.Dataset | xr.DataArray | xr.DataTree

MAX_EAGER_BYTES = 64 << 20
"""A variable that is lazy, but not chunked, is loaded whole up to this size."""

LAZY_CHUNK_BYTES = 64 << 20
"""About how large the Dask blocks are into which a larger one is cut."""


@dataclass(frozen=True, slots=True)
class ZarrOptions:
    """The arguments of `Dataset.to_zarr` that say what is stored; `None` is its default."""

    group: str | None
    encoding: Mapping[Any, Any] | None
    safe_chunks: bool
    align_chunks: bool
    write_empty_chunks: bool | None
    zarr_format: int | None
    consolidated: bool | None


@dataclass(frozen=True, slots=True)
class Source:
    """A Dask array, the Zarr array that it goes to, and where in it."""

    array: da.Array
    target: ZarrArray
    region: tuple[slice, ...]


SaveChunk: TypeAlias = Callable[[str, Data | None], None]
"""Takes each chunk of variables that are in memory, as soon as it is encoded."""


@dataclass(slots=True)
class _CapturingWriter:
    """The writer that xarray is given in place of its own."""

    record: RecordingStore
    save_chunk: SaveChunk
    sources: list[Source] = field(default_factory=list)

    def add(self, source: Any, target: ZarrArray, region: tuple[slice, ...] | None = None) -> None:
        if is_dask_collection(source):
            self.sources.append(Source(source, target, tuple(region or (slice(None),) * source.ndim)))
            return
        if region:
            target[region] = source
        else:
            target[...] = source
        for key, value in self.record.take_chunks():
            self.save_chunk(key, value)


def plan(
    dataset: XarrayObject, record: RecordingStore, options: ZarrOptions, save_chunk: SaveChunk
) -> list[Source]:
    """
    The Dask arrays that are left to write, after metadata went to `record` and all other chunks to `save_chunk`.

    Raises `InvalidInput` for what xarray and zarr refuse.
    """
    if options.zarr_format not in (None, 2, 3):
        raise InvalidInput(f"zarr_format={options.zarr_format!r}, expected 2 or 3")
    writer = _CapturingWriter(record, save_chunk)
    try:
        match dataset:
            case xr.DataTree():
                _dump_tree(dataset, record, options, writer)
            case xr.DataArray():
                _dump(_as_dataset(dataset), record, options, writer)
            case xr.Dataset():
                _dump(dataset, record, options, writer)
            case _:
                raise InvalidInput(
                    f"expected a Dataset, DataArray or DataTree, found {type(dataset).__name__}"
                )
    except InvalidInput:
        raise
    except (ValueError, TypeError, KeyError, NotImplementedError) as error:
        raise InvalidInput(f"{error}{_advice(str(error), dataset)}") from error
    if not options.safe_chunks and not options.align_chunks:
        for source in writer.sources:
            _refuse_shared_chunks(source, dataset)
    return writer.sources


def _dump(
    dataset: xr.Dataset, record: RecordingStore, options: ZarrOptions, writer: _CapturingWriter
) -> None:
    _refuse_other_names(dataset)
    store = _open(record, options, options.consolidated)
    dataset = prepared(dataset, options.encoding or {})
    dataset.dump_to_store(store, writer=writer, encoding=options.encoding)


def _dump_tree(
    tree: xr.DataTree, record: RecordingStore, options: ZarrOptions, writer: _CapturingWriter
) -> None:
    if options.group is not None:
        raise InvalidInput(
            "group= is not for a DataTree, whose nodes are the groups: pass tree[group] as a Dataset"
        )
    encoding = options.encoding or {}
    if unknown := set(encoding) - set(tree.groups):
        raise InvalidInput(
            f"encoding names the groups {sorted(unknown)}, which the tree has not: {list(tree.groups)}"
        )
    root = _open(record, options, True if options.consolidated is None else options.consolidated)
    for path, node in tree.subtree_with_keys:
        at_root = node is tree
        dataset = node.to_dataset(inherit=at_root)
        _refuse_other_names(dataset)
        own = encoding.get(node.path, {})
        store = root if at_root else root.get_child_store(path)
        prepared(dataset, own).dump_to_store(store, writer=writer, encoding=own or None)


def _open(record: RecordingStore, options: ZarrOptions, consolidated: bool | None) -> ZarrStore:
    store: ZarrStore = ZarrStore.open_group(
        record,
        mode="w-",
        group=options.group,
        consolidated=False,
        consolidate_on_close=consolidated is not False,
        safe_chunks=options.safe_chunks,
        align_chunks=options.align_chunks,
        zarr_format=options.zarr_format,
        write_empty=options.write_empty_chunks,
    )
    return store


def _as_dataset(array: xr.DataArray) -> xr.Dataset:
    """The dataset that `DataArray.to_zarr` would store."""
    if array.name is None:
        return array.to_dataset(name=DATAARRAY_VARIABLE)
    if array.name in array.coords or array.name in array.dims:
        # A variable cannot have the name of one of its coordinates; xarray keeps it aside in the same way.
        dataset = array.to_dataset(name=DATAARRAY_VARIABLE)
        dataset.attrs[DATAARRAY_NAME] = array.name
        return dataset
    return array.to_dataset()


def _refuse_other_names(dataset: xr.Dataset) -> None:
    for name in [*dataset.dims, *dataset.variables]:
        if not isinstance(name, str) or not name:
            raise InvalidInput(f"names in a Zarr group are text that is not empty, found {name!r}: rename it")


def prepared(dataset: xr.Dataset, encoding: Mapping[Hashable, Any]) -> xr.Dataset:
    """`dataset` with no variable left that would be loaded whole on the driver, if it is large."""
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
        own = dict(encoding.get(name, {}))
        chunks = _target_chunks(variable, own)
        blocks = _grown(chunks, variable.shape, variable.dtype.itemsize)
        chunked = variable.chunk(dict(zip(variable.dims, blocks, strict=True)))
        if not own.get("shards", variable.encoding.get("shards")):
            chunked.encoding = {**variable.encoding, "chunks": chunks}
        dataset[name] = chunked
        warnings.warn(
            f"{name!r} is lazy but not chunked, and its {variable.nbytes >> 20} MiB would be loaded whole: it is "
            f"read in blocks of {blocks}, which are whole Zarr chunks. Open it with chunks= to choose others",
            stacklevel=2,
        )
    return dataset


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


def _refuse_shared_chunks(source: Source, dataset: XarrayObject) -> None:
    """Two tasks that write into one Zarr chunk would each lose what the other wrote."""
    chunks = getattr(source.target, "shards", None) or source.target.chunks
    for axis, (sizes, size, part) in enumerate(zip(source.array.chunks, chunks, source.region, strict=True)):
        starts = (part.start or 0) + np.cumsum(sizes)[:-1]
        if size and (starts % size).any():
            raise InvalidInput(
                f"variable {source.target.path!r}, axis {axis}: Dask chunks {_few(sizes)} share Zarr chunks of {size}, "
                f"so two tasks would write into one.{_advice('chunks', dataset)}"
            )


def _few(sizes: tuple[int, ...]) -> str:
    return str(sizes) if len(sizes) <= 8 else f"({', '.join(map(str, sizes[:6]))}, … {len(sizes)} of them)"


def _advice(message: str, dataset: XarrayObject) -> str:
    """What works instead, when `message` is about chunks: a call to copy."""
    if "chunk" not in message or isinstance(dataset, xr.DataTree):
        return ""
    variables = _as_dataset(dataset).variables if isinstance(dataset, xr.DataArray) else dataset.variables
    encoding = {
        name: {"chunks": tuple(max(sizes) for sizes in variable.chunks)}
        for name, variable in variables.items()
        if variable.chunks is not None and any(len(set(sizes[:-1])) > 1 for sizes in variable.chunks)
    }
    # Uneven Dask chunks need both; with even ones the Zarr chunks are known, and aligning is enough.
    call = f"encoding={encoding}, align_chunks=True" if encoding else "align_chunks=True"
    return (
        f" What works: {call}, which rechunks for this call. Or ds.chunk(…) to multiples of the Zarr chunks, or "
        "Zarr chunks that divide the Dask chunks, by encoding="
    )
