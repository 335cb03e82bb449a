"""Roots and nodes of other libraries' trees, walks over trees of them, and what `open_root` makes of any block."""

import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib import import_module
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any, cast

import dag_cbor
from blake3 import blake3
from multiformats import CID as Link

from hamt_bulk import HashMap, InMemoryCAS, KeyHasher, open_root
from hamt_bulk.block import HASH_CODES, identify
from hamt_bulk.cas.wrap import Reader
from hamt_bulk.errors import BlockNotFound, DepthExceeded, InvalidInput, KeyNotFound, MalformedNode
from hamt_bulk.formats.ipldstore import IpldstoreRoot
from hamt_bulk.formats.ipldstore_tree import encode_root
from hamt_bulk.layout import HashMapNodes, Layout, PyHamt2, Slot, py_hamt_2_hashfn
from hamt_bulk.layout.hashmap import has_text_keys, read_root
from hamt_bulk.manifest import TOMBSTONE, HashFn, Manifest
from hamt_bulk.pointers import is_inline
from hamt_bulk.reads import drive
from hamt_bulk.shapes import MAX_SAMPLE_DEPTH, shape_of
from hamt_bulk.tree import Changes, Found, differences, entries, lookup, update

from .nodes import BETWEEN, TOKENS
from .target import Meter, Target, Wrong

# `python -m tests.fuzz` has the folder above on its path, pytest this one's.
sys.path.append(str(Path(__file__).parent.parent))
old_writers = import_module("old_writers")

KEYS = [f"key {number}" for number in range(40)]
VALUE = identify(b"value")


def crowded(key: bytes) -> bytes:
    """Four bytes of few values, so that small trees are deep."""
    return bytes(byte & 0x93 for byte in blake3(key).digest()[:4])


SHAPE = HashMap(3, 2, KeyHasher("crowded", 0x300055, crowded))
LAYOUT = HashMapNodes(SHAPE)
ROOT = identify(b"root", 0x71)[:-1] + b"\0"
"""
The first block of an input is the root. The others are found by their names; a name that none has stands for the block
whose number is its last byte, modulo how many there are.
"""


def _root(data: bytes) -> None:
    (bit_width, _, _), slots = read_root(ROOT, data)
    has_text_keys(data)
    if len(slots) != 1 << bit_width or not 3 <= bit_width <= 16:
        raise Wrong(f"{len(slots)} slots of {bit_width} bits")
    _check(slots)


def _node(layout: Layout) -> Callable[[bytes], None]:
    def decode(data: bytes) -> None:
        slots = layout.decode(ROOT, data)
        if len(slots) != layout.width:
            raise Wrong(f"{len(slots)} slots")
        _check(slots)

    return decode


def _check(slots: Sequence[Slot]) -> None:
    for slot in slots:
        pointers = slot.items() if isinstance(slot, dict) else [("", slot)]
        for key, pointer in pointers:
            if not isinstance(key, str) or type(pointer) is not bytes or not pointer:
                raise Wrong(f"{key!r} {pointer!r}")
    if any(isinstance(slot, bytes) and is_inline(slot) for slot in slots):
        raise Wrong("a link that is a value")


def _written_again(data: bytes) -> None:
    """What is read of a HashMap's node and written is read as the same."""
    slots = LAYOUT.decode(ROOT, data)
    again = LAYOUT.decode(ROOT, LAYOUT.encode_slots(slots).data)
    if [slot or {} for slot in slots] != again:
        raise Wrong("other slots when read again")


def _ipldstore(data: bytes) -> None:
    cas = InMemoryCAS("sha2-256")
    cid = identify(data, 0x71, "sha2-256")
    cas.blocks[cid] = data
    root = IpldstoreRoot(cid, cas)
    hierarchy = root._hierarchy()
    found = list(hierarchy.entries.items())
    for key, pointer in found:
        if is_inline(pointer):
            root.read(key, pointer)
        if hierarchy.hamt is None and root.pointer(key) != pointer:
            raise Wrong(f"{key!r} is not found")
    with suppress(InvalidInput):  # what is read and not written: NaN, a folder in a document's name
        encode_root(found)


