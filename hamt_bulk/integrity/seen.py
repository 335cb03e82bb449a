"""Which blocks were seen, so that each is counted once."""

from array import array
from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from hamt_bulk.cas import Receipt

Words: TypeAlias = npt.NDArray[np.uint64]

VALUE = 1 << 63
BLOCK = 1 << 62
"""What a fact says besides a length: that this names a value; that this block was there and hashed to its CID."""

_LENGTH = np.uint64(BLOCK - 1)

_LOOSE = 1 << 18
"""So many are noted before they are sorted in, or as many as there are."""


class Seen:
    """
    Blocks that were seen, each counted once however many keys, files and parts of a tree have it.

    A block takes 16 bytes: the last 8 of its CID; and a fact, which is a length with `VALUE`, `BLOCK` or both.
    """

    def __init__(self, names: Words | None = None, facts: Words | None = None) -> None:
        self._names = np.zeros(0, np.uint64) if names is None else names
        self._facts = np.zeros(0, np.uint64) if facts is None else facts
        self._loose = array("Q"), array("Q")

    def add(self, cid: bytes, fact: int = 0) -> None:
        """Notes a block."""
        names, facts = self._loose
        names.append(_name(cid))
        facts.append(fact)
        if len(names) >= max(_LOOSE, len(self._names)):
            self._settle()

    def had(self, cid: bytes) -> bool:
        """Whether a block was noted, but for the last ones: 2^18 at most, or as many as there were before them."""
        name = np.uint64(_name(cid))
        at = int(self._names.searchsorted(name))
        return at < len(self._names) and bool(self._names[at] == name)

    def _settle(self) -> None:
        if self._loose[0]:
            names, facts = (np.array(column, np.uint64) for column in self._loose)
            self._loose = array("Q"), array("Q")
            self._names, self._facts = _distinct([self._names, names], [self._facts, facts])

    @classmethod
    def together(cls, several: "Sequence[Seen]") -> "Seen":
        """What any of them has seen."""
        for one in several:
            one._settle()
        return cls(*_distinct([one._names for one in several], [one._facts for one in several]))

    def __len__(self) -> int:
        self._settle()
        return len(self._names)

    @property
    def values(self) -> int:
        """How many of them are values."""
        self._settle()
        return int(np.count_nonzero(self._facts & np.uint64(VALUE)))

    @property
    def there(self) -> Receipt:
        """How many of them were there, and their bytes."""
        self._settle()
        lengths = self._facts[(self._facts & np.uint64(BLOCK)) != 0] & _LENGTH
        return Receipt(len(lengths), int(lengths.sum()))

    def __sizeof__(self) -> int:
        return 200 + 16 * (len(self._names) + len(self._loose[0]))

    def __reduce__(self) -> tuple[Any, ...]:
        self._settle()
        return Seen, (self._names, self._facts)


def _name(cid: bytes) -> int:
    return int.from_bytes(cid[-8:], "little")


def _distinct(names: Sequence[Words], facts: Sequence[Words]) -> tuple[Words, Words]:
    """Each name once, in order, with all that is known of it."""
    joined, known = np.concatenate(names), np.concatenate(facts)
    if not len(joined):
        return joined, known
    order = np.argsort(joined, kind="stable")
    joined, known = joined[order], known[order]
    first = np.flatnonzero(np.append(True, joined[1:] != joined[:-1]))
    return joined[first], np.bitwise_or.reduceat(known, first)
