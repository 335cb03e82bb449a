"""
What edits and reads of a HAMT cost, beside py-hamt's on the same tree.

The two take turns, each in its own process; CPU time is compared. Here both have stores in memory that give CIDs,
as py-hamt's KuboCAS does: making, comparing and decoding CIDs is a large part of its time. With its own
InMemoryCAS, whose blocks are named by bytes, py-hamt is faster; that is for the record, and so is our PackCAS.

    append  open the tree, set new keys one by one, and make the root
    gets    open the tree, and get the values of so many keys, one by one
    keys    open the tree, and list all keys
"""

import asyncio
import shutil
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from statistics import mean, median, stdev
from time import process_time
from typing import Any

import numpy as np
from multiformats import CID

from benchmarks.measure import Seconds, fresh_folder, ratio, seconds
from benchmarks.report import Row, at_most, ratio_at_least, record, run
from hamt_bulk import ContentAddressedStore, InMemoryCAS, PackCAS, Receipt, build
from hamt_bulk.block import DAG_CBOR, Data, text
from hamt_bulk.hamt import HAMT
from hamt_bulk.layout import BUCKET_SIZE

TARGETS = {"append": 100, "gets": 20, "keys": 50}
"""How many times py-hamt's CPU time is to be ours."""

SIGMAS = 4
"""How far from the mean of trees with random hashes the number of nodes may lie that an append writes."""


@dataclass(frozen=True, slots=True)
class Size:
    """A tree of `keys` to compare with and one of `many`, so many new keys and gets, and pairs of runs."""

    keys: int
    many: int
    appended: int
    gets: int
    pairs: int


SIZES = {
    "tiny": Size(300, 400, 10, 20, 1),
    "small": Size(10**4, 10**5, 1000, 1000, 1),
    "full": Size(10**5, 10**6, 1000, 10_000, 3),
}

Items = list[tuple[str, bytes]]


def items_of(first: int, last: int) -> Items:
    return [(f"t2m/c/{t // 10000}/{t // 100 % 100}/{t % 100}", b"value %d" % t) for t in range(first, last)]


class CountingCAS(InMemoryCAS):
    """Counts the nodes that are read and written."""

    def __init__(self) -> None:
        super().__init__()
        self.read = self.written = 0

    def read_blocks(self, cids: Sequence[bytes]) -> list[Data]:
        self.read += sum(cid[1] == DAG_CBOR for cid in cids)
        return super().read_blocks(cids)

    def _put(self, blocks: dict[bytes, bytes]) -> Receipt:
        self.written += sum(cid[1] == DAG_CBOR and cid not in self.blocks for cid in blocks)
        return super()._put(blocks)


async def append(cas: ContentAddressedStore, root: CID, items: Items) -> str:
    """The new root."""
    hamt = await HAMT.build(cas=cas, root_node_id=root, values_are_bytes=True)
    for key, value in items:
        await hamt.set(key, value)
    await hamt.make_read_only()
    return str(hamt.root_node_id)


async def gets(cas: ContentAddressedStore, root: CID, items: Items) -> list[object]:
    """The values."""
    hamt = await HAMT.build(cas=cas, root_node_id=root, read_only=True, values_are_bytes=True)
    return [await hamt.get(key) for key, _ in items]


async def keys(cas: ContentAddressedStore, root: CID, items: Items) -> int:
    """How many keys there are."""
    hamt = await HAMT.build(cas=cas, root_node_id=root, read_only=True, values_are_bytes=True)
    every_key = hamt.keys()
    return len([key async for key in every_key])


Job = Callable[[ContentAddressedStore, CID, Items], Coroutine[Any, Any, object]]
JOBS: dict[str, Job] = {"append": append, "gets": gets, "keys": keys}


def script(name: str, items: Items) -> tuple[bool, list[tuple[Any, ...]]]:
    """The calls of a job for the peer, and whether they are those of a reader."""
    match name:
        case "append":
            return False, [*(("set", key, value) for key, value in items), ("make_read_only",)]
        case "gets":
            return True, [("get", key) for key, _ in items]
        case _:
            return True, [("keys",)]


def result(name: str, answers: list[tuple[str, Any]]) -> object:
    """What a job gives, from what the peer answered to its script."""
    match name:
        case "append":
            return answers[-1][1]
        case "gets":
            return [value for _, value in answers]
        case _:
            return len(answers[0][1])


def rows(size: Size) -> Iterator[Row]:
    """Each job beside py-hamt's, then what an append reads and writes."""
    base, new = items_of(0, size.keys), items_of(size.keys, size.keys + size.appended)
    of_job = {"append": new, "gets": Random(20).sample(base, size.gets), "keys": base}
    names = {
        "append": f"{size.appended:,} keys more beside {size.keys:,}",
        "gets": f"{size.gets:,} cold gets among {size.keys:,} keys",
        "keys": f"all of {size.keys:,} keys",
    }
    stored = InMemoryCAS()
    root = build(base, stored)
    ours = {name: partial(_in_memory, stored, job, root, of_job[name]) for name, job in JOBS.items()}
    yield from _beside_py_hamt(size, base, stored, root, of_job, names, ours)
    for name, job in JOBS.items():
        in_packs = median(_in_packs(base, job, of_job[name], size.pairs))
        yield record(f"{names[name]}, PackCAS, CPU", in_packs * 1000, " ms")
    for count in (size.keys, size.many):
        yield from _counted(count, size.appended)


