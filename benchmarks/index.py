"""
How fast the tree is built: from keys and the CIDs of their values to every node in a store.

The limit is blake3 itself: every key has to be hashed once, and that takes as long as it takes.
"""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from blake3 import blake3

from benchmarks.measure import Seconds, fresh_folder, ratio, seconds
from benchmarks.report import Row, ratio_at_most, record, run
from hamt_bulk import ContentAddressedStore, InMemoryCAS, PackCAS
from hamt_bulk.block import identify
from hamt_bulk.layout import PyHamt
from hamt_bulk.manifest import Manifest
from hamt_bulk.reads import drive
from hamt_bulk.tree import update

LIMIT = 5


@dataclass(frozen=True, slots=True)
class Size:
    """So many keys, and pairs of runs."""

    keys: int
    pairs: int


SIZES = {"tiny": Size(300, 1), "small": Size(10**5, 5), "full": Size(10**6, 7)}


def build(keys: list[str], pointers: list[bytes], cas: ContentAddressedStore) -> bytes:
    """The root of the tree of `keys`, its nodes in `cas`."""
    edits = Manifest.of(zip(keys, pointers, strict=True))
    with cas.writer() as writer:
        root = drive(update(None, edits, PyHamt(), writer.save_many), cas.load_many)
        writer.flush()
    return root


def rows(size: Size) -> Iterator[Row]:
    """The whole build into each store, and its two halves."""
    keys = [f"t2m/c/{t // 10000}/{t // 100 % 100}/{t % 100}" for t in range(size.keys)]
    pointers = [identify(key.encode()) for key in keys]
    encoded = [key.encode() for key in keys]

    def hashes() -> Seconds:
        return seconds(lambda: [blake3(key).digest() for key in encoded])

    def built(make: Callable[[Path], ContentAddressedStore], folder: Path | None) -> Seconds:
        with fresh_folder() if folder is None else nullcontext(folder) as place:
            return seconds(partial(build, keys, pointers, make(place)))

    name = f"{size.keys:,} keys"
    in_memory = InMemoryCAS()
    build(keys, pointers, in_memory)
    nodes = f"{len(in_memory.blocks):,} nodes, {sum(map(len, in_memory.blocks.values())):,} bytes"
    del in_memory
    taken = ratio(lambda: built(lambda _: InMemoryCAS(), Path()), hashes, size.pairs)
    yield ratio_at_most(f"{name} into InMemoryCAS / hashing them", taken, LIMIT, nodes)
    taken = ratio(lambda: built(lambda folder: PackCAS(folder / "store"), None), hashes, size.pairs)
    yield ratio_at_most(f"{name} into PackCAS / hashing them", taken, LIMIT)
    taken = ratio(lambda: seconds(lambda: Manifest.of(zip(keys, pointers, strict=True))), hashes, size.pairs)
    yield record(f"{name} into a manifest / hashing them", taken.median, " ×", taken.note)
    edits = Manifest.of(zip(keys, pointers, strict=True))

    def updated() -> Seconds:
        cas = InMemoryCAS()
        with cas.writer() as writer:
            return seconds(lambda: drive(update(None, edits, PyHamt(), writer.save_many), cas.load_many))

    taken = ratio(updated, hashes, size.pairs)
    yield record(f"{name} from a manifest into InMemoryCAS / hashing them", taken.median, " ×", taken.note)


if __name__ == "__main__":
    run("Index: a tree of keys that have their values stored", rows, SIZES)
