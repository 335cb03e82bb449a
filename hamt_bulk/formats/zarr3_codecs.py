"""What encodes the chunks of Zarr v2, as v3 has it."""

import json
from functools import lru_cache
from math import prod
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import zarr
from zarr.abc.codec import ArrayArrayCodec, ArrayBytesCodec
from zarr.core.buffer import Buffer, cpu
from zarr.registry import get_codec_class
from zarr.storage import MemoryStore

from hamt_bulk.roots.documents import Document

OWN = {"blosc": "blosc", "gzip": "gzip", "vlen-bytes": "vlen-bytes", "vlen-utf8": "vlen-utf8", "zstd": "zstd"}
"""Codecs of v2 that v3 has too. The others are numcodecs' by the same configuration."""

SHUFFLES = {0: "noshuffle", 1: "shuffle", 2: "bitshuffle"}

Codec: TypeAlias = dict[str, Any]
"""A codec as documents have it: in v2 an `id` and its options, in v3 a `name` and a `configuration`."""


class Codecs(NamedTuple):
    """Those of an array of v3, in the order in which they encode."""

    filters: list[Codec]
    serializer: Codec
    compressors: list[Codec]


def stored_codecs(zarray: Document) -> list[Any]:
    """All that an array of v2 is encoded with, in order."""
    compressor = zarray["compressor"]
    return [*(zarray["filters"] or ()), *([] if compressor is None else [compressor])]


def is_known(name: str) -> bool:
    """Whether zarr has the codec that v2 calls `name` for v3."""
    try:
        _class(name)
    except (KeyError, ValueError):  # the first in zarr 3.1, the second in 3.4
        return False
    return True


def opened(zarray: Document, held: dict[str, Buffer]) -> Any:
    """The array of v2 that a document describes, its chunks in `held`."""
    held[".zarray"] = cpu.Buffer.from_bytes(json.dumps(zarray).encode())
    return zarr.open_array(MemoryStore(held), mode="r", zarr_format=2)


def codecs_of_format_3(array: Any) -> Codecs:
    """What encodes an array of v2. Raises `ValueError` when v3 cannot have it in this order."""
    order, data_type = [*range(len(array.shape))][::-1], array.metadata.dtype.to_native_dtype()
    filters: list[Codec] = []
    serializer: Codec | None = None
    compressors: list[Codec] = []
    if array.order == "F" and len(order) > 1:
        filters.append({"name": "transpose", "configuration": {"order": order}})
    for codec in [*array.filters, *array.compressors]:
        config = codec.get_config()
        kind = _class(config["id"])
        if not issubclass(kind, (ArrayArrayCodec, ArrayBytesCodec)):
            serializer = serializer or _as_in_memory(data_type)
            compressors.append(_of_format_3(config, data_type))
            continue
        if serializer is not None:
            raise ValueError(f"there {config['id']!r} takes arrays, and what is before it gives bytes")
        if config["id"] == "quantize" and _byte_order(data_type) == ">":
            raise ValueError("big-endian numbers before 'quantize' come out wrong in zarr 3.4")
        if issubclass(kind, ArrayArrayCodec):
            filters.append(_of_format_3(config, data_type))
            data_type = np.dtype(_stored_type(config) or data_type)
        else:
            serializer = _of_format_3(config, data_type)
            data_type = np.dtype("u1")
    return Codecs(filters, serializer or _as_in_memory(data_type), compressors)


def _class(name: str) -> type:
    return get_codec_class(OWN.get(name, f"numcodecs.{name}"))


def _of_format_3(config: Codec, data_type: "np.dtype[Any]") -> Codec:
    """A codec of v2 as v3 has it: its own where it has one, else numcodecs' by the same configuration."""
    options = {name: value for name, value in config.items() if name != "id"}
    match config["id"]:
        case "vlen-utf8" | "vlen-bytes" as name:
            return {"name": name}
        case "blosc":
            # Elements longer than Blosc can say it takes for single bytes.
            size = data_type.itemsize if data_type.itemsize < 256 else 1
            shuffle = options["shuffle"]
            if shuffle == -1:  # numcodecs' word for: bits of single bytes, else bytes
                shuffle = 2 if size == 1 else 1
            options |= {
                "typesize": options.get("typesize") or size,
                "shuffle": SHUFFLES.get(shuffle, shuffle),
            }
            return {"name": "blosc", "configuration": options}
        case "zstd":
            return {"name": "zstd", "configuration": {"checksum": False, **options}}
        case "gzip" if options["level"] in range(10):  # what v3 has for it
            return {"name": "gzip", "configuration": options}
        case name:
            return {"name": f"numcodecs.{name}", "configuration": options}


