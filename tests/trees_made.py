"""Trees of pointers to read, in stores that count what is loaded, and in one that verifies nothing."""

import asyncio
import hashlib
import threading
import time
from collections import Counter
from collections.abc import Iterable, Sequence

from hamt_bulk.block import identify, to_bytes
from hamt_bulk.cas import ContentAddressedStore, InMemoryCAS, LocalCAS
from hamt_bulk.layout import PyHamt
from hamt_bulk.manifest import Manifest
from hamt_bulk.nodecache import NodeCache
from hamt_bulk.nodes import Tree
from hamt_bulk.reads import drive
from hamt_bulk.tree import update


class CountingCAS(InMemoryCAS):
    """Counts what is loaded, and lets a test fail it, or hold it up until it opens the gate."""

    in_memory = False  # its loads may wait
    size_blocks = LocalCAS.size_blocks  # by loading them

    def __init__(self) -> None:
        super().__init__()
        self.loads: Counter[bytes] = Counter()
        self.fails: dict[bytes, Exception] = {}
        self.delay = 0.0
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def read_blocks(self, cids: Sequence[bytes]) -> list:
        self.loads.update(cids)
        self.entered.set()
        time.sleep(self.delay)
        assert self.gate.wait(30)
        for cid in cids:
            if cid in self.fails:
                raise self.fails[cid]
        return super().read_blocks(cids)


class PlainCAS(ContentAddressedStore):
    """The least that a store can be: `save` and `load`, asynchronous, not verified."""

    def __init__(self, inner: InMemoryCAS) -> None:
        self.inner = inner
        self.lies: dict[bytes, bytes] = {}

    async def save(self, data, codec):
        return await self.inner.save(data, codec)

    async def load(self, id, offset=None, length=None, suffix=None):
        await asyncio.sleep(0)
        cid = to_bytes(id)
        return self.lies[cid] if cid in self.lies else await self.inner.load(cid, offset, length, suffix)


def crowded_hashfn(data: bytes) -> bytes:
    """A hash whose first bytes take few values, so that small trees are deep."""
    digest = hashlib.sha256(data).digest()
    return bytes(byte & 0x81 for byte in digest[:6]) + digest


def build(cas: InMemoryCAS, pointers: dict[str, bytes], hash_fn=crowded_hashfn, layout=PyHamt()) -> bytes:  # noqa: B008
    edits = Manifest.of(pointers.items(), hash_fn)
    with cas.writer() as writer:
        root = drive(update(None, edits, layout, writer.save_many, hash_fn), cas.load_blocks)
        writer.flush()
    return root


def save(cas: InMemoryCAS, value: bytes) -> bytes:
    with cas.writer() as writer:
        pointer = writer.save(value)
        writer.flush()
    return pointer


def pointers(keys: Iterable[str]) -> dict[str, bytes]:
    return {key: identify(key.encode()) for key in keys}


def numbered(count: int) -> dict[str, bytes]:
    return pointers(map(str, range(count)))


def tree_of(count: int, cache: NodeCache | None = None) -> tuple[Tree, CountingCAS]:
    """A tree of that many keys in a store that has not been asked for anything yet."""
    cas = CountingCAS()
    root = build(cas, numbered(count))
    cas.loads.clear()
    cas.entered.clear()
    return Tree(root, cas, hash_fn=crowded_hashfn, cache=cache), cas


async def collect(items) -> list:
    return [item async for item in items]
