"""
What is left on a disk when a process ends, or the power goes, at any point of what it writes.

`at_every_crash` lets `act` run once, on a real folder, and notes every call by which it changes files. Then it makes
the disks that a crash after each of these calls may leave, and gives each to `check`:

* the process is killed: all that was written is there, and of the write it was in, half;
* the power goes: what was not synced may be lost. Of a file its bytes since its last fsync: none of them, a part from
  the start, zeros in their places, only the last write, or all; of a folder the changes of its entries since its last
  fsync: none of them, the first half, or all.

A folder that was made is there only once its parent was synced.
"""

import fcntl
import itertools
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import Any

import pytest
from simulated import Disk, Entries, Said, Step, Sync, Tree, Write, content, disks, everything


class Recorder:
    """Notes the calls by which files below `root` are changed."""

    def __init__(self, root: Path) -> None:
        self.root = os.path.realpath(root)
        self.steps: list[Step] = []
        self.disk = Disk()
        self._numbers: dict[int, int] = {}
        self._next = itertools.count()
        self._lock = RLock()
        for folder, folders, files in os.walk(self.root):
            own = self._path(folder)
            self.disk.folders[own] = {name: f"{own}/{name}".lstrip("/") for name in folders}
            for name in files:
                number = self._new(os.path.join(folder, name))
                self.disk.folders[own][name] = number
                self.disk.files[number] = Path(folder, name).read_bytes()
        self._now = self.disk.copy()

    def say(self, word: str) -> None:
        """`act` tells somebody."""
        self._note(Said(word))

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Within it calls are noted. All of them: else it raises."""
        shims = {
            "open": self._open,
            "write": self._write,
            "writev": self._writev,
            "pwrite": self._pwrite,
            "fsync": self._fsync,
            "fdatasync": self._fsync,
            "ftruncate": self._ftruncate,
            "truncate": self._truncate,
            "mkdir": self._mkdir,
            "rmdir": self._unlink,
            "unlink": self._unlink,
            "remove": self._unlink,
            "link": self._link,
            "rename": self._rename,
            "replace": self._rename,
        }
        with pytest.MonkeyPatch.context() as patch:
            for name, shim in shims.items():
                patch.setattr(os, name, self._shim(getattr(os, name), shim))
            yield
        found = tree_of(Path(self.root))
        noted = self._now.tree(content, everything)
        differ = sorted(path for path in {*found, *noted} if found.get(path, "") != noted.get(path, ""))
        assert not differ, f"{differ[:5]} were changed otherwise than by the calls {', '.join(shims)} of os"

    def _shim(self, real: Callable[..., Any], shim: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            with self._lock:
                return shim(real, *arguments, **options)

        return call

    def _note(self, step: Step) -> None:
        self.steps.append(step)
        self._now.do(step)

    def _is_ours(self, path: Any) -> bool:
        return isinstance(path, (str, os.PathLike)) and (
            os.path.abspath(path) == self.root or os.path.abspath(path).startswith(f"{self.root}/")
        )

    def _path(self, path: Any) -> str:
        relative = os.path.relpath(os.path.abspath(path), self.root)
        return "" if relative == "." else relative

    def _split(self, path: Any) -> tuple[str, str]:
        folder, _, name = self._path(path).rpartition("/")
        return folder, name

    def _new(self, path: Any) -> int:
        number = self._numbers[os.stat(path).st_ino] = next(self._next)
        return number

    def _target(self, path: Any) -> int | str:
        status = os.lstat(path)
        return self._path(path) if stat.S_ISDIR(status.st_mode) else self._numbers[status.st_ino]

    def _file(self, descriptor: int) -> int | None:
        path = os.readlink(f"/proc/self/fd/{descriptor}")
        is_ours = self._is_ours(path.removesuffix(" (deleted)"))
        return self._numbers.get(os.fstat(descriptor).st_ino) if is_ours else None

    def _open(self, real: Any, path: Any, flags: int, *rest: Any, **options: Any) -> int:
        if not self._is_ours(path):
            return real(path, flags, *rest, **options)
        was_there = os.path.lexists(path)
        descriptor: int = real(path, flags, *rest, **options)
        if not was_there:
            self._note(Entries(((*self._split(path), self._new(path)),)))
        elif flags & os.O_TRUNC:
            self._note(Write(self._numbers[os.fstat(descriptor).st_ino], 0, 0))
        return descriptor

    def _write(self, real: Any, descriptor: int, data: Any) -> int:
        return self._written(descriptor, None, data, lambda: real(descriptor, data))

    def _writev(self, real: Any, descriptor: int, views: Any) -> int:
        return self._written(descriptor, None, b"".join(views), lambda: real(descriptor, views))

    def _pwrite(self, real: Any, descriptor: int, data: Any, offset: int) -> int:
        return self._written(descriptor, offset, data, lambda: real(descriptor, data, offset))

    def _written(self, descriptor: int, offset: int | None, data: Any, call: Callable[[], int]) -> int:
        file = self._file(descriptor)
        if file is None:
            return call()
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_APPEND:
            offset = os.fstat(descriptor).st_size
        elif offset is None:
            offset = os.lseek(descriptor, 0, os.SEEK_CUR)
        count = call()
        self._note(Write(file, offset, bytes(memoryview(data).cast("B")[:count])))
        return count

    def _fsync(self, real: Any, descriptor: int) -> None:
        real(descriptor)
        path = os.readlink(f"/proc/self/fd/{descriptor}").removesuffix(" (deleted)")
        if self._is_ours(path):
            is_folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
            file = self._file(descriptor)
            self._note(Sync(self._path(path) if is_folder or file is None else file))

    def _ftruncate(self, real: Any, descriptor: int, length: int) -> None:
        real(descriptor, length)
        file = self._file(descriptor)
        if file is not None:
            self._note(Write(file, 0, length))

    def _truncate(self, real: Any, path: Any, length: int) -> None:
        if isinstance(path, int):
            return self._ftruncate(real, path, length)
        real(path, length)
        if self._is_ours(path):
            self._note(Write(self._numbers[os.stat(path).st_ino], 0, length))
        return None

    def _mkdir(self, real: Any, path: Any, *rest: Any, **options: Any) -> None:
        real(path, *rest, **options)
        if self._is_ours(path):
            self._note(Entries(((*self._split(path), self._path(path)),)))

    def _unlink(self, real: Any, path: Any, **options: Any) -> None:
        assert options.get("dir_fd") is None or not self._is_ours(path), "relative to a folder: not modelled"
        real(path, **options)
        if self._is_ours(path):
            self._note(Entries(((*self._split(path), None),)))

    def _link(self, real: Any, source: Any, target: Any, **options: Any) -> None:
        real(source, target, **options)
        if self._is_ours(target):
            self._note(Entries(((*self._split(target), self._target(target)),)))

    def _rename(self, real: Any, source: Any, target: Any, **options: Any) -> None:
        moved = self._target(source) if self._is_ours(source) else None
        assert not isinstance(moved, str), "folders that are renamed: not modelled"
        real(source, target, **options)
        if moved is not None:
            self._note(Entries(((*self._split(target), moved), (*self._split(source), None))))


def tree_of(root: Path) -> Tree:
    """The files and folders below `root`."""
    return {
        str(path.relative_to(root)): path.read_bytes() if path.is_file() else None for path in root.rglob("*")
    }


@dataclass(frozen=True)
class Crashes:
    """How many steps there were, and how many different disks were checked."""

    steps: Sequence[Step]
    disks: int


def at_every_crash(
    folder: Path,
    act: Callable[[Path, Callable[[str], None]], None],
    check: Callable[[Path, Sequence[str]], None],
    prepare: Callable[[Path], None] = lambda root: None,
) -> Crashes:
    """
    Checks every disk that a crash of `act` may leave.

    prepare  makes what is on the disk before, durably
    act      writes below the folder it is given, and says what it has promised
    check    is given a folder, and what had been said by the time of the crash, in order
    """
    root = folder / "recorded"
    root.mkdir(parents=True)
    prepare(root)
    recorder = Recorder(root)
    with recorder.recording():
        act(root, recorder.say)
    seen: set[int] = set()
    for said, tree, what in disks(recorder.disk, recorder.steps):
        state = hash((tuple(said), frozenset(tree.items())))
        if state in seen:
            continue
        seen.add(state)
        place = folder / "disk"
        _make(place, tree)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "fsync", lambda descriptor: None)  # nothing more happens to this disk
            try:
                check(place, said)
            except BaseException as error:
                error.add_note(f"the disk {what}; it had been said: {said}; it holds {sorted(tree)}")
                raise
        shutil.rmtree(place)
    return Crashes(recorder.steps, len(seen))


def _make(place: Path, tree: Tree) -> None:
    place.mkdir()
    for path, data in sorted(tree.items()):
        if data is None:
            (place / path).mkdir(exist_ok=True)
        else:
            (place / path).write_bytes(data)