def _walks(layout: Layout, hash_fn: HashFn, edits: bool) -> Callable[[bytes], None]:
    """All that reads a tree, each with as many requests as distinct blocks can make necessary."""

    def walks(data: bytes) -> None:
        blocks = data.split(BETWEEN)
        named = {identify(block, 0x71, hasher): block for block in blocks for hasher in HASH_CODES}
        links = set[bytes]()
        for block in blocks:
            for is_root in (False, True):
                with suppress(MalformedNode, InvalidInput):
                    slots = layout.decode(ROOT, block, is_root=is_root)
                    links.update(slot for slot in slots if isinstance(slot, bytes))
        depth = len(hash_fn(b"")) // layout.step
        calls: list[tuple[Callable[[Any], object], int]] = [
            (lambda load: drive(lookup(ROOT, KEYS[0], layout, hash_fn), load), depth + 1),
            (lambda load: _listed(layout, load), 1 + layout.width * (len(links) + 1)),
            (lambda load: _compared(layout, hash_fn, load), 2 * (depth + 1) * (len(links) + 2)),
        ]
        if edits:
            calls.append((lambda load: _updated(layout, hash_fn, load), (depth + 2) * (len(links) + 4) * 4))
        errors: list[Exception] = []
        for walk, limit in calls:
            meter = Meter(limit, f"blocks asked for, of {len(links)} that are linked")

            def load(cids: Sequence[bytes], meter: Meter = meter) -> list[bytes]:
                meter.add(len(cids))
                return [named.get(cid) or blocks[cid[-1] % len(blocks)] for cid in cids]

            try:
                walk(load)
            except (MalformedNode, DepthExceeded, InvalidInput) as error:
                errors.append(error)
        if errors:
            raise errors[-1]

    return walks


def _listed(layout: Layout, load: Any) -> None:
    walk, sent = entries(ROOT, layout), None
    with suppress(StopIteration):
        while True:
            step = walk.send(sent)
            sent = None if isinstance(step, Found) else load(step)


def _compared(layout: Layout, hash_fn: HashFn, load: Any) -> None:
    walk, sent = differences(ROOT, ROOT[:-1] + b"\x01", layout, hash_fn), None
    with suppress(StopIteration):
        while True:
            step = walk.send(sent)
            sent = None if isinstance(step, Changes) else load(step)


def _updated(layout: Layout, hash_fn: HashFn, load: Any) -> None:
    edits = [("new", VALUE), *((key, TOMBSTONE) for key in KEYS[:5])]
    drive(update(ROOT, Manifest.of(edits, hash_fn, any_keys=True), layout, lambda _: None, hash_fn), load)


class _AnyReader:
    """Gives one of the input's blocks for whatever it is asked."""

    def __init__(self, blocks: list[bytes]) -> None:
        self._blocks = blocks
        self._meter = Meter(MAX_SAMPLE_DEPTH + 1, "blocks asked for")

    def blocks(self, cids: Sequence[bytes]) -> list[bytes]:
        self._meter.add(len(cids))
        return [self._blocks[cid[-1] % len(self._blocks)] for cid in cids]


def _shape(data: bytes) -> None:
    blocks = data.split(BETWEEN)
    shape = shape_of(ROOT, blocks[0], cast(Reader, _AnyReader(blocks)))
    if HashMapNodes(shape).decode(ROOT, blocks[0], is_root=True) != read_root(ROOT, blocks[0])[1]:
        raise Wrong("another shape than its root has")


def _opened(data: bytes) -> None:
    """The first block is the root, and every block lies under its own name."""
    blocks = data.split(BETWEEN)
    cas = InMemoryCAS()
    for value in (b"value", b"\x41v", b"1", b"2"):
        cas.blocks |= {identify(value, hasher=hasher): value for hasher in HASH_CODES}
    for block in blocks:
        for hasher in HASH_CODES:
            cas.blocks[identify(block, 0x71, hasher)] = block
    root = open_root(identify(blocks[0], 0x71), cas)
    found = list(islice(root.pointers(), 100))
    errors: list[Exception] = []
    for key in [*(key for key, _ in found[:5]), KEYS[0]]:
        try:
            root.get(key)
        except _UNSOUND as error:
            errors.append(error)
    if errors and not all(isinstance(error, KeyNotFound) for error in errors):
        raise errors[0]


_UNSOUND = (MalformedNode, DepthExceeded, InvalidInput, BlockNotFound, KeyNotFound)


