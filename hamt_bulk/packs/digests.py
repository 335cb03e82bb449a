"""Which blocks there are, in little memory."""

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hamt_bulk.block import parse

DIGEST_BYTES = 32

RECENT = 1 << 16
"""So many are kept in a Python set, at some 130 bytes each; the others at 32."""

SHARDS = 16
"""Parts of the settled ones, of which one is copied at a time."""

_SETTLED_SHARE = 8  # what is not settled is at most this part of what is

_Run = NDArray[np.bytes_]
"""Digests in order. All have one length, so that the zeros that numpy does not compare decide nothing."""


class Digests:
    """
    A set of blocks by their digests. Codecs do not count: a store finds a block by its multihash.

    Memory is 32 bytes a block, some 40 while it grows, and a few MiB.
    """

    def __init__(self) -> None:
        self._recent: set[bytes] = set()
        self._odd: set[bytes] = set()
        self._runs: list[_Run] = []
        self._settled: list[_Run] = [_rows([])] * SHARDS
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add_many(self, cids: Iterable[bytes]) -> list[bytes]:
        """Takes blocks. Those of them that were not here, each once."""
        distinct = list(dict.fromkeys(cids))
        added = []
        for cid, there in zip(distinct, self.has_many(distinct), strict=True):
            digest = parse(cid).digest
            recent = self._recent if len(digest) == DIGEST_BYTES else self._odd
            if there or digest in recent:  # two CIDs may name one block
                continue
            recent.add(digest)
            added.append(cid)
        self._count += len(added)
        if len(self._recent) >= RECENT:
            self._settle()
        return added

    def has_many(self, cids: Sequence[bytes]) -> list[bool]:
        """Whether each block is here."""
        digests = [parse(cid).digest for cid in cids]
        found = [digest in self._recent or digest in self._odd for digest in digests]
        asked = [
            number
            for number, digest in enumerate(digests)
            if not found[number] and len(digest) == DIGEST_BYTES
        ]
        if not asked:
            return found
        wanted = _rows([digests[number] for number in asked])
        there = np.zeros(len(asked), bool)
        for run in self._runs:
            there |= _are_in(run, wanted)
        shards = _shards(wanted)
        for number in np.unique(shards).tolist():
            own = np.flatnonzero(shards == number)
            there[own] |= _are_in(self._settled[number], wanted[own])
        for row in np.flatnonzero(there).tolist():
            found[asked[row]] = True
        return found

    def _settle(self) -> None:
        """Moves what is recent into a run, joins runs of like lengths, and at times settles them."""
        self._runs.append(_joined([_rows(list(self._recent))]))
        self._recent = set()
        while len(self._runs) > 1 and len(self._runs[-2]) <= 2 * len(self._runs[-1]):
            self._runs.append(_joined([self._runs.pop(), self._runs.pop()]))
        if sum(map(len, self._runs)) * _SETTLED_SHARE < sum(map(len, self._settled)):
            return
        runs, self._runs = self._runs, []
        # A shard is a range of digests, so of every run it is a slice.
        bounds = [[0, *run.searchsorted(_EDGES).tolist(), len(run)] for run in runs]
        for number, settled in enumerate(self._settled):
            parts = [run[at[number] : at[number + 1]] for run, at in zip(runs, bounds, strict=True)]
            self._settled[number] = _joined([settled, *parts])


class Held:
    """CIDs in their order, to be gone through later. Memory is that of their bytes, and one more for each."""

    def __init__(self, cids: Iterable[bytes]) -> None:
        self._bytes = bytearray()
        for cid in cids:
            self._bytes.append(len(cid))
            self._bytes += cid

    def __iter__(self) -> Iterator[bytes]:
        at = 0
        while at < len(self._bytes):
            start, at = at + 1, at + 1 + self._bytes[at]
            yield bytes(self._bytes[start:at])


def _rows(digests: Sequence[bytes]) -> _Run:
    return np.frombuffer(bytearray().join(digests), f"S{DIGEST_BYTES}")


def _joined(runs: list[_Run]) -> _Run:
    """The digests of `runs`, in order. It lets go of them before it sorts."""
    joined = np.concatenate(runs)
    runs.clear()
    joined.sort(kind="stable")
    return joined


_EDGES = _rows([bytes([number * 256 // SHARDS]).ljust(DIGEST_BYTES, b"\0") for number in range(1, SHARDS)])


def _shards(rows: _Run) -> NDArray[np.intp]:
    """The number of the shard of each digest."""
    first = rows.view(np.uint8).reshape(-1, DIGEST_BYTES)[:, 0]
    return first.astype(np.intp) * SHARDS // 256


def _are_in(run: _Run, wanted: _Run) -> NDArray[np.bool_]:
    if not len(run):
        return np.zeros(len(wanted), bool)
    places = run.searchsorted(wanted)
    there: NDArray[np.bool_] = run[np.minimum(places, len(run) - 1)] == wanted
    return there
