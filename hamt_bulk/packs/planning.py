"""What a drop does with each pack: decided by what is in it, before anything is changed."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from hamt_bulk.car import Section
from hamt_bulk.cas.packremoval import Stamp, stamp_of
from hamt_bulk.errors import CASError
from hamt_bulk.packs.digests import Digests
from hamt_bulk.packs.heads import Heads
from hamt_bulk.packs.reading import Reading
from hamt_bulk.packs.store import is_gone, is_sound, pack_path
from hamt_bulk.packs.window import Window

DEAD_SHARE = 4
"""A pack is written again when this part of its blocks, or of their bytes, is dead: a quarter."""

_GROUP = 1024


@dataclass(frozen=True, slots=True)
class Contents:
    """
    One pack and how much in it is dead.

    stamp       what tells the file from another one that takes its name
    file_bytes  of the file; `block_bytes`, `dead_bytes`: of its blocks, and of the dead ones
    damage      why it is left alone, or `None`
    """

    name: str
    stamp: Stamp
    file_bytes: int
    blocks: int
    block_bytes: int
    dead: int
    dead_bytes: int
    damage: str | None

    @property
    def is_dead(self) -> bool:
        """Whether nothing in it is needed."""
        return self.damage is None and self.dead == self.blocks

    @property
    def is_worth_writing(self) -> bool:
        """Whether enough of it is dead."""
        share = self.dead * DEAD_SHARE >= self.blocks or self.dead_bytes * DEAD_SHARE >= self.block_bytes
        return self.damage is None and 0 < self.dead < self.blocks and share


def contents_of(folder: Path, name: str, live: Digests) -> Contents | None:
    """
    What is live in a pack; `None` when it is gone by now.

    Of a pack that is to be written again the live blocks are hashed: one that has a damaged one is left alone.
    """
    path = pack_path(folder, name)
    try:
        stamp = stamp_of(path)
        heads = Heads(path)
        blocks = block_bytes = dead = dead_bytes = 0
        for section, needed in _marked(heads, live):
            blocks, block_bytes = blocks + 1, block_bytes + section.data_length
            if not needed:
                dead, dead_bytes = dead + 1, dead_bytes + section.data_length
        found = Contents(name, stamp, stamp[2], blocks, block_bytes, dead, dead_bytes, heads.damage)
        if found.damage is None and not heads.certain:
            # Where nothing says that the heads are right, the blocks do.
            faults = (piece.fault for piece in Reading(path).pieces())
            found = replace(found, damage=next((fault for fault in faults if fault is not None), None))
        elif found.is_worth_writing and not all(data is not None for _, data in live_blocks(path, live)):
            found = replace(found, damage="a block of it that is needed is damaged")
    except CASError as error:
        if is_gone(error):
            return None
        raise
    return found


def live_blocks(path: Path, live: Digests) -> Iterator[tuple[bytes, bytes | None]]:
    """The live blocks of a pack, one in memory at a time: CIDs and bytes, `None` for those that are damaged."""
    with Window(path) as window:
        for section, needed in _marked(Heads(path), live):
            if needed:
                data = window.read(section.data_offset, section.data_length)
                yield section.cid, data if is_sound(section.cid, data) else None


def _marked(heads: Heads, live: Digests) -> Iterator[tuple[Section, bool]]:
    """The sections of a pack, and whether each block is live."""
    sections = heads.sections()
    while group := list(islice(sections, _GROUP)):
        yield from zip(group, live.has_many([section.cid for section in group]), strict=True)
