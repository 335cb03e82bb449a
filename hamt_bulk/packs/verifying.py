"""Every block of every pack, hashed."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hamt_bulk.block import text
from hamt_bulk.cas import PackCAS
from hamt_bulk.cas.packindex import rows_of
from hamt_bulk.errors import CASError
from hamt_bulk.packs.reading import Reading, is_ours
from hamt_bulk.packs.store import (
    LESS,
    MAX_LISTED,
    Copies,
    folder_of,
    is_gone,
    lines_up_to,
    names_of,
    pack_path,
)
from hamt_bulk.progress import BuildProgress, ProgressOption, progress_of
from hamt_bulk.wording import many, size_text

SHOWN_BYTES = 4 << 20
"""Progress is shown after so many."""


@dataclass(frozen=True, slots=True)
class DamagedBlock:
    """
    A block of a pack that stores do not find there, or find altered.

    cid     `None` where nothing tells
    offset  of its section, in bytes from the start of the pack
    whole   whether its bytes are there, and what leads to them is damaged: `rebuild` makes it readable
    copy    the name of another pack that has it, sound
    """

    cid: str | None
    offset: int
    what: str
    whole: bool
    copy: str | None

    def __str__(self) -> str:
        state = "its bytes are whole" if self.whole else "lost here"
        copy = "no other copy" if self.copy is None else f"a sound copy is in {self.copy}"
        return f"{self.cid or 'an unknown block'} at byte {self.offset}: {self.what}: {state}; {copy}"


@dataclass(frozen=True, slots=True)
class DamagedPack:
    """
    A pack in which something is wrong.

    sound    its blocks whose bytes are what their CIDs say; `bytes`: of those
    faults   what is wrong beside its blocks
    damaged  the first of its blocks that are
    count    how many those are in all
    hidden   sound blocks that stores do not find, as nothing in the pack leads to them: `rebuild` makes them readable
    """

    name: str
    sound: int
    bytes: int
    faults: tuple[str, ...]
    damaged: tuple[DamagedBlock, ...]
    count: int
    hidden: int

    def __str__(self) -> str:
        lines = [
            f"{self.name}: {many(self.sound, 'block')} sound ({size_text(self.bytes)}), {self.count:,} damaged"
        ]
        lines += (f"  {fault}" for fault in self.faults)
        if self.hidden:
            lines.append(
                f"  stores do not find {self.hidden:,} of its sound blocks: --index makes them readable"
            )
        lines += lines_up_to((f"  {block}" for block in self.damaged), len(self.damaged), self.count)
        return "\n".join(lines)


@dataclass(frozen=True, slots=True)
class Verified:
    """
    What `verify` found.

    packs, blocks, bytes  that were read: blocks that are sound, in all packs, and their bytes
    damaged               packs in which something is wrong
    lost                  damaged blocks without a sound copy, and packs that cannot be read
    short                 packs that have lost blocks of which nothing tells how many they were
    unreachable           whole blocks that stores do not find before `rebuild`
    """

    path: str
    packs: int
    blocks: int
    bytes: int
    damaged: tuple[DamagedPack, ...]
    lost: int
    short: int
    unreachable: int

    @property
    def ok(self) -> bool:
        """Whether no block is lost, and each is found."""
        return not self.lost and not self.short and not self.unreachable

    def __str__(self) -> str:
        lines = [str(pack) for pack in self.damaged]
        lines.append(
            f"{many(self.blocks, 'block')} sound, {size_text(self.bytes)}, in {many(self.packs, 'pack')}"
        )
        if not self.damaged:
            lines.append("sound")
        elif self.ok:
            lines.append(f"{many(len(self.damaged), 'pack')} damaged, no block lost")
        else:
            lost = [f"{many(self.lost, 'block')} lost"] if self.lost else []
            lost += [f"in {many(self.short, 'pack')} {LESS}"] if self.short else []
            hidden = [f"{self.unreachable:,} not found before --index"] if self.unreachable else []
            lines.append(f"{many(len(self.damaged), 'pack')} damaged: {', '.join(lost + hidden)}")
        return "\n".join(lines)


def verify(
    path: str | os.PathLike[str] | PackCAS, *, max_listed: int = MAX_LISTED, progress: ProgressOption = None
) -> Verified:
    """
    What is wrong with the packs of a store, if anything: every block is hashed, and reading goes on past damage.

    max_listed  how many damaged blocks are listed; all are counted

    Memory is that of one block, and 100 bytes for each block of the pack that is being read.
    Raises `InvalidInput` when there is no store.
    """
    folder = folder_of(path)
    with progress_of(progress) as show:
        work = _Verifying(folder, max_listed)
        names = names_of(folder)
        total = sum(size for name in names if (size := _size(folder, name)) is not None)
        for name in names:
            work.pack(name, lambda done: show(BuildProgress("verify", done >> 20, (total >> 20) + 1)))
        show(BuildProgress("verify", (total >> 20) + 1, (total >> 20) + 1))
    return Verified(
        str(folder),
        work.packs,
        work.blocks,
        work.bytes,
        tuple(work.damaged),
        work.lost,
        work.short,
        work.unreachable,
    )


class _Verifying:
    """The packs one after the other, and what was counted."""

    def __init__(self, folder: Path, limit: int) -> None:
        self._folder = folder
        self._limit = limit
        self._copies = Copies(folder)
        self._read = 0
        self.packs = self.blocks = self.bytes = self.lost = self.short = self.unreachable = 0
        self.damaged: list[DamagedPack] = []

    def pack(self, name: str, show: Callable[[int], None]) -> None:
        """Reads one pack, and calls `show` with the bytes that were read so far, now and then."""
        reading = Reading(pack_path(self._folder, name), lambda: rows_of(self._folder, name))
        sound = size = lost = unreachable = count = 0
        listed: list[DamagedBlock] = []
        shown = self._read
        try:
            for piece in reading.pieces():
                length = 0 if piece.data is None else len(piece.data)
                self._read += length
                if self._read - shown > SHOWN_BYTES:
                    shown = self._read
                    show(shown)
                if piece.data is not None:
                    sound, size = sound + 1, size + length
                if piece.fault is None:
                    continue
                copy = None if piece.cid is None else self._copies.elsewhere(piece.cid, name)
                if copy is None:
                    unreachable += piece.data is not None
                    lost += piece.data is None
                count += 1
                if len(listed) < self._limit:
                    cid = None if piece.cid is None else text(piece.cid)
                    listed.append(DamagedBlock(cid, piece.offset, piece.fault, piece.data is not None, copy))
        except CASError as error:
            if is_gone(error):
                return
            reading.faults.append(str(error))
            lost += 1
        if not reading.is_pack and not is_ours(reading.path):
            self.damaged.append(DamagedPack(name, 0, 0, ("it is no pack, and has no blocks",), (), 0, 0))
            return
        self.packs, self.blocks, self.bytes = self.packs + 1, self.blocks + sound, self.bytes + size
        self.lost, self.unreachable = self.lost + lost, self.unreachable + unreachable + reading.hidden
        self.short += reading.is_less
        if reading.is_less:
            reading.faults.append(LESS)
        self._limit -= len(listed)
        if reading.faults or count:
            self.damaged.append(
                DamagedPack(name, sound, size, tuple(reading.faults), tuple(listed), count, reading.hidden)
            )


def _size(folder: Path, name: str) -> int | None:
    try:
        return pack_path(folder, name).stat().st_size
    except OSError:
        return None
