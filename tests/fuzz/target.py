"""What is fuzzed, and how a case is judged."""

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from random import Random

from hamt_bulk.errors import HamtError


@dataclass(frozen=True)
class Target:
    """
    A decoder.

    decode  takes any bytes, and either returns or raises one of `errors`; it counts its own work with a `Meter`
    seeds   what it takes without an error, or nearly
    errors  what a caller of it expects
    make    other input of the right structure, from random choices
    tokens  bytes that mean something to it
    """

    name: str
    decode: Callable[[bytes], None]
    seeds: Sequence[bytes]
    errors: tuple[type[HamtError], ...]
    make: Callable[[Random], bytes] | None = None
    tokens: Sequence[bytes] = ()


class Wrong(AssertionError):
    """What no input may do."""


class Meter:
    """Counts work, since time says more about the machine than about the code."""

    def __init__(self, limit: int, what: str) -> None:
        self.used, self.limit, self.what = 0, limit, what

    def add(self, amount: int) -> None:
        """Raises `Wrong` beyond the limit."""
        self.used += amount
        if self.used > self.limit:
            raise Wrong(f"{self.used} {self.what}, expected at most {self.limit}")


def outcome(target: Target, data: bytes) -> str:
    """The name of the error that the input gives, "none" for none. Raises `Wrong`, which tells the input, for others."""
    try:
        target.decode(data)
    except target.errors as error:
        if not str(error) or len(str(error)) > 5000:
            raise wrong(target, data, f"an error of {len(str(error))} characters") from error
        return type(error).__name__
    except Exception as error:
        raise wrong(target, data, f"{type(error).__name__}: {error!s:.300}") from error
    return "none"


def wrong(target: Target, data: bytes, what: str) -> Wrong:
    """The error that says how to repeat it: the input, which belongs to the target's seeds once it is mended."""
    return Wrong(f"target {target.name!r}: {what}\ninput: {data.hex()}")


FOLDER = "HAMT_BULK_FUZZ_FOLDER"
"""The environment variable that names a folder for files, for processes that end without tidying up."""


@lru_cache(1)
def _folder() -> "tempfile.TemporaryDirectory[str]":
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(prefix="hamt-fuzz-", dir=memory if memory.is_dir() else None)


def scratch(name: str) -> Path:
    """A path for files of this process, in memory where there is such a folder."""
    return Path(os.environ.get(FOLDER) or _folder().name) / name
