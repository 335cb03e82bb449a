"""
Columns of byte strings of different lengths, as numpy arrays.

Everything that has to be done for each key of a big build is done here for a whole column at once:
rows of equal length are copied together, and the keys of a Zarr hierarchy have few lengths.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Self

import numpy as np
from numpy.typing import NDArray

Bytes = NDArray[np.uint8]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Ragged:
    """
    A column of byte strings. Row `i` is `data[offsets[i]:offsets[i + 1]]`.

    data     uint8, all rows one after the other
    offsets  int64, one more than there are rows; the first is 0
    """

    data: Bytes
    offsets: Ints

    @classmethod
    def of(cls, rows: Sequence[bytes]) -> Self:
        """The column of `rows`."""
        lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        return cls(np.frombuffer(b"".join(rows), np.uint8), offsets_of(lengths))

    @classmethod
    def concat(cls, columns: Sequence["Ragged"]) -> Self:
        """The rows of all `columns`, in order."""
        lengths = np.concatenate([np.zeros(0, np.int64), *(column.lengths for column in columns)])
        data = [column.data for column in columns]
        return cls(np.concatenate([np.zeros(0, np.uint8), *data]), offsets_of(lengths))

    @property
    def lengths(self) -> Ints:
        return np.diff(self.offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> bytes:
        return self.data[self.offsets[row] : self.offsets[row + 1]].tobytes()

    def __iter__(self) -> Iterator[bytes]:
        data, ends = self.data.tobytes(), self.offsets.tolist()
        return (data[start:end] for start, end in pairwise(ends))

    def slice(self, start: int, stop: int) -> "Ragged":
        """Rows `start` to `stop`, without a copy of their bytes."""
        offsets = self.offsets[start : stop + 1]
        first = offsets[0]
        return Ragged(self.data[first : offsets[-1]], offsets - first)

    def take(self, rows: Ints) -> "Ragged":
        """The rows of these numbers, in this order."""
        lengths = self.lengths[rows]
        offsets = offsets_of(lengths)
        data = np.empty(offsets[-1], np.uint8)
        copy_rows(data, offsets[:-1], self.data, self.offsets[:-1][rows], lengths)
        return Ragged(data, offsets)

    def packed(self) -> tuple[bytes, int | bytes]:
        """The bytes of all rows, and their lengths: one where all are equal, else two or four bytes each."""
        lengths = self.lengths
        if len(lengths) and (lengths == lengths[0]).all():
            return self.data.tobytes(), int(lengths[0])
        kind = np.uint16 if len(lengths) == 0 or lengths.max() < 1 << 16 else np.uint32
        return self.data.tobytes(), lengths.astype(kind).tobytes()

    @classmethod
    def unpacked(cls, rows: int, data: bytes, lengths: int | bytes) -> Self:
        """The column of which `packed` gave the parts."""
        if isinstance(lengths, int):
            offsets = np.arange(rows + 1, dtype=np.int64) * lengths
        else:
            kind = np.uint16 if len(lengths) == 2 * rows else np.uint32
            offsets = offsets_of(np.frombuffer(lengths, kind).astype(np.int64))
        return cls(np.frombuffer(data, np.uint8), offsets)

    @property
    def nbytes(self) -> int:
        return self.data.nbytes + self.offsets.nbytes


def offsets_of(lengths: Ints) -> Ints:
    """Where rows of these lengths start when they follow each other, and the end of the last."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def copy_rows(target: Bytes, to: Ints, source: Bytes, start: Ints, lengths: Ints) -> None:
    """`target[to[i] : to[i] + lengths[i]] = source[start[i] : start[i] + lengths[i]]` for every row `i`."""
    for length, rows in rows_by_length(lengths):
        if length:
            windows(target, length)[to[rows]] = windows(source, length)[start[rows]]


def fill_rows(target: Bytes, to: Ints, value: bytes) -> None:
    """`target[to[i] : to[i] + len(value)] = value` for every row `i`."""
    windows(target, len(value))[to] = np.frombuffer(value, f"V{len(value)}")[0]


def rows_by_length(lengths: Ints) -> Iterator[tuple[int, Ints | slice]]:
    """Each distinct length and the rows that have it."""
    if not len(lengths):
        return
    if (lengths == lengths[0]).all():
        yield int(lengths[0]), slice(None)
        return
    order = np.argsort(lengths, kind="stable")
    starts = np.flatnonzero(np.diff(lengths[order], prepend=-1))
    for first, last in zip(starts, [*starts[1:], len(order)], strict=True):
        rows = order[first:last]
        yield int(lengths[rows[0]]), rows


def windows(data: Bytes, length: int) -> NDArray[np.void]:
    """Every run of `length` bytes of `data` as one element, so that numpy moves rows in one copy each."""
    count = max(len(data) - length + 1, 0)
    return np.ndarray((count,), f"V{length}", data, strides=(1,))


def row_order(rows: Bytes) -> Ints:
    """The order that sorts rows of one length bytewise. Equal rows stay in the order they have."""
    words = row_words(rows)
    first = words[:, 0].astype(np.uint64)
    order = np.argsort(first)
    tied = np.diff(first[order]) == 0
    if tied.any():
        at = np.flatnonzero(np.append(tied, False) | np.append(False, tied))
        among = np.sort(order[at])
        order[at] = among[
            np.lexsort([words[among, k].astype(np.uint64) for k in reversed(range(words.shape[1]))])
        ]
    return order


def row_words(rows: Bytes) -> NDArray[np.uint64]:
    """Rows as big-endian numbers, which compare as the bytes do; padded with zeros, at least one a row."""
    count, width = rows.shape
    padded = np.ascontiguousarray(rows)
    if width == 0 or width % 8:
        padded = np.zeros((count, width + 8 - width % 8), np.uint8)
        padded[:, :width] = rows
    words: NDArray[np.uint64] = padded.view(">u8")
    return words
