"""
What the walks ask for and are sent.

A walk does no I/O: it yields the CIDs it needs, and since it never stops at the first problem, it is sent
for each its block, or the error that came of asking.
"""

from collections.abc import Generator, Iterator, Sequence
from typing import NamedTuple, TypeAlias, TypeVar

from hamt_bulk.block import DAG_PB, Data, parse
from hamt_bulk.cas import BlockCAS, ContentAddressedStore
from hamt_bulk.cas.blocks import LocalCAS
from hamt_bulk.cas.wrap import translated, verified
from hamt_bulk.errors import CASError, HamtError, InvalidInput

MAX_OUTAGES = 32
"""
After so many `CASError`s in a row it is the store that is out of reach, not its blocks; unless it is a local one, with
nothing around it that tries again, and still gives what it gave before: then a disk fails in some places.
"""

REMEMBERED = 1 << 16
"""Nodes, values and blocks of values that are not read again when they come again: so many of the last ones."""


class Whole(NamedTuple):
    """In place of a dag-pb block: the file below it was put together by the store and hashes to the CID."""

    size: int


T = TypeVar("T")
V = TypeVar("V")

Answer: TypeAlias = Data | Whole | HamtError
"""What was found under a CID. A block was compared with it."""

Checks: TypeAlias = Generator[list[bytes], Sequence[Answer], T]
"""As `Reads`, but an answer may be an error, or a `Whole`."""


def ask(cids: Iterator[bytes]) -> Checks[dict[bytes, Answer]]:
    """What is sent for each of `cids`, none asked for twice."""
    wanted = list(dict.fromkeys(cids))
    if not wanted:
        return {}
    answers = yield wanted
    return dict(zip(wanted, answers, strict=True))


def fault_of_cid(cid: bytes) -> str | None:
    """Why these bytes are no CID, or `None`."""
    try:
        parse(cid)
    except InvalidInput as error:
        return str(error)
    return None


def remember(memory: dict[bytes, V], cid: bytes, value: V) -> None:
    """Keeps `value`, and lets go of the first one when there are many."""
    if len(memory) >= REMEMBERED:
        del memory[next(iter(memory))]
    memory[cid] = value


class Loader:
    """What a store has, block by block."""

    def __init__(self, cas: ContentAddressedStore) -> None:
        self._cas = verified(cas)
        self._outages = 0
        self._given: bytes | None = None

    def load(self, cids: Sequence[bytes]) -> Sequence[Answer]:
        """A block or an error for each CID. Raises `CASError` when the store is out of reach."""
        try:
            answers = self._together(cids)
            self._given = cids[-1] if cids else self._given
            return answers
        except HamtError:
            return [self._alone(cid) for cid in cids]

    def _together(self, cids: Sequence[bytes]) -> list[Answer]:
        with translated(self._cas, cids):
            if isinstance(self._cas, BlockCAS):
                return list(self._cas.load_blocks(cids))
            # Other stores give values, and a file comes as one.
            values = self._cas.load_many(cids)
        pairs = zip(cids, values, strict=True)
        return [Whole(len(value)) if parse(cid).codec == DAG_PB else value for cid, value in pairs]

    def _alone(self, cid: bytes) -> Answer:
        try:
            [answer] = self._together([cid])
        except CASError as error:
            self._outages += 1
            if self._outages == MAX_OUTAGES:
                if not self._still_gives():
                    raise
                self._outages = 0
            return error
        except HamtError as error:
            answer = error
        else:
            self._given = cid
        self._outages = 0
        return answer

    def _still_gives(self) -> bool:
        """Whether the store is a local one, and gives the last block once more that it gave."""
        if self._given is None or not isinstance(self._cas, LocalCAS):
            return False
        try:
            self._together([self._given])
        except HamtError:
            return False
        return True
