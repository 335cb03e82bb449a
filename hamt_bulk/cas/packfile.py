"""
Writing packs: immutable CARv2 files with their index.

    tmp/HOST-PID-RANDOM        header with a data size of 0, payload, index; then the header again, and fsync
    packs/nodes/NAME.car       dag-cbor blocks, renamed into place
    packs/values/NAME.car      all others

NAME is the blake3 of the sections' heads, lengths and CIDs, which determine the payload: a batch that
is written twice has one name. Until the rename a pack does not exist, whatever happens to its writer.
"""

import os
import secrets
import socket
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from blake3 import blake3

from hamt_bulk.block import DAG_CBOR, Block, Data, text
from hamt_bulk.car import (
    HEADER_V2_BYTES,
    MAX_SECTION_BYTES,
    Section,
    header_v1,
    header_v2,
    section_head,
)
from hamt_bulk.car_index import encode_index, index_sections
from hamt_bulk.cas.files import outside, replace_durably, write_all
from hamt_bulk.cas.writer import Receipt, Writer, as_bytes
from hamt_bulk.errors import CASError, InvalidInput, NotPortable

_NODES = bytes([DAG_CBOR])
KINDS = ("nodes", "values")
"""Folders of packs. Told apart by codec, so that a store need not know what a tree is."""

IMPLICIT_PACK_BYTES = 64 << 20
"""Blocks that were saved one by one are put into a pack when there are this many bytes of them."""

BUFFER_BYTES = 1 << 22
"""Small blocks are collected up to this many bytes before they are written."""

MAX_PACK_BYTES = 4 << 30
"""A writer starts another pack beyond this size."""


def kind_of(cid: bytes) -> str:
    """The folder for the pack of a block."""
    return "nodes" if cid[1:2] == _NODES else "values"


def temporary_name() -> str:
    """A name that no other writer on any host uses."""
    return f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(8)}"


class PackFile:
    """
    One pack on its way.

    When the outside fails, what the file holds is not known any more: from then on it refuses, and never
    becomes a pack.
    """

    def __init__(self, folder: Path, kind: str) -> None:
        self._final = folder / "packs" / kind
        self._path = folder / "tmp" / temporary_name()
        self._process = os.getpid()
        self._name = blake3()
        self._sections: dict[bytes, Section] = {}
        self._failed: str | None = None
        self._waiting: list[Data] = [header_v2(HEADER_V2_BYTES, 0, 0), header_v1()]
        self._waiting_bytes = 0
        self._at = len(self._waiting[1])
        self.block_bytes = 0
        with outside("cannot write", self._path):
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        self.drop = weakref.finalize(self, _drop, self._file, self._path, self._process)
        """Leaves nothing behind. Also called for a file that is forgotten."""
        self.drop.atexit = False  # what is still to be flushed at the exit comes first

    @property
    def size(self) -> int:
        """Bytes of payload so far."""
        return self._at

    def add(self, cid: bytes, data: Data) -> None:
        """Takes a block, which has to stay as it is until `write`. One that is there already is left out."""
        if cid in self._sections:
            return
        data = as_bytes(data)
        length = len(data)
        if len(cid) + length > MAX_SECTION_BYTES:
            raise InvalidInput(
                f"block {text(cid)} of {length} bytes, at most {MAX_SECTION_BYTES} can be read"
            )
        head = section_head(cid, length)
        section = Section(cid, self._at, self._at + len(head), length)
        self._waiting += (head, data)
        self._waiting_bytes += len(head) + length
        self._at += len(head) + length
        self._name.update(head)
        self.block_bytes += length
        self._sections[cid] = section  # last: an interrupted call leaves no entry without its block
        if self._waiting_bytes > BUFFER_BYTES:
            self.write()

    def write(self) -> None:
        """Hands what was added to the operating system."""
        if self._waiting or self._failed:
            waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
            with self._writing():
                write_all(self._file, waiting)

    def read(self, cid: bytes) -> bytes | None:
        """A block that was added, or `None`."""
        section = self._sections.get(cid)
        if section is None:
            return None
        self.write()
        with outside("cannot read", self._path):
            return os.pread(self._file, section.data_length, HEADER_V2_BYTES + section.data_offset)

    def finish(self) -> Receipt:
        """Puts the pack in place, durably."""
        index = encode_index(index_sections(self._sections.values()))
        self.write()
        end = HEADER_V2_BYTES + self._at
        with self._writing():
            if (written := os.lseek(self._file, 0, os.SEEK_CUR)) != end:
                raise CASError(f"{self._path}: {written} bytes were written, expected {end}")
            write_all(self._file, [index])
            os.lseek(self._file, 0, os.SEEK_SET)
            write_all(self._file, [header_v2(HEADER_V2_BYTES, self._at, end)])
            os.fsync(self._file)
            replace_durably(self._path, self.path)
        self.drop()
        return Receipt(len(self._sections), self.block_bytes)

    @property
    def path(self) -> Path:
        """Where the pack is once it is finished."""
        return self._final / f"{self._name.hexdigest()[:40]}.car"

    @contextmanager
    def _writing(self) -> Iterator[None]:
        if self._process != os.getpid():
            raise NotPortable(
                f"this writer belongs to process {self._process}: make another in process {os.getpid()}"
            )
        if self._failed is not None:
            raise CASError(f"this writer failed before, and what it held is lost: {self._failed}")
        self._failed = "it was interrupted"
        try:
            with outside("cannot write", self._path):
                yield
        except CASError as error:
            self._failed = str(error)
            raise
        self._failed = None


