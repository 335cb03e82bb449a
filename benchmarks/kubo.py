"""
What our KuboCAS and py-hamt's do with one Kubo daemon: a real one, on this machine.

The two take turns, each in its own process; wall time is compared where nothing else is said. Every block is new to
the daemon when it is written, and read once. Both have their defaults, 32 requests under way among them; connections
are open when the clock starts.

    write    values saved and durable, as far as the daemon makes them so
    read     values from the gateway, many at once
    dataset  random chunks that no compressor makes smaller: `to_hamt` from two worker processes, pinned at the end,
             beside `to_zarr` on py-hamt's store, which stays in one process
    keys     open a tree, and list all keys
    lookup   open the tree, and get one value

The repository is a fresh folder among the temporary ones. ext4 looks long for a place for each new file in the minutes
after many were deleted, as here at the end: the daemon then takes ten times as long for small blocks, whoever writes
them. Let TMPDIR name a folder in memory, or wait.
"""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import version
from itertools import count
from multiprocessing import Pipe
from pathlib import Path
from random import Random
from statistics import median
from time import perf_counter, process_time
from typing import Any, NamedTuple, TypeVar

import dask
import psutil  # type: ignore[import-untyped]  # its stubs are a package of their own

from benchmarks.data import maps
from benchmarks.measure import Ratio, Seconds, alternate, cluster, fresh_folder
from benchmarks.report import Row, at_most, ratio_at_least, record, run
from hamt_bulk import HAMT, KuboCAS, build
from hamt_bulk.block import Block, identify, text
from hamt_bulk.xarray import to_hamt

T = TypeVar("T")

KIBIBYTE, MEBIBYTE = 1 << 10, 1 << 20
SMALL, LARGE = 2 * KIBIBYTE, MEBIBYTE

Counts = tuple[int, int]
"""Of values: ours and py-hamt's in one run."""


@dataclass(frozen=True, slots=True)
class Size:
    """
    How many values are written and read, in so many pairs of runs.

    chunks   of the dataset, each `side` x `side` values of four bytes, stored `builds` times
    workers  processes that store it; 0: threads of this one, and no `to_zarr` beside it
    keys     of the tree that is listed, once, and looked up in so often
    """

    pairs: int
    write_small: Counts
    write_large: Counts
    read_small: Counts
    read_large: Counts
    chunks: int
    side: int
    builds: int
    workers: int
    keys: int
    lookups: int


SIZES = {
    "tiny": Size(1, (50, 10), (3, 2), (50, 10), (3, 2), 6, 8, 1, 0, 300, 3),
    "small": Size(3, (20_000, 300), (128, 64), (5000, 300), (128, 64), 2000, 160, 1, 2, 10**4, 100),
    "full": Size(5, (40_000, 1000), (256, 128), (20_000, 1000), (256, 128), 2000, 160, 3, 2, 10**5, 300),
}


class Spent(NamedTuple):
    """Seconds for one value, of the clock and of the client's processor."""

    wall: Seconds
    cpu: Seconds


@dataclass(frozen=True, slots=True)
class Pairs:
    """What py-hamt and we spent on a value of `size` bytes, in turns."""

    theirs: list[Spent]
    ours: list[Spent]
    size: int

    def ratio(self, clock: str) -> Ratio:
        return Ratio(*([getattr(spent, clock) for spent in side] for side in (self.theirs, self.ours)))

    @property
    def rates(self) -> str:
        """What went by in a second."""
        of, unit = (1, "values") if self.size < LARGE else (self.size / 1e6, "MB")
        theirs, ours = (of / median(spent.wall for spent in side) for side in (self.theirs, self.ours))
        return f"{theirs:,.0f} {unit}/s and {ours:,.0f} {unit}/s"

    @property
    def of_processor(self) -> str:
        """What the client's processor took for a value."""
        theirs, ours = (1e6 * median(spent.cpu for spent in side) for side in (self.theirs, self.ours))
        return f"{theirs:,.0f} µs and {ours:,.1f} µs a value"


