"""
Packs that go while others read and write.

A name may be given again: a writer that saves the same blocks puts a new file in the place of the old one, and counts
on it. So a file is looked at once more where no writer replaces it: under a name of its own, NAME-leaving-RANDOM.car,
beside the others, where readers find it as any pack. When it is not the one that was read it gets its name back. A
process that dies in between leaves a pack that is called oddly, and nothing that cannot be read.
"""

import os
import re
import secrets
from contextlib import suppress
from pathlib import Path
from typing import TypeAlias

from hamt_bulk.cas.files import outside, place_durably, sync_folder

Stamp: TypeAlias = tuple[int, ...]
"""What tells a file from another one that takes its name, or that is written or renewed once more."""

_LEAVING = re.compile(r"-leaving-[0-9a-f]{16}(?=\.car\Z)")
_MAX_STEM = 200  # names of files have at most 255 bytes


def stamp(status: os.stat_result) -> Stamp:
    """The stamp of a file: its device, number, size, and when it was written."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def stamp_of(path: Path) -> Stamp:
    """The stamp of the file at `path`. Raises `CASError`."""
    with outside("cannot read", path):
        return stamp(os.stat(path))


def home_of(path: Path) -> Path:
    """What a pack is called when nobody is about to remove it."""
    return path.with_name(_LEAVING.sub("", path.name))


def is_leaving(path: Path) -> bool:
    """Whether somebody is about to remove a pack, or died while he was."""
    return home_of(path) != path


def remove(path: Path, read: Stamp, into: Path | None = None) -> bool:
    """
    Removes a pack. False when the file is gone, or is not the one whose stamp is `read`: then that stays.

    read  taken before the file was read
    into  where the file is kept, instead of nowhere
    """
    leaving = path.with_name(f"{home_of(path).stem[:_MAX_STEM]}-leaving-{secrets.token_hex(8)}.car")
    with outside("cannot remove", path):
        try:
            if stamp(os.stat(path)) != read:
                return False
            os.rename(path, leaving)
            found = stamp(os.stat(leaving))
        except FileNotFoundError:
            return False  # another process was faster
        if found != read:
            put_back(leaving, path)
            return False
        if into is None:
            with suppress(FileNotFoundError):  # merged by another process, which took it for a pack as any
                os.unlink(leaving)
        else:
            os.rename(leaving, into)
            sync_folder(into.parent)
            sync_folder(path.parent)
    return True


def put_back(leaving: Path, path: Path) -> None:
    """Gives a pack its name back, unless a new one has that by now: then both stay."""
    with outside("cannot rename", leaving):
        try:
            place_durably(leaving, path)
        except (FileExistsError, FileNotFoundError):
            return  # or another process merged it
        with suppress(FileNotFoundError):
            os.unlink(leaving)
