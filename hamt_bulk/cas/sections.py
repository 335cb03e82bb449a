"""Which blocks a CAR file holds so far and where, in little memory."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hamt_bulk.block import parse
from hamt_bulk.car_index import Columns, Index

CID_BYTES = 36
"""The length of every CID that this package makes, and of almost all others: four bytes and a digest of 32."""

RECENT = 1 << 16
"""So many are kept in a dict, at some 200 bytes each; the others at 44."""


class _Run(NamedTuple):
    """Sections in the order of their CIDs, which have one length, so that numpy's padding decides nothing."""

    cids: NDArray[np.bytes_]
    offsets: NDArray[np.uint64]


class Sections:
    """CIDs and the offsets of their sections, from the payload's start."""

    def __init__(self) -> None:
        self._recent: dict[bytes, int] = {}
        self._odd: dict[bytes, int] = {}
        self._runs: list[_Run] = []

    def add(self, cid: bytes, offset: int) -> None:
        """Takes a section whose block is not here yet."""
        if not _is_plain(cid):
            self._odd[cid] = offset
            return
        self._recent[cid] = offset
        if len(self._recent) >= RECENT:
            self._settle()

    def has_many(self, cids: Sequence[bytes]) -> list[bool]:
        """Whether each block is here."""
        found = [cid in self._recent or cid in self._odd for cid in cids]
        asked = [number for number, cid in enumerate(cids) if not found[number] and _is_plain(cid)]
        wanted = _rows([cids[number] for number in asked])
        for run in self._runs:
            places = run.cids.searchsorted(wanted)
            there = run.cids[np.minimum(places, len(run.cids) - 1)] == wanted
            for number in np.flatnonzero(there).tolist():
                found[asked[number]] = True
        return found

    def index(self) -> Index:
        """The index over them. As in go-car's, identity CIDs are left out."""
        self._settle()
        parts: dict[tuple[int, int], list[Columns]] = {}
        for run in self._runs:
            rows = run.cids.view(np.uint8).reshape(-1, CID_BYTES)
            for code in np.unique(rows[:, 2]).tolist():
                own = rows[:, 2] == code
                parts.setdefault((code, 32), []).append(Columns(rows[own, 4:], run.offsets[own]))
        for cid, offset in self._odd.items():
            _, code, digest = parse(cid)
            row = np.frombuffer(digest, np.uint8).reshape(1, -1)
            parts.setdefault((code, len(digest)), []).append(Columns(row, np.array([offset], np.uint64)))
        return {key: _joined(columns) for key, columns in parts.items() if key[0] != 0}

    def _settle(self) -> None:
        """Moves what is recent into a run, and joins runs of like lengths, so that there are few."""
        if self._recent:
            offsets = np.fromiter(self._recent.values(), np.uint64, len(self._recent))
            self._runs.append(_sorted(_Run(_rows(list(self._recent)), offsets)))
            self._recent = {}
        while len(self._runs) > 1 and len(self._runs[-2].cids) <= 2 * len(self._runs[-1].cids):
            one, other = self._runs.pop(), self._runs.pop()
            cids, offsets = (np.concatenate(pair) for pair in zip(other, one, strict=True))
            self._runs.append(_sorted(_Run(cids, offsets)))


def _is_plain(cid: bytes) -> bool:
    return len(cid) == CID_BYTES and cid[0] == 1 and cid[3] == 32 and cid[1] < 0x80 and cid[2] < 0x80


def _rows(cids: Sequence[bytes]) -> NDArray[np.bytes_]:
    return np.frombuffer(b"".join(cids), f"S{CID_BYTES}")


def _sorted(run: _Run) -> _Run:
    order = np.argsort(run.cids, kind="stable")
    return _Run(run.cids[order], run.offsets[order])


def _joined(columns: Sequence[Columns]) -> Columns:
    return Columns(
        np.concatenate([part.digests for part in columns]), np.concatenate([part.offsets for part in columns])
    )