@dataclass(frozen=True, slots=True)
class Bench:
    """The daemon, our store on it, and py-hamt beside it."""

    daemon: Any
    cas: KuboCAS
    peer: Any

    def ask(self, command: str, **arguments: Any) -> Any:
        """What py-hamt answers."""
        return self.peer._ask(command, **arguments)

    def write(self, values: Sequence[bytes]) -> list[bytes]:
        """The CIDs of values that are on the daemon now."""
        with self.cas.writer() as writer:
            blocks = [Block(identify(value), value) for value in values]
            writer.save_many(blocks)
            writer.flush()
        return [block.cid for block in blocks]

    def written(self, count: int, size: int) -> list[bytes]:
        """The CIDs of so many new values on the daemon."""
        return self.write([os.urandom(size) for _ in range(count)])


def rows(size: Size) -> Iterator[Row]:
    """The jobs one after the other, on one daemon."""
    kubo, peers = (_of_tests(name) for name in ("kubo.program", "peers.py_hamt"))
    with ExitStack() as stack:
        try:
            folder = stack.enter_context(fresh_folder())
            daemon = stack.enter_context(_of_tests("kubo.daemon").Daemon(kubo.find_ipfs(), folder))
            bench = stack.enter_context(_opened(daemon, peers, with_xarray=size.workers > 0))
        except peers.PeerUnavailable as error:
            yield record("Kubo and py-hamt", "none", note=str(error))
            return
        settings = ", ".join(f"{name} {value}" for name, value in _of_tests("kubo.daemon").DEFAULTS.items())
        ipfs = daemon.ipfs("version", "--number").decode().strip()
        place = f"flatfs on {_file_system(folder)}, --offline, profile test"
        yield record("daemon", f"Kubo {ipfs}", note=f"{place}, {settings}")
        yield record("peer", f"py-hamt {peers.VERSION}", note=bench.ask("versions"))
        yield from _writes(bench, size)
        yield from _reads(bench, size)
        yield from _tree(bench, size)
        yield from _dataset(bench, size)


# Values.


def _writes(bench: Bench, size: Size) -> Iterator[Row]:
    small, large = (
        _write(bench, counts, of, size.pairs)
        for counts, of in ((size.write_small, SMALL), (size.write_large, LARGE))
    )
    name = "write 2 KiB blocks: py-hamt / ours"
    yield ratio_at_least(name, small.ratio("wall"), 50, small.rates)
    yield ratio_at_least(f"{name}, client's CPU", small.ratio("cpu"), 150, small.of_processor)
    name = "write 1 MiB values: py-hamt / ours"
    yield ratio_at_least(name, large.ratio("wall"), 2.5, large.rates)
    cpu = large.ratio("cpu")
    yield record(f"{name}, client's CPU", cpu.median, " ×", f"{cpu.note}; {large.of_processor}")


def _write(bench: Bench, counts: Counts, of: int, pairs: int) -> Pairs:
    ours, theirs = counts

    def by_us() -> Spent:
        values = [os.urandom(of) for _ in range(ours)]
        return _spent(lambda: bench.write(values), ours)

    return _pairs(lambda: _answered(bench.ask("save", count=theirs, size=of), theirs), by_us, of, pairs)


def _reads(bench: Bench, size: Size) -> Iterator[Row]:
    many, one = (_read(bench, size.read_small, SMALL, by, size.pairs) for by in (_load_many, _load_each))
    yield ratio_at_least("read 2 KiB blocks: py-hamt / load_many", many.ratio("wall"), 7, many.rates)
    yield ratio_at_least("read 2 KiB blocks: py-hamt / await load", one.ratio("wall"), 7, one.rates)
    cpu = many.ratio("cpu")
    name = "read 2 KiB blocks: py-hamt / load_many, client's CPU"
    yield record(name, cpu.median, " ×", f"{cpu.note}; {many.of_processor}")
    large = _read(bench, size.read_large, LARGE, _load_many, size.pairs)
    yield ratio_at_least("read 1 MiB values: py-hamt / load_many", large.ratio("wall"), 2.5, large.rates)
    cpu = large.ratio("cpu")
    name = "read 1 MiB values: py-hamt / load_many, client's CPU"
    yield record(name, cpu.median, " ×", f"{cpu.note}; {large.of_processor}")


