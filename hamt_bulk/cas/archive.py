"""One CAR file, read at random."""

import os
from collections import OrderedDict
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from hamt_bulk.block import Data, parse, read_varint, text
from hamt_bulk.car import (
    HEADER_V2_BYTES,
    MAX_SECTION_BYTES,
    PRAGMA_V2,
    Header,
    cid_at,
    header_v1,
    read_header,
    scan,
)
from hamt_bulk.car_index import Index, decode_index, index_sections
from hamt_bulk.cas.files import outside
from hamt_bulk.errors import BlockMismatch, InvalidInput

MAX_OPEN_FILES = 128
"""Descriptors that this process keeps for all archives together."""

FIRST_READ_BYTES = 4096
"""What is read of a section before its length is known: a page, which holds most nodes whole."""


class Archive:
    """
    A CAR file, v1 or v2, with an index or not.

    damage  what `open` found wrong with the file, or `None`; blocks that can still be found are served
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage: str | None = None

    def open(self) -> tuple[Header | None, Index]:
        """The header and where the blocks are: from the file's index, else by reading through it."""
        with outside("cannot read", self.path), self.path.open("rb") as file:
            header = self._header(file)
            if header is None:
                return None, {}
            if header.index_offset is not None:
                try:
                    file.seek(header.index_offset)
                    return header, decode_index(file.read(), header.data_size)
                except InvalidInput as error:
                    self.damage = str(error)
            sections = []
            try:
                for section in scan(file, header):
                    sections.append(section)
            except InvalidInput as error:
                self.damage = self.damage or str(error)
            return header, index_sections(sections)

    def _header(self, file: BinaryIO) -> Header | None:
        try:
            header = read_header(file)
        except InvalidInput as error:
            self.damage = str(error)
            # A pack that was cut short still holds the blocks before the cut.
            start = PRAGMA_V2, header_v1()
            file.seek(0)
            head = file.read(HEADER_V2_BYTES + len(start[1]))
            if (head[: len(start[0])], head[HEADER_V2_BYTES:]) != start:
                return None
            size = os.fstat(file.fileno()).st_size - HEADER_V2_BYTES
            return Header(2, (), HEADER_V2_BYTES, size, len(start[1]), None, False)
        if not header.finished:
            self.damage = "its writer died before it was finished"
        return header

    def read(self, offset: int, cid: bytes) -> Data | None:
        """
        The block in the section at `offset`, not yet verified; `None` when another one is there.

        Raises `BlockMismatch` when the bytes are no section.
        """
        with outside("cannot read", self.path):
            descriptor = _descriptors.get(self.path)
            head = os.pread(descriptor.number, FIRST_READ_BYTES, offset)
            try:
                length, body = read_varint(head, 0)
                if length > MAX_SECTION_BYTES:
                    raise ValueError(f"a section of {length} bytes, expected at most {MAX_SECTION_BYTES}")
                found = cid if head.startswith(cid, body) else cid_at(head, body, length)
            except ValueError as error:
                raise self._torn(cid, offset, str(error)) from None
            if found != cid and parse(found)[1:] != parse(cid)[1:]:
                return None
            start, end = body + len(found), body + length
            if end <= len(head):
                return memoryview(head)[start:end]
            data = os.pread(descriptor.number, end - start, offset + start)
            if len(data) < end - start:
                raise self._torn(cid, offset, f"{len(data)} bytes are left, expected {end - start}")
            return data

    def _torn(self, cid: bytes, offset: int, what: str) -> BlockMismatch:
        return BlockMismatch(
            f"block {text(cid)}: {self.path} is damaged at byte {offset}: {what}. "
            "Restore the file from a copy, or build again"
        )


class _Descriptor:
    """An open file, closed when nobody reads from it any more."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        number = getattr(self, "number", None)
        if number is not None:
            os.close(number)


class _Descriptors:
    """The files of this process that were read last. A pack never changes, so its path names its bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lock = Lock()
        self._open: OrderedDict[Path, _Descriptor] = OrderedDict()

    def get(self, path: Path) -> _Descriptor:
        with self._lock:
            descriptor = self._open.get(path)
            if descriptor is None:
                descriptor = self._open[path] = _Descriptor(path)
                if len(self._open) > self._limit:
                    self._open.popitem(last=False)
            self._open.move_to_end(path)
            return descriptor

    def forget(self, below: Path) -> None:
        """Closes the files in or at `below`."""
        with self._lock:
            for path in [path for path in self._open if path.is_relative_to(below)]:
                del self._open[path]


_descriptors = _Descriptors(MAX_OPEN_FILES)
forget = _descriptors.forget
