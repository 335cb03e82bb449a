"""CARs that servers send: whatever came whole, each block compared with its CID."""

from collections.abc import Iterator
from io import BytesIO

from hamt_bulk.block import Block, verify
from hamt_bulk.car import read_header, scan
from hamt_bulk.errors import InvalidInput


def blocks_in(body: bytes) -> Iterator[Block]:
    """
    The blocks of a CAR as far as they are sound.

    An answer may end early and look whole, so nobody takes it for complete. Raises `InvalidInput` for what is no
    CAR, and `BlockMismatch` after the blocks before one that does not hash to its name.
    """
    file = BytesIO(body)
    header = read_header(file)
    view = memoryview(body)[header.data_offset :]
    try:
        for section in scan(file, header):
            data = bytes(view[section.data_offset : section.data_offset + section.data_length])
            verify(section.cid, data)
            yield Block(section.cid, data)
    except InvalidInput:
        return
