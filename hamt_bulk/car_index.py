"""
The index of a CARv2 file, as columns: digests and where their sections start.

    index = 81 08 <i32 number of codes> code*             codec 0x0401, multihash-index-sorted
    code  = <u64 hash code> <i32 number of widths> width*
    width = <u32 width> <u64 byte length> entry*          the width of a digest and its offset: 40
    entry = digest <u64 offset>                           in digest order

Numbers are little-endian; codes and widths ascend; offsets run from the start of the v1 payload. The
published text calls the byte length a count and leaves out the two i32 counts; go-car's files do not.

Source: https://github.com/ipld/go-car/tree/master/v2/index and https://ipld.io/specs/transport/car/carv2/
"""

import os
import struct
from array import array
from collections.abc import Iterable
from dataclasses import dataclass
from typing import BinaryIO, TypeAlias

import numpy as np
import numpy.typing as npt

from hamt_bulk.block import BLAKE3, MAX_CID_BYTES, SHA2_256, Data, parse, read_varint, varint
from hamt_bulk.car import Section
from hamt_bulk.errors import InvalidInput
from hamt_bulk.ragged import row_order, row_words

INDEX_CODEC = 0x0401
"""multihash-index-sorted."""

MAX_INDEX_SHARE = 8
"""An index has fewer than so many bytes for each of its payload: even a section without a block has more than an entry."""

MAX_KINDS = 1024
"""So many hash codes and widths an index may have, which has columns for each. The table of multihashes has some 500."""

_VERIFIED = {(code, 32) for code in (BLAKE3, SHA2_256)}

_CODE = struct.Struct("<Qi")
_WIDTH = struct.Struct("<IQ")
_COUNT = struct.Struct("<i")


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Digests, (n, width) uint8, and the offsets of their sections, (n,) uint64."""

    digests: npt.NDArray[np.uint8]
    offsets: npt.NDArray[np.uint64]


Index: TypeAlias = dict[tuple[int, int], Columns]
"""Columns by hash code and digest width. One digest may have several offsets."""


def index_sections(sections: Iterable[Section]) -> Index:
    """
    The index of `sections`, in their order.

    As in go-car's, identity CIDs are left out, since they hold their blocks themselves. So are, beyond `MAX_KINDS`, kinds
    of digests that no block here is verified with.
    """
    digests: dict[tuple[int, int], bytearray] = {}
    offsets: dict[tuple[int, int], array[int]] = {}
    for section in sections:
        parts = parse(section.cid)
        if parts.hash_code != 0:
            key = parts.hash_code, len(parts.digest)
            if key not in offsets:
                if len(offsets) >= MAX_KINDS and key not in _VERIFIED:
                    continue
                digests[key], offsets[key] = bytearray(), array("Q")
            digests[key] += parts.digest
            offsets[key].append(section.offset)
    return {
        key: Columns(
            np.frombuffer(digests[key], np.uint8).reshape(len(offsets[key]), key[1]),
            np.array(offsets[key], np.uint64),
        )
        for key in digests
    }


def encode_index(index: Index) -> bytes:
    """The bytes of `index` as go-car writes them, its codec included. The columns may be in any order."""
    widths: dict[int, list[int]] = {}
    for code, width in sorted(key for key, columns in index.items() if len(columns.offsets)):
        widths.setdefault(code, []).append(width)
    parts: list[Data] = [varint(INDEX_CODEC), _COUNT.pack(len(widths))]
    for code in widths:
        parts.append(_CODE.pack(code, len(widths[code])))
        for width in widths[code]:
            columns = index[code, width]
            order = row_order(columns.digests)
            entries = np.empty((len(order), width + 8), np.uint8)
            entries[:, :width] = columns.digests[order]
            entries[:, width:] = columns.offsets[order].astype("<u8").view(np.uint8).reshape(-1, 8)
            parts += [_WIDTH.pack(width + 8, entries.nbytes), entries.data]
    return b"".join(parts)


def read_index(file: BinaryIO, at: int, data_size: int) -> bytes:
    """
    What follows byte `at` of a file, where the index of a payload of `data_size` bytes is.

    Raises `InvalidInput` for more than can be one: a file with a hole is longer than any memory.
    """
    size = os.fstat(file.fileno()).st_size - at
    if size > MAX_INDEX_SHARE * (data_size + MAX_CID_BYTES):
        raise InvalidInput(f"CAR index: {size} bytes, more than a payload of {data_size} can have")
    file.seek(at)
    return file.read()


def decode_index(data: Data, data_size: int | None = None) -> Index:
    """
    The index in `data`, to its last byte; its columns are in digest order.

    With `data_size`, the payload's, offsets must lie within it. Raises `InvalidInput`.
    """
    index: Index = {}
    try:
        codec, at = read_varint(data, 0)
        if codec != INDEX_CODEC:
            raise ValueError(f"codec {codec:#x}, expected {INDEX_CODEC:#x}")
        (codes,), at = _unpack(_COUNT, data, at)
        for _ in range(codes):
            (code, widths), at = _unpack(_CODE, data, at)
            for _ in range(widths):
                (width, length), at = _unpack(_WIDTH, data, at)
                if not 8 <= width <= 8 + MAX_CID_BYTES or length % width or length > len(data) - at:
                    raise ValueError(
                        f"{length} bytes of entries of {width}, expected whole ones of 8 to "
                        f"{8 + MAX_CID_BYTES} bytes in the {len(data) - at} that are left"
                    )
                if len(index) >= MAX_KINDS:
                    raise ValueError(f"digests of more than {MAX_KINDS} kinds")
                if (code, width - 8) in index:
                    raise ValueError(f"hash code {code:#x} with digests of {width - 8} bytes twice")
                entries = np.frombuffer(data, np.uint8, length, at).reshape(-1, width)
                index[code, width - 8] = _checked(entries, data_size)
                at += length
        if at != len(data):
            raise ValueError(f"{len(data)} bytes, expected the {at} that its counts give")
    except ValueError as error:
        raise InvalidInput(f"CAR index: {error}; scan the file to rebuild it") from None
    return index


def _checked(entries: npt.NDArray[np.uint8], data_size: int | None) -> Columns:
    """The columns of sorted `entries`. Copies, so that a file mapped into memory can be closed."""
    digests = entries[:, :-8].copy()
    offsets = entries[:, -8:].copy().view("<u8").reshape(-1).astype(np.uint64)
    if data_size is not None and len(offsets) and (beyond := int(offsets.max())) >= data_size:
        raise ValueError(f"offset {beyond}, expected less than the payload's {data_size} bytes")
    words = row_words(digests)
    rows = np.arange(len(words) - 1)
    for k in range(words.shape[1]):
        before, after = words[rows, k], words[rows + 1, k]
        if (falls := rows[before > after]).size:
            row = int(falls[0])
            found, expected = (digests[i].tobytes().hex()[:16] for i in (row + 1, row))
            raise ValueError(f"digest {found}… at entry {row + 1}, expected none before {expected}…")
        rows = rows[before == after]
    return Columns(digests, offsets)


def _unpack(form: struct.Struct, data: Data, at: int) -> tuple[tuple[int, ...], int]:
    """The numbers at `at`, none of them negative, and the position after them."""
    if form.size > len(data) - at:
        raise ValueError(f"{len(data)} bytes, expected {form.size} more at {at}")
    numbers = form.unpack_from(data, at)
    if min(numbers) < 0:
        raise ValueError(f"a count of {min(numbers)} at {at}")
    return numbers, at + form.size
