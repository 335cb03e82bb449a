"""CIDs that a walk keeps: those it will come back to, and those it has just seen."""

from collections.abc import Iterable, Iterator
from itertools import islice

import numpy as np

from hamt_bulk.block import DAG_PB, parse

CID_BYTES = 36
"""The length of every CID that this package makes, and of almost all others."""

REMEMBERED = 1 << 16
"""So many of the values that were seen last are known again."""


class Names:
    """CIDs in the order in which they were added, in 36 bytes each."""

    def __init__(self, cids: Iterable[bytes] = ()) -> None:
        self._packed = bytearray()
        self._odd: dict[bytes, None] = {}
        for cid in cids:
            self.add(cid)

    def add(self, cid: bytes) -> None:
        """Takes one more."""
        if len(cid) == CID_BYTES:
            self._packed += cid
        else:
            self._odd[cid] = None

    def __len__(self) -> int:
        return len(self._packed) // CID_BYTES + len(self._odd)

    def distinct(self) -> "Names":
        """Each of them once."""
        # All rows have one length, so that the zeros that numpy does not compare decide nothing.
        rows = np.frombuffer(self._packed, f"S{CID_BYTES}")
        _, first = np.unique(rows, return_index=True)
        names = Names(self._odd)
        names._packed = bytearray(rows[np.sort(first)].tobytes())
        return names

    def __iter__(self) -> Iterator[bytes]:
        for at in range(0, len(self._packed), CID_BYTES):
            yield bytes(self._packed[at : at + CID_BYTES])
        yield from self._odd


class Recent:
    """The CIDs that were seen last."""

    def __init__(self) -> None:
        self._seen: dict[bytes, None] = {}

    def is_new(self, cid: bytes) -> bool:
        """Whether `cid` is none of them; from now on it is."""
        new = cid not in self._seen
        if not new:
            del self._seen[cid]  # to come last again: a dict is in the order in which things were put in
        self._seen[cid] = None
        if len(self._seen) > REMEMBERED:
            del self._seen[next(iter(self._seen))]
        return new


def batches(cids: Iterable[bytes], count: int) -> Iterator[list[bytes]]:
    """`cids`, `count` at a time."""
    rest = iter(cids)
    while batch := list(islice(rest, count)):
        yield batch


def is_file(cid: bytes) -> bool:
    """Whether `cid` names a node of a UnixFS file, which links to other blocks."""
    return parse(cid).codec == DAG_PB
