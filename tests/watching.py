"""What a block of code does to the operating system: files it opens, calls it makes, and calls that fail."""

import errno
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self

import pytest

_listeners: list[list[str]] = []


def _hear(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _listeners and isinstance(arguments[0], (str, bytes)):
        for names in _listeners:
            names.append(os.fsdecode(arguments[0]))


sys.addaudithook(_hear)


@contextmanager
def opened_files(ending: str) -> Iterator[list[str]]:
    """The files with this ending that are opened within."""
    names: list[str] = []
    heard: list[str] = []
    _listeners.append(heard)
    try:
        yield names
    finally:
        _listeners.remove(heard)
        names += [name for name in heard if name.endswith(ending)]


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Crash(BaseException):
    """The process is gone: nothing it does afterwards has an effect."""


WRITES = ("open", "write", "writev", "lseek", "fsync", "replace", "rename", "mkdir", "unlink")
"""Calls by which a store changes its folder. `os.open` for reading counts too."""


class Faults:
    """Lets the nth of the `WRITES` within `armed` fail; a `writev` that fails has written half of its bytes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        self._armed = False
        self._nth = 0
        self._error: Callable[[], BaseException] = Crash
        self._lasting = False
        self._write = os.write
        for name in WRITES:
            monkeypatch.setattr(os, name, self._shim(name, getattr(os, name)))

    @contextmanager
    def armed(self, nth: int, error: Callable[[], BaseException], lasting: bool = False) -> Iterator[None]:
        """Within it the nth call fails with `error`, and with `lasting` every call after it."""
        self.calls, self._nth, self._error, self._lasting = [], nth, error, lasting
        self._armed = True
        try:
            yield
        finally:
            self._armed = False

    @property
    def struck(self) -> bool:
        """Whether there were as many calls."""
        return len(self.calls) > self._nth

    def _shim(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def shim(*args: Any, **kwargs: Any) -> Any:
            if not self._armed:
                return call(*args, **kwargs)
            self.calls.append(name)
            number = len(self.calls) - 1
            if number > self._nth and self._error is Crash and name == "unlink":
                return None  # there is nobody any more to clean up
            if number == self._nth or (number > self._nth and self._lasting):
                if name == "writev":
                    data = b"".join(args[1])
                    self._write(args[0], data[: len(data) // 2])
                raise self._error()
            return call(*args, **kwargs)

        return shim


class interrupted:
    """Strikes with a `KeyboardInterrupt` at the nth line that this package runs within, as Ctrl-C may."""

    def __init__(self, nth: int) -> None:
        self._left = nth
        self.struck = False

    def __enter__(self) -> Self:
        self._before = sys.gettrace()
        sys.settrace(self._trace)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> bool:
        sys.settrace(self._before)
        return kind is KeyboardInterrupt

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if "hamt_bulk" not in frame.f_code.co_filename:
            return None
        if event == "line" and not self.struck:
            self._left -= 1
            if self._left < 0:
                self.struck = True
                raise KeyboardInterrupt
        return self._trace


def failing(number: int) -> Callable[[], OSError]:
    """The error of this number, as the system raises it."""
    return lambda: OSError(number, os.strerror(number))


DISK_ERRORS = [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO]
