"""Whether a metadata document is Zarr's, as far as can be said without knowing its codecs and data types."""

from collections.abc import Mapping, Sequence
from typing import Any


def fault_of(name: str, document: Mapping[str, Any]) -> str | None:
    """Why `document`, under a key that ends with `name`, is not valid; or `None`."""
    match name:
        case "zarr.json":
            return _of_format_3(document)
        case ".zarray":
            return _format(document, "zarr_format", 2) or _array_of_format_2(document)
        case ".zgroup":
            return _format(document, "zarr_format", 2)
        case ".zmetadata":
            return _format(document, "zarr_consolidated_format", 1) or _object(document, "metadata")
        case _:
            return None  # attributes may be anything


def _of_format_3(document: Mapping[str, Any]) -> str | None:
    if (fault := _format(document, "zarr_format", 3)) is not None:
        return fault
    if "attributes" in document and (fault := _object(document, "attributes")) is not None:
        return fault
    match document.get("node_type"):
        case "array":
            return _array_of_format_3(document)
        case "group":
            consolidated = document.get("consolidated_metadata")
            if consolidated is None:
                return None
            if not isinstance(consolidated, dict) or not isinstance(consolidated.get("metadata"), dict):
                return "consolidated_metadata has no object metadata"
            return None
        case other:
            return f"node_type is {other!r}, expected 'array' or 'group'"


def _array_of_format_3(document: Mapping[str, Any]) -> str | None:
    if (fault := _missing(document, "shape", "data_type", "chunk_grid", "fill_value", "codecs")) is not None:
        return fault
    shape, names = document["shape"], document.get("dimension_names")
    if not _sizes(shape):
        return f"shape is {shape!r}, expected whole numbers"
    if names is not None and (not isinstance(names, list) or len(names) != len(shape)):
        return f"dimension_names is {names!r}, expected {len(shape)} names"
    for point in ("data_type", "chunk_grid", "chunk_key_encoding"):
        if not _extension(document.get(point)):
            return f"{point} is {document.get(point)!r}, expected a name, or an object with one"
    codecs = document["codecs"]
    if not isinstance(codecs, list) or not codecs or not all(map(_extension, codecs)):
        return f"codecs is {codecs!r}, expected a list of them"
    grid = document["chunk_grid"]
    if isinstance(grid, dict) and grid["name"] == "regular":
        configuration = grid.get("configuration")
        chunks = configuration.get("chunk_shape") if isinstance(configuration, dict) else None
        return _chunks(chunks, shape)
    return None


def _array_of_format_2(document: Mapping[str, Any]) -> str | None:
    names = ("shape", "chunks", "dtype", "compressor", "fill_value", "order", "filters")
    if (fault := _missing(document, *names)) is not None:
        return fault
    if not _sizes(document["shape"]):
        return f"shape is {document['shape']!r}, expected whole numbers"
    if document["order"] not in ("C", "F"):
        return f"order is {document['order']!r}, expected 'C' or 'F'"
    return _chunks(document["chunks"], document["shape"])


def _format(document: Mapping[str, Any], field: str, expected: int) -> str | None:
    found = document.get(field)
    return None if found == expected else f"{field} is {found!r}, expected {expected}"


def _object(document: Mapping[str, Any], field: str) -> str | None:
    return None if isinstance(document.get(field), dict) else f"{field} is no object"


def _missing(document: Mapping[str, Any], *fields: str) -> str | None:
    lacking = [field for field in fields if field not in document]
    return f"it has no {', '.join(lacking)}" if lacking else None


def _chunks(chunks: object, shape: Sequence[int]) -> str | None:
    if isinstance(chunks, list) and _sizes(chunks) and len(chunks) == len(shape):
        return None
    return f"the shape of its chunks is {chunks!r}, expected {len(shape)} whole numbers"


def _sizes(value: object) -> bool:
    return isinstance(value, list) and all(type(size) is int and size >= 0 for size in value)


def _extension(value: object) -> bool:
    return isinstance(value, str) or (isinstance(value, dict) and isinstance(value.get("name"), str))
