"""Files, with the outside's failures in our words."""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from hamt_bulk.block import Data
from hamt_bulk.errors import CASError, InvalidInput

MAX_VIEWS = 512
"""Buffers handed to one `writev`; Linux takes 1,024."""

_PERMISSION = "permission denied: run as a user who may, or choose another folder"
_ADVICE = {
    errno.ENOSPC: "the disk is full: make space and call again, what was finished is kept",
    errno.EDQUOT: "the quota is used up: make space and call again, what was finished is kept",
    errno.EACCES: _PERMISSION,
    errno.EPERM: _PERMISSION,
    errno.EROFS: "the file system is mounted read-only: choose another folder",
    errno.ENOENT: "there is no such file or folder: is the path right, or was it removed meanwhile?",
    errno.EEXIST: "a file is in the way: choose another folder",
    errno.ENOTDIR: "a part of the path is a file: choose another folder",
    errno.EISDIR: "it is a folder, and a file is expected",
    errno.EMFILE: "too many open files: raise the limit (ulimit -n)",
    errno.EIO: "the disk or the network failed: call again, and if it stays so restore the file from a copy",
}
# What network file systems answer that have no such thing as syncing a folder.
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP}


@contextmanager
def outside(doing: str, path: Path) -> Iterator[None]:
    """Raises `CASError` for an `OSError` within, with what was being done and what to do about it."""
    try:
        yield
    except CASError:
        raise
    except OSError as error:
        raise failure(doing, path, error) from error


def failure(doing: str, path: Path, error: OSError) -> CASError:
    """What `outside` raises for `error`."""
    return CASError(f"{doing} {path}: {_ADVICE.get(error.errno or 0, error.strerror or str(error))}")


def is_unreadable(error: CASError) -> bool:
    """Whether the disk does not give some bytes of a file, of which others may be there."""
    return isinstance(error.__cause__, OSError) and error.__cause__.errno == errno.EIO


def absolute(path: str | os.PathLike[str]) -> Path:
    """The path as callers gave it, made absolute. Raises `InvalidInput` for what is none."""
    name = os.fspath(path) if isinstance(path, (str, os.PathLike)) else None
    if not isinstance(name, str) or not name or "\0" in name:
        raise InvalidInput(f"not a path: {type(path).__name__} {path!r}; give the name of a folder or a file")
    return Path(os.path.abspath(name))


def make_folder(folder: Path) -> None:
    """Makes `folder` and those above it, durably, unless they are there."""
    if not folder.is_dir():
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def write_all(file: int, views: Sequence[Data]) -> None:
    """Writes `views` one after the other to the file descriptor, to the last byte."""
    for start in range(0, len(views), MAX_VIEWS):
        waiting: Sequence[Data] = views[start : start + MAX_VIEWS]
        left = sum(map(len, waiting))
        while left:
            written = os.writev(file, waiting)
            left -= written
            if left:
                waiting = _after(waiting, written)


def _after(views: Sequence[Data], written: int) -> list[Data]:
    """What is left of `views` when that many bytes of them are written."""
    for number, view in enumerate(views):
        if written < len(view):
            return [memoryview(view)[written:], *views[number + 1 :]]
        written -= len(view)
    return []


def write_durably(
    temporary: Path,
    final: Path,
    parts: Sequence[Data],
    place: Callable[[Path, Path], None] | None = None,
) -> None:
    """
    Puts a file in place by way of `temporary`, so that it is there whole or not at all.

    place  `place_durably` where no other file may be replaced
    """
    file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
    try:
        write_all(file, parts)
        os.fsync(file)
        (place or replace_durably)(temporary, final)
    finally:
        os.close(file)
        with suppress(OSError):
            os.unlink(temporary)


def place_durably(temporary: Path, final: Path) -> None:
    """
    Gives a file whose bytes are durable another name as well.

    Raises `FileExistsError` when there is a file of that name: a rename would take it from one that came meanwhile.
    """
    try:
        os.link(temporary, final)
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if os.path.lexists(final):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(final)) from None
        os.replace(temporary, final)
    sync_folder(final.parent)


def sync_folder(folder: Path) -> None:
    """Makes durable which names the folder holds: without it a rename may be lost with the power."""
    file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(file)


def replace_durably(temporary: Path, final: Path) -> None:
    """Renames a file whose bytes are durable, so that it is there whole or not at all."""
    os.replace(temporary, final)
    sync_folder(final.parent)
