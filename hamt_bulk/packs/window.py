"""A file that is read once, from its start to its end, with looks ahead."""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from hamt_bulk.cas.files import outside

WINDOW_BYTES = 1 << 20
PAGE_BYTES = 1 << 12
"""What a disk fails to give at the least."""


class Window:
    """Bytes of a file by their offsets. What is read one after the other is read in large pieces."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._data, self._first = b"", 0
        with outside("cannot read", path):
            self._file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            self.status = os.fstat(self._file)
        self.size = self.status.st_size

    def read(self, at: int, length: int) -> bytes:
        """`length` bytes at `at`; fewer at the file's end."""
        length = min(length, self.size - at)
        if length <= 0:
            return b""
        start = at - self._first
        if start < 0 or start + length > len(self._data):
            self._data, self._first, start = self._load(at, max(length, WINDOW_BYTES)), at, 0
        return self._data[start : start + length]

    def matches(self, pattern: re.Pattern[bytes], length: int, start: int, stop: int) -> Iterator[int]:
        """Where `pattern`, which takes `length` bytes, occurs in [start, stop)."""
        at = start
        while at < stop:
            data = self._load(at, min(WINDOW_BYTES, stop - at) + length - 1)
            for match in pattern.finditer(data):
                if at + match.start() < stop:
                    yield at + match.start()
            at += WINDOW_BYTES

    def _load(self, at: int, length: int) -> bytes:
        with outside("cannot read", self._path):
            data = self._pread(at, length)
            while len(data) < length and (more := self._pread(at + len(data), length - len(data))):
                data += more
        return data

    def _pread(self, at: int, length: int) -> bytes:
        """As the system reads it. What the disk does not give any more is zeros, and so is found to be damaged."""
        try:
            return os.pread(self._file, length, at)
        except OSError as error:
            if error.errno != errno.EIO:
                raise
            if at // PAGE_BYTES == (at + length - 1) // PAGE_BYTES:
                return bytes(length)
        first = at - at % PAGE_BYTES
        return b"".join(
            self._pread(max(page, at), min(page + PAGE_BYTES, at + length) - max(page, at))
            for page in range(first, at + length, PAGE_BYTES)
        )

    def close(self) -> None:
        os.close(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
