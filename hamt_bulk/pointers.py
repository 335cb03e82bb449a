"""
What a tree holds for a key: the CID of a value, or the value itself.

    pointer = CID                       of a value in a block, or blocks, of its own
            | 00 <dag-cbor>             a value inline: no CID begins with 00
            | nothing                   a tombstone, in edits alone

Only the layouts that may hold values inline (an IPLD HashMap, ipldstore) give such pointers.
"""

from dataclasses import dataclass
from typing import Any

import dag_cbor
from dag_cbor.encoding import CBOREncodingError
from dag_cbor.ipld import IPLDKind
from multiformats import CID

from hamt_bulk.block import DAG_PB, RAW, parse
from hamt_bulk.errors import InvalidInput

INLINE = b"\x00"
"""What the pointer of an inline value begins with."""


@dataclass(frozen=True, slots=True)
class Inline:
    """A value that is to be kept in the node itself, also where its type would be taken for something else."""

    value: IPLDKind


def inline_pointer(value: IPLDKind) -> bytes:
    """The pointer of a value that is kept inline. Raises `InvalidInput` for what is no IPLD value."""
    try:
        return INLINE + dag_cbor.encode(value)
    except (CBOREncodingError, RecursionError, UnicodeError, TypeError) as error:
        raise InvalidInput(f"{value!r:.80} is no IPLD value: {error}") from None


def is_inline(pointer: bytes) -> bool:
    """Whether a pointer is a value itself."""
    return pointer[:1] == INLINE


def inline_value(pointer: bytes) -> IPLDKind:
    """The value that a pointer is. Raises `InvalidInput` when its bytes are no dag-cbor."""
    try:
        return dag_cbor.decode(pointer[1:])
    except Exception as error:  # its errors share no base with ours, and a bad value may raise any
        raise InvalidInput(f"an inline value is not dag-cbor: {error}") from error


def inline_bytes(pointer: bytes) -> bytes:
    """The value that a pointer is. Raises `InvalidInput` when it is no bytes."""
    value = inline_value(pointer)
    if not isinstance(value, bytes):
        raise InvalidInput(f"the tree holds a {type(value).__name__} where bytes are expected")
    return value


def cut(value: bytes, start: int, stop: int | None, suffix: int | None) -> bytes:
    """A range of bytes that are here; `suffix`: the last ones, as many."""
    return value[start:stop] if suffix is None else value[max(len(value) - suffix, 0) :]


def is_value(pointer: bytes) -> bool:
    """Whether what a CID names is bytes, in one block or a UnixFS file, rather than a structure of links."""
    return parse(pointer).codec in (RAW, DAG_PB)


def links_of_pointer(pointer: bytes) -> list[bytes]:
    """The CIDs of the blocks that a pointer names: one, or those within an inline value."""
    if not is_inline(pointer):
        return [pointer]
    if b"\xd8\x2a" not in pointer:
        return []
    found: list[bytes] = []
    waiting: list[Any] = [inline_value(pointer)]
    while waiting:
        part = waiting.pop()
        match part:
            case dict():
                waiting += part.values()
            case list():
                waiting += part
            case CID():
                found.append(bytes(part))
    return found
