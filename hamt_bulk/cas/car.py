"""One CAR file as a store."""

import os
from collections.abc import Sequence
from pathlib import Path
from threading import Lock
from typing import Any, NoReturn

from hamt_bulk.block import Data, text, to_cid
from hamt_bulk.cas.archive import Archive, forget
from hamt_bulk.cas.base import LocalCAS, Writer
from hamt_bulk.cas.locations import Locations
from hamt_bulk.errors import BlockNotFound, InvalidInput, ReadOnly


class CarCAS(LocalCAS):
    """
    One CAR file, v1 or v2, read at random.

    Its index is used where it has one; else the file is read through once, at the first block.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__("blake3")
        self.path = Path(os.path.abspath(os.fspath(path)))
        self._archive = Archive(self.path)
        self._locations: Locations | None = None
        self._roots: tuple[bytes, ...] = ()
        self._lock = Lock()

    @property
    def roots(self) -> list[Any]:
        """The CIDs that the file's header names."""
        self._open()
        return [to_cid(root) for root in self._roots]

    def _open(self) -> Locations:
        with self._lock:
            if self._locations is None:
                header, index = self._archive.open()
                if header is None:
                    raise InvalidInput(f"{self.path} is not a CAR file: {self._archive.damage}")
                self._roots = header.roots
                self._locations = Locations.of(index, 0, header.data_offset)
            return self._locations

    def read_blocks(self, cids: Sequence[bytes]) -> list[Data]:
        return [self._read(cid) for cid in cids]

    def _read(self, cid: bytes) -> Data:
        locations = self._open()
        for _, offset in locations.find(cid):
            data = self._archive.read(offset, cid)
            if data is not None:
                return data
        why = f"it is damaged: {self._archive.damage}" if self._archive.damage else f"it has {len(locations)} others"
        raise BlockNotFound(f"no block {text(cid)} in {self.path}: {why}")

    def has_blocks(self, cids: Sequence[bytes]) -> list[bool]:
        locations = self._open()
        return [
            any(self._archive.read(offset, cid) is not None for _, offset in locations.find(cid)) for cid in cids
        ]

    def writer(self) -> Writer:
        self._refuse()

    def _implicit_writer(self) -> Writer:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ReadOnly(f"{self.path} is a CAR file, which is read only: write to a PackCAS, whose packs are CAR files")

    def close(self) -> None:
        forget(self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path,)

    def __dask_tokenize__(self) -> tuple[str, str, int]:
        # A CAR file may be replaced, unlike a pack.
        return (type(self).__qualname__, str(self.path), os.stat(self.path).st_mtime_ns)

    def __repr__(self) -> str:
        return f"CarCAS({str(self.path)!r})"
