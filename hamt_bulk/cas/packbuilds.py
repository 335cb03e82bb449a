"""
Builds and copies that run, as a folder of packs knows them: nothing that they count on is dropped, however long they take.

    tmp/HOST-PID-RANDOM.build    HOST and PID of the process that leads
    = "NANOSECONDS\\n" and, where a root is changed, "CID\\n"

NANOSECONDS since 1970 is when it was made, by the clock of the file system, which stamps packs too. The process touches
it every few minutes, and removes it at the end.
"""

import os
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from hamt_bulk.block import text, to_bytes
from hamt_bulk.cas.files import outside
from hamt_bulk.cas.packfile import temporary_name
from hamt_bulk.errors import CASError, InvalidInput

SUFFIX = ".build"

BEAT_SECONDS = 300.0
STALE_SECONDS = 3600.0
"""A file that was touched longer ago is that of a process that died, or was cut off."""


@dataclass(frozen=True, slots=True)
class Running:
    """
    What a drop has to know of a build.

    since  when it began, in seconds since 1970: younger packs may be its own
    base   the root that it changes, or `None`
    """

    since: float
    base: bytes | None


def begin(folder: Path, base: bytes | None) -> Path:
    """Says that a build into the store in `folder` runs. The folder has to be there. Its file, for `end`."""
    path = folder / "tmp" / f"{temporary_name()}{SUFFIX}"
    temporary = folder / "tmp" / temporary_name()
    with outside("cannot write", path):
        try:
            with temporary.open("xb") as file:
                root = "" if base is None else f"{text(base)}\n"
                file.write(f"{os.fstat(file.fileno()).st_mtime_ns}\n{root}".encode())
            temporary.rename(path)  # with its content from the first moment on
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
    _heart.add(path)
    return path


def end(path: Path) -> None:
    """The build has ended, in whatever process of it."""
    _heart.remove(path)
    with outside("cannot remove", path):
        path.unlink(missing_ok=True)


def read(path: Path) -> Running | None:
    """What the file of a build says; `None` when the build has just ended."""
    with outside("cannot read", path):
        try:
            lines = path.read_bytes()[:400].splitlines()
        except FileNotFoundError:
            return None
    try:
        since = int(lines[0]) / 1e9
        base = to_bytes(lines[1].decode()) if len(lines) > 1 else None
    except (ValueError, IndexError, InvalidInput):
        return Running(0.0, None)  # nobody can tell, so all that is there may be of it
    return Running(since, base)


class _Heart:
    """Touches the files of the builds of this process, in a thread that lives as long as there are any."""

    def __init__(self) -> None:
        self._paths: set[Path] = set()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def add(self, path: Path) -> None:
        with self._changed:
            self._paths.add(path)
            if self._thread is None:
                self._thread = threading.Thread(target=self._beat, name="hamt-bulk-builds", daemon=True)
                self._thread.start()

    def remove(self, path: Path) -> None:
        with self._changed:
            self._paths.discard(path)
            self._changed.notify()

    def _beat(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: not self._paths, BEAT_SECONDS)
                if not self._paths:
                    self._thread = None
                    return
                paths = list(self._paths)
            for path in paths:
                try:
                    with outside("cannot write", path):
                        os.utime(path)
                except CASError as error:
                    if isinstance(error.__cause__, FileNotFoundError):
                        self.remove(path)  # another process of the build has ended it
                    # A file server that is away may be back at the next beat: until then the last one counts.


_heart = _Heart()


def _after_fork() -> None:
    """The builds of a forked child's parent are its parent's."""
    global _heart
    _heart = _Heart()


os.register_at_fork(after_in_child=_after_fork)
