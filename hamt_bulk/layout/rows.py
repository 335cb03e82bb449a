"""
Rows of nodes as columns: where each key and pointer goes, and how it gets there.

    row = key head ‖ key ‖ pointer head ‖ pointer        of an entry
        | pointer head ‖ pointer                         of a link

A pointer head is a CBOR tag 42 over bytes that begin with 00. Everything is done for all rows of one length at once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from hamt_bulk.layout.base import Pieces
from hamt_bulk.layout.cbor import head, head_lengths
from hamt_bulk.pointers import INLINE
from hamt_bulk.ragged import Bytes, Ints, Ragged, copy_rows, fill_rows, offsets_of, rows_by_length

LinkHead: TypeAlias = Callable[[int], bytes]


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """
    The rows of `pieces`, in the order in which they are written.

    first    int64: the number of each piece's first row, and of the row after the last
    within   int64: where each row begins when they follow each other, and the end of the last
    """

    pieces: Pieces
    rows: Ints
    first: Ints
    within: Ints
    entry: NDArray[np.bool_]
    own: Ints | slice
    child: Ints
    key_lengths: Ints
    key_heads: Ints
    pointer_lengths: Ints
    pointer_heads: Ints
    pointer_skips: Ints

    @classmethod
    def of(
        cls, pieces: Pieces, link_head: LinkHead, *, by_length: bool, pair: int, keeps_values: bool
    ) -> "Rows":
        """
        link_head     the bytes before a CID of so many bytes
        by_length     shorter keys of a bucket go first, as in dag-cbor's maps; else keys go by their bytes alone
        pair          bytes before each key's head
        keeps_values  whether pointers may be values
        """
        per_piece = np.maximum(pieces.entries, 1)
        rows = _ordered(pieces, per_piece, by_length)
        items = len(pieces.keys)
        child = np.flatnonzero(rows >= items)
        own = np.flatnonzero(rows < items) if len(child) else slice(None)
        key_lengths = np.zeros(len(rows), np.int64)
        key_lengths[own] = pieces.keys.lengths[rows[own]]
        pointer_lengths = np.empty(len(rows), np.int64)
        pointer_lengths[own] = pieces.pointers.lengths[rows[own]]
        pointer_lengths[child] = pieces.children.lengths[rows[child] - items]
        entry = np.repeat(pieces.entries > 0, per_piece)
        key_heads = np.where(entry, head_lengths(key_lengths) + pair, 0)
        skips = np.zeros(len(rows), np.int64)
        if keeps_values and items:
            skips[own] = pieces.pointers.data[pieces.pointers.offsets[:-1]][rows[own]] == INLINE[0]
        pointer_heads = np.empty(len(rows), np.int64)
        for length, group in rows_by_length(pointer_lengths):
            pointer_heads[group] = len(link_head(length))
        pointer_heads[skips > 0] = -1  # that of the mark, which is not written
        within = offsets_of(key_heads + key_lengths + pointer_heads + pointer_lengths)
        pointer_heads[skips > 0] = 0
        return cls(
            pieces,
            rows,
            offsets_of(per_piece),
            within,
            entry,
            own,
            child,
            key_lengths,
            key_heads,
            pointer_lengths,
            pointer_heads,
            skips,
        )

    def write(self, data: Bytes, at: Ints, link_head: LinkHead, key_major: int, pair: bytes) -> None:
        """Puts each row where `at` says."""
        pieces, rows, own, child = self.pieces, self.rows, self.own, self.child
        items = len(pieces.keys)
        row_at = at.copy()
        for length, group in rows_by_length(np.where(self.entry, self.key_lengths, -1)):
            if length >= 0:
                fill_rows(data, row_at[group], pair + head(key_major, length))
        row_at += self.key_heads
        copy_rows(data, row_at[own], pieces.keys.data, pieces.keys.offsets[rows[own]], self.key_lengths[own])
        row_at += self.key_lengths
        plain = self.pointer_skips == 0
        for length, group in rows_by_length(np.where(plain, self.pointer_lengths, -1)):
            if length >= 0:
                fill_rows(data, row_at[group], link_head(length))
        row_at += self.pointer_heads
        for column, group, source in (
            (pieces.pointers, own, rows[own]),
            (pieces.children, child, rows[child] - items),
        ):
            skips = self.pointer_skips[group]
            starts = column.offsets[source] + skips
            copy_rows(data, row_at[group], column.data, starts, self.pointer_lengths[group] - skips)


def cbor_link_head(length: int) -> bytes:
    """The CBOR bytes before a CID of `length` bytes."""
    return b"\xd8\x2a" + head(0x40, length + 1) + b"\x00"


def _ordered(pieces: Pieces, per_piece: Ints, by_length: bool) -> Ints:
    """The rows of `pieces` with those of each bucket in order."""
    piece = np.repeat(np.arange(len(pieces.entries)), per_piece)
    crowded = np.flatnonzero(pieces.entries[piece] > 1)
    if not len(crowded):
        return pieces.rows
    keys = pieces.keys.take(pieces.rows[crowded])
    longest = int(keys.lengths.max())
    if longest <= 256:
        words = _padded(keys, len(crowded), longest)
        # Padding never decides: keys that are equal but for it are told apart by their lengths.
        by = (words, keys.lengths) if by_length else (keys.lengths, words)
        order = np.lexsort((*by, piece[crowded]))
    else:
        texts = list(keys)

        def place(row: int) -> tuple[int, int, bytes]:
            return int(piece[crowded[row]]), len(texts[row]) if by_length else 0, texts[row]

        order = np.array(sorted(range(len(texts)), key=place))
    rows = pieces.rows.copy()
    rows[crowded] = pieces.rows[crowded[order]]
    return rows


def _padded(keys: Ragged, count: int, longest: int) -> NDArray[np.bytes_]:
    padded = np.zeros(count * longest or 1, np.uint8)
    copy_rows(padded, np.arange(count) * longest, keys.data, keys.offsets[:-1], keys.lengths)
    return np.ndarray(count, f"S{longest or 1}", padded)