# Seeds


def _tree(make: Callable[[Any], bytes]) -> list[bytes]:
    """The blocks of a tree, its root first; values are left out."""
    blocks = old_writers.Blocks()
    root = make(blocks)
    return [blocks[root], *(data for cid, data in blocks.items() if cid[1] == 0x71 and cid != root)]


def _hash_map(**options: Any) -> list[bytes]:
    items = [
        (key.encode() if number % 2 else key, old_writers.link(VALUE)) for number, key in enumerate(KEYS)
    ]
    items += [("inline", {"a": [1, None]}), (b"\xff", b"bytes")]
    return _tree(lambda blocks: old_writers.hash_map(items, blocks, **options))


OURS = _hash_map(bit_width=3, bucket_size=2, digest=crowded, code=0x300055)
OTHER = _tree(
    lambda blocks: old_writers.hash_map(
        [(key, b"v") for key in KEYS[3:20]], blocks, bit_width=3, bucket_size=2, digest=crowded, code=0x300055
    )
)
OF_SHA = _hash_map(bit_width=4, bucket_size=1)
AS_PY_HAMT_1 = _hash_map(names=("hashAlg", "bucketSize", "hamt"))
_VALUES = {key: b"v" for key in map(str, range(2000)) if py_hamt_2_hashfn(key.encode())[0] < 2}
TREE_2 = _tree(lambda blocks: old_writers.py_hamt_2(_VALUES, blocks))
INLINE_2 = _tree(lambda blocks: old_writers.py_hamt_2({"a": 1, "b": [b"1"], "c": VALUE}, blocks, inline=True))
_HIERARCHY = {
    ".zgroup": b'{"zarr_format": 2}',
    "a/.zattrs": b'{"a": [1.5, null]}',
    "a/0": b"1",
    "a/1.0": b"2",
}
IPLDSTORE = _tree(lambda blocks: old_writers.ipldstore(_HIERARCHY, blocks))[0]
FORK = _tree(lambda blocks: old_writers.ipldstore_with_hamt(_HIERARCHY, blocks))


def _made(random: Random) -> bytes:
    """A HashMap's node, some of it random."""
    return dag_cbor.encode(_random_node(random))


