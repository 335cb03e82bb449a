"""What all care of a pack store shares: its folder, its packs, and how sizes are told."""

import os
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from hamt_bulk.block import Data, verify
from hamt_bulk.cas import PackCAS
from hamt_bulk.cas.files import outside, sync_folder
from hamt_bulk.cas.packfolder import ASIDE
from hamt_bulk.cas.packindex import PackIndex, packs_in
from hamt_bulk.errors import CASError, HamtError, InvalidInput

LESS = "blocks are lost: how many is not known"
"""What is said of a pack of which nothing tells how much is gone."""

MAX_LISTED = 1000
"""How many damaged blocks are listed; all are counted."""


def folder_of(path: str | os.PathLike[str] | PackCAS) -> Path:
    """The folder of a pack store, where what was saved on `path` is flushed. Raises `InvalidInput` when there is none."""
    cas = path if isinstance(path, PackCAS) else PackCAS(path)
    if isinstance(path, PackCAS):
        cas.flush()
    if not cas.is_there():
        raise InvalidInput(
            f"{cas.path}: there is no pack store: give the folder that a PackCAS was made with"
        )
    return cas.path


def names_of(folder: Path) -> list[str]:
    """The packs that are there, as KIND/NAME.car."""
    return sorted(packs_in(folder))


def pack_path(folder: Path, name: str) -> Path:
    """Where the pack `name` is."""
    return folder / "packs" / name


def is_gone(error: CASError) -> bool:
    """Whether a pack could not be read since it is not there any more: merged, by another process."""
    return isinstance(error.__cause__, FileNotFoundError)


def place_aside(folder: Path, name: str) -> Path:
    """Where a pack may be moved, so that nobody reads it."""
    aside = folder / ASIDE
    with outside("cannot set aside", pack_path(folder, name)):
        if not aside.is_dir():
            aside.mkdir(exist_ok=True)
            sync_folder(folder)
        final = aside / name.replace("/", "-")
        while final.exists():
            final = final.with_name(f"{final.stem}-{time.time_ns()}.car")
    return final


class Copies:
    """The blocks of all packs, where a sound copy of a damaged one may be."""

    def __init__(self, folder: Path) -> None:
        self._packs = folder / "packs"
        self._index = PackIndex(folder)

    def elsewhere(self, cid: bytes, besides: str) -> str | None:
        """The name of another pack that has the block, sound; or `None`."""
        if not self._index.opened:
            self._index.refresh()
        for archive, offset in self._index.find(cid):
            name = archive.path.relative_to(self._packs).as_posix()
            if name == besides:
                continue
            try:
                found = archive.load(offset, cid)
            except HamtError:
                continue  # it is damaged there as well
            if found is not None:
                return name
        return None


def is_sound(cid: bytes, data: Data) -> bool:
    """Whether these bytes are those of the block."""
    try:
        verify(cid, data)
    except HamtError:
        return False
    return True


def lines_up_to(lines: Iterator[str], limit: int, count: int) -> Iterator[str]:
    """So many of `lines`, and how many of `count` are left out."""
    for number, line in enumerate(lines):
        if number == limit:
            break
        yield line
    if count > limit:
        yield f"  and {count - limit:,} more"


def time_text(seconds: float) -> str:
    """A time as people here read it."""
    return datetime.fromtimestamp(seconds).strftime("%Y-%m-%d %H:%M")