def _read(
    bench: Bench, counts: Counts, of: int, by: Callable[[KuboCAS, list[bytes]], object], pairs: int
) -> Pairs:
    ours, theirs = counts

    def by_us() -> Spent:
        cids = bench.written(ours, of)
        return _spent(lambda: by(bench.cas, cids), ours)

    def by_them() -> Spent:
        names = [text(cid) for cid in bench.written(theirs, of)]
        return _answered(bench.ask("load", names=names), theirs)

    return _pairs(by_them, by_us, of, pairs)


def _load_many(cas: KuboCAS, cids: list[bytes]) -> object:
    return cas.load_many(cids)


def _load_each(cas: KuboCAS, cids: list[bytes]) -> object:
    async def load() -> int:
        # Not the values: Python 3.11 writes out what the main task returned, as it takes its signal handler back.
        return len(await asyncio.gather(*(cas.load(cid) for cid in cids)))

    return asyncio.run(load())


def _pairs(theirs: Callable[[], Spent], ours: Callable[[], Spent], of: int, pairs: int) -> Pairs:
    taken = alternate(theirs, ours, pairs)
    return Pairs([first for first, _ in taken], [second for _, second in taken], of)


def _spent(call: Callable[[], object], count: int) -> Spent:
    cpu, wall = process_time(), perf_counter()
    result = call()
    spent = Spent((perf_counter() - wall) / count, (process_time() - cpu) / count)
    del result
    return spent


def _answered(spent: dict[str, Seconds], count: int) -> Spent:
    return Spent(spent["wall"] / count, spent["cpu"] / count)


# Trees.


def _tree(bench: Bench, size: Size) -> Iterator[Row]:
    """A tree whose keys all have one value, listed and looked up in."""
    names = [f"t2m/c/{t // 10000}/{t // 100 % 100}/{t % 100}" for t in range(size.keys)]
    cas = bench.cas
    value = asyncio.run(cas.save(os.urandom(SMALL), "raw"))
    cas.flush()
    root = build([(name, value) for name in names], cas)

    async def keys() -> list[str]:
        every_key = (await _reader(cas, root)).keys()
        return [key async for key in every_key]

    listed, theirs = bench.ask("keys", root=str(root))
    ours: list[Seconds] = []
    for _ in range(max(size.pairs, 2)):
        wall = perf_counter()
        found = asyncio.run(keys())
        ours.append(perf_counter() - wall)
    assert sorted(found) == sorted(listed) == sorted(names)
    ratio = Ratio([theirs["wall"]], [median(ours)])
    yield ratio_at_least(f"all of {size.keys:,} keys: py-hamt / ours", ratio, 20)
    yield from _lookups(bench, root, Random(20).sample(names, size.lookups))


def _lookups(bench: Bench, root: Any, wanted: list[str]) -> Iterator[Row]:
    """The time for one, straight from the gateway; and the requests, through a proxy that counts them."""
    theirs = bench.ask("get", root=str(root), wanted=wanted, gateway=bench.daemon.gateway_url)
    ours = asyncio.run(_get(bench.cas, root, wanted))
    few = wanted[:20]
    with _of_tests("kubo.proxy").Proxy(bench.daemon.gateway_url) as proxy:
        bench.ask("get", root=str(root), wanted=few, gateway=proxy.url)
        of_peer = (len(proxy.requests) - 1) / len(few)  # one is made before
        proxy.clear()
        cas = KuboCAS(rpc_base_url=bench.daemon.rpc_url, gateway_base_url=proxy.url)
        asyncio.run(_get(cas, root, few))
        of_us = len(proxy.requests) / len(few)
        cas.close()
    note = f"median of {len(wanted)}; requests each {of_peer:g} and {of_us:g}"
    name = "a cold lookup with its value"
    for who, taken in (("py-hamt", theirs), ("ours", ours)):
        yield record(f"{name}: {who}", 1000 * median(taken), " ms", note)


async def _get(cas: KuboCAS, root: Any, wanted: list[str]) -> list[Seconds]:
    taken = []
    for key in wanted:
        wall = perf_counter()
        await (await _reader(cas, root)).get(key)
        taken.append(perf_counter() - wall)
    return taken


def _reader(cas: KuboCAS, root: Any) -> Awaitable[HAMT]:
    return HAMT.build(cas=cas, root_node_id=root, read_only=True, values_are_bytes=True)


# A dataset.


