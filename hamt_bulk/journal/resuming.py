"""One call of a build and its journal: what is taken over, what is added, how it ends."""

import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeAlias

import libipld
import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from hamt_bulk.bulk import abandon
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.cas.files import absolute
from hamt_bulk.cas.wrap import configuration
from hamt_bulk.errors import CASError, InvalidInput, JournalMismatch
from hamt_bulk.journal.file import SHOWN, Contents, Journal, contents_of, differences, opening
from hamt_bulk.journal.kept import gone
from hamt_bulk.journal.records import Batch, Build, Opening, Ranges
from hamt_bulk.manifest import HashFn, Manifest
from hamt_bulk.progress import BuildProgress

JournalOption: TypeAlias = "bool | str | os.PathLike[str] | None"
"""`None` or `False`: none; `True`: where the store has its journals; or the path of a file."""

SUFFIX = ".journal"

VALUES_AT_ONCE = 1 << 20
"""About how many values of finished batches are looked for together: a daemon may list all that it has for it."""

log = logging.getLogger("hamt_bulk.journal")


@dataclass(frozen=True, slots=True, eq=False)
class Finished:
    """
    What earlier calls finished.

    blocks     whether each Dask block is
    manifests  what became of those
    """

    blocks: NDArray[np.bool_]
    manifests: Sequence[Manifest]

    @property
    def count(self) -> int:
        """How many Dask blocks."""
        return int(self.blocks.sum())


