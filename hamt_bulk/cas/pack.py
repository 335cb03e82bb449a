"""A folder of packs: the embedded default, and for a cluster on shared storage."""

import atexit
import os
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from hamt_bulk.block import AnyCID, Data, Hasher, text, verify
from hamt_bulk.cas import packbuilds
from hamt_bulk.cas.archive import Archive, forget, load_sound
from hamt_bulk.cas.base import several
from hamt_bulk.cas.blocks import LocalCAS
from hamt_bulk.cas.files import absolute
from hamt_bulk.cas.packfile import PackWriter, SharedPackWriter
from hamt_bulk.cas.packfolder import ASIDE, PackFolder
from hamt_bulk.cas.packindex import PackIndex
from hamt_bulk.cas.packremoval import is_leaving
from hamt_bulk.cas.unflushed import flush_left, leave
from hamt_bulk.cas.writer import Receipt, Writer
from hamt_bulk.errors import BlockMismatch, BlockNotFound, CASError

LOOKS = 10
"""How often a block is looked for while other processes add packs and merge them."""

_UNCLEAR = -1  # copies that disagree on how long a block is


class PackCAS(LocalCAS):
    """
    Blocks in immutable packs, CARv2 files with an index, in one folder.

        format                 which layout this is
        packs/nodes/NAME.car   nodes of trees
        packs/values/NAME.car  everything else; NAME-leaving-RANDOM.car is being removed, and read as any other
        index/NAME.mpi         one index over many packs, made again when it is lost
        journals/              of builds that are not complete
        tmp/                   what is being written, and which builds run; never read
        damaged/               packs that `hamt_bulk.packs.rebuild` has put aside; never read

    Any number of processes and hosts may write at the same time without locks: each writer makes packs
    of its own, and a pack is there as soon as the `flush` of its writer returns. Readers see every
    finished pack, also those that were finished after they opened the folder. Of a pack that another process has
    removed they go on reading what they have open, and `has_many` may say that its blocks are there; `claim_many`
    does not.

    When a write of what `save` was given fails, what it was given since the last `flush` is lost: `save`
    and `flush` refuse, so that nobody misses it, until `close`.
    """

    unseen_seconds = 75.0
    """NFS lists what other hosts have added after a minute, unless it is told otherwise (acdirmax)."""

    def __init__(self, path: str | os.PathLike[str], hasher: Hasher = "blake3") -> None:
        super().__init__(hasher)
        self.path = absolute(path)
        self._build: Path | None = None
        self._begin()
        _living.add(self)

    def _begin(self) -> None:
        self._folder = PackFolder(self.path)
        self._index = PackIndex(self.path)
        self._implicit: SharedPackWriter | None = None
        self._lock = threading.Lock()

    def read_blocks(self, cids: Sequence[bytes]) -> list[Data]:
        if len(cids) == 1:
            return [self._read(cids[0])]
        if not self._index.opened:
            self._refresh(self._index.version)
        found: list[Data | None] = [None] * len(cids)
        for position, archive, offset in self._index.find_many(cids):
            if found[position] is None:
                try:
                    found[position] = archive.load(offset, cids[position])
                except (BlockMismatch, CASError):
                    continue  # there may be another copy
        return [self._read(cid) if data is None else data for cid, data in zip(cids, found, strict=True)]

    def load_blocks(self, cids: Sequence[bytes]) -> list[Data]:
        return self.read_blocks(cids)  # each is verified where another copy may still be tried

    def _read(self, cid: bytes) -> Data:
        waiting = self._waiting(cid)
        if waiting is not None:
            verify(cid, waiting)
            return waiting
        trouble: BlockMismatch | CASError | None = None
        for _ in range(LOOKS):
            seen = self._index.version
            try:
                data = load_sound(self._index.find(cid), cid)
                if data is not None:
                    return data
                trouble = None
            except (BlockMismatch, CASError) as error:
                trouble = error
            if not self._refresh(seen):
                break
        raise trouble or self._not_found(cid)

    def _waiting(self, cid: bytes) -> bytes | None:
        """A block that was saved and not flushed."""
        return None if self._implicit is None else self._implicit.read(cid)

    def _refresh(self, seen: int) -> bool:
        """Looks for new packs. True when there are more than in version `seen` of the index."""
        flush_left()  # another object of this process may have been given the block
        self._folder.is_there()
        # Another thread may have found them in between.
        return self._index.refresh() or self._index.version != seen

    def _not_found(self, cid: bytes) -> BlockNotFound | CASError:
        what = f"no block {text(cid)} in {self.path}"
        if unread := self._index.unread:
            return CASError(f"{what}, but {len(unread)} packs may hold it: {next(iter(unread.values()))}")
        if not self.path.exists():
            return BlockNotFound(f"{what}: there is no such folder; was another path meant?")
        if gone := self._index.gone:
            return BlockNotFound(
                f"{what}: {len(gone)} of the packs that were here are gone and may have held it "
                f"({min(gone).partition('/')[2]}). If nobody merged them, restore them from a copy"
            )
        if damaged := self._index.damaged():
            lines = "; ".join(f"{archive.path.name}: {archive.damage}" for archive in damaged[:3])
            return BlockNotFound(
                f"{what}: {len(damaged)} of its packs are damaged and may have held it ({lines}). "
                "Restore them from a copy"
            )
        count = len(self._index.archives)
        aside = len(list((self.path / ASIDE).glob("*.car")))
        if aside:
            return BlockNotFound(
                f"{what}: its {count} packs do not hold it. {aside} in its folder {ASIDE!r} were damaged and put aside, "
                "and may have held it: copy it from another store"
            )
        return BlockNotFound(f"{what}: its {count} packs do not hold it; was it built in another store?")

    def has_blocks(self, cids: Sequence[bytes]) -> list[bool]:
        return [length is not None for length in self._lengths(cids)]

    def claim_many(self, cids: Sequence[AnyCID]) -> list[bool]:
        """
        As `has_many`, and true of now. The packs that have them are as new as if they were written now; where none may
        be, False.
        """
        names = several(cids)
        for _ in range(LOOKS):
            seen = self._index.version
            claimed = [self._waiting(cid) is not None for cid in names]
            renewed: dict[Path, bool] = {}
            for position, archive, offset in self._index.find_many(names):
                if not claimed[position] and archive.length(offset, names[position]) is not None:
                    if archive.path not in renewed:
                        renewed[archive.path] = _renew(archive)
                    claimed[position] = renewed[archive.path]
            if all(claimed) or not self._refresh(seen):
                break
        return claimed

    def size_blocks(self, cids: Sequence[bytes]) -> list[int]:
        lengths = self._lengths(cids)
        unclear = None, _UNCLEAR
        return [len(self._read(cid)) if n in unclear else n for cid, n in zip(cids, lengths, strict=True)]

    def _lengths(self, cids: Sequence[bytes]) -> list[int | None]:
        """The length of each block as its section says: not verified, `None` without one."""
        for _ in range(LOOKS):
            seen = self._index.version
            lengths = self._find_lengths(cids)
            if None not in lengths or not self._refresh(seen):
                break
        return lengths

    def _find_lengths(self, cids: Sequence[bytes]) -> list[int | None]:
        found: list[int | None] = [None] * len(cids)
        for position, archive, offset in self._index.find_many(cids):
            length = archive.length(offset, cids[position])
            if length is not None:
                found[position] = length if found[position] in (None, length) else _UNCLEAR
        for position, cid in enumerate(cids):
            if found[position] is None and (waiting := self._waiting(cid)) is not None:
                found[position] = len(waiting)
        return found

    def writer(self) -> PackWriter:
        flush_left()
        if self._build is not None:
            self._folder.refuse_absence()
        self._folder.create()
        return PackWriter(self.path, self.hasher)

    def _implicit_writer(self) -> Writer:
        with self._lock:
            if self._implicit is None:
                self._folder.create()
                self._implicit = SharedPackWriter(self.path, self.hasher)
                # What was saved and never flushed is not lost to a forgotten call.
                self._finalizer = weakref.finalize(self, leave, self._implicit)
                self._finalizer.atexit = False  # `_flush_all` has its turn then
            return self._implicit

    def flush(self) -> Receipt:
        flush_left()
        return self._implicit.flush() if self._implicit is not None else Receipt()

    # A build.

    def begin(self) -> Self:
        self.flush()  # a build may link what was saved
        build = type(self).__new__(type(self))
        build.__dict__.update(self.__dict__)  # not as it is pickled: the index of the packs is one
        build._build, build._implicit, build._lock = None, None, threading.Lock()
        _living.add(build)
        return build

    def started(self, base: bytes | None) -> None:
        if self._build is None:
            self._folder.create()
            self._build = packbuilds.begin(self.path, base)

    def finish(self) -> None:
        try:
            if self.path.exists():
                self._index.save()
        finally:
            self.abandon()

    def abandon(self) -> None:
        build, self._build = self._build, None
        if build is not None:
            packbuilds.end(build)

    def leave(self) -> None:
        self.abandon()  # the journal names what is to be kept

    @contextmanager
    def copying(self) -> Iterator[None]:
        self._folder.create()
        build = packbuilds.begin(self.path, None)
        try:
            yield
        finally:
            packbuilds.end(build)

    @property
    def journals(self) -> Path:
        return self.path / "journals"

    def announce(self) -> str:
        return self._folder.announce()

    def preflight(self, token: str) -> None:
        self._folder.preflight(token)

    def retract(self, token: str) -> None:
        self._folder.retract(token)

    def ignore_index_file(self) -> None:
        """From now on finds blocks by what the packs themselves say."""
        self._index = PackIndex(self.path, uses_file=False)

    def is_there(self) -> bool:
        """Whether there is a store yet. Raises `InvalidInput` for a folder that holds something else."""
        return self._folder.is_there()

    def close(self) -> None:
        try:
            self.flush()
        except CASError:
            if self._implicit is not None:
                self._implicit.close()
            raise
        finally:
            self._index = PackIndex(self.path)
            forget(self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._build is None:
            return type(self), (self.path, self.hasher)
        return _of_build, (type(self), self.path, self.hasher, self._build)

    def __dask_tokenize__(self) -> tuple[str, str, str]:
        return (type(self).__qualname__, str(self.path), self.hasher)

    def __repr__(self) -> str:
        return f"PackCAS({str(self.path)!r}, {self.hasher!r})"


def _of_build(kind: "type[PackCAS]", path: Path, hasher: Hasher, build: Path) -> PackCAS:
    """As a worker of a build has the store: it may be the one that ends the build."""
    cas = kind(path, hasher)
    cas._build = build
    return cas


def _renew(archive: Archive) -> bool:
    """Makes a pack as young as one that is written now, so that it is kept. False when it is gone, or not ours."""
    if is_leaving(archive.path):
        return False
    try:
        os.utime(archive.path)
    except OSError:
        archive.let_go()
        return False
    return True


_living: "weakref.WeakSet[PackCAS]" = weakref.WeakSet()


def _after_fork() -> None:
    """A forked child starts afresh: the locks may be held by threads, and what waits is its parent's."""
    for cas in list(_living):
        if cas._implicit is not None:
            cas._finalizer.detach()
        cas._begin()


@atexit.register
def _flush_all() -> None:
    """Flushes what was saved and never flushed, as the interpreter ends."""
    for cas in list(_living):
        if cas._implicit is not None:
            leave(cas._implicit)
    flush_left()


os.register_at_fork(after_in_child=_after_fork)
