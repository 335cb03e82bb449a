"""Packs whose own index or header is damaged, or that were cut short, made whole; and the index over all of them."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hamt_bulk.block import Block
from hamt_bulk.cas import PackCAS
from hamt_bulk.cas.packfolder import ASIDE
from hamt_bulk.cas.packindex import PackIndex, rows_of
from hamt_bulk.cas.packremoval import Stamp, home_of, is_leaving, put_back, remove, stamp_of
from hamt_bulk.errors import CASError
from hamt_bulk.packs.heads import damage_of
from hamt_bulk.packs.reading import Reading, is_ours
from hamt_bulk.packs.store import LESS, folder_of, is_gone, names_of, pack_path, place_aside
from hamt_bulk.progress import BuildProgress, ProgressOption, progress_of
from hamt_bulk.wording import many


@dataclass(frozen=True, slots=True)
class RebuiltPack:
    """
    A pack that was damaged.

    saved   its whole blocks, which a new pack has
    lost    places where a block was, and cannot be read
    is_less whether others are lost too, and nothing says how many
    packs   the new packs
    aside   where the damaged file is kept, from the store's folder; `None` when nothing was lost for certain, or
            another pack came in its place meanwhile, which stays
    """

    name: str
    damage: str
    saved: int
    lost: int
    is_less: bool
    packs: tuple[str, ...]
    aside: str | None
    is_replaced: bool

    def __str__(self) -> str:
        into = f", now in {' and '.join(self.packs)}" if self.packs else ""
        lost = f", {self.lost:,} lost" if self.lost else ""
        lost += f", {LESS}" if self.is_less else ""
        return f"{self.name}: {self.damage}: {many(self.saved, 'block')} saved{into}{lost}; {self._kept}"

    @property
    def _kept(self) -> str:
        if self.is_replaced:
            return "another pack came in its place meanwhile, and stays"
        return "nothing lost" if self.aside is None else f"the damaged file is kept as {self.aside}"


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """
    What `rebuild` did.

    packs    that the new multi-pack index covers; `blocks`: the rows it has
    rebuilt  packs that were damaged
    no_packs files among the packs that are none; they stay
    """

    path: str
    packs: int
    blocks: int
    rebuilt: tuple[RebuiltPack, ...]
    no_packs: tuple[str, ...]

    def __str__(self) -> str:
        lines = [str(pack) for pack in self.rebuilt]
        lines += (f"{name} is no pack, and stays" for name in self.no_packs)
        lines.append(f"the index is made anew: {many(self.packs, 'pack')}, {many(self.blocks, 'block')}")
        return "\n".join(lines)


def rebuild(path: str | os.PathLike[str] | PackCAS, *, progress: ProgressOption = None) -> Rebuilt:
    """
    What was mended, so that stores find every block whose bytes are whole.

    A damaged pack goes when a pack with all that is whole of it is in place, durably. It is kept aside unless
    nothing was lost. Packs with damaged blocks alone stay as they are.

    Raises `InvalidInput` when there is no store.
    """
    folder = folder_of(path)
    rebuilt, no_packs = [], []
    with progress_of(progress) as show:
        names = names_of(folder)
        for number, name in enumerate(names):
            show(BuildProgress("rebuild", number, len(names)))
            for done in _mended(folder, name):
                if isinstance(done, str):
                    no_packs.append(done)
                else:
                    rebuilt.append(done)
        index = PackIndex(folder)
        index.rewrite()
        show(BuildProgress("rebuild", len(names), len(names)))
    return Rebuilt(str(folder), index.sound, index.rows, tuple(rebuilt), tuple(no_packs))


def _mended(folder: Path, name: str) -> Iterator[RebuiltPack | str]:
    """What was done with one pack, if anything; its name when it is none."""
    try:
        path = pack_path(folder, name)
        read = stamp_of(path)
        damage = damage_of(path)
        if damage is not None:
            yield _written_again(folder, name, damage, read) or name
        elif is_leaving(path):
            put_back(path, home_of(path))  # who was about to remove it died
    except CASError as error:
        if not is_gone(error):
            raise


def _written_again(folder: Path, name: str, damage: str, read: Stamp) -> RebuiltPack | None:
    path = pack_path(folder, name)
    reading = Reading(path, lambda: rows_of(folder, name))
    saved = lost = 0
    with PackCAS(folder).writer() as writer:
        for piece in reading.pieces():
            if piece.cid is None or piece.data is None:
                lost += 1
            else:
                saved += 1
                writer.save_many([Block(piece.cid, piece.data)])
        if not reading.is_pack and not is_ours(path):
            return None
        writer.flush()
    packs = tuple(f"{pack.parent.name}/{pack.name}" for pack in writer.paths)
    aside, is_replaced = None, False
    if path not in writer.paths:  # all of its blocks, in their order, have its name
        if lost or not saved or not reading.has_index:  # without an index, who knows what there was
            aside = place_aside(folder, name)
        is_replaced = not remove(path, read, aside)
    kept = None if aside is None or is_replaced else f"{ASIDE}/{aside.name}"
    return RebuiltPack(name, damage, saved, lost, reading.is_less, packs, kept, is_replaced)
