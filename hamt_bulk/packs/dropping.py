"""
Letting go of the blocks that no root needs.

    1. mark     what the roots that are kept reach, and what journals name
    2. plan     for each pack that is old enough: goes, is written again, or stays
    3. act      a new pack is in place, durably, before the old one goes

Nobody has to stop meanwhile. Readers that miss a pack look again, as after a merge. What writers write is younger than
the limit, or than the build that it belongs to (`cas.packbuilds`), and so is a pack that one of them puts in the place of another of the same name: whether a file is still the
one that was planned for shows when it is removed (`cas.packremoval`), and if not it stays.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path

from hamt_bulk.block import AnyCID, Block, text, to_bytes
from hamt_bulk.car import read_header
from hamt_bulk.cas import PackCAS
from hamt_bulk.cas.files import is_unreadable, outside
from hamt_bulk.cas.packbuilds import Running
from hamt_bulk.cas.packindex import PackIndex
from hamt_bulk.cas.packremoval import remove, stamp_of
from hamt_bulk.errors import CASError, HamtError, InvalidInput
from hamt_bulk.journal import bases_of_journals, live_of_journals
from hamt_bulk.manifest import HashFn, blake3_hashfn
from hamt_bulk.packs.digests import Digests, Held
from hamt_bulk.packs.dropped import Dropped
from hamt_bulk.packs.marking import Marking
from hamt_bulk.packs.planning import Contents, contents_of, live_blocks
from hamt_bulk.packs.store import folder_of, is_gone, names_of, pack_path
from hamt_bulk.packs.temporary import Temporary, is_left, now_of, running_builds, temporary_files
from hamt_bulk.progress import BuildProgress, Progress, ProgressOption, progress_of

MARGIN_SECONDS = 60.0
"""A build counts as so much older than its file says."""

OLDER_THAN_HOURS = 24.0
"""Younger packs and files are not touched: somebody who writes them key by key may not have named a root yet."""


def drop(
    path: str | os.PathLike[str] | PackCAS,
    keep: Iterable[AnyCID],
    *,
    older_than_hours: float = OLDER_THAN_HOURS,
    dry_run: bool = False,
    hash_fn: HashFn = blake3_hashfn,
    now: float | None = None,
    progress: ProgressOption = None,
) -> Dropped:
    """
    What was dropped: blocks that no root in `keep` reaches, nor the base of a build that runs or has a journal in the store,
    and that neither of them has written.

    keep              roots of trees, at least one: everything below them stays readable. What a value links to is
                      not, but for the blocks of UnixFS files: give values that are roots too
    older_than_hours  younger packs, and younger files in `tmp/`, are not touched. What builds and copies count on that run
                      now stays whatever its age; not so what a `HAMT` or a Zarr store has written, and the root that it
                      changes: 0 is for when nobody writes that way
    dry_run           says what would be done, and changes nothing
    hash_fn           what the trees were built with
    now               seconds since 1970; `None`: the clock's here or of the file system, whichever is behind. For that a
                      file is made in `tmp/` and removed, also when dry

    A pack without a live block goes. One of which a quarter or more is dead is written again without that. In others
    dead blocks stay. Packs in which something is damaged stay as they are. Values are looked for, not read, but for
    those that are written again. Memory is 40 bytes for each live block, as many for each that a journal names, and 100
    for each of one pack.

    Raises `InvalidInput` for what is no root of a tree, and what is wrong with the first block below a root that is
    missing or damaged. Then nothing was dropped.
    """
    folder = folder_of(path)
    roots = _roots(keep)
    limit = _seconds(older_than_hours)
    moment = now_of(folder) if now is None else now
    with progress_of(progress) as show:
        builds = running_builds(folder, moment)
        marking = _marked(folder, roots, hash_fn, builds, moment, show)
        # The files are looked at first: those of this very drop are none of them.
        left = [file for file in temporary_files(folder) if is_left(file, moment, limit)]
        work = _Drop(folder, marking.live, dry_run)
        names = names_of(folder)
        newest = min([moment - limit, *(build.since - MARGIN_SECONDS for build in builds.values())])
        # All is decided before anything is changed: a pack that is written may take the place of another one.
        for number, name in enumerate(names):
            show(BuildProgress("drop", number, len(names)))
            work.plan(name, newest)
        work.act()
        work.temporary(left)
        show(BuildProgress("drop", len(names), len(names)))
    return work.report(roots, marking, list(builds))


def _roots(keep: Iterable[AnyCID]) -> list[bytes]:
    if isinstance(keep, (str, bytes)):
        raise InvalidInput(f"keep={str(keep)[:80]!r}: expected several roots, such as a list of one")
    roots = list(dict.fromkeys(to_bytes(root) for root in keep))
    if not roots:
        raise InvalidInput("keep=[]: give at least one root that is to be kept; without one all would go")
    return roots


def _seconds(hours: float) -> float:
    if not 0 <= hours < float("inf"):
        raise InvalidInput(f"older_than_hours={hours}: expected 0 or more hours")
    return hours * 3600


def _marked(
    folder: Path,
    roots: Sequence[bytes],
    hash_fn: HashFn,
    builds: Mapping[str, Running],
    moment: float,
    show: Progress,
) -> Marking:
    """What is live. `builds` ran at the `moment` when the drop began."""
    cas = PackCAS(folder)
    if any(_is_cut(pack_path(folder, name)) for name in names_of(folder)):
        # An index file that was written before knows nothing of it.
        cas.ignore_index_file()
    marking = Marking(cas, hash_fn, lambda done, total: show(BuildProgress("mark", done, total)))
    try:
        # A build that is completed meanwhile removes its journal; one that begins, or goes on, adds to it.
        named = Held(live_of_journals(cas.journals))
        bases = list(bases_of_journals(cas.journals))
        for root in roots:
            marking.tree(root)
        for journal, base in dict.fromkeys([*bases, *bases_of_journals(cas.journals)]):
            try:
                marking.tree(base)
            except HamtError as error:
                error.add_note(
                    f"it lies below {text(base)}, the base of the build whose journal is {journal}: to give that build up "
                    f"call hamt-bulk journals --give-up {journal.name[:12]}, or remove the journal"
                )
                raise
        for name, build in {**running_builds(folder, moment), **builds}.items():
            if build.base is None:
                continue
            try:
                marking.tree(build.base)
            except HamtError as error:
                error.add_note(
                    f"it lies below {text(build.base)}, which a build changes that runs ({name}): end that first"
                )
                raise
        marking.finished(chain(named, live_of_journals(cas.journals)))
    finally:
        cas.close()
    return marking


def _is_cut(path: Path) -> bool:
    """Whether a pack seems to be shorter than its header says."""
    try:
        with outside("cannot read", path), path.open("rb") as file:
            read_header(file)
    except InvalidInput:
        return True
    except CASError as error:
        if is_gone(error):
            return False
        if not is_unreadable(error):
            raise
        return True
    return False


class _Drop:
    """The packs one after the other, and what is done with them."""

    def __init__(self, folder: Path, live: Digests, dry_run: bool) -> None:
        self._folder = folder
        self._live = live
        self._dry_run = dry_run
        self._young: list[str] = []
        self._removed: list[Contents] = []
        self._written: list[Contents] = []
        self._kept: list[Contents] = []
        self._damaged: list[Contents] = []
        self._files: list[Temporary] = []

    def plan(self, name: str, newest: float) -> None:
        """Decides what is to be done with a pack, unless it is younger than `newest`."""
        try:
            young = stamp_of(pack_path(self._folder, name))[3] > newest * 1e9
        except CASError as error:
            if is_gone(error):
                return
            raise
        contents = None if young else contents_of(self._folder, name, self._live)
        if young:
            self._young.append(name)
        elif contents is None:
            return
        elif contents.damage is not None:
            self._damaged.append(contents)
        elif contents.is_dead:
            self._removed.append(contents)
        elif contents.is_worth_writing:
            self._written.append(contents)
        else:
            self._kept.append(contents)

    def act(self) -> None:
        """Does it. Packs that are other ones by now stay."""
        if self._dry_run or not (self._removed or self._written):
            return
        PackCAS(self._folder).writer().close()  # makes what is missing of the folder
        self._written = self._done(self._written, self._write_again)
        self._removed = self._done(self._removed, self._remove)
        PackIndex(self._folder).update()

    def _done(self, planned: Sequence[Contents], act: Callable[[Contents], bool]) -> list[Contents]:
        done = []
        for contents in planned:
            if act(contents):
                done.append(contents)
            else:
                self._young.append(contents.name)
        return done

    def _write_again(self, contents: Contents) -> bool:
        """Writes a pack again without its dead blocks. False when it is gone, or stays, as in `_remove`."""
        path = pack_path(self._folder, contents.name)
        with PackCAS(self._folder).writer() as writer:
            try:
                for cid, data in live_blocks(path, self._live):
                    if data is None:
                        raise CASError(
                            f"{path}: block {text(cid)} was damaged while it was copied: call again"
                        )
                    writer.save_many([Block(cid, data)])
            except CASError as error:
                if is_gone(error):
                    return False
                raise
            writer.flush()
        return self._remove(contents)

    def _remove(self, contents: Contents) -> bool:
        """Removes a pack. False when another one has its name by now, or somebody counts on it: it stays."""
        return remove(pack_path(self._folder, contents.name), contents.stamp)

    def temporary(self, left: Iterable[Temporary]) -> None:
        """Removes what writers that died have left."""
        for file in left:
            if not self._dry_run:
                path = self._folder / "tmp" / file.name
                with outside("cannot remove", path), suppress(FileNotFoundError):
                    os.unlink(path)
            self._files.append(file)

    def report(self, roots: Sequence[bytes], marking: Marking, running: Sequence[str]) -> Dropped:
        return Dropped.of(
            self._folder,
            self._dry_run,
            roots,
            marking,
            removed=self._removed,
            written=self._written,
            kept=self._kept,
            damaged=self._damaged,
            young=self._young,
            temporary=self._files,
            running=running,
        )
