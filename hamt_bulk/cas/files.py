"""Files, with the outside's failures in our words."""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hamt_bulk.block import Data
from hamt_bulk.errors import CASError

MAX_VIEWS = 512
"""Buffers handed to one `writev`; Linux takes 1,024."""

_ADVICE = {
    errno.ENOSPC: "the disk is full: make space and call again, what was finished is kept",
    errno.EDQUOT: "the quota is used up: make space and call again, what was finished is kept",
    errno.EACCES: "permission denied: run as a user who may, or choose another folder",
    errno.EPERM: "permission denied: run as a user who may, or choose another folder",
    errno.EROFS: "the file system is mounted read-only: choose another folder",
    errno.ENOTDIR: "a part of the path is a file: choose another folder",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n)",
}


@contextmanager
def outside(doing: str, path: Path) -> Iterator[None]:
    """Raises `CASError` for an `OSError` within, with what was being done and what to do about it."""
    try:
        yield
    except CASError:
        raise
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, error.strerror or str(error))
        raise CASError(f"{doing} {path}: {advice}") from error


def write_all(file: int, views: Sequence[Data]) -> None:
    """Writes `views` one after the other to the file descriptor, to the last byte."""
    for start in range(0, len(views), MAX_VIEWS):
        waiting = [memoryview(view) for view in views[start : start + MAX_VIEWS]]
        while waiting:
            written = os.writev(file, waiting)
            while waiting and written >= len(waiting[0]):
                written -= len(waiting[0])
                del waiting[0]
            if waiting and written:
                waiting[0] = waiting[0][written:]


def sync_folder(folder: Path) -> None:
    """Makes durable which names the folder holds: without it a rename may be lost with the power."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def replace_durably(temporary: Path, final: Path) -> None:
    """Renames a file whose bytes are durable, so that it is there whole or not at all."""
    os.replace(temporary, final)
    sync_folder(final.parent)