def _stored_type(config: Codec) -> Any:
    """The type of what a filter gives; `None`: that of what it takes."""
    return "u1" if config["id"] == "packbits" else config.get("encode_dtype", config.get("astype"))


def _as_in_memory(data_type: "np.dtype[Any]") -> Codec:
    """The serializer of arrays that are stored as they lie in memory."""
    order = _byte_order(data_type)
    if order == "|":
        return {"name": "bytes"}
    return {"name": "bytes", "configuration": {"endian": "big" if order == ">" else "little"}}


def _byte_order(data_type: "np.dtype[Any]") -> str:
    """`<`, `>`, or `|` where there is none. Fields in both orders v3 cannot have: the trial finds these."""
    if data_type.fields is None:
        return data_type.base.str[0]
    orders = (_byte_order(field[0]) for field in data_type.fields.values())
    return next((order for order in orders if order != "|"), "|")


# The trial


@lru_cache(256)
def try_chunk(zarray: str, document: str, ndim: int) -> None:
    """
    Raises when zarr does not read a chunk of v2 as v3, or not to the same values.

    zarray, document  what the arrays say that read it, but for their shapes
    """
    shape = [3] * min(ndim, 4) + [1] * (ndim - 4)
    old_document = {**json.loads(zarray), "shape": shape, "chunks": shape, "fill_value": None}
    held: dict[str, Buffer] = {}
    old = opened(old_document, held)
    data_type = old.metadata.dtype.to_native_dtype()
    chunk: Any = _sample(data_type, prod(shape), any(codec.codec_id == "vlen-bytes" for codec in old.filters))
    # Not through zarr: 3.4 cannot write a single value of bytes, though it reads one.
    for codec in [*old.filters, *old.compressors]:
        chunk = codec.encode(chunk)
    name = (old_document.get("dimension_separator") or ".").join("0" * ndim) or "0"
    held[name] = cpu.Buffer.from_bytes(chunk.tobytes() if isinstance(chunk, np.ndarray) else bytes(chunk))
    expected = np.asarray(old[...])
    grid = {"name": "regular", "configuration": {"chunk_shape": shape}}
    new = {**json.loads(document), "shape": shape, "chunk_grid": grid, "attributes": {}}
    held["zarr.json"] = cpu.Buffer.from_bytes(json.dumps(new).encode())
    found = np.asarray(zarr.open_array(MemoryStore(held), mode="r", zarr_format=3)[...])
    if _bits(found, data_type) != _bits(expected, data_type):
        raise ValueError(f"{expected.ravel()[:3].tolist()} in a chunk becomes {found.ravel()[:3].tolist()}")


def _sample(data_type: "np.dtype[Any]", count: int, is_bytes: bool) -> Any:
    """Values of a type that differ, and are not what a chunk that is absent stands for."""
    numbers = np.arange(1, count + 1)
    match data_type.kind:
        case "O":
            return np.array([str(n).encode() if is_bytes else str(n) for n in numbers], object)
        case "V":
            return np.resize(np.arange(1, 101, dtype="u1"), count * data_type.itemsize).view(data_type)
        case "S" | "U" | "T":
            return numbers.astype("U").astype(data_type)
        case "b":
            return numbers % 2 == 1
        case _:
            return numbers.astype(data_type)


def _bits(values: "np.ndarray[Any, Any]", data_type: "np.dtype[Any]") -> Any:
    """What is equal when values are, NaN also, in whatever byte order."""
    if data_type.kind in "OT":
        return values.tolist()
    return values.astype(data_type).tobytes()
