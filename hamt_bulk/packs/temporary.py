"""Files in `tmp/`: of writers that run, and of writers that died."""

import errno
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from hamt_bulk.cas.files import failure, outside
from hamt_bulk.cas.packbuilds import STALE_SECONDS, SUFFIX, Running, read
from hamt_bulk.cas.packfile import temporary_name

Writer: TypeAlias = Literal["running", "gone", "on another host", "unknown"]
"""
running          a process of this host that was there before the file was last written to
gone             a process of this host that is not there any more
on another host  nobody here can tell
unknown          the file is not called as writers call theirs
"""

_NAME = re.compile(rf"(?P<host>.+)-(?P<process>\d+)-[0-9a-f]{{16}}(?:{re.escape(SUFFIX)})?")


@dataclass(frozen=True, slots=True)
class Temporary:
    """
    A file in `tmp/`, which no reader looks at.

    written  when something was last written to it, in seconds since 1970
    """

    name: str
    bytes: int
    written: float
    writer: Writer

    @property
    def is_build(self) -> bool:
        """Whether it says that a build runs, or a copy."""
        return self.name.endswith(SUFFIX)


def temporary_files(folder: Path) -> Iterator[Temporary]:
    """What there is in `tmp/`, by name."""
    with outside("cannot list", folder / "tmp"), suppress(FileNotFoundError):
        for name in sorted(os.listdir(folder / "tmp")):
            with suppress(FileNotFoundError):
                status = os.stat(folder / "tmp" / name, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode):
                    yield Temporary(name, status.st_size, status.st_mtime, _writer(name, status.st_mtime))


def is_left(file: Temporary, now: float, older_than_seconds: float) -> bool:
    """Whether nobody will go on with a file: it is old enough, and its writer does not run here."""
    age = max(older_than_seconds, STALE_SECONDS) if file.is_build else older_than_seconds
    return file.writer != "running" and now - file.written >= age


def running_builds(folder: Path, now: float) -> dict[str, Running]:
    """The builds and copies that may be under way in the store in `folder`, by the names of their files."""
    found = {}
    for file in temporary_files(folder):
        if file.is_build and not is_left(file, now, STALE_SECONDS):
            build = read(folder / "tmp" / file.name)
            if build is not None:
                found[file.name] = build
    return found


def now_of(folder: Path) -> float:
    """
    The time in seconds since 1970 by which files are at most as old as they are: the clock's, or the file system's.

    A file server has its own clock, and stamps with that.
    """
    now, place = time.time(), folder / "tmp"
    probe = (place if place.is_dir() else folder) / temporary_name()
    try:
        with probe.open("xb") as file:
            # A number of this size is exact to a quarter of a microsecond: what was written in this very tick is no younger.
            return min(now, os.fstat(file.fileno()).st_mtime + 1e-6)
    except OSError as error:
        # Nothing can be dropped there, and what would be is told by the clock.
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise failure("cannot write", probe, error) from error
        return now
    finally:
        with suppress(OSError):
            os.unlink(probe)


def _writer(name: str, written: float) -> Writer:
    match = _NAME.fullmatch(name)
    if match is None:
        return "unknown"
    if match["host"] != socket.gethostname():
        return "on another host"
    return "running" if _runs(int(match["process"]), written) else "gone"


def _runs(process: int, since: float) -> bool:
    """Whether there is such a process, and it is not another one that was given the same number later."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass  # there is one, of another user
    try:
        started = os.stat(f"/proc/{process}").st_mtime
    except OSError:
        return True
    return started <= since + 60  # clocks of file systems differ
