"""Nodes of trees, and walks over trees of them."""

from collections.abc import Sequence
from contextlib import suppress
from random import Random

import libipld
from blake3 import blake3

from hamt_bulk.block import Block, identify
from hamt_bulk.errors import DepthExceeded, InvalidInput, MalformedNode
from hamt_bulk.layout import WIDTH, PyHamt
from hamt_bulk.manifest import TOMBSTONE, Manifest
from hamt_bulk.reads import drive
from hamt_bulk.tree import Changes, Found, differences, entries, lookup, update

from .target import Meter, Target, Wrong

LAYOUT = PyHamt()
CID = identify(b"any", 0x71)
BETWEEN = b"\xff\xfe\xff\xfe"
"""Between the blocks of a tree. The block of a CID is one of them, by the CID's last byte."""

TOKENS = [
    b"\x99\x01\x00",
    b"\xa0",
    b"\x81",
    b"\x81" * 2000,
    b"\xa1\x61a" * 900,
    b"\xd8\x2a\x58\x25\x00" + CID,
    b"\x81\xd8\x2a\x58\x25\x00" + CID,
    b"\xa1\x61k\xd8\x2a\x58\x25\x00" + CID,
    b"\xa2\x61k\xf6\x61k\xf6",
    b"\xa1\x01\x02",
    b"\xa1\x63\xed\xa0\x80\x40",
    b"\x9a\xff\xff\xff\xff",
    b"\x9b" + b"\xff" * 8,
    b"\xbb\x7f" + b"\xff" * 7,
    b"\x5b" + b"\xff" * 8,
    b"\x7a\xff\xff\xff\xff",
    b"\x9f\xff",
    b"\xfb\x7f\xf8" + b"\0" * 6,
    b"\xf9\x00\x00",
    b"\xc1\x00",
]


def crowded(key: bytes) -> bytes:
    """A hash of six bytes, each one of four, so that small trees are deep."""
    return bytes(byte & 3 for byte in blake3(key).digest()[:6])


KEYS = [f"key {number}" for number in range(24)]


def _tree(keys: Sequence[str]) -> dict[bytes, bytes]:
    blocks: list[Block] = []
    edits = Manifest.of(((key, identify(key.encode())) for key in keys), crowded)
    drive(update(None, edits, LAYOUT, blocks.extend, crowded), lambda _: [])
    return {cid: bytes(data) for cid, data in blocks}


TREE = _tree(KEYS)


def _node(data: bytes) -> None:
    slots = LAYOUT.decode(CID, data)
    if len(slots) != WIDTH or not all(isinstance(slot, (dict, bytes)) for slot in slots):
        raise Wrong(f"slots that are none: {slots!r:.200}")


def _walks(data: bytes) -> None:
    """All that reads a tree, each with as many requests as distinct blocks can make necessary."""
    blocks = data.split(BETWEEN)
    links = set[bytes]()
    for block in blocks:
        with suppress(MalformedNode):
            links.update(slot for slot in LAYOUT.decode(CID, block) if isinstance(slot, bytes))
    errors = []
    depth = len(crowded(b""))
    for walk, limit in (
        (lambda load: drive(lookup(CID, KEYS[0], LAYOUT, crowded), load), depth + 1),
        (lambda load: _listed(load), 1 + WIDTH * (len(links) + 1)),
        (lambda load: _compared(load), 2 * (depth + 1) * (len(links) + 2)),
        (lambda load: _updated(load), (depth + 2) * (len(links) + 4) * 4),
    ):
        meter = Meter(limit, f"blocks asked for, of {len(links)} that are linked")

        def load(cids: Sequence[bytes], meter: Meter = meter) -> list[bytes]:
            meter.add(len(cids))
            return [blocks[cid[-1] % len(blocks)] for cid in cids]

        try:
            walk(load)
        except (MalformedNode, DepthExceeded, InvalidInput) as error:
            errors.append(error)
    if errors:
        raise errors[-1]


def _listed(load) -> None:
    walk, sent = entries(CID, LAYOUT), None
    with suppress(StopIteration):
        while True:
            step = walk.send(sent)
            sent = None if isinstance(step, Found) else load(step)


def _compared(load) -> None:
    walk, sent = differences(CID, CID[:-1] + b"\x01", LAYOUT, crowded), None
    with suppress(StopIteration):
        while True:
            step = walk.send(sent)
            sent = None if isinstance(step, Changes) else load(step)


def _updated(load) -> None:
    edits = [("new", identify(b"new")), *((key, TOMBSTONE) for key in KEYS[:3])]
    drive(update(CID, Manifest.of(edits, crowded), LAYOUT, lambda _: None, crowded), load)


def _made(random: Random) -> bytes:
    """A node of which some slots are random."""
    slots: list[object] = [{}] * random.choice([WIDTH] * 20 + [WIDTH - 1, 0])
    for _ in range(min(random.choice([0, 1, 3, 30]), len(slots))):
        slots[random.randrange(len(slots))] = _slot(random.choices(range(1, 6), (20, 20, 1, 1, 1))[0], random)
    return libipld.encode_dag_cbor(slots)


def _slot(kind: int, random: Random) -> object:
    match kind:
        case 1:
            return [_cid(random)]
        case 2:
            return {random.choice(KEYS): _cid(random) for _ in range(random.randint(1, 6))}
        case 3:
            return [random.choice([b"", b"xyz", 5, "text", None, [[]]])]
        case 4:
            return {"k": random.choice([b"", b"xyz", 5, 1.5, None, {}])}
        case _:
            return random.choice([[], 1, -1, "text", b"bytes", None, True, [b"a", b"b"], 0.5])


def _cid(random: Random) -> bytes:
    return random.choice([CID[:-1] + random.randbytes(1), identify(random.randbytes(1), 0x71), *TREE])


def _made_tree(random: Random) -> bytes:
    return BETWEEN.join(_made(random) for _ in range(random.randint(1, 4)))


_EMPTY = libipld.encode_dag_cbor([{}] * WIDTH)
_BARE = libipld.encode_dag_cbor(
    [[CID[:-2] + bytes((number, 0))] if number < 12 else {} for number in range(WIDTH)]
)

TARGETS = [
    Target("node", _node, [*TREE.values(), _EMPTY, _BARE], (MalformedNode,), _made, TOKENS),
    Target(
        "tree",
        _walks,
        [BETWEEN.join(TREE.values()), BETWEEN.join([*TREE.values()][-2:]), _BARE],
        (MalformedNode, DepthExceeded, InvalidInput),
        _made_tree,
        [*TOKENS, BETWEEN],
    ),
]
