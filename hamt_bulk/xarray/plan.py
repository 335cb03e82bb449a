"""
What xarray's own writer would store, split into what is known now and what Dask has to compute.

Metadata, encoding and checks are xarray's: the dataset is dumped through `ZarrStore` into a record, by a
writer that keeps the Dask arrays back.
"""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import dask.array as da
import numpy as np
import xarray as xr
import zarr
from dask.base import is_dask_collection
from xarray.backends import ZarrStore
from xarray.backends.api import DATAARRAY_NAME, DATAARRAY_VARIABLE
from xarray.backends.zarr import _choose_default_mode
from zarr.errors import ContainsGroupError

from hamt_bulk.block import Data
from hamt_bulk.errors import Conflict, HamtError, InvalidInput
from hamt_bulk.xarray.lazy import Place, prepared
from hamt_bulk.zarr.recording import RecordingStore

ZarrArray: TypeAlias = "zarr.Array[Any]"
"""In quotes: before zarr 3.1.6 the class takes no parameter."""

XarrayObject: TypeAlias = xr.Dataset | xr.DataArray | xr.DataTree

ZarrMode: TypeAlias = Literal["w", "w-", "a", "a-", "r+"]
"""What may be there already, as in `Dataset.to_zarr`."""

Region: TypeAlias = Mapping[str, slice | Literal["auto"]] | Literal["auto"]
"""Where a dataset goes in the arrays of its base, by dimension."""

REFUSALS = (
    ValueError,
    TypeError,
    KeyError,
    NotImplementedError,
    IndexError,
    FileNotFoundError,
    AssertionError,
)
"""What xarray and zarr raise for a dataset that does not fit. Our own errors are told from these first."""


@dataclass(frozen=True, slots=True)
class ZarrOptions:
    """The arguments of `Dataset.to_zarr` that say what is stored; `None` is its default."""

    group: str | None
    mode: ZarrMode | None
    append_dim: Hashable | None
    region: Region | None
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
    there: set[str] = field(default_factory=set)
    """The variables that the base has already."""

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
    record.concerned += _paths(dataset, options)
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
    except HamtError:
        raise
    except (ContainsGroupError, FileExistsError) as error:
        raise InvalidInput(
            f"the base has the group {options.group or '/'!r} already: pass append_dim= to append to it, mode='a' to "
            "add variables or write over them, region= to write into it, or mode='w' to replace it"
        ) from error
    except REFUSALS as error:
        raise InvalidInput(f"{error}{_advice(str(error), dataset, writer.there)}") from error
    if not options.safe_chunks and not options.align_chunks:
        for source in writer.sources:
            _refuse_shared_chunks(source, dataset, writer.there)
    return writer.sources


def _paths(dataset: XarrayObject, options: ZarrOptions) -> list[str]:
    """The paths of the groups and arrays that `dataset` becomes."""
    match dataset:
        case xr.DataTree():
            groups = {path.strip("/."): list(node.variables) for path, node in dataset.subtree_with_keys}
        case xr.DataArray() | xr.Dataset():
            names = [dataset.name or DATAARRAY_VARIABLE] if isinstance(dataset, xr.DataArray) else []
            variables = dataset.coords if isinstance(dataset, xr.DataArray) else dataset.variables
            groups = {(options.group or "").strip("/"): [*names, *variables]}
        case _:
            return []
    return [
        path
        for group, names in groups.items()
        for path in (group, *(f"{group}/{n}".lstrip("/") for n in names))
    ]


def _dump(
    dataset: xr.Dataset, record: RecordingStore, options: ZarrOptions, writer: _CapturingWriter
) -> None:
    _refuse_other_names(dataset)
    store = _open(record, options, options.consolidated)
    _dump_group(dataset, store, options.encoding, options, writer)