def _random_node(random: Random) -> list[Any]:
    width = random.choice([8] * 20 + [16, 256, 4])
    bits = [number for number in range(width) if random.random() < random.choice([0.1, 0.6])]
    bitmap = bytearray(max(width // 8, 1))
    for number in bits:
        bitmap[number >> 3] |= 1 << (number & 7)
    elements = [_element(random) for _ in bits]
    if random.random() < 0.05:
        elements.append(_element(random))
    return [bytes(bitmap), elements]


def _element(random: Random) -> Any:
    if random.random() < 0.4:
        return _link(random)
    keys = random.sample([*KEYS[:8], b"\xff", b"key 1", ""], random.randint(0, 3))
    return [[key, _value(random)] for key in keys]


def _value(random: Random) -> Any:
    return random.choice(
        [_link(random), b"", b"v", 5, -1, 1.5, None, True, "text", {"a": [_link(random)]}, []]
    )


def _link(random: Random) -> Link:
    return _decoded(random.choice([ROOT, VALUE])[:-1] + random.randbytes(1))


@lru_cache(512)
def _decoded(cid: bytes) -> Link:
    return Link.decode(cid)


def _made_root(random: Random) -> bytes:
    names = random.choice([("hamt", "hashAlg", "bucketSize"), ("hashAlg", "bucketSize", "hamt")])
    parts = {"hamt": _random_node(random), "hashAlg": random.choice([0x12, 0x1E, 0x23, 0x300055, 1 << 63])}
    parts["bucketSize"] = random.choice([0, 1, 2, 5, 1 << 40])
    return old_writers.as_it_comes({name: parts[name] for name in names})


def _made_tree(random: Random) -> bytes:
    return BETWEEN.join([_made_root(random), *(_made(random) for _ in range(random.randint(0, 4)))])


def _made_2(random: Random) -> bytes:
    """A node of py-hamt 2, some of it random."""
    slots = [str(random.randrange(270)) for _ in range(random.randint(0, 6))]
    if random.random() < 0.2:
        slots.append(random.choice(["", "-1", "01", "1.0", "٣", "9" * 5000]))
    buckets = {
        slot: [{random.choice(KEYS): _value(random)} for _ in range(random.randint(0, 3))] for slot in slots
    }
    links = {str(random.randrange(256)): _link(random) for _ in range(random.randint(0, 3))}
    return dag_cbor.encode({"B": buckets, "L": links})


def _made_tree_2(random: Random) -> bytes:
    return BETWEEN.join(_made_2(random) for _ in range(random.randint(1, 4)))


def _made_hierarchy(random: Random, depth: int = 0) -> Any:
    folder: dict[str, Any] = {}
    for _ in range(random.randint(0, 4)):
        name = random.choice([".zgroup", ".zattrs", "a", "0", "0.0", "hamt", "", "a/b", "zarr.json"])
        folder[name] = (
            _made_hierarchy(random, depth + 1)
            if depth < 4 and random.random() < 0.4
            else random.choice([_link(random), Link.decode(VALUE), {"a": 1}, 5, b"b", float("nan"), None])
        )
    return folder


def _made_ipldstore(random: Random) -> bytes:
    value = _made_hierarchy(random)
    with suppress(Exception):  # dag-cbor has no NaN
        return dag_cbor.encode(value)
    return b"\xa1\x67.zattrs\xa1\x61a\xfb\x7f\xf8" + bytes(6)


def _made_any(random: Random) -> bytes:
    return random.choice([_made_tree, _made_tree_2, _made_ipldstore])(random)


_TOKENS = [
    *TOKENS,
    BETWEEN,
    b"\xa3\x64hamt",
    b"\x67hashAlg\x12",
    b"\x6abucketSize\x01",
    b"\x82\x41\xff\x80",
    b"\xd8\x2a\x58\x23\x00\x12\x20" + bytes(32),
]
_NO_CID = b"\x82\x41\x01\x81\xd8\x2a\x58\x25\x00\x00" + VALUE[1:]
"""A node that links to what begins as an inline value does."""

_WALK_ERRORS = (MalformedNode, DepthExceeded, InvalidInput)
_ROOTS = [OURS[0], OF_SHA[0], AS_PY_HAMT_1[0]]

TARGETS = [
    Target("hashmap root", _root, _ROOTS, (MalformedNode,), _made_root, _TOKENS),
    Target("hashmap node", _node(LAYOUT), [*OURS[1:], _NO_CID], (MalformedNode,), _made, _TOKENS),
    Target("hashmap node again", _written_again, [*OURS[1:], _NO_CID], _WALK_ERRORS, _made, _TOKENS),
    Target(
        "hashmap tree",
        _walks(LAYOUT, SHAPE.placement, True),
        [
            BETWEEN.join([OURS[0], OTHER[0], *OURS[1:], *OTHER[1:]]),
            BETWEEN.join([OURS[0], OURS[0], *OURS[1:]]),
        ],
        _WALK_ERRORS,
        _made_tree,
        _TOKENS,
    ),
    Target(
        "hashmap shape",
        _shape,
        [BETWEEN.join(OF_SHA), BETWEEN.join(AS_PY_HAMT_1), BETWEEN.join(OURS)],
        (MalformedNode, InvalidInput),
        _made_tree,
        _TOKENS,
    ),
    Target("py-hamt 2 node", _node(PyHamt2()), [*TREE_2, *INLINE_2], (MalformedNode,), _made_2, _TOKENS),
    Target(
        "py-hamt 2 tree",
        _walks(PyHamt2(), py_hamt_2_hashfn, False),
        [
            BETWEEN.join([TREE_2[0], INLINE_2[0], *TREE_2[1:]]),
            BETWEEN.join(TREE_2[:1] * 2 + TREE_2[1:]),
            *INLINE_2,
        ],
        _WALK_ERRORS,
        _made_tree_2,
        _TOKENS,
    ),
    Target("ipldstore root", _ipldstore, [IPLDSTORE, FORK[0]], (MalformedNode,), _made_ipldstore, _TOKENS),
    Target(
        "any root",
        _opened,
        [*(BETWEEN.join(tree) for tree in (OF_SHA, AS_PY_HAMT_1, TREE_2, INLINE_2, FORK)), IPLDSTORE],
        _UNSOUND,
        _made_any,
        _TOKENS,
    ),
]
