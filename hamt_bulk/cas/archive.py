"""One CAR file, read at random."""

import errno
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import BinaryIO, TypeAlias

from hamt_bulk.block import MAX_CID_BYTES, Data, parse, read_varint, text, verify
from hamt_bulk.car import (
    HEADER_V2_BYTES,
    MAX_SECTION_BYTES,
    PRAGMA_V2,
    Header,
    Section,
    cid_at,
    header_v1,
    read_header,
    scan,
)
from hamt_bulk.car_index import Index, decode_index, index_sections, read_index
from hamt_bulk.cas.files import failure, outside
from hamt_bulk.cas.packremoval import Stamp, stamp
from hamt_bulk.errors import BlockMismatch, CASError, InvalidInput

MAX_OPEN_FILES = 128
"""Descriptors that this process keeps for all archives together."""

FIRST_READ_BYTES = 4096
"""What is read of a section before its length is known: a page, which holds most nodes whole."""

Place: TypeAlias = "tuple[Archive, int]"
"""Where a block may be: an archive and the offset of a section, from the file's start."""


class Archive:
    """
    A CAR file, v1 or v2, with an index or not.

    damage  what was found wrong with the file, or `None`; blocks that can still be found are served
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.damage: str | None = None
        self._name = str(path)
        self._stamp: Stamp | None = None

    def open(self) -> tuple[Header | None, Index]:
        """The header and where the blocks are: from the file's index, else by reading through it."""
        _descriptors.drop(self._name)
        self.damage = None
        with outside("cannot read", self.path), self.path.open("rb") as file:
            self._stamp = stamp(os.fstat(file.fileno()))
            header = self._header(file)
            if header is None:
                return None, {}
            if header.index_offset is not None:
                try:
                    data = read_index(file, header.index_offset, header.data_size)
                    return header, decode_index(data, header.data_size)
                except (InvalidInput, OSError) as error:
                    if isinstance(error, OSError) and error.errno != errno.EIO:
                        raise
                    self.damage = f"its index: {error}" if isinstance(error, OSError) else str(error)
                    # Which of the two is wrong does not show: read as far as either says.
                    size = max(header.data_size, header.index_offset - header.data_offset)
                    header = replace(header, data_size=size)
            return header, index_sections(self._sections(file, header))

    def _sections(self, file: BinaryIO, header: Header) -> Iterator[Section]:
        """The sections before the first that is damaged, which is noted."""
        try:
            yield from scan(file, header)
        except InvalidInput as error:
            self.damage = self.damage or str(error)

    def changed(self) -> bool:
        """Whether the file is another one than `open` saw."""
        try:
            return stamp(os.stat(self.path)) != self._stamp
        except OSError:
            return False

    def _header(self, file: BinaryIO) -> Header | None:
        try:
            header = read_header(file)
        except InvalidInput as error:
            self.damage = str(error)
            # A pack that was cut short still holds the blocks before the cut. Where only one of its two
            # headers is damaged, the other tells what the file is.
            file.seek(0)
            head = file.read(HEADER_V2_BYTES + len(header_v1()))
            if not head.startswith(PRAGMA_V2) and head[HEADER_V2_BYTES:] != header_v1():
                return None
            size = max(os.fstat(file.fileno()).st_size - HEADER_V2_BYTES, 0)
            return Header(2, (), HEADER_V2_BYTES, size, len(header_v1()), None, False)
        if not header.finished:
            self.damage = "its writer died before it was finished"
        return header

    def load(self, offset: int, cid: bytes) -> Data | None:
        """
        The block in the section at `offset`, compared with its CID; `None` when another one is there.

        Raises `BlockMismatch` when the bytes are not those of the block, or no section at all.
        """
        try:
            data = self._load(offset, cid)
            if data is not None or not _descriptors.is_stale(self._name):
                return data
        except (BlockMismatch, CASError):
            pass
        # The file may have been restored, or written again, since it was opened here.
        _descriptors.drop(self._name)
        return self._load(offset, cid)

    def _load(self, offset: int, cid: bytes) -> Data | None:
        try:
            descriptor = _descriptors.get(self._name)
            head = os.pread(descriptor.number, FIRST_READ_BYTES, offset)
            bounds = self._bounds(head, offset, cid)
            if bounds is None:
                return None
            start, end = bounds
            data = head[start:end]
            if end > len(head):
                data = os.pread(descriptor.number, end - start, offset + start)
        except FileNotFoundError:
            return None  # merged, or lost: the folder tells
        except OSError as error:
            raise failure("cannot read", self.path, error) from error
        if len(data) < end - start:
            raise self._torn(cid, offset, f"{len(data)} bytes are left, expected {end - start}")
        try:
            verify(cid, data)
        except BlockMismatch as error:
            raise BlockMismatch(f"{error} (in {self.path})") from None
        return data

    def length(self, offset: int, cid: bytes) -> int | None:
        """The length of the block in the section at `offset`; `None` when it is another one, or damaged."""
        length = self._length(offset, cid)
        if length is None and _descriptors.is_stale(self._name):
            _descriptors.drop(self._name)
            length = self._length(offset, cid)
        return length

    def let_go(self) -> None:
        """Opens the file anew the next time: another one may have its name, or none."""
        _descriptors.drop(self._name)

    def _length(self, offset: int, cid: bytes) -> int | None:
        try:
            descriptor = _descriptors.get(self._name)  # held: another thread may let go of it meanwhile
            head = os.pread(descriptor.number, 9 + MAX_CID_BYTES, offset)
            bounds = self._bounds(head, offset, cid)
        except (FileNotFoundError, BlockMismatch):
            return None
        except OSError as error:
            raise failure("cannot read", self.path, error) from error
        return None if bounds is None else bounds[1] - bounds[0]

    def _bounds(self, head: bytes, offset: int, cid: bytes) -> tuple[int, int] | None:
        """Where in the section that starts with `head` the block is; `None` when it is another one."""
        try:
            length, body = read_varint(head, 0)
            if not len(cid) <= length <= MAX_SECTION_BYTES or not head.startswith(cid, body):
                if length > MAX_SECTION_BYTES:
                    raise ValueError(f"a section of {length} bytes, expected at most {MAX_SECTION_BYTES}")
                found = cid_at(head, body, length)
                if parse(found)[1:] != parse(cid)[1:]:
                    return None
                return body + len(found), body + length
        except ValueError as error:
            raise self._torn(cid, offset, str(error)) from None
        return body + len(cid), body + length

    def _torn(self, cid: bytes, offset: int, what: str) -> BlockMismatch:
        return BlockMismatch(
            f"block {text(cid)}: {self.path} is damaged at byte {offset}: {what}. "
            "Restore the file from a copy, or build again"
        )


