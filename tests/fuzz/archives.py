"""CAR files: as bytes, as a store, as what a server answers, and as what a copy is made of."""

from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from random import Random

from hamt_bulk import unixfs
from hamt_bulk.block import DAG_CBOR, RAW, Block, identify, varint
from hamt_bulk.car import HEADER_V2_BYTES, header_v1, header_v2, read_header, scan, section_head
from hamt_bulk.car_index import decode_index, encode_index, index_sections
from hamt_bulk.cas import CarCAS, InMemoryCAS
from hamt_bulk.cas.ipfs.archives import blocks_in
from hamt_bulk.errors import BlockMismatch, BlockNotFound, InvalidInput, MalformedNode
from hamt_bulk.layout import PyHamt
from hamt_bulk.roots import copy
from hamt_bulk.roots.copy import MAX_LEVELS

from . import nodes, values
from .target import Meter, Target, Wrong, scratch

TREE_ROOT, TREE_BLOCKS = list(nodes.TREE)[-1], [Block(cid, data) for cid, data in nodes.TREE.items()]
VALUES = [Block(identify(key.encode()), key.encode()) for key in nodes.KEYS]
SMALL = [Block(identify(data), data) for data in (b"", b"a", b"some text", bytes(300))]
MIXED = [*SMALL[:3], Block(identify(b"old", 0x70, "sha2-256")[2:], b"old"), values.BLOCKS[0]]
TOKENS = [
    header_v1(),
    header_v1([identify(b"root", DAG_CBOR)]),
    header_v2(HEADER_V2_BYTES, 0, 0),
    header_v2(HEADER_V2_BYTES, 1 << 63, 1 << 63),
    section_head(identify(b"a"), 1) + b"a",
    section_head(identify(b"b"), 1) + b"a",
    varint((1 << 63) - 1),
    varint(32 << 20),
    b"\x01\x55\x00\x01a",
    b"\x01\x55\x12\x7f",
    b"\x81\x08",
    b"\xff\xff\xff\x7f",
]


def version_1(blocks: list[Block], roots: list[bytes]) -> bytes:
    return header_v1(roots) + b"".join(section_head(cid, len(data)) + bytes(data) for cid, data in blocks)


def index_of(payload: bytes) -> bytes:
    return encode_index(index_sections(scan(BytesIO(payload), read_header(BytesIO(payload)))))


def version_2(blocks: list[Block], roots: list[bytes]) -> bytes:
    data = version_1(blocks, roots)
    return header_v2(HEADER_V2_BYTES, len(data), HEADER_V2_BYTES + len(data)) + data + index_of(data)


