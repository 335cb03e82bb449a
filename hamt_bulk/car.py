"""
CAR files, versions 1 and 2: blocks one after another.

    v1      = <length> header section*
    header  = dag-cbor {"roots": [cid, …], "version": 1}
    section = <length of cid and block> cid block              lengths are varints

    v2      = pragma characteristics data_offset data_size index_offset  v1  index
    pragma  = 0a a1 67 "version" 02                            as a header of version 2 would be
              characteristics: 16 bytes; the three others: u64, little-endian, from the file's start

The index is that of `car_index`. Its offsets, and those of a `Section`, run from the start of the
v1 payload.

Source: https://ipld.io/specs/transport/car/
"""

import reprlib
import struct
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from io import SEEK_END
from typing import Any, BinaryIO, NamedTuple

from hamt_bulk.block import MAX_CID_BYTES, parse, read_varint, varint
from hamt_bulk.errors import InvalidInput
from hamt_bulk.foreign import from_cbor

PRAGMA_V2 = bytes.fromhex("0aa16776657273696f6e02")
"""The first bytes of every CARv2 file."""

HEADER_V2_BYTES = 51
"""Pragma and header of a CARv2 file, and so the least offset of its payload."""

MAX_HEADER_BYTES = 1 << 20
"""A bound for what a header makes us allocate and decode; 25,000 roots fit."""

MAX_SECTION_BYTES = 32 << 20
"""A bound above what any CAS exchanges (2 MiB) and any tool writes (8 MiB): a longer section is damage."""

_HEAD_BYTES = 9 + MAX_CID_BYTES
_SMALL_WINDOW, _LARGE_WINDOW = 1 << 12, 1 << 20
_SEEK_BYTES = 1 << 14  # reading through a block of this much costs about as much as seeking past it
_V2 = struct.Struct("<16xQQQ")


@dataclass(frozen=True, slots=True)
class Header:
    """
    What a CAR file says of itself.

    Offsets are in bytes from the file's start, but for `sections_offset`, which is that of the first
    section from the payload's start. `index_offset` is `None` without an index. A file is not
    `finished` when its writer died before it knew the data size: then `data_size` is all that
    follows, and a scan gives the sections that are whole before it raises.
    """

    version: int
    roots: tuple[bytes, ...]
    data_offset: int
    data_size: int
    sections_offset: int
    index_offset: int | None
    finished: bool


class Section(NamedTuple):
    """One block in a payload: where its section starts and where its bytes are, from the payload's start."""

    cid: bytes
    offset: int
    data_offset: int
    data_length: int


def header_v1(roots: Sequence[bytes] = ()) -> bytes:
    """The bytes that open a v1 file or payload, their length included."""
    header = b"\xa2\x65roots" + cbor_links(roots) + b"\x67version\x01"
    return varint(len(header)) + header


def cbor_links(cids: Collection[bytes], text: str = "") -> bytes:
    """A dag-cbor array of links; a `text` comes first, if there is one."""
    tags = b"".join(b"\xd8\x2a" + _cbor_head(2, 1 + len(cid)) + b"\0" + cid for cid in cids)
    if not text:
        return _cbor_head(4, len(cids)) + tags
    return _cbor_head(4, 1 + len(cids)) + _cbor_head(3, len(text.encode())) + text.encode() + tags


def header_v2(data_offset: int, data_size: int, index_offset: int) -> bytes:
    """The 51 bytes that open a v2 file, the pragma included. An index offset of 0 is no index."""
    return PRAGMA_V2 + _V2.pack(data_offset, data_size, index_offset)


def section_head(cid: bytes, length: int) -> bytes:
    """What precedes a block of `length` bytes in its section."""
    return varint(len(cid) + length) + cid


def read_header(file: BinaryIO) -> Header:
    """The header of a seekable file. Raises `InvalidInput` unless it is a CAR whose parts lie within it."""
    file_size = file.seek(0, SEEK_END)
    version, roots, end = _header_at(file, 0, file_size)
    if version == 1:
        return Header(1, roots, 0, file_size, end, None, True)
    if file_size < HEADER_V2_BYTES:
        raise InvalidInput(f"a CARv2 file of {file_size} bytes, expected at least {HEADER_V2_BYTES}")
    data_offset, data_size, index_offset = _V2.unpack(_read_at(file, len(PRAGMA_V2), _V2.size))
    finished = data_size > 0
    if not finished:
        # go-car leaves the whole header zero until it is done.
        data_offset, index_offset = data_offset or HEADER_V2_BYTES, 0
        data_size = max(file_size - data_offset, 0)
    data_end = data_offset + data_size
    if data_offset < HEADER_V2_BYTES or data_end > file_size:
        raise InvalidInput(
            f"CARv2 payload at bytes [{data_offset}, {data_end}) of a file of {file_size}, "
            f"expected it between {HEADER_V2_BYTES} and the end"
        )
    if index_offset and not data_end <= index_offset < file_size:
        raise InvalidInput(
            f"CARv2 index at byte {index_offset} of a file of {file_size}, expected it after the payload, "
            f"which ends at {data_end}"
        )
    inner, roots, sections = _header_at(file, data_offset, data_end)
    if inner != 1:
        raise InvalidInput(f"CARv2 payload of version {inner} at byte {data_offset}, expected 1")
    return Header(2, roots, data_offset, data_size, sections - data_offset, index_offset or None, finished)


