"""Small packs put together, as at the end of a build, but all of them."""

import os
from contextlib import suppress
from dataclasses import dataclass

from hamt_bulk.cas import PackCAS
from hamt_bulk.cas.packindex import PackIndex
from hamt_bulk.cas.packmerge import groups
from hamt_bulk.cas.packmerge import merge as merge_packs
from hamt_bulk.packs.store import folder_of, names_of, pack_path
from hamt_bulk.progress import BuildProgress, ProgressOption, progress_of
from hamt_bulk.wording import many


@dataclass(frozen=True, slots=True)
class Merged:
    """
    What `merge` did.

    gone    packs that were merged into others
    before  how many packs there were, and `after` how many there are
    """

    path: str
    gone: tuple[str, ...]
    before: int
    after: int

    def __str__(self) -> str:
        if not self.gone:
            return f"{many(self.before, 'pack')}: no small ones to merge"
        return f"merged: {many(self.before, 'pack')} before, {self.after:,} now"


def merge(path: str | os.PathLike[str] | PackCAS, *, progress: ProgressOption = None) -> Merged:
    """
    What was merged: all packs of a kind that are smaller than 4 MiB became one. Damaged ones stay as they are.

    Merged packs are new: `drop` leaves them alone as long as other new ones.

    Raises `InvalidInput` when there is no store.
    """
    folder = folder_of(path)
    before = names_of(folder)
    sizes: dict[str, int] = {}
    for name in before:
        with suppress(OSError):  # gone by now, or what cannot be looked at, which stays
            sizes[name] = pack_path(folder, name).stat().st_size
    gone: list[str] = []
    PackCAS(folder).writer().close()  # makes what is missing of the folder
    parts = groups(sizes, to_one=True)
    with progress_of(progress) as show:
        for number, names in enumerate(parts):
            show(BuildProgress("merge", number, len(parts)))
            gone += merge_packs(folder, names)
        if gone:
            PackIndex(folder).update()
        show(BuildProgress("merge", len(parts), len(parts)))
    return Merged(str(folder), tuple(gone), len(before), len(names_of(folder)) if gone else len(before))
