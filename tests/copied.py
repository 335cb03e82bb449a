"""Trees to copy, what a copy should have, and stores that fail while they are written to."""

import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from io import BytesIO
from pathlib import Path
from typing import Any

from car_files import version_1
from checked import put as put_node
from test_cas_custom import DictCAS
from trees_made import crowded_hashfn

from hamt_bulk import CarCAS, InMemoryCAS, PackCAS, build, unixfs
from hamt_bulk.block import RAW, Block, identify, parse, to_bytes, to_cid
from hamt_bulk.car import read_header, scan
from hamt_bulk.cas import ContentAddressedStore, LocalCAS, Receipt, Writer
from hamt_bulk.errors import CASError
from hamt_bulk.manifest import blake3_hashfn

LONG = b"".join(n.to_bytes(4, "big") for n in range(900_000))
"""A value of four leaves and the node of its file."""

ITEMS = {f"air/c/{n}": b"value %d" % (n % 700) for n in range(900)} | {"long": LONG, "zeros": bytes(3 << 20)}
"""Two levels of nodes, values that several keys have, and files, one of equal leaves."""


WHOLE = InMemoryCAS()
ROOT = to_bytes(build(ITEMS, WHOLE))
BLOCKS = dict(WHOLE.blocks)
"""The tree of `ITEMS` in a store of blocks."""

KINDS = ["memory", "pack", "values", "car"]
"""The stores that `holding` and `empty` make."""


class Kept(DictCAS):
    """A user's store of whole values, of either hasher."""

    def __init__(self, hasher: str = "blake3") -> None:
        super().__init__()
        self.hasher = hasher


class Shuffling(InMemoryCAS):
    """Writes what is flushed in any order, one by one; its block number `left` fails, and all after it."""

    left: int | None = None
    flushes = 0

    def writer(self) -> Writer:
        return _ShufflingWriter(self)

    def write(self, block: Block) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise CASError("the disk is full")
        self.blocks[block.cid] = bytes(block.data)


class _ShufflingWriter(Writer):
    def __init__(self, cas: Shuffling) -> None:
        super().__init__(cas.hasher)
        self._cas = cas
        self._waiting: list[Block] = []
        self._random = random.Random(1)

    def save_many(self, blocks: Iterable[Block]) -> None:
        self._waiting += blocks

    def flush(self) -> Receipt:
        self._cas.flushes += 1
        self._random.shuffle(self._waiting)
        distinct = dict(self._waiting)
        for block in self._waiting:
            self._cas.write(block)
        self._waiting = []
        return Receipt(len(distinct), sum(map(len, distinct.values())))

    def close(self) -> None:
        self._waiting = []


class Small:
    """A deep tree of few blocks, with files in files; `blocks` are all there are."""

    def __init__(self) -> None:
        data = bytes(range(200))
        cas = InMemoryCAS()
        # The shorter one's root is a child of the longer one's, and deeper there.
        long, blocks = foreign(data[:160])
        short, more = foreign(data[:80])
        put(cas, [*blocks, *more])
        items: Mapping[str, Any] = {f"{n}": b"%d" % (n % 20) for n in range(30)}
        items = {**items, "long": to_cid(long), "short": to_cid(short), "again": to_cid(long)}
        self.root = to_bytes(build(items, cas, hash_fn=crowded_hashfn, max_bucket_size=1))
        self.cas = cas
        self.below = {
            cid: {other for other in cas.blocks if other in data} for cid, data in cas.blocks.items()
        }
        """What each block links to: all CIDs that occur in it."""

    def whole(self) -> Kept:
        """A store of whole values with the same tree but for the files, which it would split otherwise."""
        cas = Kept()
        items = {f"{n}": b"%d" % (n % 20) for n in range(30)}
        self.whole_root = to_bytes(build(items, cas, hash_fn=crowded_hashfn, max_bucket_size=1))
        return cas


def holding(kind: str, folder: Path) -> ContentAddressedStore:
    """A store of this kind with the tree."""
    match kind:
        case "car":
            path = folder / "source.car"
            path.write_bytes(version_1([Block(*block) for block in BLOCKS.items()], [ROOT]))
            return CarCAS(path)
        case "pack":
            put(cas := PackCAS(folder / "source"), [Block(*block) for block in BLOCKS.items()])
            return cas
        case "values":
            build(ITEMS, cas := Kept())
            return cas
        case _:
            return WHOLE


def empty(kind: str, folder: Path) -> ContentAddressedStore | Path:
    """A store of this kind with nothing in it."""
    match kind:
        case "car":
            return folder / "target.car"
        case "pack":
            return PackCAS(folder / "target")
        case "values":
            return Kept()
        case _:
            return InMemoryCAS()


def tree_of(cas: LocalCAS, pointer: bytes) -> bytes:
    """A tree of one key."""
    return put_node(cas, {blake3_hashfn(b"k")[0]: {"k": pointer}})


def foreign(data: bytes) -> tuple[bytes, list[Block]]:
    """A file of many small leaves and several levels of nodes, as another importer may make it."""
    return unixfs.split(data, "blake3", leaf_bytes=10, max_links=2)


def put(cas: LocalCAS, blocks: Iterable[Block]) -> None:
    with cas.writer() as writer:
        writer.save_many(blocks)
        writer.flush()


def reachable(root: bytes, blocks: Mapping[bytes, bytes]) -> set[bytes]:
    """All of `blocks` that `root` leads to, by the CIDs that occur in their bytes."""
    found, waiting = {root}, [root]
    while waiting:
        cid = waiting.pop()
        if parse(cid).codec != RAW:
            below = {other for other in blocks if other in blocks[cid]} - found
            found |= below
            waiting += below
    return found


def blocks_in(path: Path) -> dict[bytes, bytes]:
    """The blocks of a CAR file by reading through it, without its index."""
    data = path.read_bytes()
    header = read_header(file := BytesIO(data))
    payload = data[header.data_offset :]
    sections = list(scan(file, header))
    assert len({section.cid for section in sections}) == len(sections), "a block twice"
    return {s.cid: payload[s.data_offset : s.data_offset + s.data_length] for s in sections}


def blocks_of(cas: ContentAddressedStore | Path) -> dict[bytes, bytes]:
    """What a store holds, its files in blocks."""
    match cas:
        case Path():
            return blocks_in(cas)
        case CarCAS():
            return blocks_in(cas.path)
        case PackCAS():
            packs = [blocks_in(path) for path in cas.path.glob("packs/*/*.car")]
            return {cid: data for pack in packs for cid, data in pack.items()}
        case InMemoryCAS():
            return dict(cas.blocks)
        case DictCAS():
            return dict(_split(cas.values))
    raise AssertionError(cas)


def _split(values: dict[bytes, bytes]) -> Iterator[Block]:
    for cid, value in values.items():
        if parse(cid).codec == 0x70:
            yield from unixfs.split(value, "blake3")[1]
        else:
            yield Block(cid, value)


def assert_no_holes(present: Iterable[bytes], below: Mapping[bytes, set[bytes]]) -> None:
    """Whatever is there has all that it links to."""
    there = set(present)
    for cid in there:
        assert below[cid] <= there


def fails_at_every_step(attempt: Callable[[int], bool]) -> int:
    """How many steps there are: `attempt(n)` says whether step n was reached, and so failed."""
    step = 0
    while attempt(step):
        step += 1
    return step


def raw(data: bytes) -> Block:
    return Block(identify(data), data)
