"""An array of Zarr v2 as one of v3 with the same chunks."""

import json
from typing import Any, NoReturn

import zarr
from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from hamt_bulk.errors import InvalidInput
from hamt_bulk.formats.zarr3_codecs import codecs_of_format_3, is_known, opened, stored_codecs, try_chunk
from hamt_bulk.integrity.validity import fault_of
from hamt_bulk.roots.documents import Document

DIMENSIONS = "_ARRAY_DIMENSIONS"
"""The attribute in which xarray has the names of dimensions in Zarr v2."""


def array_of_format_3(key: str, zarray: Document, attributes: Document) -> bytes:
    """
    The `zarr.json` of the array of v2 that the document under `key` describes.

    Before this returns a small chunk of its kind was written as v2 and read as v3: what zarr does not read back is refused.
    """
    _check(key, zarray)
    what = f"{key!r} is an array of {_described(zarray)}"
    try:
        array = opened({**zarray, "chunks": _chunks(zarray)}, {})
    except Exception as error:  # zarr's and numcodecs' share no base
        _refuse(f"{what}, which zarr {zarr.__version__} does not read", error)
    names = dimension_names(zarray, attributes)
    if names is not None:
        attributes = _for_xarray(what, array, attributes)
    try:
        document = _created(array, names, attributes)
        try_chunk(_kind(zarray), _kind(json.loads(document)), len(array.shape))
    except Exception as error:  # the same
        _refuse(f"{what}, which zarr {zarr.__version__} does not read from Zarr v3", error)
    return document


def _check(key: str, zarray: Document) -> None:
    """Raises `InvalidInput` for what is no description of an array, or has a codec that v3 does not."""
    if (fault := fault_of(".zarray", zarray)) is not None:
        raise InvalidInput(f"{key!r} is not valid metadata of Zarr: {fault:.300}")
    if any(length and not size for length, size in zip(zarray["shape"], zarray["chunks"], strict=True)):
        raise InvalidInput(
            f"{key!r} is not valid metadata of Zarr: the shape of its chunks is {zarray['chunks']!r:.300}"
        )
    if not isinstance(zarray["filters"], (list, type(None))):
        raise InvalidInput(
            f"{key!r} is not valid metadata of Zarr: filters is {zarray['filters']!r:.300}, expected a list"
        )
    for codec in stored_codecs(zarray):
        if not isinstance(codec, dict) or not isinstance(codec.get("id"), str):
            raise InvalidInput(f"{key!r} has the codec {codec!r:.300}, expected an object with an id")
        if not is_known(codec["id"]):
            raise InvalidInput(
                f"{key!r} is an array of {_described(zarray)}, and zarr {zarr.__version__} has no {codec['id']!r:.80} for Zarr v3"
            )


def _refuse(what: str, error: Exception) -> NoReturn:
    raise InvalidInput(f"{what}: {str(error)[:300] or type(error).__name__}") from error


def _created(array: Any, names: list[str] | None, attributes: Document) -> bytes:
    codecs = codecs_of_format_3(array)
    data_type, fill = array.metadata.dtype, array.metadata.fill_value
    made: dict[str, Buffer] = {}
    zarr.create_array(
        MemoryStore(made),
        shape=array.shape,
        dtype=data_type,
        chunks=array.chunks,
        filters=codecs.filters,
        serializer=codecs.serializer,
        compressors=codecs.compressors,
        fill_value=data_type.default_scalar() if fill is None else fill,  # what zarr reads where v2 says null
        attributes=attributes,
        chunk_key_encoding={
            "name": "v2",
            "configuration": {"separator": array.metadata.dimension_separator},
        },
        dimension_names=names,
        zarr_format=3,
    )
    return made["zarr.json"].to_bytes()


def _chunks(zarray: Document) -> list[int]:
    """The shape of the chunks: v2 may say 0 where there are none, v3 at least 1."""
    return [max(1, size) for size in zarray["chunks"]]


def _kind(document: Document) -> str:
    """What two arrays have in common whose chunks are read alike."""
    apart = ("shape", "chunks", "chunk_grid", "attributes", "dimension_names")
    return json.dumps({name: value for name, value in document.items() if name not in apart}, sort_keys=True)


def _described(zarray: Document) -> str:
    names = [repr(codec.get("id")) for codec in stored_codecs(zarray) if isinstance(codec, dict)]
    return f"{zarray['dtype']!r:.200} with {' and '.join(names) or 'no codec':.200}"


# What xarray makes of it


def dimension_names(zarray: Document, attributes: Document) -> list[str] | None:
    """The names of an array's dimensions as xarray finds them, where there is one for each."""
    names = attributes.get(DIMENSIONS)
    if names is None:
        # netCDF's own way to write v2: full paths
        nczarr = zarray.get("_NCZARR_ARRAY")
        found = nczarr.get("dimrefs") if isinstance(nczarr, dict) else None
        names = [str(name).rpartition("/")[2] for name in found] if isinstance(found, list) else None
    if not isinstance(names, list) or len(names) != len(zarray["shape"]):
        return None
    return names if all(isinstance(name, str) for name in names) else None


def _for_xarray(what: str, array: Any, attributes: Document) -> Document:
    """
    The attributes with which xarray sees the same values.

    Of v2 it takes the fill value for that of missing values, and only without one the attribute _FillValue; of v3 that
    attribute, and not for every type.
    """
    # Dimensions have a place of their own; what netCDF notes of v2 is shown to nobody in v2.
    kept = {k: v for k, v in attributes.items() if k != DIMENSIONS and not k.lower().startswith("_nc")}
    noted, fill = kept.pop("_FillValue", None), array.metadata.fill_value
    missing = noted if fill is None else fill
    data_type = array.metadata.dtype.to_native_dtype()
    if missing is None or (data_type.kind in "mMV" and noted is None):
        return kept  # of these it masks none
    if data_type.kind in "biufc":
        from xarray.backends.zarr import FillValueCoder

        try:
            value = float("nan") if missing == "NaN" and data_type.kind == "f" else missing
            return {**kept, "_FillValue": FillValueCoder.encode(value, data_type)}
        except (TypeError, ValueError) as error:
            _refuse(f"{what}, and its attribute _FillValue is {missing!r:.200}", error)
    if isinstance(missing, str) and kept.get("missing_value", missing) == missing:
        return {**kept, "missing_value": str(missing)}  # the other name for it, which strings may have
    raise InvalidInput(
        f"{what}, in which xarray takes {missing!r:.200} for a missing value, and in Zarr v3 it cannot: set fill_value to null, and "
        "its attribute _FillValue to none"
    )