def _dataset(bench: Bench, size: Size) -> Iterator[Row]:
    """Each run has values of its own."""
    numbers = count(0, size.chunks)
    peers, ours = [], []
    with _workers(size.workers):
        root = _by_to_hamt(bench, 4, size.side, next(numbers))[0]  # to warm up
        for _ in range(size.builds):
            if size.workers:
                spent = bench.ask("to_zarr", chunks=size.chunks, side=size.side, first=next(numbers))
                peers.append(spent["wall"])
            root, wall = _by_to_hamt(bench, size.chunks, size.side, next(numbers))
            ours.append(wall)
    megabytes = 4 * size.side**2 * size.chunks / 1e6
    rate = f"{megabytes / median(ours):,.0f} MB/s"
    name = f"{size.chunks} chunks of {4 * size.side**2 / KIBIBYTE:g} KiB"
    if peers:
        rate = f"{megabytes / median(peers):,.0f} MB/s and {rate}"
        yield ratio_at_least(f"{name}: to_zarr / to_hamt", Ratio(peers, ours), 5, rate)
    else:
        yield record(f"{name}: to_hamt", median(ours), " s", rate)
    items = asyncio.run(_pointers(bench.cas, root))
    replayed = bench.ask("replay", items=items)
    note = f"{len(items):,} keys, set in random order"
    yield at_most(
        "roots that differ from py-hamt's for these keys and bytes", int(replayed != str(root)), 0, note=note
    )


def _by_to_hamt(bench: Bench, chunks: int, side: int, first: int) -> tuple[Any, Seconds]:
    dataset = maps(chunks, side, "random", first=first)
    wall = perf_counter()
    root = to_hamt(dataset, bench.cas, encoding={"t2m": {"compressors": None}}, pin="bench", progress=False)
    return root, perf_counter() - wall


async def _pointers(cas: KuboCAS, root: Any) -> list[tuple[str, str]]:
    """Keys, and the CIDs of their values."""
    hamt = await _reader(cas, root)
    every_key = hamt.keys()
    return [(key, str(await hamt.get_pointer(key))) async for key in every_key]


def _workers(processes: int) -> Any:
    return cluster(processes) if processes else dask.config.set(scheduler="threads")


# The peer.


@contextmanager
def _opened(daemon: Any, peers: Any, *, with_xarray: bool) -> Iterator[Bench]:
    """Raises `PeerUnavailable`."""
    interpreter = peers.install(peers.find_python())
    xarray = _install_xarray(interpreter, peers.PeerUnavailable) if with_xarray else ""
    ours, theirs = Pipe()
    script = Path(__file__).with_name("kubo_peer.py")
    command = [interpreter, "-I", "-W", "ignore", script, daemon.rpc_url, daemon.gateway_url, xarray]
    with theirs:
        process = subprocess.Popen(command, stdin=theirs.fileno())
    cas = KuboCAS(rpc_base_url=daemon.rpc_url, gateway_base_url=daemon.gateway_url)
    with peers.PyHamt(process, ours) as peer:
        yield Bench(daemon, cas, peer)
    cas.close()


def _install_xarray(interpreter: str, failure: type[Exception]) -> str:
    """A folder with our xarray and Dask for py-hamt's interpreter, whose own environment the tests have to themselves."""
    versions = [f"{name}=={version(name)}" for name in ("xarray", "dask")]
    environment = Path(interpreter).parents[1]
    folder = environment.with_name("-".join([environment.name, *versions]))
    marker = folder / "installed"
    if not marker.exists():
        pip = [interpreter, "-I", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        done = subprocess.run(
            [*pip, "--upgrade", "--target", folder, *versions], capture_output=True, text=True
        )
        if done.returncode:
            raise failure(f"pip cannot install {versions}: {done.stderr.strip()}")
        marker.touch()
    return str(folder)


def _file_system(folder: Path) -> str:
    """The kind of the file system of `folder`."""
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    return next((mounts[str(path)] for path in (folder, *folder.parents) if str(path) in mounts), "?")


def _of_tests(module: str) -> Any:
    """A module that the tests share."""
    tests = str(Path(__file__).parent.parent / "tests")
    if tests not in sys.path:
        sys.path.append(tests)
    return import_module(module)


if __name__ == "__main__":
    run("Kubo: our KuboCAS beside py-hamt's, on one daemon", rows, SIZES)
