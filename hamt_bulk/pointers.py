"""
What a tree holds for a key: the CID of a value, or the value itself.

    pointer = CID                       of a value in a block, or blocks, of its own
            | 00 <dag-cbor>             a value inline: no CID begins with 00
            | nothing                   a tombstone, in edits alone

Only the layouts that may hold values inline (an IPLD HashMap, ipldstore) give such pointers.
"""

from dataclasses import dataclass

import dag_cbor
from dag_cbor.encoding import CBOREncodingError
from dag_cbor.ipld import IPLDKind
from multiformats import CID

from hamt_bulk.block import DAG_PB, RAW, parse, text
from hamt_bulk.errors import InvalidInput
from hamt_bulk.foreign import from_cbor, refuse_excess

INLINE = b"\x00"
"""What the pointer of an inline value begins with."""

LINK_HEAD = b"\xd8\x2a"
"""What a link begins with in dag-cbor: tag 42."""

MAX_DIGEST_BYTES = 64
"""The longest digest of a CID in a node. sha2-512 has it."""


@dataclass(frozen=True, slots=True)
class Inline:
    """
    A value that is to be kept in the node itself, also where its type would be taken for something else.

    A CID is a link with it and without: what it names is read as its value.
    """

    value: IPLDKind


def link_pointer(cid: CID | bytes) -> bytes:
    """The pointer of a value that has a CID. Raises `InvalidInput` for one that nodes cannot be read with."""
    pointer = bytes(cid)
    if len(parse(pointer).digest) > MAX_DIGEST_BYTES:
        raise InvalidInput(
            f"{text(pointer)} has a digest of {len(parse(pointer).digest)} bytes, and decoders of dag-cbor take at most "
            f"{MAX_DIGEST_BYTES}: save the value, and give its CID"
        )
    return pointer


def inline_pointer(value: IPLDKind) -> bytes:
    """The pointer of a value that is kept inline; of a link itself. Raises `InvalidInput` for what is no IPLD value."""
    return link_pointer(value) if isinstance(value, CID) else INLINE + encoded(value)


def encoded(value: IPLDKind) -> bytes:
    """A value as dag-cbor. Raises `InvalidInput` for what is no IPLD value, or could not be decoded again."""
    try:
        data: bytes = dag_cbor.encode(value)
        if LINK_HEAD in data:
            from_cbor(data)
    except (CBOREncodingError, RecursionError, UnicodeError, TypeError, ValueError) as error:
        raise InvalidInput(f"{value!r:.80} is no IPLD value: {error}") from None
    return data


def is_inline(pointer: bytes) -> bool:
    """Whether a pointer is a value itself."""
    return pointer[:1] == INLINE


def inline_value(pointer: bytes) -> IPLDKind:
    """The value that a pointer is. Raises `InvalidInput` when its bytes are no dag-cbor."""
    try:
        refuse_excess(memoryview(pointer)[1:])
        return dag_cbor.decode(pointer[1:])
    except Exception as error:  # its errors share no base with ours, and a bad value may raise any
        raise InvalidInput(f"an inline value is not dag-cbor: {str(error)[:300]}") from error


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