def _drop(file: int, path: Path, process: int) -> None:
    with suppress(OSError):
        os.close(file)
    # A forked child may forget what its parent is still writing.
    if process == os.getpid():
        with suppress(OSError):
            path.unlink(missing_ok=True)


class PackWriter(Writer):
    """Packs of one task, one of each kind at a time."""

    def __init__(self, folder: Path, hasher: str) -> None:
        super().__init__(hasher)
        self._folder = folder
        self._files: dict[str, PackFile] = {}
        self._finished = Receipt()
        self.paths: list[Path] = []
        """The packs that were put in place."""

    def save_many(self, blocks: Iterable[Block]) -> None:
        try:
            for cid, data in blocks:
                kind = kind_of(cid)
                file = self._files.get(kind)
                if file is None:
                    file = self._files[kind] = PackFile(self._folder, kind)
                file.add(cid, data)
                if file.size > MAX_PACK_BYTES:
                    self._finish(kind, file)
        except BaseException:
            # The caller may change its buffers once this returns.
            with suppress(CASError):
                self._write()
            raise
        self._write()

    def _write(self) -> None:
        for file in self._files.values():
            file.write()

    @property
    def size(self) -> int:
        """Bytes that wait for `flush`."""
        return sum(file.size for file in self._files.values())

    def read(self, cid: bytes) -> bytes | None:
        """A block that waits for `flush`, or `None`."""
        file = self._files.get(kind_of(cid))
        return None if file is None else file.read(cid)

    def flush(self) -> Receipt:
        while self._files:
            kind, file = next(iter(self._files.items()))
            self._finish(kind, file)
        receipt, self._finished = self._finished, Receipt()
        return receipt

    def _finish(self, kind: str, file: PackFile) -> None:
        self.paths.append(file.path)
        self._finished += file.finish()
        del self._files[kind]

    def close(self) -> None:
        while self._files:
            self._files.popitem()[1].drop()
        self._finished = Receipt()


class SharedPackWriter(Writer):
    """The writer behind `save`: for all threads, and readable before it is flushed."""

    def __init__(self, folder: Path, hasher: str) -> None:
        super().__init__(hasher)
        self._writer = PackWriter(folder, hasher)
        self._flushed = Receipt()
        self._lock = threading.Lock()

    def save_many(self, blocks: Iterable[Block]) -> None:
        with self._lock:
            self._writer.save_many(blocks)
            if self._writer.size > IMPLICIT_PACK_BYTES:
                self._flushed += self._writer.flush()

    def read(self, cid: bytes) -> bytes | None:
        with self._lock:
            return self._writer.read(cid)

    def flush(self) -> Receipt:
        with self._lock:
            receipt, self._flushed = self._flushed + self._writer.flush(), Receipt()
            return receipt

    def close(self) -> None:
        with self._lock:
            self._writer.close()