class _File(BytesIO):
    """Counts what is read."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.meter = Meter(4 * len(data) + (1 << 16), f"bytes read of {len(data)}")

    def read(self, size: int | None = -1, /) -> bytes:
        found = super().read(size)
        self.meter.add(max(len(found), 1))
        return found


def _car(data: bytes) -> None:
    file = _File(data)
    header = read_header(file)
    end = header.data_offset + header.data_size
    for section in scan(file, header):
        if header.data_offset + section.data_offset + section.data_length > end:
            raise Wrong(f"{section} ends beyond {end}")


def _index(data: bytes) -> None:
    for columns in decode_index(data, 1 << 20).values():
        if len(columns.digests) != len(columns.offsets) or (columns.offsets >= 1 << 20).any():
            raise Wrong("an index that was not checked")


def _store(data: bytes) -> None:
    path = scratch("store.car")
    path.write_bytes(data)
    cas = CarCAS(path)
    try:
        names = [block.cid for block in MIXED]
        cas.has_many(names)
        errors = []
        for cid, expected in MIXED:
            try:
                cas.size_many([cid])
                if cas.load_blocks([cid])[0] != expected:
                    raise Wrong("bytes that are not those of the CID")
            except (BlockNotFound, BlockMismatch, InvalidInput, MalformedNode) as error:
                errors.append(error)
        for root in cas.roots:
            str(root)
        if errors:
            raise errors[-1]
    finally:
        cas.close()


def _answer(data: bytes) -> None:
    for cid, block in blocks_in(data):
        if len(block) > len(data) or not cid:
            raise Wrong("a block that did not come")


def _copied(data: bytes) -> None:
    path = scratch("copied.car")
    path.write_bytes(data)
    source, target = CarCAS(path), InMemoryCAS()
    try:
        done = copy(None, source, target)
        if done.copied_blocks != len(target.blocks):
            raise Wrong(f"{done} of {len(target.blocks)} blocks")
    finally:
        source.close()


class _Any(InMemoryCAS):
    """Has every block: one of the input's. What it gives is taken to be verified."""

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self._given = data.split(nodes.BETWEEN)
        links = set[bytes]()
        for block in self._given:
            with suppress(MalformedNode):
                links.update(unixfs.links(block))
            with suppress(MalformedNode):
                for slot in PyHamt().decode(TREE_ROOT, block):
                    links.update(slot.values() if isinstance(slot, dict) else [slot])
        self._meter = Meter(3 * (MAX_LEVELS + 1) * (len(links) + 2), f"blocks asked for, of {len(links)}")

    def load_blocks(self, cids: Sequence[bytes]) -> list[bytes]:
        self._meter.add(len(cids))
        return [self._given[cid[-1] % len(self._given)] for cid in cids]


def _copied_tree(data: bytes) -> None:
    copy(TREE_ROOT, _Any(data), InMemoryCAS())


def _made(random: Random) -> bytes:
    """Sections with random CIDs and lengths."""
    blocks = []
    for _ in range(random.randint(0, 6)):
        data = random.randbytes(random.choice([0, 1, 40, 500]))
        digest = random.randbytes(random.choice([0, 4, 20, 32, 64, 100]))
        code = random.choice([0, 0x12, 0x13, 0x1E, 1 << 20, (1 << 63) - 1])
        other = b"\x01" + varint(random.choice([RAW, DAG_CBOR, 1 << 30])) + varint(code) + varint(len(digest))
        blocks.append(
            Block(random.choice([identify(data), identify(data, 0x71, "sha2-256"), other + digest]), data)
        )
    roots = [identify(random.randbytes(1), DAG_CBOR) for _ in range(random.choice([0, 1, 2, 40]))]
    return random.choice([version_1, version_2])(blocks, roots)


_V1, _V2 = version_1(MIXED, [MIXED[0].cid]), version_2(MIXED, [])
_WHOLE = version_2([*TREE_BLOCKS, *VALUES], [TREE_ROOT])
_LOST = (BlockNotFound, BlockMismatch, InvalidInput, MalformedNode)

TARGETS = [
    Target("car", _car, [_V1, _V2, header_v2(0, 0, 0) + _V1], (InvalidInput,), _made, TOKENS),
    Target(
        "car index", _index, [index_of(_V1), index_of(version_1(SMALL, []))], (InvalidInput,), None, TOKENS
    ),
    Target("car store", _store, [_V1, _V2, header_v2(0, 0, 0) + _V1], _LOST, _made, TOKENS),
    Target("answered car", _answer, [_V1, _V2], (InvalidInput, BlockMismatch), _made, TOKENS),
    Target(
        "copied tree",
        _copied_tree,
        [
            nodes.BETWEEN.join([*nodes.TREE.values()][-3:]),
            nodes.BETWEEN.join([*nodes.TREE.values()][-2:] + values.NODES),
        ],
        _LOST,
        nodes._made_tree,
        [*nodes.TOKENS, *values.TOKENS],
    ),
    Target(
        "copied car", _copied, [_WHOLE, version_1([*TREE_BLOCKS, *VALUES], [TREE_ROOT])], _LOST, None, TOKENS
    ),
]
