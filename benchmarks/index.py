"""
How fast the tree is built: from keys and the CIDs of their values to every node in a store.

The limit is blake3 itself: every key has to be hashed once, and that takes as long as it takes. Where no
disk is concerned CPU time is compared, on which others that use the machine have less influence.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from time import perf_counter, process_time
from typing import TypeAlias

from blake3 import blake3

from benchmarks.measure import Seconds, fresh_folder, ratio, seconds
from benchmarks.report import Row, ratio_at_most, record, run
from hamt_bulk import ContentAddressedStore, InMemoryCAS, PackCAS
from hamt_bulk.block import identify
from hamt_bulk.layout import PyHamt
from hamt_bulk.manifest import Manifest
from hamt_bulk.reads import drive
from hamt_bulk.tree import update

Clock: TypeAlias = Callable[[], Seconds]

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

    def hashes(clock: Clock) -> Seconds:
        return seconds(lambda: [blake3(key).digest() for key in encoded], clock)

    def in_memory() -> Seconds:
        return seconds(partial(build, keys, pointers, InMemoryCAS()), process_time)

    def in_packs() -> Seconds:
        with fresh_folder() as folder:
            return seconds(partial(build, keys, pointers, PackCAS(folder / "store")))

    def manifest() -> Seconds:
        return seconds(lambda: Manifest.of(zip(keys, pointers, strict=True)), process_time)

    def updated() -> Seconds:
        cas = InMemoryCAS()
        with cas.writer() as writer:
            reads = update(None, edits, PyHamt(), writer.save_many)
            return seconds(partial(drive, reads, cas.load_many), process_time)

    edits = Manifest.of(zip(keys, pointers, strict=True))
    name = f"{size.keys:,} keys"
    of_cpu, of_clock = partial(hashes, process_time), partial(hashes, perf_counter)
    nodes = _nodes(keys, pointers)
    taken = ratio(in_memory, of_cpu, size.pairs)
    yield ratio_at_most(f"{name} into InMemoryCAS / hashing them, CPU", taken, LIMIT, nodes)
    taken = ratio(in_packs, of_clock, size.pairs)
    yield ratio_at_most(f"{name} into PackCAS / hashing them", taken, LIMIT)
    taken = ratio(manifest, of_cpu, size.pairs)
    yield record(f"{name} into a manifest / hashing them, CPU", taken.median, " ×", taken.note)
    taken = ratio(updated, of_cpu, size.pairs)
    yield record(f"{name} from it into InMemoryCAS / hashing them, CPU", taken.median, " ×", taken.note)


def _nodes(keys: list[str], pointers: list[bytes]) -> str:
    cas = InMemoryCAS()
    build(keys, pointers, cas)
    return f"{len(cas.blocks):,} nodes, {sum(map(len, cas.blocks.values())):,} bytes"


if __name__ == "__main__":
    run("Index: a tree of keys that have their values stored", rows, SIZES)
