"""One CAR file as a store."""

import os
from collections.abc import Sequence
from threading import Lock
from typing import Any, NoReturn

from multiformats import CID

from hamt_bulk.block import Data, text, to_cid
from hamt_bulk.car import Header
from hamt_bulk.cas.archive import Archive, Place, forget, load_sound
from hamt_bulk.cas.blocks import LocalCAS
from hamt_bulk.cas.files import absolute, outside
from hamt_bulk.cas.locations import Locations
from hamt_bulk.cas.writer import Writer
from hamt_bulk.errors import BlockMismatch, BlockNotFound, CASError, InvalidInput, ReadOnly


class CarCAS(LocalCAS):
    """
    One CAR file, v1 or v2, read at random.

    Its index is used where it has one; else the file is read through once, at the first block.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__("blake3")
        self.path = absolute(path)
        self._archive = Archive(self.path)
        self._opened: tuple[Header, Locations] | None = None
        self._lock = Lock()

    @property
    def roots(self) -> list[CID]:
        """The CIDs that the file's header names."""
        return [to_cid(root) for root in self._open()[0].roots]

    def _open(self) -> tuple[Header, Locations]:
        with self._lock:
            if self._opened is None:
                header, index = self._archive.open()
                if header is None:
                    raise InvalidInput(f"{self.path} is not a CAR file: {self._archive.damage}")
                self._opened = header, Locations.of(index, 0, header.data_offset)
            return self._opened

    def _reopen(self) -> bool:
        """Looks again at a file that was replaced since, unlike a pack. True when it was."""
        if not self._archive.changed():
            return False
        with self._lock:
            self._opened = None
        return True

    def _places(self, cid: bytes) -> list[Place]:
        return [(self._archive, offset) for _, offset in self._open()[1].find(cid)]

    def read_blocks(self, cids: Sequence[bytes]) -> list[Data]:
        return [self._read(cid) for cid in cids]

    def load_blocks(self, cids: Sequence[bytes]) -> list[Data]:
        return self.read_blocks(cids)  # each is verified where another copy may still be tried

    def _read(self, cid: bytes) -> Data:
        try:
            data = load_sound(self._places(cid), cid)
        except (BlockMismatch, CASError):
            if not self._reopen():
                raise
            data = load_sound(self._places(cid), cid)
        if data is None and self._reopen():
            data = load_sound(self._places(cid), cid)
        if data is not None:
            return data
        damage, count = self._archive.damage, len(self._open()[1])
        why = f"it is damaged: {damage}" if damage else f"it has {count} others"
        raise BlockNotFound(f"no block {text(cid)} in {self.path}: {why}")

    def has_blocks(self, cids: Sequence[bytes]) -> list[bool]:
        return [length is not None for length in map(self._length, cids)]

    def size_blocks(self, cids: Sequence[bytes]) -> list[int]:
        lengths = map(self._length, cids)
        return [len(self._read(cid)) if n is None else n for cid, n in zip(cids, lengths, strict=True)]

    def _length(self, cid: bytes) -> int | None:
        lengths = (archive.length(offset, cid) for archive, offset in self._places(cid))
        return next((length for length in lengths if length is not None), None)

    def writer(self) -> Writer:
        self._refuse()

    def _implicit_writer(self) -> Writer:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ReadOnly(
            f"{self.path} is a CAR file, which is read only: write to a PackCAS, whose packs are CAR files"
        )

    def close(self) -> None:
        forget(self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    def __dask_tokenize__(self) -> tuple[str, str, int]:
        # A CAR file may be replaced, unlike a pack.
        with outside("cannot read", self.path):
            return (type(self).__qualname__, str(self.path), os.stat(self.path).st_mtime_ns)

    def __repr__(self) -> str:
        return f"CarCAS({str(self.path)!r})"
