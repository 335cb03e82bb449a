"""What Zarr's metadata documents say of arrays and groups, read without zarr."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from hamt_bulk.foreign import from_json
from hamt_bulk.keys import is_metadata

CONSOLIDATED = "consolidated metadata"
"""The copy that a group has of what is below it."""

ATTRIBUTE = "attribute "
"""What the names of fields that are attributes start with."""

WORDS = {
    "chunk_grid": "chunks",
    "chunk_key_encoding": "chunk keys",
    "data_type": "data type",
    "dimension_names": "dimension names",
    "dimension_separator": "chunk keys",
    "dtype": "data type",
    "fill_value": "fill value",
    "storage_transformers": "storage transformers",
    "zarr_format": "format",
}
"""What people call the fields whose names in the documents are others."""

Document: TypeAlias = dict[str, Any]
"""The JSON object under one key."""

Kind: TypeAlias = Literal["array", "group", "unreadable"]
"""`"unreadable"`: a document is there, and it is not Zarr's."""


class FieldChange(NamedTuple):
    """One thing in the metadata that differs, as JSON has it; `None` also where there is no such field."""

    name: str
    old: Any
    new: Any

    @property
    def attribute(self) -> str | None:
        """The name of the attribute, when it is one."""
        return self.name.removeprefix(ATTRIBUTE) if self.name.startswith(ATTRIBUTE) else None


class Encoding(NamedTuple):
    """How the keys of chunks are written: what comes first, and what stands between numbers."""

    start: Literal["c", ""]
    separator: str


@dataclass(frozen=True, slots=True)
class Member:
    """
    An array or a group of a hierarchy.

    fields    all that its documents say, by the names that people use
    shape     of an array; `None` when its document does not say
    chunks    the shape of its chunks, which with sharding are the shards; `None` when they are not regular
    encoding  `None` when it is none of Zarr's own
    """

    kind: Kind
    fields: Document
    shape: tuple[int, ...] | None = None
    dims: tuple[str | None, ...] | None = None
    chunks: tuple[int, ...] | None = None
    encoding: Encoding | None = None
    sharded: bool = False

    @property
    def is_regular(self) -> bool:
        """Whether a chunk's index says where it lies in the array."""
        shape, chunks = self.shape, self.chunks
        return shape is not None and chunks is not None and len(shape) == len(chunks)

    def may_have(self, name: str) -> bool:
        """Whether a chunk of the array may be called `name`."""
        return self.encoding is None or self.shape is None or self.index(name) is not None

    def index(self, name: str) -> tuple[int, ...] | None:
        """The place in the grid of the chunk called `name`; `None` when there is no telling."""
        if self.encoding is None or self.shape is None:
            return None
        start, separator = self.encoding
        if not self.shape:
            return () if name == (start or "0") else None
        numbers = name.split(separator)
        if start and numbers.pop(0) != start:
            return None
        if len(numbers) != len(self.shape) or not all(re.fullmatch("[0-9]{1,18}", text) for text in numbers):
            return None
        return tuple(map(int, numbers))


def member_of(read: Callable[[str], bytes | None]) -> Member | None:
    """
    What the documents of one folder describe; `None` when there are none.

    read  the value under one of `METADATA_NAMES`, or `None`
    """
    try:
        if (document := _parsed(read("zarr.json"))) is not None:
            return _of_format_3(document)
        if (document := _parsed(read(".zarray"))) is not None:
            return _array_of_format_2(document, _parsed(read(".zattrs")) or {})
        if (document := _parsed(read(".zgroup"))) is not None:
            attributes = _parsed(read(".zattrs")) or {}
            return _group(document, attributes, _parsed(read(".zmetadata")))
    except _Unreadable as error:
        return Member("unreadable", {"document": str(error)})
    return None


def field_changes(old: Member, new: Member) -> tuple[FieldChange, ...]:
    """What differs between two descriptions."""
    found = []
    for name in dict.fromkeys([*old.fields, *new.fields]):
        before, after = old.fields.get(name), new.fields.get(name)
        if name in old.fields and name in new.fields and _text(before) == _text(after):
            continue
        if name == CONSOLIDATED:
            copies = before or {}, after or {}
            before = None if before is None else _differing(*copies)
            after = None if after is None else _differing(*reversed(copies))
        found.append(FieldChange(name, before, after))
    return tuple(found)


def _text(value: object) -> str:
    # Not by `==`: NaN is not equal to itself, and 1 is equal to True.
    return json.dumps(value, sort_keys=True)


