"""
Writing one CAR file: CARv2 with its index and the roots that it is for.

    HOST-PID-RANDOM.tmp   beside it: header with a data size of 0, payload, index; then the header again, and fsync
    FILE.car              the same file under its own name
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import islice
from pathlib import Path

from hamt_bulk.block import Block, Data, text
from hamt_bulk.car import HEADER_V2_BYTES, MAX_SECTION_BYTES, header_v1, header_v2, section_head
from hamt_bulk.car_index import encode_index
from hamt_bulk.cas.files import outside, place_durably, write_all
from hamt_bulk.cas.packfile import BUFFER_BYTES, temporary_name
from hamt_bulk.cas.sections import Sections
from hamt_bulk.cas.writer import Receipt, Writer, as_bytes
from hamt_bulk.errors import CASError, InvalidInput

_GROUP = 32  # blocks that are looked for together


class CarFile(Writer):
    """
    A new CAR file on its way.

    It is there, durably, when `finish` returns; until then, and after `close`, nothing is. A block that is
    given twice is written once. Memory is 44 bytes a block.
    """

    def __init__(self, path: Path, roots: Sequence[bytes]) -> None:
        super().__init__("blake3")
        self.path = path
        self._temporary = path.with_name(f"{temporary_name()}.tmp")
        self._file: int | None = None
        self._sections = Sections()
        self._waiting: list[Data] = [header_v2(HEADER_V2_BYTES, 0, 0), header_v1(roots)]
        self._waiting_bytes = 0
        self._at = len(self._waiting[1])
        self._written = Receipt()
        self._over = False

    def has_many(self, cids: Sequence[bytes]) -> list[bool]:
        """Whether each block was given."""
        return self._sections.has_many(cids)

    def save_many(self, blocks: Iterable[Block]) -> None:
        with self._writing():
            waiting = iter(blocks)
            while group := {cid: as_bytes(data) for cid, data in islice(waiting, _GROUP)}:
                for (cid, data), there in zip(group.items(), self.has_many(list(group)), strict=True):
                    if not there:
                        self._add(cid, data)
            # The caller may change its buffers once this returns.
            self._write()

    def flush(self) -> Receipt:
        """What was written since the last time. It is durable with the whole file, not before."""
        receipt, self._written = self._written, Receipt()
        return receipt

    def finish(self) -> None:
        """Puts the file in place, durably. Raises `InvalidInput` when another one is there."""
        with self._writing():
            self._write()
            file, end = self._opened(), HEADER_V2_BYTES + self._at
            write_all(file, [encode_index(self._sections.index())])
            os.lseek(file, 0, os.SEEK_SET)
            write_all(file, [header_v2(HEADER_V2_BYTES, self._at, end)])
            os.fsync(file)
            self._place()
        self.close()

    def close(self) -> None:
        self._over = True
        self._waiting = []
        file, self._file = self._file, None
        if file is not None:
            with suppress(OSError):
                os.close(file)
            with suppress(OSError):
                os.unlink(self._temporary)

    def _add(self, cid: bytes, data: Data) -> None:
        if len(cid) + len(data) > MAX_SECTION_BYTES:
            raise InvalidInput(
                f"block {text(cid)} of {len(data)} bytes, at most {MAX_SECTION_BYTES} can be read"
            )
        head = section_head(cid, len(data))
        self._sections.add(cid, self._at)
        self._waiting += (head, data)
        self._waiting_bytes += len(head) + len(data)
        self._at += len(head) + len(data)
        self._written += Receipt(1, len(data))
        if self._waiting_bytes > BUFFER_BYTES:
            self._write()

    def _write(self) -> None:
        waiting, self._waiting, self._waiting_bytes = self._waiting, [], 0
        write_all(self._opened(), waiting)

    def _opened(self) -> int:
        if self._file is None:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
            self._file = os.open(self._temporary, flags, 0o644)
        return self._file

    def _place(self) -> None:
        """Gives the file its name. A rename would take it from a file that came in the meantime."""
        try:
            place_durably(self._temporary, self.path)
        except FileExistsError:
            raise InvalidInput(f"{self.path} is there by now: choose another name") from None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Within it the outside's failures are ours; after one nobody knows what the file holds, so it is over."""
        if self._over:
            raise CASError(f"cannot write {self.path}: it is finished, or was given up")
        try:
            with outside("cannot write", self.path):
                yield
        except BaseException:
            self.close()
            raise