def scan(file: BinaryIO, header: Header) -> Iterator[Section]:
    """
    The sections of a payload in file order, without their blocks.

    Raises `InvalidInput` at the first section that is damaged or cut short, after all before it.
    Small blocks are passed over within a window of 1 MiB, large ones by seeking.
    """
    at, end, size = header.sections_offset, header.data_size, _SMALL_WINDOW
    window, first, length = b"", at, 0
    while at < end:
        if first + len(window) < min(at + _HEAD_BYTES, end):
            size = _SMALL_WINDOW if length > _SEEK_BYTES else min(2 * size, _LARGE_WINDOW)
            window, first = _read_at(file, header.data_offset + at, min(size, end - at)), at
        try:
            length, body = read_varint(window, at - first)
            cid = cid_at(window, body, length)
        except ValueError as error:
            raise _damaged(at, str(error)) from None
        start = first + body
        if length > min(MAX_SECTION_BYTES, end - start):
            limit = f"at most {MAX_SECTION_BYTES} and the {end - start} that are left"
            raise _damaged(at, f"{length} bytes, expected {limit}")
        yield Section(cid, at, start + len(cid), length - len(cid))
        at = start + length


def cid_at(window: bytes, at: int, length: int) -> bytes:
    """The CID that a section of `length` bytes starts with. Raises `ValueError` when it holds none."""
    head = window[at : at + 4]
    if head[3:] == b"\x20" and head[0] == 1 and head[1] < 0x80 and head[2] < 0x80:
        stop = at + 36
    elif head[:2] == b"\x12\x20":  # CIDv0 has neither version nor codec
        stop = at + 34
    else:
        stop = at
        for _ in range(4):  # version, codec, hash code, digest length
            number, stop = read_varint(window, stop)
        stop += number
    if stop - at > length:
        raise ValueError(f"a CID of {stop - at} bytes, expected it within the section's {length}")
    cid = window[at:stop]
    parse(cid)
    return cid


def _damaged(at: int, what: str) -> InvalidInput:
    return InvalidInput(f"CAR section at byte {at} of the payload: {what}")


def _header_at(file: BinaryIO, at: int, end: int) -> tuple[int, tuple[bytes, ...], int]:
    """Version and roots of the v1 header, or pragma, at byte `at`, and the position after it."""
    head = _read_at(file, at, min(9, end - at))
    try:
        length, start = read_varint(head, 0)
    except ValueError as error:
        raise InvalidInput(f"not a CAR: at byte {at}, {error}") from None
    start += at
    if not 0 < length <= min(MAX_HEADER_BYTES, end - start):
        raise InvalidInput(
            f"not a CAR: a header of {length} bytes at byte {at}, expected at most {MAX_HEADER_BYTES} "
            f"and the {end - start} that are left"
        )
    data = _read_at(file, start, length)
    if data == PRAGMA_V2[1:]:
        return 2, (), start + length
    return 1, _decode_roots(data), start + length


def _decode_roots(data: bytes) -> tuple[bytes, ...]:
    """The roots in a v1 header. Whatever would not be written like that is refused."""
    try:
        header: Any = from_cbor(data)
        roots = tuple(root if isinstance(root, bytes) else b"" for root in header["roots"])
    except (ValueError, TypeError, LookupError) as error:
        what = f"its header of {len(data)} bytes is not dag-cbor with roots ({error})"
        raise InvalidInput(f"not a CAR: {what}") from None
    if header_v1(roots) != varint(len(data)) + data:
        raise InvalidInput(
            f"not a CAR: its header is {reprlib.repr(header)[:200]}, expected roots and version 1, or version 2"
        )
    for root in roots:
        parse(root)
    return roots


def _cbor_head(major: int, number: int) -> bytes:
    """The head of a CBOR item of less than 4 GiB, in its shortest form."""
    if number < 24:
        return bytes((major << 5 | number,))
    power = (number > 0xFF) + (number > 0xFFFF)
    return bytes((major << 5 | 24 + power,)) + number.to_bytes(1 << power, "big")


def _read_at(file: BinaryIO, at: int, length: int) -> bytes:
    """Up to `length` bytes at `at`; fewer only at the file's end, also where `read` may give less at once."""
    file.seek(at)
    data = file.read(length)
    while len(data) < length and (more := file.read(length - len(data))):
        data += more
    return data
