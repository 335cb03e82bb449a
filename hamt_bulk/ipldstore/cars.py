"""What a root reaches, block by block: into a CAR file, out of one, and whether all of it is there."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from shutil import copyfileobj
from tempfile import TemporaryFile
from typing import BinaryIO

from hamt_bulk import unixfs
from hamt_bulk.block import DAG_CBOR, DAG_PB, Block, Data, parse, text, verify
from hamt_bulk.car import MAX_SECTION_BYTES, Header, header_v1, read_header, scan, section_head
from hamt_bulk.cas import BlockCAS, ContentAddressedStore
from hamt_bulk.cas.wrap import Reader, translated
from hamt_bulk.errors import BlockNotFound, InvalidInput, MalformedNode
from hamt_bulk.formats.ipldstore_cbor import Link, decode
from hamt_bulk.wording import many

BLOCKS_AT_ONCE = 32
"""Blocks that are in memory together."""

UNFLUSHED_BYTES = 64 << 20
"""What is taken out of a CAR file before it is flushed."""


def write_car(root: bytes, cas: ContentAddressedStore, file: BinaryIO) -> int:
    """
    How many bytes were written: a CARv1 of all that `root` reaches, the root first, each block once.

    What a block links to follows it, in the order of its links, as ipldstore has it. Raises `BlockNotFound` for a
    block that is missing; what was written by then is no whole file.
    """
    head = header_v1([root])
    file.write(head)
    written = len(head)
    for cid, data in _below(root, cas):
        if len(cid) + len(data) > MAX_SECTION_BYTES:
            raise InvalidInput(
                f"block {text(cid)} of {len(data)} bytes, at most {MAX_SECTION_BYTES} fit in a CAR file"
            )
        head = section_head(cid, len(data))
        file.write(head)
        file.write(data)
        written += len(head) + len(data)
    return written


@contextmanager
def open_car(source: bytes | BinaryIO) -> Iterator[tuple[BinaryIO, Header]]:
    """A CAR file, from its bytes or from where a stream is, and its header. Raises `InvalidInput` when it is none."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        source = BytesIO(source)
    elif not hasattr(source, "read"):
        raise InvalidInput(
            f"{type(source).__name__} is no CAR file: give its bytes, or a file that is open for reading bytes"
        )
    if source.seekable() and source.tell() == 0:
        yield source, read_header(source)
        return
    with TemporaryFile() as file:  # its parts are read by their place in the file
        copyfileobj(source, file)
        yield file, read_header(file)


def take_car(file: BinaryIO, header: Header, cas: ContentAddressedStore) -> None:
    """
    Takes all blocks of a CAR file, each compared with its CID.

    Raises `InvalidInput` or `BlockMismatch` for a file that is damaged. What was taken before stays, and nothing links
    to it.
    """
    with cas.writer() as writer:
        unflushed = 0
        for section in scan(file, header):
            file.seek(header.data_offset + section.data_offset)
            data = file.read(section.data_length)
            verify(section.cid, data)
            writer.save_many([Block(section.cid, data)])
            unflushed += len(data)
            if unflushed > UNFLUSHED_BYTES:
                writer.flush()
                unflushed = 0
        writer.flush()


def refuse_incomplete(root: bytes, cas: ContentAddressedStore, whose: str) -> None:
    """Raises `BlockNotFound` with the first block that is missing and how many are, unless all that `root` reaches is there."""
    missing: list[bytes] = []
    level, seen = [root], {root}
    while level:
        found: list[bytes] = []
        with translated(cas, level):
            there = cas.has_many(level)
        missing += [cid for cid, has in zip(level, there, strict=True) if not has]
        nodes = [cid for cid, has in zip(level, there, strict=True) if has and _has_links(cid)]
        for at in range(0, len(nodes), BLOCKS_AT_ONCE):
            batch = nodes[at : at + BLOCKS_AT_ONCE]
            for cid, data in zip(batch, _blocks(batch, cas), strict=True):
                fresh = dict.fromkeys(link for link in links_of(cid, data) if link not in seen)
                seen.update(fresh)
                found += fresh
        level = found
    if missing:
        raise BlockNotFound(
            f"{whose} and the store lack {many(len(missing), 'block')} that {text(root)} reaches: the first is "
            f"{text(missing[0])}. Ask for a file that has all of it"
        )


def links_of(cid: bytes, data: Data) -> list[bytes]:
    """The CIDs that a block links to, in order. Raises `MalformedNode` for a block that is not what its codec says."""
    codec = parse(cid).codec
    if codec == DAG_PB:
        return unixfs.links(data)
    if codec != DAG_CBOR:
        return []
    try:
        content = decode(bytes(data))
    except ValueError as error:
        raise MalformedNode(f"{text(cid)} is not dag-cbor: {error}") from None
    return [bytes(link) for link in _links_in(content)]


def _links_in(content: object) -> Iterator[Link]:
    waiting = [content]
    while waiting:
        match part := waiting.pop():
            case Link():
                yield part
            case dict():
                waiting += reversed(part.values())
            case list():
                waiting += reversed(part)


def _has_links(cid: bytes) -> bool:
    return parse(cid).codec in (DAG_CBOR, DAG_PB)


def _below(root: bytes, cas: ContentAddressedStore) -> Iterator[Block]:
    """All that `root` reaches, and it, each block once and before what it links to."""
    waiting, seen = [root], set[bytes]()
    while waiting:
        batch: list[bytes] = []
        # Values have no links, so those that come one after the other are loaded together.
        while waiting and len(batch) < BLOCKS_AT_ONCE and not (batch and _has_links(waiting[-1])):
            cid = waiting.pop()
            if cid in seen:
                continue
            seen.add(cid)
            batch.append(cid)
            if _has_links(cid):
                break
        for cid, data in zip(batch, _blocks(batch, cas), strict=True):
            yield Block(cid, data)
            waiting += reversed(links_of(cid, data))


def _blocks(cids: Sequence[bytes], cas: ContentAddressedStore) -> Sequence[Data]:
    if isinstance(cas, BlockCAS):
        with translated(cas, cids):
            return cas.load_blocks(cids)
    if file := next((cid for cid in cids if parse(cid).codec == DAG_PB), None):
        raise InvalidInput(
            f"{cas!r} gives the file {text(file)} only whole: a CAR file is made of single blocks"
        )
    return Reader(cas).blocks(cids)
