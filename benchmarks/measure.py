"""How figures are taken: in turns with what they are compared with, on a quiet disk, in a fresh folder."""

import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TypeVar

import psutil  # type: ignore[import-untyped]  # its stubs are a package of their own
from distributed import Client, LocalCluster

T = TypeVar("T")

Seconds = float


@dataclass(frozen=True, slots=True)
class Ratio:
    """What the subject took and what the limit took, pair by pair, in seconds."""

    subject: list[Seconds]
    limit: list[Seconds]

    @property
    def each(self) -> list[float]:
        """The ratio of each pair."""
        return [subject / limit for subject, limit in zip(self.subject, self.limit, strict=True)]

    @property
    def median(self) -> float:
        """The median of the pairs' ratios: what slows the machine for a while slows both of a pair."""
        return median(self.each)

    @property
    def note(self) -> str:
        """The medians and the spread."""
        times = f"{median(self.subject):.3g} s / {median(self.limit):.3g} s"
        return f"{times}, {len(self.each)} pairs, {min(self.each):.2f} to {max(self.each):.2f}"


def alternate(subject: Callable[[], T], limit: Callable[[], T], pairs: int) -> list[tuple[T, T]]:
    """What both return, called in turns so many times after one call of each to warm up."""
    subject(), limit()
    return [(subject(), limit()) for _ in range(pairs)]


def ratio(subject: Callable[[], Seconds], limit: Callable[[], Seconds], pairs: int) -> Ratio:
    """The times that both return, in turns."""
    taken = alternate(subject, limit, pairs)
    return Ratio([first for first, _ in taken], [second for _, second in taken])


def seconds(call: Callable[[], object], clock: Callable[[], Seconds] = time.perf_counter) -> Seconds:
    """How long `call` takes. What it returns is let go of after the clock has stopped."""
    start = clock()
    result = call()
    taken = clock() - start
    del result
    return taken


@contextmanager
def fresh_folder() -> Iterator[Path]:
    """An empty folder on a file system with nothing left to write, gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="hamt-bulk-benchmark-"))
    try:
        sync_file_system(folder)
        yield folder
    finally:
        shutil.rmtree(folder)


def sync_file_system(folder: Path) -> None:
    """Writes all that the system still holds in memory for the file system of `folder`."""
    subprocess.run(["sync", "-f", str(folder)], check=True)


def files_below(folder: Path) -> list[Path]:
    """All files in `folder` and the folders in it."""
    return [path for path in folder.rglob("*") if path.is_file()]


@contextmanager
def cluster(processes: int = 2) -> Iterator[Client]:
    """A cluster of so many worker processes of one thread each, its scheduler in this process."""
    with (
        LocalCluster(processes, threads_per_worker=1, dashboard_address=":0", memory_limit=0) as local,
        Client(local) as client,
    ):
        client.wait_for_workers(processes)
        yield client


def cpu_seconds() -> Seconds:
    """The CPU time of this process and of all that it started and that still run."""
    driver = psutil.Process()
    times = [process.cpu_times() for process in (driver, *driver.children(recursive=True))]
    return float(sum(taken.user + taken.system for taken in times))


def reset_peak_memory() -> int:
    """Memory of this process in bytes, from where `peak_memory` counts from now on."""
    Path("/proc/self/clear_refs").write_text("5")
    return int(psutil.Process().memory_info().rss)


def peak_memory() -> int:
    """The most memory, in bytes, that this process held since `reset_peak_memory`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    [kibibytes] = (line.split()[1] for line in lines if line.startswith("VmHWM:"))
    return int(kibibytes) << 10