def load_sound(places: Iterable[Place], cid: bytes) -> Data | None:
    """
    The block from the first of `places` that has a sound copy, or `None` when none has any.

    Raises what was wrong with the first copy when there is no other.
    """
    trouble: BlockMismatch | CASError | None = None
    for archive, offset in places:
        try:
            data = archive.load(offset, cid)
        except (BlockMismatch, CASError) as error:
            trouble = trouble or error
        else:
            if data is not None:
                return data
    if trouble is not None:
        raise trouble
    return None


class _Descriptor:
    """An open file, closed when nobody reads from it any more."""

    def __init__(self, name: str) -> None:
        self.number = os.open(name, os.O_RDONLY | os.O_CLOEXEC)
        self.stamp = stamp(os.fstat(self.number))

    def __del__(self) -> None:
        number = getattr(self, "number", None)
        if number is not None:
            os.close(number)


class _Descriptors:
    """The files of this process that were read last. A pack never changes, so its path names its bytes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._open: OrderedDict[str, _Descriptor] = OrderedDict()
        self._renew()
        # A thread of the parent may have held the lock.
        os.register_at_fork(after_in_child=self._renew)

    def _renew(self) -> None:
        self._lock = Lock()

    def get(self, name: str) -> _Descriptor:
        with self._lock:
            descriptor = self._open.get(name)
            if descriptor is None:
                descriptor = self._open[name] = _Descriptor(name)
                if len(self._open) > self._limit:
                    self._open.popitem(last=False)
            self._open.move_to_end(name)
            return descriptor

    def drop(self, name: str) -> None:
        """Opens the file anew the next time."""
        with self._lock:
            self._open.pop(name, None)

    def is_stale(self, name: str) -> bool:
        """Whether the file that is open is not the one that has the name."""
        with self._lock:
            descriptor = self._open.get(name)
        try:
            return descriptor is not None and stamp(os.stat(name)) != descriptor.stamp
        except OSError:
            return False  # gone: the folder tells

    def forget(self, below: Path) -> None:
        """Closes the files in or at `below`."""
        folder = os.path.join(below, "")
        with self._lock:
            for name in [name for name in self._open if name == str(below) or name.startswith(folder)]:
                del self._open[name]


_descriptors = _Descriptors(MAX_OPEN_FILES)
forget = _descriptors.forget
