"""What a drop did, or would do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hamt_bulk.block import text
from hamt_bulk.cas.packbuilds import SUFFIX
from hamt_bulk.packs.marking import Marking
from hamt_bulk.packs.planning import Contents
from hamt_bulk.packs.temporary import Temporary
from hamt_bulk.wording import many, size_text

SHOWN = 20
"""So many packs are named where people read it."""


@dataclass(frozen=True, slots=True)
class DroppedPack:
    """
    A pack of which something was dropped, or stays.

    blocks       all that it had
    dead_blocks  those of them that nobody needs; `dead_bytes`: theirs
    bytes        of the file as it was
    damage       why it was left alone, if so
    """

    name: str
    blocks: int
    dead_blocks: int
    dead_bytes: int
    bytes: int
    damage: str | None

    @classmethod
    def of(cls, contents: Contents) -> Self:
        return cls(
            contents.name,
            contents.blocks,
            contents.dead,
            contents.dead_bytes,
            contents.file_bytes,
            contents.damage,
        )

    def __str__(self) -> str:
        return f"{self.name}: {self.dead_blocks:,} of {many(self.blocks, 'block')} dead, {size_text(self.dead_bytes)}"


@dataclass(frozen=True, slots=True)
class Dropped:
    """
    What `drop` did; with `dry_run` what it would do, in the same numbers.

    keep       the roots
    live       blocks that they reach, and journals name; `absent`: of the latter, those that are not there
    removed    packs without a live block
    rewritten  packs that were written again without their dead blocks
    kept       packs with dead blocks that are too few to be worth it
    damaged    packs that were left alone since something in them is damaged
    young      packs that are younger than the limit, or became so meanwhile
    temporary  files of writers that died, and `temporary_bytes`: theirs
    running    builds and copies that were under way, by HOST-PID-RANDOM
    """

    path: str
    dry_run: bool
    keep: tuple[str, ...]
    live: int
    absent: int
    removed: tuple[DroppedPack, ...]
    rewritten: tuple[DroppedPack, ...]
    kept: tuple[DroppedPack, ...]
    damaged: tuple[DroppedPack, ...]
    young: tuple[str, ...]
    temporary: tuple[str, ...]
    temporary_bytes: int
    running: tuple[str, ...]

    @classmethod
    def of(
        cls,
        folder: Path,
        dry_run: bool,
        roots: Sequence[bytes],
        marking: Marking,
        *,
        removed: Sequence[Contents],
        written: Sequence[Contents],
        kept: Sequence[Contents],
        damaged: Sequence[Contents],
        young: Sequence[str],
        temporary: Sequence[Temporary],
        running: Sequence[str],
    ) -> Self:
        return cls(
            str(folder),
            dry_run,
            tuple(map(text, roots)),
            len(marking.live),
            marking.absent,
            tuple(map(DroppedPack.of, removed)),
            tuple(map(DroppedPack.of, written)),
            tuple(DroppedPack.of(contents) for contents in kept if contents.dead),
            tuple(map(DroppedPack.of, damaged)),
            tuple(young),
            tuple(file.name for file in temporary),
            sum(file.bytes for file in temporary),
            tuple(name.removesuffix(SUFFIX) for name in running),
        )

    @property
    def blocks(self) -> int:
        """How many blocks were dropped, as often as they were there."""
        return sum(pack.dead_blocks for pack in (*self.removed, *self.rewritten))

    @property
    def bytes(self) -> int:
        """How many bytes that gave back: of files that went, and of dropped blocks of packs that were written again."""
        return (
            sum(pack.bytes for pack in self.removed)
            + sum(pack.dead_bytes for pack in self.rewritten)
            + self.temporary_bytes
        )

    @property
    def dead_bytes(self) -> int:
        """How many bytes of dead blocks stay."""
        return sum(pack.dead_bytes for pack in self.kept)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        would = "would be " if self.dry_run else ""
        yield f"{many(self.live, 'block')} needed by {many(len(self.keep), 'root')} and journals"
        if self.absent:
            yield f"{many(self.absent, 'block')} that journals name are not there"
        yield from _named(f"{many(len(self.removed), 'pack')} {would}removed", self.removed)
        yield from _named(f"{many(len(self.rewritten), 'pack')} {would}written again", self.rewritten)
        if self.temporary:
            yield f"{many(len(self.temporary), 'file')} of dead writers {would}removed, {size_text(self.temporary_bytes)}"
        if self.kept:
            packs = many(len(self.kept), "pack")
            yield f"{size_text(self.dead_bytes)} of dead blocks stay in {packs}, less than a quarter of each"
        if self.young:
            limit = "the limit, or than a build that runs" if self.running else "the limit"
            yield f"{many(len(self.young), 'pack')} younger than {limit}, left alone"
        if self.running:
            names = ", ".join(self.running[:3]) + ("…" if self.running[3:] else "")
            yield f"{many(len(self.running), 'build')} under way: {names}"
        for pack in self.damaged[:SHOWN]:
            yield f"{pack.name} is damaged and left alone ({pack.damage}): see --verify, and --index"
        if len(self.damaged) > SHOWN:
            yield f"and {len(self.damaged) - SHOWN:,} more that are damaged"
        yield f"{many(self.blocks, 'block')} {would}dropped, {size_text(self.bytes)} {would}free"


def _named(what: str, packs: Sequence[DroppedPack]) -> Iterator[str]:
    yield what
    yield from (f"  {pack}" for pack in packs[:SHOWN])
    if len(packs) > SHOWN:
        yield f"  and {len(packs) - SHOWN:,} more"
