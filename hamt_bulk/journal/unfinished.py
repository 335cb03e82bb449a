"""Builds that were begun and are not complete: what there is, and giving one up."""

import fcntl
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hamt_bulk.block import text
from hamt_bulk.cas import ContentAddressedStore, open_cas
from hamt_bulk.cas.files import outside
from hamt_bulk.errors import CASError, InvalidInput
from hamt_bulk.journal.file import Contents, Journal, contents_of, opening
from hamt_bulk.journal.records import Build
from hamt_bulk.journal.resuming import SUFFIX, folder_for, journals_in


@dataclass(frozen=True, slots=True)
class Unfinished:
    """
    A build whose journal waits for the same call.

    path        of the journal
    finished    how many units are, such as Dask blocks; of `total`, which is `None` where the journal does not say
    arrays      what is built, by path; hidden names as they are in the tree
    base        the root that is changed, or converted, as text; `None`: a new one is built
    begun       who made the first call, where and when
    last        who made the last one
    is_running  whether a call is writing the journal now
    bytes       of the journal
    """

    path: Path
    finished: int
    total: int | None
    units: str
    arrays: tuple[str, ...]
    base: str | None
    begun: str
    last: str
    is_running: bool
    bytes: int

    @property
    def name(self) -> str:
        """Of the journal, by which `give_up` knows it."""
        return self.path.name.removesuffix(SUFFIX)

    def __str__(self) -> str:
        of = "" if self.total is None else f" of {self.total:,}"
        arrays = ", ".join(self.arrays[:5]) + (f" and {len(self.arrays) - 5} more" if self.arrays[5:] else "")
        lines = [f"{self.name}  {self.finished:,}{of} {self.units} finished"]
        if arrays:
            lines.append(f"arrays    {arrays}")
        if self.base is not None:
            lines.append(f"from      {self.base}")
        lines.append(f"begun by  {self.begun}")
        if self.last != self.begun:
            lines.append(f"last by   {self.last}")
        lines.append(
            "state     " + ("a call is writing it now" if self.is_running else "waits for the same call")
        )
        return "\n    ".join(lines)


def unfinished(cas: ContentAddressedStore | str) -> list[Unfinished]:
    """
    The builds into a store that are not complete, in the order in which they were written to last.

    Of those whose journal is the store's (`journal=True`): a journal in a file of its own is nobody's to find.
    """
    found = list(_all(folder_for(open_cas(cas))))
    return [build for _, build in sorted(found, key=lambda pair: pair[0])]


def give_up(name: str | os.PathLike[str], cas: ContentAddressedStore | str) -> Unfinished:
    """
    Forgets a build that nobody will go on with: its journal is removed, and the store lets go of what it had kept for it.

    name  as `Unfinished.name`, or enough of its beginning; or the path of a journal

    Raises `InvalidInput` when there is no such journal, or a call is writing it.
    """
    store = open_cas(cas)
    path = _path(name, folder_for(store))
    contents = contents_of(path)
    given_up = _described(path, contents)
    leases = [lease for call in contents.openings for lease in call.leases]
    with Journal.open(path, contents.build, opening({}, {}, leases)) as journal:
        # First: while the journal is there the same call can be made again, and this one too.
        build = store.begin()
        build.take_over(leases, [])
        build.abandon()
        journal.remove()
    return given_up


def _all(folder: Path) -> Iterator[tuple[float, Unfinished]]:
    for path, contents in journals_in(folder):
        try:
            with outside("cannot read", path):
                written = path.stat().st_mtime
            yield written, _described(path, contents)
        except CASError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            # Its build has just been completed.


def _described(path: Path, contents: Contents) -> Unfinished:
    calls = contents.openings
    finished = end = 0
    for first, after in sorted(block for batch in contents.batches for block in batch.blocks):
        finished += max(after - max(first, end), 0)  # what was done twice counts once
        end = max(end, after)
    totals = [call.total for call in calls if call.total]
    return Unfinished(
        path,
        finished,
        totals[-1] if totals else None,
        next((call.units for call in reversed(calls) if call.units), "Dask blocks"),
        tuple(sorted(contents.build.parts.get("grid", {}))),
        _root(contents.build),
        calls[0].process if calls else "somebody",
        calls[-1].process if calls else "somebody",
        _is_written(path),
        contents.end,
    )


def _root(build: Build) -> str | None:
    """The base of a build, or the source of a conversion."""
    for part in ("base", "source"):
        for root in build.parts.get(part, {}).values():
            if root:
                return text(root)
    return None


def _is_written(path: Path) -> bool:
    with outside("cannot read", path):
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(file)
    return False


def _path(name: str | os.PathLike[str], folder: Path) -> Path:
    """The journal that is meant."""
    given = os.fspath(name)
    if os.path.basename(given) != given:
        return Path(given)
    found = [path for path in folder.glob("*") if given and path.name.startswith(given) and given[0] != "."]
    if len(found) == 1:
        return found[0]
    what = (
        f"no journal in {folder} has a name" if not found else f"{len(found)} journals in {folder} have names"
    )
    raise InvalidInput(f"{what} that begins with {given!r}: give one that `hamt-bulk journals` shows")
