"""A journal as a file: made, locked, gone on with, appended to, removed."""

import errno
import fcntl
import os
import secrets
import socket
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from hamt_bulk.cas.files import make_folder, outside, place_durably, sync_folder, write_all, write_durably
from hamt_bulk.errors import CASError, InvalidInput, JournalMismatch
from hamt_bulk.journal.records import MAGIC, Batch, Build, Opening, Record, encode, read, start

_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}
"""What file systems answer that have no locks, or have them switched off."""

SHOWN = 5
"""How many of the things that differ an error names."""


@dataclass(frozen=True, slots=True)
class Contents:
    """
    What a journal says.

    end, chain  where its last whole record ends, and what the next one continues
    """

    build: Build
    openings: Sequence[Opening]
    batches: Sequence[Batch]
    end: int
    chain: bytes


class Journal:
    """
    The journal of a build that runs: locked, so that no other writes to it, until `close` or `remove`.

    batches  what earlier calls finished
    earlier  the calls before this one, in order
    """

    def __init__(self, path: Path, file: int, contents: Contents) -> None:
        self.path = path
        self.batches = contents.batches
        self.earlier = contents.openings
        self._file: int | None = file
        self._end, self._chain = contents.end, contents.chain
        self._lock = threading.Lock()
        _open.add(self)

    @classmethod
    def open(cls, path: Path, build: Build, opening: Opening) -> Self:
        """
        The journal at `path`, which is made when there is none.

        Raises `JournalMismatch` when it is that of another build, `InvalidInput` when it is no journal, or when another
        call is writing it.
        """
        path = Path(os.path.realpath(path))  # what a symbolic link leads to is what is locked, and removed
        file = _locked(path, build)
        try:
            contents = _contents(path, file)
            refuse_other_build(path, contents.build, build)
            journal = cls(path, file, contents)
            journal._append(opening)
        except BaseException:
            os.close(file)
            raise
        return journal

    def add(self, batch: Batch) -> None:
        """Appends a finished batch, durably."""
        self._append(batch)

    def remove(self) -> None:
        """Forgets a build that is complete."""
        if self._file is not None:
            with outside("cannot remove", self.path), suppress(FileNotFoundError):
                # Somebody may have removed it, and begun another.
                if os.path.samestat(os.fstat(self._file), os.stat(self.path)):
                    self.path.unlink()
                    sync_folder(self.path.parent)
            self.close()

    def close(self) -> None:
        """Lets another call go on with it."""
        with self._lock:  # a thread may be adding a batch
            file, self._file = self._file, None
            if file is not None:
                os.close(file)

    def _append(self, record: Record) -> None:
        with self._lock:
            self._write(record)

    def _write(self, record: Record) -> None:
        if self._file is None:
            raise CASError(f"cannot write {self.path}: it is closed, or writing it has failed before")
        data, chain = encode(record, self._chain)
        file, self._file = self._file, None
        try:
            with outside("cannot write", self.path):
                # What an interrupted call left behind the last whole record goes first.
                os.ftruncate(file, self._end)
                os.lseek(file, self._end, os.SEEK_SET)
                write_all(file, [data])
                os.fsync(file)
        except BaseException:
            # The next call drops what is not whole.
            with suppress(OSError):
                os.close(file)
            raise
        self._file, self._end, self._chain = file, self._end + len(data), chain

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


_open: "weakref.WeakSet[Journal]" = weakref.WeakSet()


def _after_fork() -> None:
    """A forked child lets go, or the lock would last as long as it does."""
    for journal in list(_open):
        journal._lock = threading.Lock()
        journal.close()


os.register_at_fork(after_in_child=_after_fork)


def opening(
    versions: Mapping[str, str],
    sources: Mapping[str, str],
    leases: Iterable[str] = (),
    total: int = 0,
    units: str = "",
) -> Opening:
    """This call, from now on."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    process = f"process {os.getpid()} on {socket.gethostname()} since {now}"
    return Opening(process, versions, sources, tuple(filter(None, leases)), total, units)


def contents_of(path: Path) -> Contents:
    """What the journal at `path` says, whether it is being written or not. Raises as `Journal.open`."""
    with outside("cannot read", path):
        file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return _contents(path, file)
    finally:
        os.close(file)


def refuse_other_build(path: Path, found: Build, expected: Build) -> None:
    """Raises `JournalMismatch`, which says what differs."""
    differ = differences(found, expected)
    if differ:
        more = f" and {len(differ) - SHOWN} more" if len(differ) > SHOWN else ""
        raise JournalMismatch(
            f"{path} is the journal of another build; other than in this one are: {', '.join(differ[:SHOWN])}{more}. "
            "Make the build that it was for, or remove it and call again"
        )


def differences(one: Build, other: Build) -> list[str]:
    """What the two builds do not have in common, in words."""
    names = sorted({*one.parts, *other.parts})
    found = []
    for name in names:
        mine, yours = one.parts.get(name, {}), other.parts.get(name, {})
        differ = [key for key in sorted({*mine, *yours}) if mine.get(key) != yours.get(key)]
        found += [f"{name} of {key!r}" if key else name for key in differ]
    return found


def _locked(path: Path, build: Build) -> int:
    """The file, locked; a new one when there was none."""
    with outside("cannot write", path):
        while True:
            try:
                file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:
                _create(path, build)
                continue
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # The call that held the lock may have removed the file meanwhile.
                if os.path.samestat(os.fstat(file), os.stat(path)):
                    return file
            except FileNotFoundError:
                os.close(file)
                continue
            except BlockingIOError:
                os.close(file)
                raise InvalidInput(
                    f"another call is writing {path} ({_writer(path)}): wait for it, or end it first"
                ) from None
            except OSError as error:
                os.close(file)
                if error.errno in _NO_LOCKS:
                    raise CASError(
                        f"cannot lock {path}: its file system has no locks ({error.strerror}), without which two calls "
                        "might write one journal. Give the journal a path on another disk"
                    ) from error
                raise
            except BaseException:
                os.close(file)
                raise
            os.close(file)


def _create(path: Path, build: Build) -> None:
    """Puts a journal without batches in place, whole or not at all."""
    make_folder(path.parent)
    data, _ = encode(build, start())
    temporary = path.with_name(f".{path.name}-{secrets.token_hex(8)}")
    with suppress(FileExistsError):  # another call was faster
        write_durably(temporary, path, [MAGIC, data], place_durably)


def _contents(path: Path, file: int) -> Contents:
    build: Build | None = None
    openings: list[Opening] = []
    batches: list[Batch] = []
    end, chain = len(MAGIC), start()
    with outside("cannot read", path), os.fdopen(os.dup(file), "rb") as opened:
        try:
            for record, place, after in read(opened):
                end, chain = place, after
                match record:
                    case Build() if build is None:
                        build = record
                    case Opening() if build is not None:
                        openings.append(record)
                    case Batch() if build is not None:
                        batches.append(record)
                    case _:
                        raise InvalidInput(f"a record of {type(record).__name__} where none may be")
        except InvalidInput as error:
            raise InvalidInput(f"{path}: {error}. Remove it, or name another") from None
    if build is None:
        raise InvalidInput(
            f"{path}: its first record is damaged, so whose journal it is cannot be told: remove it"
        )
    return Contents(build, openings, batches, end, chain)


def _writer(path: Path) -> str:
    """Who holds the lock, as far as the journal says."""
    try:
        openings = contents_of(path).openings
    except (CASError, InvalidInput):
        openings = []
    return openings[-1].process if openings else "which has just begun"
