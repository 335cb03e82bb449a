"""Faulty blocks, replaced by sound ones from another store."""

from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from hamt_bulk.block import Block, Data, text, verify
from hamt_bulk.cas import BlockCAS, ContentAddressedStore, PackCAS
from hamt_bulk.cas.wrap import Reader, configuration, translated
from hamt_bulk.errors import BlockMismatch, BlockNotFound, CASError, HamtError, InvalidInput, ReadOnly
from hamt_bulk.integrity.answers import Answer, Loader, Whole
from hamt_bulk.integrity.seen import BLOCK
from hamt_bulk.integrity.tally import Tally
from hamt_bulk.roots.files import split_as
from hamt_bulk.roots.names import batches, is_file
from hamt_bulk.roots.transfer import (
    BLOCKS_AT_ONCE,
    UNFLUSHED_BLOCKS,
    UNFLUSHED_BYTES,
    StoreTarget,
    ValueTarget,
    plain,
    target_of,
)

SAMPLES = 16
"""So many of the blocks that a part wrote are looked for where the report is made."""


def refuse_unrepairable(cas: ContentAddressedStore, other: ContentAddressedStore) -> None:
    """Raises before the walk when `cas` cannot be written to, or `other` is no other store."""
    if configuration(plain(cas)) == configuration(plain(other)):
        raise InvalidInput(
            f"repair_from is {plain(cas)!r}, the store that is checked: give one that has a copy"
        )
    inner, copy = plain(cas), plain(other)
    if isinstance(copy, PackCAS) and not copy.is_there():
        raise InvalidInput(f"repair_from is {copy!r}, and there is no store: was another path meant?")
    if isinstance(inner, PackCAS) and not inner.path.exists():
        raise InvalidInput(f"{inner!r} is not there: to make a copy of a whole root call hamt_bulk.copy")
    try:
        with inner.writer():
            pass
    except ReadOnly as error:
        raise ReadOnly(
            f"repair_from writes to the store that is checked, and {error}. Without repair_from it can be checked"
        ) from error