class Resuming:
    """
    The journal of one call, from the moment when it is known which build it is; or none.

    resume  `True`: there has to be a journal; `False`: what it has does not count; `None`: whatever there is
    units   what is noted when it is finished
    """

    def __init__(
        self,
        option: JournalOption,
        resume: bool | None,
        cas: ContentAddressedStore,
        units: str = "Dask blocks",
    ) -> None:
        if resume is not None and not isinstance(resume, bool):
            raise InvalidInput(f"resume={resume!r}, expected True, False or None")
        if resume is not None and (option is None or option is False):
            raise InvalidInput(f"resume={resume} without a journal: pass journal=True, or the path of one")
        self._cas = cas
        self._units = units
        self._resume = resume
        self._journal: Journal | None = None
        self._total = self._done = 0
        self._before = self._taken = 0
        """Dask blocks that were taken over, and how many batches the journal had of earlier calls."""
        self._is_over = False
        self._folder: Path | None = None
        self._path: Path | None = None
        if option is True:
            self._folder = folder_for(cas)
        elif option is not None and option is not False:
            self._path = absolute(option)

    def begin(
        self,
        build: Build,
        versions: Mapping[str, str],
        sources: Mapping[str, str],
        total: int,
        saved: Manifest,
        hash_fn: HashFn,
        show: Callable[[BuildProgress], None],
        *,
        any_keys: bool = False,
    ) -> Finished:
        """
        Opens the journal of `build`, which has `total` Dask blocks. What it says is finished, and is still there.

        saved     what this call has saved itself: noted, so that nobody takes it for litter
        any_keys  whether keys may be no UTF-8

        Raises `JournalMismatch` or `InvalidInput` where it cannot be gone on with.
        """
        if self._is_over:
            raise InvalidInput("this call has ended")
        self._total = total
        nothing = Finished(np.zeros(total, bool), [])
        if self._folder is not None:
            self._path = self._folder / f"{_digest(build.parts)[:40]}{SUFFIX}"
        if self._path is None or not total:
            return nothing
        leases = _start_over(self._path, build) if self._resume is False else ()
        if leases:
            self._cas.take_over(leases, [])
        if self._resume is True and not self._path.exists():
            raise _nothing_to_resume(self._path, self._folder, build)
        this = opening(versions, sources, [self._cas.lease, *leases], total, self._units)
        try:
            self._journal = Journal.open(self._path, build, this)
        except CASError as error:
            error.add_note("another file can be named for the journal, or none")
            raise
        try:
            _tell_of_changes(self._journal.earlier, this)
            self._journal.add(Batch.of([], saved))
            leases = [lease for before in self._journal.earlier for lease in before.leases or [""]]
            finished = self._taken_over(self._journal.batches, leases, total, hash_fn, show, any_keys)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self._done = self._before = finished.count
        self._taken = len(self._journal.batches)
        self._journal.batches = ()
        if self._journal.earlier:
            log.info(
                "resumed: %s of %s %s were finished before", f"{self._done:,}", f"{total:,}", self._units
            )
        return finished

    def add(self, blocks: Sequence[int], manifest: Manifest) -> None:
        """Notes a batch whose values are durable, durably. `blocks` ascend."""
        if self._journal is not None:
            self._journal.add(Batch.of(ranges_of(blocks), manifest))
        self._done += len(blocks)

    def complete(self) -> None:
        """Removes the journal: the root is there. Failing to do so costs a warning."""
        if self._journal is not None:
            try:
                self._journal.remove()
            except CASError as error:
                warnings.warn(f"the build is complete, but its journal is still there: {error}", stacklevel=2)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._is_over = True
        if self._journal is not None:
            self._journal.close()  # first: another interrupt may come while it is read
            if error is not None:
                error.add_note(
                    f"{self._noted():,} of {self._total:,} {self._units} are finished, and noted in "
                    f"{self._journal.path}: the same call goes on from there"
                )

    def _noted(self) -> int:
        """How many Dask blocks the journal has. Read again: an interrupt may come between a record and its count."""
        assert self._journal is not None
        try:
            batches = contents_of(self._journal.path).batches[self._taken :]
        except (CASError, InvalidInput):
            return self._done
        return self._before + sum(after - first for batch in batches for first, after in batch.blocks)

    def _taken_over(
        self,
        batches: Sequence[Batch],
        leases: Sequence[str],
        total: int,
        hash_fn: HashFn,
        show: Callable[[BuildProgress], None],
        any_keys: bool,
    ) -> Finished:
        """The batches that count: those whose values are all there. Of several for one Dask block the last."""
        done = np.zeros(total, bool)
        manifests: list[Manifest] = []
        batches = [batch for batch in reversed(batches) if batch.blocks]
        for batch in batches:
            if batch.blocks[-1][1] > total:
                raise InvalidInput(
                    f"{self._path}: Dask block {batch.blocks[-1][1] - 1} of {total}: it was damaged; remove it"
                )
        seen = 0
        for some in _together(batches):
            show(BuildProgress("resume", seen, len(batches)))
            seen += len(some)
            lost = gone(self._cas, leases, (cid for batch in some for cid in batch.cids()))
            for batch in some:
                if any(done[first:after].any() for first, after in batch.blocks):
                    continue
                if lost and not lost.isdisjoint(batch.cids()):
                    continue
                for first, after in batch.blocks:
                    done[first:after] = True
                manifests.append(batch.manifest(hash_fn, any_keys=any_keys))
        if batches:
            show(BuildProgress("resume", len(batches), len(batches)))
        return Finished(done, manifests)

    def abandon(self, error: BaseException) -> None:
        """Lets the store forget a build that failed, or keep what it wrote for the call that goes on."""
        if self._journal is None:
            abandon(self._cas, error)
        else:
            self._cas.leave()


def live_of_journals(folder: Path) -> Iterator[bytes]:
    """The values that the journals in a folder name, of builds that run or may be gone on with."""
    for _, contents in journals_in(folder):
        for batch in contents.batches:
            yield from batch.cids()


def bases_of_journals(folder: Path) -> Iterator[tuple[Path, bytes]]:
    """The journals in a folder whose builds change a base, and its root."""
    for path, contents in journals_in(folder):
        base = contents.build.parts.get("base", {}).get("")
        if base:
            yield path, base


def journals_in(folder: Path) -> Iterator[tuple[Path, Contents]]:
    """The journals in a folder, and what they say."""
    # Also those that were given another kind of name; with a dot begin those that are being made.
    for path in sorted(path for path in folder.glob("*") if not path.name.startswith(".")):
        try:
            yield path, contents_of(path)
        except CASError as error:
            if not isinstance(error.__cause__, FileNotFoundError):
                raise
            # Its build has just been completed.


