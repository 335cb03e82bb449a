"""CAR files of every kind, made of blocks in the simplest way."""

from collections.abc import Sequence
from io import BytesIO

from hamt_bulk.block import Block
from hamt_bulk.car import HEADER_V2_BYTES, header_v1, header_v2, read_header, scan, section_head
from hamt_bulk.car_index import encode_index, index_sections


def version_1(blocks: Sequence[Block], roots: Sequence[bytes] = ()) -> bytes:
    return header_v1(roots) + b"".join(section_head(cid, len(data)) + bytes(data) for cid, data in blocks)


def version_2(blocks: Sequence[Block], roots: Sequence[bytes] = ()) -> bytes:
    """With an index, as a pack has it."""
    data = version_1(blocks, roots)
    index = encode_index(index_sections(scan(BytesIO(data), read_header(BytesIO(data)))))
    return header_v2(HEADER_V2_BYTES, len(data), HEADER_V2_BYTES + len(data)) + data + index


def version_2_without_index(blocks: Sequence[Block], roots: Sequence[bytes] = ()) -> bytes:
    data = version_1(blocks, roots)
    return header_v2(HEADER_V2_BYTES, len(data), 0) + data


def unfinished(blocks: Sequence[Block], roots: Sequence[bytes] = ()) -> bytes:
    """What a writer leaves that dies before it knows the data size."""
    return header_v2(0, 0, 0) + version_1(blocks, roots)
