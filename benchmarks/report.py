"""Figures beside their targets, as a table."""

import argparse
import os
import platform
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib.metadata import version
from typing import NamedTuple, TypeVar

from benchmarks.measure import Ratio

S = TypeVar("S")

PACKAGES = ("numpy", "zarr", "xarray", "dask", "distributed", "blake3")


class Row(NamedTuple):
    """
    One figure.

    target  empty where the figure is for the record
    met     whether the target is; `None` without one
    note    what the figure is made of: times, spread, counts
    """

    name: str
    figure: str
    target: str = ""
    met: bool | None = None
    note: str = ""


def at_most(name: str, value: float, limit: float, unit: str = "", note: str = "") -> Row:
    """A figure that should not exceed `limit`."""
    return Row(name, _shown(value, unit), f"≤ {limit:g}{unit}", value <= limit, note)


def at_least(name: str, value: float, limit: float, unit: str = "", note: str = "") -> Row:
    """A figure that should not fall short of `limit`."""
    return Row(name, _shown(value, unit), f"≥ {limit:g}{unit}", value >= limit, note)


def ratio_at_most(name: str, ratio: Ratio, limit: float, note: str = "") -> Row:
    """A ratio that should not exceed `limit`, with the times it comes from."""
    return at_most(name, ratio.median, limit, " ×", "; ".join(filter(None, [ratio.note, note])))


def ratio_at_least(name: str, ratio: Ratio, limit: float, note: str = "") -> Row:
    """A ratio that should not fall short of `limit`, with the times it comes from."""
    return at_least(name, ratio.median, limit, " ×", "; ".join(filter(None, [ratio.note, note])))


def record(name: str, value: float | str, unit: str = "", note: str = "") -> Row:
    """A figure without a target."""
    return Row(name, value if isinstance(value, str) else _shown(value, unit), note=note)


def _shown(value: float, unit: str) -> str:
    if isinstance(value, int):
        return f"{value:,}{unit}"
    digits = 3 if unit == " ×" or abs(value) < 1 else 1 if abs(value) < 1000 else 0
    return f"{value:,.{digits}f}{unit}"


def machine() -> str:
    """What the figures were taken on."""
    model = platform.processor() or platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            model = next(line.split(":")[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return f"{os.cpu_count()} × {model}, {memory:.0f} GiB, Python {platform.python_version()}, {packages}"


def table(title: str, rows: Iterable[Row]) -> str:
    """The rows under their title, as Markdown."""
    head = ("", "figure", "target", "", "of")
    marks = {True: "met", False: "MISSED", None: ""}
    cells = [head, *((row.name, row.figure, row.target, marks[row.met], row.note) for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    lines = [_line(row, widths) for row in cells]
    rule = "|" + "|".join("-" * (width + 2) for width in widths) + "|"
    return "\n".join([f"## {title}", "", lines[0], rule, *lines[1:], ""])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    return "| " + " | ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)) + " |"


def run(title: str, rows: Callable[[S], Iterable[Row]], sizes: Mapping[str, S]) -> None:
    """The command line of one benchmark."""
    parser = argparse.ArgumentParser(description=title)
    parser.add_argument("--size", choices=sizes, default="small")
    size = parser.parse_args().size
    # Of the peer: what zarr's version 3 format does not specify yet.
    warnings.filterwarnings("ignore", "Consolidated metadata is currently not part")
    print(f"{machine()}; --size {size}", flush=True)
    taken = []
    for row in rows(sizes[size]):
        # The table comes when all is done, which may be in half an hour.
        print(f"{row.name}: {row.figure} {row.note}", file=sys.stderr, flush=True)
        taken.append(row)
    print(table(title, taken), flush=True)