class Repairer(Loader):
    """
    A store, and another one that has what it lacks.

    Whatever is faulty in the first is looked for in the other, compared with its CID, and written.

    What was written, and is durable once `flush` has returned, is in the tally.
    """

    def __init__(self, cas: ContentAddressedStore, other: ContentAddressedStore, tally: Tally) -> None:
        super().__init__(cas)
        target = target_of(plain(cas), b"")
        assert isinstance(target, StoreTarget)  # CAR files are read only
        self._target = target
        self._other = Reader(other)
        self._tally = tally
        self._fetched: dict[bytes, Data] = {}
        self._written: list[tuple[bytes, int]] = []
        self._unflushed = 0
        self._heals: bool | None = None

    def load(self, cids: Sequence[bytes]) -> Sequence[Answer]:
        answers = list(super().load(cids))
        faulty = {n: one for n, one in enumerate(answers) if isinstance(one, (BlockNotFound, BlockMismatch))}
        for batch in batches((cids[position] for position in faulty), BLOCKS_AT_ONCE):
            self._fetch(batch)
        for position, fault in faulty.items():
            answers[position] = self._repaired(cids[position], fault)
        self._fetched = {}
        return answers

    def _fetch(self, cids: Sequence[bytes]) -> None:
        """Asks the other store for blocks together, since it may be far. What fails is asked for again by itself."""
        if isinstance(self._other.cas, BlockCAS):
            with suppress(HamtError), translated(self._other.cas, cids):
                self._fetched.update(zip(cids, self._other.cas.load_blocks(cids), strict=True))

    def _repaired(self, cid: bytes, fault: BlockNotFound | BlockMismatch) -> Answer:
        if isinstance(fault, BlockMismatch) and self._heals is False:
            return _unhealed(fault)
        try:
            answer = self._copy(cid)
        except CASError as error:
            raise CASError(
                f"{text(cid)} is faulty, and the other store is out of reach: {error}. What was repaired before "
                f"stays, {self._tally.repaired.there.blocks + len(self._written)} blocks here: call again to go on"
            ) from error
        except HamtError as error:
            return _in_both(fault, error, self._other.cas)
        if isinstance(fault, BlockMismatch) and self._heals is None:
            # Some stores do not write what they seem to have. Whether this one does the first block shows.
            self.flush(verified=False)
            self._heals = not isinstance(super().load([cid])[0], HamtError)
            if not self._heals:
                return _unhealed(fault)
        self._note(cid, answer.size if isinstance(answer, Whole) else len(answer))
        if self._unflushed > UNFLUSHED_BYTES or len(self._written) > UNFLUSHED_BLOCKS:
            self.flush()
        return answer

    def _copy(self, cid: bytes) -> Data | Whole:
        """What the other store has, which is now on its way into this one."""
        if isinstance(self._target, ValueTarget) and is_file(cid):
            value = self._other.blocks([cid])[0]
            self._target.save_value(cid, value)
            return Whole(len(value))
        if cid in self._fetched:
            data = self._fetched[cid]
        elif isinstance(self._other.cas, BlockCAS):
            with translated(self._other.cas, [cid]):
                [data] = self._other.cas.load_blocks([cid])
        elif is_file(cid):
            # It comes whole, so with all its blocks, of which those below are asked for next.
            *others, block = split_as(cid, self._other.blocks([cid])[0])
            lacking = set(self._target.lacking([other.cid for other in others]))
            for other in others:
                if other.cid in lacking:
                    self._save(other)
                    self._note(other.cid, len(other.data))
            data = block.data
        else:
            [data] = self._other.blocks([cid])
        self._save(Block(cid, data))
        return data

    def _save(self, block: Block) -> None:
        verify(block.cid, block.data)
        self._target.save_many([block])

    def _note(self, cid: bytes, size: int) -> None:
        self._written.append((cid, size))
        self._unflushed += size

    def flush(self, verified: bool = True) -> None:
        """Makes durable what was written. Raises `CASError` when the store does not give it back."""
        self._target.flush()
        written, self._written, self._unflushed = self._written, [], 0
        for cid, size in written:
            self._tally.repaired.add(cid, BLOCK | size)
        self._tally.samples = [*self._tally.samples, *(cid for cid, _ in written)][:SAMPLES]
        if verified:
            for batch in batches((cid for cid, _ in written), BLOCKS_AT_ONCE):
                for cid, answer in zip(batch, super().load(batch), strict=True):
                    if isinstance(answer, HamtError):
                        raise CASError(
                            f"{text(cid)} was written, and the store does not give it back: {answer}"
                        )

    def __enter__(self) -> Self:
        self._target.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.flush(verified=error is None)
        finally:
            self._target.__exit__(kind, error, traceback)


def _unhealed(fault: BlockMismatch) -> BlockMismatch:
    return BlockMismatch(
        f"{fault}. The store keeps what it has and does not take the sound copy: remove the block there, and call again"
    )


def _in_both(
    fault: BlockNotFound | BlockMismatch, other: HamtError, cas: ContentAddressedStore
) -> BlockNotFound | BlockMismatch:
    here = "missing" if isinstance(fault, BlockNotFound) else "altered"
    there = "missing" if isinstance(other, BlockNotFound) else "faulty"
    what = (
        f"{here} in both stores"
        if (here, there) == ("missing", "missing")
        else f"{here} here and {there} there"
    )
    whole = (
        ""
        if isinstance(cas, BlockCAS)
        else ". The other store gives files only whole, so no block inside them"
    )
    return type(fault)(f"{what}: {fault}; {other}{whole}")


def finish(cas: ContentAddressedStore, samples: Sequence[bytes]) -> None:
    """Lets a store tidy up that was written to. Raises `CASError` when `samples` that workers wrote are not in it."""
    target = StoreTarget(plain(cas))
    if lacking := target.lacking(samples):
        raise CASError(
            f"{len(lacking)} of {len(samples)} blocks that were written, such as {text(lacking[0])}, are not in "
            f"{plain(cas)!r} here: workers wrote to a store of their own. Repair it in one process, or where all share it"
        )
    target.finish()