def ranges_of(blocks: Sequence[int]) -> Ranges:
    """Ascending numbers as ranges."""
    numbers = np.asarray(blocks, np.int64)
    starts = np.flatnonzero(np.diff(numbers, prepend=-2) != 1)
    ends = [*starts[1:], len(numbers)][: len(starts)]
    return [
        (int(numbers[first]), int(numbers[after - 1]) + 1) for first, after in zip(starts, ends, strict=True)
    ]


def _together(batches: Sequence[Batch]) -> Iterator[Sequence[Batch]]:
    """Batches in groups of about as many values as are looked for together."""
    some: list[Batch] = []
    count = 0
    for batch in batches:
        some.append(batch)
        count += len(batch.pointer_lengths) // 4
        if count >= VALUES_AT_ONCE:
            yield some
            some, count = [], 0
    if some:
        yield some


def _start_over(path: Path, build: Build) -> list[str]:
    """Removes the journal, unless it is written just now. The leases of the builds that it was of."""
    if not path.exists():
        return []
    with Journal.open(path, build, opening({}, {})) as journal:
        journal.remove()
        return [lease for before in journal.earlier for lease in before.leases]


def _nothing_to_resume(path: Path, folder: Path | None, build: Build) -> InvalidInput | JournalMismatch:
    """What to say when there has to be a journal, and is none."""
    if folder is None:
        return InvalidInput(f"there is nothing to resume: no journal at {path}. Leave out resume to begin")
    others = []
    for other in sorted(folder.glob(f"*{SUFFIX}"), key=_changed)[-20:]:
        try:
            others.append((differences(contents_of(other).build, build), other))
        except (CASError, InvalidInput):
            continue  # it is not the one that is looked for
    if not others:
        return InvalidInput(f"there is nothing to resume: no journal in {folder}. Leave out resume to begin")
    differ, nearest = min(others, key=lambda pair: len(pair[0]))
    return JournalMismatch(
        f"there is nothing to resume: no journal in {folder} is that of this build. In the most similar, "
        f"{nearest.name}, other than in this one are: {', '.join(differ[:SHOWN])}. Leave out resume to begin"
    )


def _changed(path: Path) -> float:
    """When a file was written; of one whose build is complete meanwhile, long ago."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return 0.0


def _tell_of_changes(earlier: Sequence[Opening], this: Opening) -> None:
    """Warns of what may have changed since the journal was begun, and need not matter."""
    others = {
        f"{name} {before.versions.get(name, 'none')}, now {version}"
        for before in earlier
        for name, version in this.versions.items()
        if before.versions.get(name) != version
    }
    if others:
        warnings.warn(
            f"what was finished before was written with {'; '.join(sorted(others))}: chunks may be encoded in another "
            "way. To have all alike begin anew, with resume=False",
            stacklevel=2,
        )
    changed = sorted(
        name
        for name, array in this.sources.items()
        if any(before.sources.get(name) != array for before in earlier)
    )
    if changed:
        more = f" and {len(changed) - SHOWN} more" if len(changed) > SHOWN else ""
        warnings.warn(
            f"the Dask arrays of {', '.join(map(repr, changed[:SHOWN]))}{more} have other names than before: if the "
            "data has changed since, begin anew, with resume=False",
            stacklevel=2,
        )


def folder_for(cas: ContentAddressedStore) -> Path:
    """Where the journals of builds into a store lie."""
    return cas.journals or _own_folder() / _digest(configuration(cas))[:16]


def _own_folder() -> Path:
    """Where journals lie for stores that have no place for them."""
    state = os.environ.get("XDG_STATE_HOME") or os.path.expanduser("~/.local/state")
    return Path(state) / "hamt-bulk" / "journals"


def _digest(content: object) -> str:
    """The digest of anything that dag-cbor has a form for."""
    plain = {name: dict(part) for name, part in content.items()} if isinstance(content, Mapping) else content
    data: bytes = libipld.encode_dag_cbor(list(plain) if isinstance(plain, tuple) else plain)
    return blake3(data).hexdigest()