def _dump_tree(
    tree: xr.DataTree, record: RecordingStore, options: ZarrOptions, writer: _CapturingWriter
) -> None:
    if options.group is not None:
        raise InvalidInput(
            "group= is not for a DataTree, whose nodes are the groups: pass tree[group] as a Dataset"
        )
    if options.append_dim is not None:
        raise InvalidInput(
            "append_dim= is not for a DataTree: pass each node as a Dataset, with its path as group="
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
        store = root if at_root else root.get_child_store(path)
        _dump_group(dataset, store, encoding.get(node.path), options, writer)


def _dump_group(
    dataset: xr.Dataset,
    store: ZarrStore,
    encoding: Mapping[Any, Any] | None,
    options: ZarrOptions,
    writer: _CapturingWriter,
) -> None:
    if store._mode != "w":
        writer.there.update(store.array_keys())
    dataset = store._validate_and_autodetect_region(dataset)
    store._validate_encoding(encoding or {})

    def place(name: Hashable) -> Place | None:
        return _place(store, name, dataset.variables[name].dims, options)

    _refuse_other_types(dataset, store)
    dataset = prepared(dataset, encoding or {}, place)
    dataset.dump_to_store(store, writer=writer, encoding=encoding)


def _refuse_other_types(dataset: xr.Dataset, store: ZarrStore) -> None:
    """xarray stores what it is given in the type of the array that is there, and would cut off what does not fit."""
    for name in set(dataset.variables).intersection(() if store._mode == "w" else store.array_keys()):
        there = xr.conventions.decode_cf_variable(name, store.open_store_variable(name))
        given = dataset.variables[name]
        if "O" in (there.dtype.kind, given.dtype.kind):
            continue  # text and calendars, which xarray itself looks at
        if not np.can_cast(given.dtype, there.dtype, "same_kind"):
            raise InvalidInput(
                f"{name!r} has {given.dtype} where the base has {there.dtype}: convert it with .astype() first"
            )


def _place(store: ZarrStore, name: Hashable, dims: Sequence[Hashable], options: ZarrOptions) -> Place | None:
    """Where a variable goes in the array that the base has for it, if it has one and keeps it."""
    if store._mode == "w" or name not in store.array_keys():
        return None
    array = store.zarr_group[name]
    region = store._write_region or {}
    start = [
        size if dim == options.append_dim else region.get(dim, slice(None)).start or 0
        for dim, size in zip(dims, array.shape, strict=True)
    ]
    return Place(tuple(array.shards or array.chunks), tuple(start))


def _open(record: RecordingStore, options: ZarrOptions, consolidated: bool | None) -> ZarrStore:
    mode = _choose_default_mode(mode=options.mode, append_dim=options.append_dim, region=options.region)
    store: ZarrStore = ZarrStore.open_group(
        record,
        mode=mode,
        group=options.group,
        consolidated=consolidated if mode == "r+" else False,
        consolidate_on_close=mode != "r+" and consolidated is not False,
        append_dim=options.append_dim,
        write_region=dict(options.region) if isinstance(options.region, Mapping) else options.region,
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


def _refuse_shared_chunks(source: Source, dataset: XarrayObject, there: set[str]) -> None:
    """Two tasks that write into one Zarr chunk would each lose what the other wrote."""
    chunks = getattr(source.target, "shards", None) or source.target.chunks
    for axis, (sizes, size, part) in enumerate(zip(source.array.chunks, chunks, source.region, strict=True)):
        starts = (part.start or 0) + np.cumsum(sizes)[:-1]
        if size and (starts % size).any():
            raise InvalidInput(
                f"variable {source.target.path!r}, axis {axis}: Dask chunks {_few(sizes)} share Zarr chunks of {size}, "
                f"so two tasks would write into one.{_advice('chunks', dataset, there)}"
            )


def explained(conflict: Conflict, sources: Sequence[Source]) -> Conflict:
    """`conflict` with the chunks of the variable that its key belongs to."""
    named = [source for source in sources if str(conflict).startswith(f"'{source.target.path}/")]
    if not named:
        return conflict
    source = max(named, key=lambda source: len(source.target.path))
    dask_chunks = ", ".join(map(_few, source.array.chunks))
    chunks = source.target.shards or source.target.chunks
    return Conflict(
        f"{conflict}. Variable {source.target.path!r} has Dask chunks {dask_chunks} and Zarr chunks {chunks}"
    )


def _few(sizes: tuple[int, ...]) -> str:
    return str(sizes) if len(sizes) <= 8 else f"({', '.join(map(str, sizes[:6]))}, … {len(sizes)} of them)"


def _advice(message: str, dataset: XarrayObject, there: set[str]) -> str:
    """What works instead, when `message` is about chunks: a call to copy. An encoding is for variables not `there`."""
    if "chunk" not in message or isinstance(dataset, xr.DataTree):
        return ""
    variables = _as_dataset(dataset).variables if isinstance(dataset, xr.DataArray) else dataset.variables
    encoding = {
        name: {"chunks": tuple(max(sizes) for sizes in variable.chunks)}
        for name, variable in variables.items()
        if name not in there
        and variable.chunks is not None
        and any(len(set(sizes[:-1])) > 1 for sizes in variable.chunks)
    }
    # Uneven Dask chunks need both; with even ones the Zarr chunks are known, and aligning is enough.
    call = f"encoding={encoding}, align_chunks=True" if encoding else "align_chunks=True"
    return (
        f" What works: {call}, which rechunks for this call. Or ds.chunk(…) to multiples of the Zarr chunks, or "
        "Zarr chunks that divide the Dask chunks, by encoding="
    )
