"""Disks that fill up: a real one of a few MiB where this user may mount it, and one at the system's calls."""

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SIZE = 12 << 20
PAGE = 4096


class SmallDisk:
    """A disk of `SIZE` bytes at `path`, of which a ballast takes what is not to be free."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def leave(self, free: int) -> None:
        """From now on so many bytes are free, in whole pages."""
        self._ballast.unlink(missing_ok=True)
        status = os.statvfs(self.path)
        with self._ballast.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, max(status.f_bavail * status.f_frsize - free, 1))

    def make_space(self) -> None:
        """Now there is."""
        self._ballast.unlink(missing_ok=True)


@contextmanager
def mounted(path: Path) -> Iterator[SmallDisk | None]:
    """A real file system of that size, several times what a test stores, or `None` where this user may not mount one."""
    path.mkdir()
    options = ["-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(path)]
    try:
        done = subprocess.run(["mount", *options], capture_output=True, timeout=30)
        may = done.returncode == 0
    except FileNotFoundError:
        may = False
    if not may:
        yield None
        return
    try:
        yield SmallDisk(path)
    finally:
        # Lazily: what a worker that was killed still has open goes with it.
        subprocess.run(["umount", "-l", str(path)], check=True, capture_output=True, timeout=30)


def used(folder: Path) -> int:
    """Bytes of all files below `folder`."""
    found = 0
    for place, _, files in os.walk(folder):
        for name in files:
            try:
                found += os.stat(os.path.join(place, name)).st_size
            except FileNotFoundError:
                continue  # another process has removed it
    return found


class Quota:
    """
    Lets the system's calls below `folder` fail as on a full disk: once all files have `limit` bytes together, in whatever
    process, or once this process has written `limit` bytes, what it wrote over included (`by_writes`), as on file systems
    that never write in place.
    """

    def __init__(self, folder: Path, limit: int, *, by_writes: bool = False) -> None:
        self.folder, self.limit, self._by_writes = str(folder), limit, by_writes
        self.written: list[tuple[str, int]] = []
        """Where this process wrote, and how much."""
        self._real = {name: getattr(os, name) for name in ("write", "writev", "open", "fsync")}

    def install(self, patch: Callable[[object, str, Any], None]) -> None:
        """Replaces the calls, by `patch`, such as `setattr`."""
        patch(os, "write", self._write)
        patch(os, "writev", self._writev)
        patch(os, "open", self._open)
        patch(os, "fsync", self._fsync)

    def _left(self) -> int:
        gone = sum(size for _, size in self.written) if self._by_writes else used(Path(self.folder))
        return max(self.limit - gone, 0)

    def _is_ours(self, file: int) -> str | None:
        path = os.readlink(f"/proc/self/fd/{file}")
        return path if path.startswith(f"{self.folder}/") else None

    def _write(self, file: int, data: Any) -> int:
        path = self._is_ours(file)
        if path is None:
            return int(self._real["write"](file, data))
        left = self._left()
        if len(data) and not left:
            raise no_space()
        count = int(self._real["write"](file, memoryview(data).cast("B")[:left]))
        self.written.append((path, count))
        return count

    def _writev(self, file: int, views: Any) -> int:
        return (
            self._write(file, b"".join(views))
            if self._is_ours(file)
            else int(self._real["writev"](file, views))
        )

    def _open(self, path: Any, flags: int, *rest: Any, **options: Any) -> int:
        ours = isinstance(path, (str, os.PathLike)) and os.fspath(path).startswith(f"{self.folder}/")
        if ours and flags & os.O_CREAT and not os.path.exists(path) and not self._left():
            raise no_space()
        return int(self._real["open"](path, flags, *rest, **options))

    def _fsync(self, file: int) -> None:
        if self._is_ours(file) and not self._left() and self._by_writes:
            raise no_space()
        self._real["fsync"](file)


def no_space() -> OSError:
    """What the system says when a disk is full."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def limit_here(folder: Path, limit: int) -> None:
    """For good, in this process; called again it changes the limit."""
    if str(folder) not in _here:
        _here[str(folder)] = Quota(folder, limit)
        _here[str(folder)].install(setattr)
    _here[str(folder)].limit = limit


_here: dict[str, Quota] = {}
