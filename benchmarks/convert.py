"""
What a conversion costs for each key, beside reading the key through py-hamt.

Whoever has a tree of py-hamt and wants another can do no better with py-hamt than to get every key. One thread here and
there, CPU time, stores in memory that give CIDs; py-hamt's time is that of so many keys of a smaller tree, whose
ways are shorter. Conversions read each key's place again in the end, to compare it.

    to a HashMap, and back     the nodes alone are new
    with encryption            each value is read, encrypted, written, read again and compared
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from time import process_time
from typing import Any

import dask
from multiformats import CID

from benchmarks.edits import items_of, py_hamt_harness
from benchmarks.measure import Seconds, ratio, seconds
from benchmarks.report import Row, ratio_at_least, record, run
from hamt_bulk import Encryption, HashMap, InMemoryCAS, build, convert
from hamt_bulk.block import text
from hamt_bulk.conversion import To

TARGET = 20
"""How many times the CPU time of reading a key through py-hamt is to be that of converting it."""


@dataclass(frozen=True, slots=True)
class Size:
    """Trees of so many keys to convert, and to encrypt; so many gets through py-hamt among so many keys; pairs of runs."""

    keys: int
    sealed: int
    gets: int
    among: int
    pairs: int


SIZES = {
    "tiny": Size(300, 50, 20, 100, 1),
    "small": Size(10**5, 2000, 1000, 10**4, 1),
    "full": Size(10**6, 10**5, 10_000, 10**5, 3),
}


def rows(size: Size) -> Iterator[Row]:
    """Each conversion beside py-hamt's gets."""
    cas = InMemoryCAS()
    root = build(items_of(0, size.keys), cas)
    few = root if size.sealed == size.keys else build(items_of(0, size.sealed), cas)
    shape = HashMap(8, 3, "sha2-256")
    other = convert(root, cas, shape, progress=False)
    jobs: dict[str, Callable[[], Seconds]] = {
        f"{size.keys:,} keys of a py-hamt tree to a HashMap": _taken(cas, root, shape),
        f"{size.keys:,} keys of a HashMap to a py-hamt tree": _taken(cas, other, "pyhamt"),
    }
    sealed = _taken(cas, few, "pyhamt", Encryption(bytes(32)))() / size.sealed
    yield record(f"{size.sealed:,} keys encrypted, CPU a key", sealed * 1e6, " µs")
    harness = py_hamt_harness()
    try:
        peer = harness.PyHamt.start()
    except harness.PeerUnavailable as error:
        for name, ours in jobs.items():
            yield record(f"{name}, CPU a key", ours() / size.keys * 1e6, " µs", f"no py-hamt: {error}")
        return
    with peer:
        gets = _gets(peer, size)
        for name, ours in jobs.items():
            taken = ratio(gets, lambda ours=ours: ours() / size.keys, size.pairs)
            yield ratio_at_least(f"{name}: py-hamt's get / ours, CPU a key", taken, TARGET)


def _taken(
    cas: InMemoryCAS, root: CID, to: To, encryption: Encryption | None = None
) -> Callable[[], Seconds]:
    def call() -> Seconds:
        target = InMemoryCAS()
        target.blocks.update(cas.blocks)
        with dask.config.set(scheduler="synchronous"):
            return seconds(
                lambda: convert(root, target, to, encryption=encryption, progress=False), process_time
            )

    return call


def _gets(peer: Any, size: Size) -> Callable[[], Seconds]:
    """The CPU time that py-hamt takes for a key, measured anew at each call."""
    items = items_of(0, size.among)
    cas = InMemoryCAS()
    root = build(items, cas)
    blocks = {text(cid): data for cid, data in cas.blocks.items()}
    calls = [("get", key) for key, _ in Random(20).sample(items, size.gets)]

    def call() -> Seconds:
        taken = peer.run(calls, str(root), blocks, read_only=True)
        return float(taken.cpu_seconds) / size.gets

    return call


if __name__ == "__main__":
    run("Conversions", rows, SIZES)
