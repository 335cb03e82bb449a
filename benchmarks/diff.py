"""
What it takes to compare two trees that have nearly all their keys in common.

The nodes that are read are counted: how many there are depends on the trees alone. CPU time, of comparing and
of the edits that made the difference, is for the record.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import process_time

from benchmarks.index import build
from benchmarks.measure import seconds
from benchmarks.report import Row, at_most, record, run
from hamt_bulk import ContentAddressedStore, InMemoryCAS
from hamt_bulk.block import identify
from hamt_bulk.cas.wrap import Reader
from hamt_bulk.layout import PyHamt
from hamt_bulk.manifest import Manifest
from hamt_bulk.reads import drive
from hamt_bulk.roots.diff import changes
from hamt_bulk.tree import update

LIMIT = 60
DIFFERENT = 10


@dataclass(frozen=True, slots=True)
class Size:
    """So many keys."""

    keys: int


SIZES = {"tiny": Size(300), "small": Size(10**5), "full": Size(10**6)}


class CountingReader(Reader):
    """Counts the blocks that are read, and the times it is asked for some."""

    def __init__(self, cas: ContentAddressedStore) -> None:
        super().__init__(cas)
        self.nodes = self.requests = 0

    def blocks(self, cids: Sequence[bytes]) -> list[bytes]:
        self.nodes += len(cids)
        self.requests += 1
        return super().blocks(cids)


def rows(size: Size) -> Iterator[Row]:
    """Ten keys of all changed, then none in common."""
    keys = [f"t2m/c/{t // 10000}/{t // 100 % 100}/{t % 100}" for t in range(size.keys)]
    cas = InMemoryCAS()
    root = build(keys, [identify(key.encode()) for key in keys], cas)
    edited = keys[:: len(keys) // DIFFERENT][:DIFFERENT]
    other = _edited(root, edited, cas)
    found, reader, taken = _compared(root, other, cas)
    assert sorted(found) == sorted(edited)
    name = f"{size.keys:,} keys of which {DIFFERENT} differ"
    yield at_most(f"{name}, nodes read", reader.nodes, LIMIT, note=f"in {reader.requests} requests")
    yield record(f"{name}, CPU", taken * 1000, " ms")
    found, reader, taken = _compared(root, _edited(None, [], cas), cas)
    assert len(found) == size.keys
    note = f"{taken:.3g} s, {reader.nodes:,} nodes in {reader.requests:,} requests"
    yield record(f"{size.keys:,} keys and none, CPU, a key", taken / size.keys * 1e6, " µs", note)


def _edited(root: bytes | None, keys: Sequence[str], cas: ContentAddressedStore) -> bytes:
    edits = Manifest.of((key, identify(b"new" + key.encode())) for key in keys)
    with cas.writer() as writer:
        other = drive(update(root, edits, PyHamt(), writer.save_many), cas.load_many)
        writer.flush()
    return other


def _compared(a: bytes, b: bytes, cas: ContentAddressedStore) -> tuple[list[str], CountingReader, float]:
    """The keys that differ, what was read for them, and the CPU time."""
    reader = CountingReader(cas)
    found: list[str] = []
    taken = seconds(lambda: found.extend(key for key, *_ in changes(a, b, reader)), process_time)
    return found, reader, taken


if __name__ == "__main__":
    run("Diff: two trees with nearly all keys in common", rows, SIZES)
