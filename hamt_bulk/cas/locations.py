"""
Where blocks are: columns over any number of CAR files, searched in one step.

A block is found by the first eight bytes of its digest; that it is the right one shows when it is
read, since its section starts with its CID. Codecs do not count: a block is its multihash.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from hamt_bulk.block import parse
from hamt_bulk.car_index import Columns


class Found(NamedTuple):
    """Where blocks may be: which of those that were asked for, the number of the file, and the offset."""

    asked: NDArray[np.intp]
    files: NDArray[np.uint32]
    offsets: NDArray[np.uint64]


@dataclass(frozen=True, slots=True, eq=False)
class Locations:
    """
    One row for each block of each file, in the order of `prefixes`.

    prefixes  uint64: the first eight bytes of the digest, as a big-endian number
    files     uint32: the number of the file
    offsets   uint64: where the section starts, from the file's start
    """

    prefixes: NDArray[np.uint64]
    files: NDArray[np.uint32]
    offsets: NDArray[np.uint64]

    @classmethod
    def empty(cls) -> Self:
        """No blocks."""
        return cls(np.zeros(0, np.uint64), np.zeros(0, np.uint32), np.zeros(0, np.uint64))

    @classmethod
    def of(cls, index: Mapping[tuple[int, int], Columns], file: int, data_offset: int) -> Self:
        """The rows of one file, whose payload starts at `data_offset`."""
        parts = [
            cls(
                _prefixes(columns.digests),
                np.full(len(columns.offsets), file, np.uint32),
                columns.offsets + np.uint64(data_offset),
            )
            for columns in index.values()
        ]
        return cls.merge(parts)

    @classmethod
    def merge(cls, parts: Sequence["Locations"]) -> Self:
        """The rows of all `parts`."""
        if not parts:
            return cls.empty()
        prefixes = np.concatenate([part.prefixes for part in parts])
        order = np.argsort(prefixes, kind="stable")
        return cls(
            prefixes[order],
            np.concatenate([part.files for part in parts])[order],
            np.concatenate([part.offsets for part in parts])[order],
        )

    def __len__(self) -> int:
        return len(self.prefixes)

    def only(self, files: Sequence[int]) -> "Locations":
        """The rows of `files`, which are numbered anew, in that order."""
        number = np.full(max([*files, int(self.files.max(initial=0))]) + 1, -1)
        number[list(files)] = np.arange(len(files))
        numbers = number[self.files]
        keep = numbers >= 0
        return Locations(self.prefixes[keep], numbers[keep].astype(np.uint32), self.offsets[keep])

    def find(self, cid: bytes) -> list[tuple[int, int]]:
        """Where the block may be: file numbers and offsets. Almost always one, or none."""
        prefix = np.uint64(int.from_bytes(_prefix(cid), "big"))
        first = int(self.prefixes.searchsorted(prefix))
        found = []
        while first < len(self.prefixes) and self.prefixes[first] == prefix:
            found.append((int(self.files[first]), int(self.offsets[first])))
            first += 1
        return found

    def find_many(self, cids: Sequence[bytes]) -> Found:
        """As `find`, for many blocks at once."""
        prefixes = np.frombuffer(b"".join(map(_prefix, cids)), ">u8").astype(np.uint64)
        first = self.prefixes.searchsorted(prefixes)
        counts = self.prefixes.searchsorted(prefixes, "right") - first
        asked = np.repeat(np.arange(len(cids)), counts)
        rows = np.repeat(first - counts.cumsum() + counts, counts) + np.arange(len(asked))
        return Found(asked, self.files[rows], self.offsets[rows])


def _prefix(cid: bytes) -> bytes:
    return parse(cid).digest[:8].ljust(8, b"\0")


def _prefixes(digests: NDArray[np.uint8]) -> NDArray[np.uint64]:
    width = digests.shape[1]
    if width < 8:
        digests = np.pad(digests, ((0, 0), (0, 8 - width)))
    return np.ascontiguousarray(digests[:, :8]).view(">u8").reshape(-1).astype(np.uint64)
