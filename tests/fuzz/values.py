"""UnixFS files."""

from collections.abc import Sequence
from random import Random

from hamt_bulk.block import DAG_PB, RAW, Data, identify, varint
from hamt_bulk.errors import InvalidInput, MalformedNode
from hamt_bulk.reads import drive
from hamt_bulk.unixfs import MAX_LEVELS, decode, links, read, size, split

from .nodes import BETWEEN
from .target import Meter, Target, Wrong

ROOT, BLOCKS = split(bytes(range(200)), "blake3", leaf_bytes=8, max_links=4)
NODES = [bytes(data) for cid, data in BLOCKS if cid[1] == DAG_PB]
LEAF = identify(b"leaf", RAW)
MAX_WHOLE_BYTES = 1 << 20
TOKENS = [
    b"\x08\x02",
    b"\x08\x00",
    b"\x18" + varint((1 << 63) - 1),
    b"\x20" + varint((1 << 63) - 1),
    b"\x20\x04",
    b"\x12" + varint(1 << 40),
    b"\x0a" + varint((1 << 63) - 1),
    b"\x12\x26\x0a\x24" + LEAF,
    b"\x12\x26\x0a\x24" + ROOT,
    b"\x0b",
    b"\x0d\0\0\0\0",
    BETWEEN,
]


def _node(data: bytes) -> None:
    node = decode(ROOT, data)
    if len(node.links) != len(node.sizes) or sum(node.sizes) + len(node.inline) != node.size:
        raise Wrong(f"a node that does not agree with itself: {node!r:.200}")
    if links(data) != node.links:
        raise Wrong("other links")


def _file(data: bytes) -> None:
    """Reads of a file of which every block is one of the input's: asked for once a level, and no more than the range."""
    blocks = data.split(BETWEEN)
    distinct = 1 + sum(len(_links(block)) for block in blocks)
    meter = Meter(4 * (MAX_LEVELS + 1) * distinct, "blocks asked for")

    def load(cids: Sequence[bytes]) -> Sequence[Data]:
        meter.add(len(cids))
        return [blocks[cid[-1] % len(blocks)] for cid in cids]

    total = drive(size(ROOT), load)
    for start, stop in ((3, 50), (total // 2, total // 2 + 100), (max(total - 9, 0), None)):
        found = drive(read(ROOT, start, stop), load)
        wanted = min(total if stop is None else stop, total) - start
        if len(found) != max(wanted, 0):
            raise Wrong(f"{len(found)} bytes of [{start}, {stop}) of {total}")
    if total <= MAX_WHOLE_BYTES and len(drive(read(ROOT), load)) != total:
        raise Wrong("another length than its size")


def _links(block: bytes) -> set[bytes]:
    try:
        return set(links(block))
    except MalformedNode:
        return set()


def _made(random: Random) -> bytes:
    """A node of random fields, in which sizes agree as a rule."""
    children = [random.choice([LEAF, ROOT, identify(random.randbytes(1), random.choice([RAW, DAG_PB]))])]
    children *= random.choice([0, 1, 2, 174])
    length = random.choice([0, 1, 4, 200, 1 << 40, (1 << 63) - 1])
    content = b"\x08\x02" + (b"\x20" + varint(length)) * len(children)
    if random.random() < 0.5:
        content += b"\x12\x03abc"
    if random.random() < 0.3:
        content += b"\x18" + varint(random.getrandbits(random.choice([3, 40, 63])))
    out = b"".join(b"\x12" + varint(len(cid) + 2) + b"\x0a" + varint(len(cid)) + cid for cid in children)
    return out + b"\x0a" + varint(len(content)) + content


def _made_file(random: Random) -> bytes:
    return BETWEEN.join(_made(random) for _ in range(random.randint(1, 4)))


_BOMB = b"".join(b"\x12\x26\x0a\x24" + ROOT for _ in range(174)) + b"\x0a\xda\x02\x08\x02" + b"\x20\x01" * 172

TARGETS = [
    Target("unixfs node", _node, [*NODES, _BOMB], (MalformedNode,), _made, TOKENS),
    Target(
        "unixfs file",
        _file,
        [BETWEEN.join(NODES), *NODES, BETWEEN.join([NODES[-1], b"12345678"]), _BOMB],
        (MalformedNode, InvalidInput),
        _made_file,
        TOKENS,
    ),
]
