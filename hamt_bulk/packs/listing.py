"""What there is in a pack store, as far as indexes and headers show."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hamt_bulk.car import HEADER_V2_BYTES, header_v1, header_v2
from hamt_bulk.cas import PackCAS
from hamt_bulk.cas.archive import Archive
from hamt_bulk.cas.files import outside
from hamt_bulk.cas.packfolder import ASIDE
from hamt_bulk.errors import CASError
from hamt_bulk.packs.reading import is_ours
from hamt_bulk.packs.store import folder_of, is_gone, names_of, pack_path, time_text
from hamt_bulk.packs.temporary import Temporary, temporary_files
from hamt_bulk.wording import many, size_text


@dataclass(frozen=True, slots=True)
class Pack:
    """
    One pack.

    name     KIND/NAME.car
    blocks   as many as its index names; without one, as can be found
    bytes    of the file
    written  when, in seconds since 1970
    damage   what is wrong, as far as index and headers show; `None`: nothing
    """

    name: str
    kind: str
    blocks: int
    bytes: int
    written: float
    damage: str | None

    def __str__(self) -> str:
        state = "sound" if self.damage is None else f"damaged: {self.damage}"
        return (
            f"{time_text(self.written)} {self.blocks:>10,} {size_text(self.bytes):>10}  {self.name}  {state}"
        )


@dataclass(frozen=True, slots=True)
class Listing:
    """
    The packs of a store, by kind and name, and what else there is.

    temporary  files in `tmp/`
    aside      packs in `damaged/`, which nobody reads
    """

    path: str
    packs: tuple[Pack, ...]
    temporary: tuple[Temporary, ...]
    aside: tuple[str, ...]

    @property
    def blocks(self) -> int:
        return sum(pack.blocks for pack in self.packs)

    @property
    def bytes(self) -> int:
        return sum(pack.bytes for pack in self.packs)

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        if self.packs:
            yield f"{'written':<16} {'blocks':>10} {'bytes':>10}  pack"
        yield from map(str, self.packs)
        yield f"{many(len(self.packs), 'pack')}: {many(self.blocks, 'block')}, {size_text(self.bytes)}"
        if damaged := sum(pack.damage is not None for pack in self.packs):
            yield f"{many(damaged, 'pack')} damaged: --verify shows what is lost, --index saves what is whole"
        for file in self.temporary:
            who = "the build that it is for" if file.is_build else "its writer"
            yield f"{time_text(file.written)} {size_text(file.bytes):>21}  tmp/{file.name}  {who} is {file.writer}"
        for name in self.aside:
            yield f"kept aside, and never read: {name}"


def packs(path: str | os.PathLike[str] | PackCAS) -> Listing:
    """
    The packs of a store. Blocks are not read.

    Raises `InvalidInput` when there is no store.
    """
    folder = folder_of(path)
    found = (_pack(folder, name) for name in names_of(folder))
    aside = folder / ASIDE
    with outside("cannot list", aside):
        kept = sorted(f"{ASIDE}/{name}" for name in os.listdir(aside)) if aside.is_dir() else []
    return Listing(
        str(folder),
        tuple(pack for pack in found if pack is not None),
        tuple(temporary_files(folder)),
        tuple(kept),
    )


def _pack(folder: Path, name: str) -> Pack | None:
    """One pack; `None` when it is gone by now."""
    archive = Archive(pack_path(folder, name))
    kind = name.partition("/")[0]
    try:
        with outside("cannot read", archive.path):
            status = os.stat(archive.path)
        header, index = archive.open()
        blocks = sum(len(columns.offsets) for columns in index.values())
        damage = archive.damage
        if damage is None and header is not None and is_ours(archive.path):
            end = HEADER_V2_BYTES + header.data_size
            damage = _header_damage(archive.path, end)
    except CASError as error:
        if is_gone(error):
            return None
        return Pack(name, kind, 0, 0, 0.0, str(error))
    return Pack(name, kind, blocks, status.st_size, status.st_mtime, damage)


def _header_damage(path: Path, end: int) -> str | None:
    """What is wrong with the header of one of our packs, whose payload ends at `end`."""
    sound = header_v2(HEADER_V2_BYTES, end - HEADER_V2_BYTES, end) + header_v1()
    with outside("cannot read", path), path.open("rb") as file:
        found = file.read(len(sound))
    return None if found == sound else "its header does not say where payload and index are"