def _beside_py_hamt(
    size: Size,
    base: Items,
    stored: InMemoryCAS,
    root: CID,
    of_job: dict[str, Items],
    names: dict[str, str],
    ours: dict[str, Callable[[], Seconds]],
) -> Iterator[Row]:
    """The ratios; without a py-hamt, what there is to say of ours."""
    harness = py_hamt_harness()
    try:
        peer = harness.PyHamt.start()
    except harness.PeerUnavailable as error:
        for name, call in ours.items():
            yield record(f"{names[name]}, InMemoryCAS, CPU", call() * 1000, " ms", f"no py-hamt: {error}")
        return
    blocks = {text(cid): data for cid, data in stored.blocks.items()}
    with peer:
        own = peer.run_on_own_cas(base, [script(name, of_job[name]) for name in JOBS])
        for name, of_own in zip(JOBS, own, strict=True):
            read_only, calls = script(name, of_job[name])
            expected = asyncio.run(JOBS[name](_copy(stored), root, of_job[name]))

            def theirs(
                name: str = name,
                calls: object = calls,
                read_only: bool = read_only,
                expected: object = expected,
            ) -> Seconds:
                taken = peer.run(calls, str(root), blocks, read_only=read_only)
                assert result(name, taken.answers) == expected
                return float(taken.cpu_seconds)

            taken = ratio(theirs, ours[name], size.pairs)
            yield ratio_at_least(f"{names[name]}: py-hamt / InMemoryCAS, CPU", taken, TARGETS[name])
            in_ours = median(taken.limit)
            note = f"{of_own:.3g} s / {in_ours:.3g} s"
            yield record(
                f"{names[name]}: py-hamt on its InMemoryCAS / ours, CPU", of_own / in_ours, " ×", note
            )


def _in_memory(stored: InMemoryCAS, job: Job, root: CID, items: Items) -> Seconds:
    cas = _copy(stored)
    return seconds(lambda: asyncio.run(job(cas, root, items)), process_time)


def _copy(stored: InMemoryCAS) -> InMemoryCAS:
    cas = InMemoryCAS()
    cas.blocks.update(stored.blocks)
    return cas


def _in_packs(base: Items, job: Job, items: Items, runs: int) -> list[Seconds]:
    """The times of several runs, each in a copy of its own of the packs."""
    with fresh_folder() as folder:
        root = build(base, PackCAS(folder / "store"))
        taken = []
        for number in range(runs + 1):
            shutil.copytree(folder / "store", copy := folder / str(number))
            cas = PackCAS(copy)
            taken.append(seconds(lambda cas=cas: asyncio.run(job(cas, root, items)), process_time))
        return taken[1:]


def _counted(count: int, appended: int) -> Iterator[Row]:
    """The nodes that an append to a tree of `count` keys reads and writes."""
    cas = CountingCAS()
    root = build(items_of(0, count), cas)
    cas.read = cas.written = 0
    taken = seconds(lambda: asyncio.run(append(cas, root, items_of(count, count + appended))), process_time)
    expected, spread = simulated(count, appended)
    name = f"{appended:,} keys more beside {count:,}"
    note = f"{cas.written:,} written, {expected:,.0f} ± {spread:.0f} with random hashes"
    yield at_most(
        f"{name}: nodes written, from the mean", abs(cas.written - expected) / spread, SIGMAS, " σ", note
    )
    yield at_most(f"{name}: nodes read", cas.read, cas.written, note="as many as are written at most")
    yield record(f"{name}, CPU", taken * 1000, " ms")


def simulated(count: int, appended: int, runs: int = 20) -> tuple[float, float]:
    """The mean and the spread of how many nodes lie on the ways to `appended` keys of random hashes."""
    generator = np.random.default_rng(20)
    found = []
    for _ in range(runs):
        digests = generator.integers(0, 1 << 63, count + appended, np.uint64) << np.uint64(1)
        new = np.sort(digests[:appended])
        digests.sort()
        nodes = 1
        for depth in range(1, 8):
            below = np.uint64(64 - 8 * depth)
            paths = np.unique(new >> below)
            edges = np.searchsorted(digests >> below, [paths, paths + np.uint64(1)])
            here = int((edges[1] - edges[0] > BUCKET_SIZE).sum())
            if not here:
                break
            nodes += here
        found.append(nodes)
    return mean(found), max(stdev(found), 1.0)


def py_hamt_harness() -> Any:
    """The tests' harness around a real py-hamt."""
    tests = str(Path(__file__).parent.parent / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    from peers import py_hamt

    return py_hamt


if __name__ == "__main__":
    run("Edits: a HAMT beside py-hamt's", rows, SIZES)