def _differing(documents: Document, others: Document) -> list[str]:
    """The paths of those of a group's members whose metadata is not the same on the other side."""
    keys = (key for key in documents if key not in others or _text(documents[key]) != _text(others[key]))
    return sorted({key.rpartition("/")[0] if is_metadata(key) else key for key in keys})


class _Unreadable(Exception):
    """What there is in the place of a document of Zarr's."""


def _parsed(data: bytes | None) -> Document | None:
    if data is None:
        return None
    try:
        document = from_json(data)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        raise _Unreadable(data[:60].decode(errors="replace"))
    return document


def _of_format_3(document: Document) -> Member:
    match document.get("node_type"):
        case "array":
            return _array_of_format_3(document)
        case "group":
            attributes, consolidated = document.get("attributes"), document.get("consolidated_metadata")
            return _group(document, attributes, consolidated)
        case other:
            raise _Unreadable(f"node_type {other!r}")


def _array_of_format_3(document: Document) -> Member:
    chunks = _sizes(_configuration(document, "chunk_grid", "regular").get("chunk_shape"))
    codecs = document.get("codecs")
    fields = _fields(document, document.get("attributes"))
    if chunks is not None:
        fields["chunks"] = chunks
    return Member(
        "array",
        fields,
        shape=_sizes(document.get("shape")),
        dims=_dims(document.get("dimension_names"), document),
        chunks=chunks,
        encoding=_encoding(document),
        sharded=isinstance(codecs, list) and any(_name(codec) == "sharding_indexed" for codec in codecs),
    )


def _array_of_format_2(document: Document, attributes: Document) -> Member:
    names = attributes.get("_ARRAY_DIMENSIONS")
    fields = _fields(document, {k: v for k, v in attributes.items() if k != "_ARRAY_DIMENSIONS"})
    if names is not None:
        fields["dimension names"] = names
    return Member(
        "array",
        fields,
        shape=_sizes(document.get("shape")),
        dims=_dims(names, document),
        chunks=_sizes(document.get("chunks")),
        encoding=Encoding("", "/" if document.get("dimension_separator") == "/" else "."),
    )


def _group(document: Document, attributes: object, consolidated: object) -> Member:
    fields = _fields(document, attributes)
    if isinstance(consolidated, dict):
        members = consolidated.get("metadata")
        fields[CONSOLIDATED] = members if isinstance(members, dict) else {}
    return Member("group", fields)


def _fields(document: Document, attributes: object) -> Document:
    """What a document and its attributes say, each attribute a field."""
    apart = ("attributes", "consolidated_metadata", "node_type")
    fields = {WORDS.get(name, name): value for name, value in document.items() if name not in apart}
    for name in ("shape", "chunks"):
        if (sizes := _sizes(fields.get(name))) is not None:
            fields[name] = sizes
    if isinstance(attributes, dict):
        fields |= {f"{ATTRIBUTE}{name}": value for name, value in attributes.items()}
    return fields


def _sizes(value: object) -> tuple[int, ...] | None:
    if isinstance(value, (list, tuple)) and all(type(size) is int and size >= 0 for size in value):
        return tuple(value)
    return None


def _dims(names: object, document: Document) -> tuple[str | None, ...] | None:
    """The names of an array's dimensions, where there is one for each; `None` where they are unknown."""
    shape = _sizes(document.get("shape"))
    names = [] if shape == () else names
    if shape is None or not isinstance(names, list) or len(names) != len(shape):
        return None
    return tuple(names) if all(name is None or isinstance(name, str) for name in names) else None


def _name(extension: object) -> object:
    """The name of one of format 3's extension points, which may stand alone."""
    return extension.get("name") if isinstance(extension, dict) else extension


def _configuration(document: Document, point: str, name: str) -> Document:
    """How the extension at `point` is configured; nothing when it is not the one called `name`."""
    extension = document.get(point)
    if not isinstance(extension, dict) or extension.get("name") != name:
        return {}
    configuration = extension.get("configuration")
    return configuration if isinstance(configuration, dict) else {}


def _encoding(document: Document) -> Encoding | None:
    match _name(document.get("chunk_key_encoding")):
        case "default":
            start: Literal["c", ""] = "c"
            separator = _configuration(document, "chunk_key_encoding", "default").get("separator", "/")
        case "v2":
            start = ""
            separator = _configuration(document, "chunk_key_encoding", "v2").get("separator", ".")
        case _:
            return None
    return Encoding(start, separator) if separator in ("/", ".") else None
