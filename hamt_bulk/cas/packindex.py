"""
The packs of a folder as one searchable whole.

What the packs' own indexes say is kept as two `Locations`: those of a multi-pack index file, mapped
into memory where it is large, and those of packs that came after it. So a search is two steps, however many packs there
are. The file may be lost or damaged at any time; it is made of the packs' indexes, and made again.

    file     = magic <u64 length> json {"packs": [name, …], "rows": n}      spaces up to a multiple of 8
               prefixes u64[n]  offsets u64[n]  files u32[n]  blake3 of all before
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from threading import RLock

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from hamt_bulk.cas.archive import Archive, Place
from hamt_bulk.cas.files import make_folder, outside, write_durably
from hamt_bulk.cas.locations import Locations
from hamt_bulk.cas.packfile import KINDS, temporary_name
from hamt_bulk.cas.packmerge import groups, merge
from hamt_bulk.errors import CASError
from hamt_bulk.foreign import from_json

MAGIC = b"hamt_bulk multi-pack index 1\n\0\0\0"
MAX_FRESH_PACKS = 64
MIN_FRESH_SHARE = 0.1
"""An index file is written anew for so many packs, or so many blocks compared with those it has."""

DIGEST_BYTES = 32
MAX_OFFSET = 1 << 63
"""No operating system reads from there."""

_ROWS_AT_ONCE = 1 << 20
_READ_BYTES = 1 << 22

MAPPED_BYTES = 32 << 20
"""Index files above it, 1.6 million blocks, are mapped into memory, which processes share; smaller ones are read."""

LISTINGS = 20
"""How often the folder is listed again while others change it."""


class PackIndex:
    """
    Every finished pack of a folder, as far as `refresh` has seen.

    opened   whether `refresh` was called
    gone     packs that were there and, at the last look, were not: merged by another process, or lost
    version  how many times `refresh` found something
    unread  packs that could not be opened, and why; `refresh` tries them again

    uses_file  whether the index file is believed where there is one. It knows nothing of a pack that was cut short
               after it was written
    """

    def __init__(self, folder: Path, uses_file: bool = True) -> None:
        self._folder = folder
        self._lock = RLock()
        self.archives: list[Archive] = []
        self.unread: dict[str, CASError] = {}
        self.gone: set[str] = set()
        self._names: set[str] = set()
        self._mapped = Locations.empty()
        self._fresh = Locations.empty()
        self._fresh_packs = 0
        self._uses_file = uses_file
        self.opened = False
        self.version = 0

    def find(self, cid: bytes) -> list[Place]:
        """Where the block may be."""
        with self._lock:
            rows = self._mapped.find(cid) + self._fresh.find(cid)
            return [(self.archives[file], offset) for file, offset in rows]

    def find_many(self, cids: Sequence[bytes]) -> Iterator[tuple[int, Archive, int]]:
        """Which of `cids` may be where, in the order in which the files are best read."""
        with self._lock:
            found = [rows.find_many(cids) for rows in (self._mapped, self._fresh)]
            archives = list(self.archives)
        asked, files, offsets = (np.concatenate(column) for column in zip(*found, strict=True))
        for row in np.lexsort((offsets, files)).tolist():
            yield int(asked[row]), archives[files[row]], int(offsets[row])

    def refresh(self) -> bool:
        """
        Takes in packs that were finished, or restored, since the last time, and forgets those that are gone.

        True when there were some.
        """
        with self._lock:
            listed = packs_in(self._folder)
            first, self.opened = not self.opened, True
            if first and self._uses_file:
                self._map(listed)
            found = first
            for _ in range(LISTINGS):
                found |= self._forget(self._names - listed)
                parts, vanished = self._new(listed)
                if parts:
                    self._fresh = Locations.merge([self._fresh, *parts])
                    found = True
                if not vanished:
                    break
                # Merged by another process just now, so what took its place is there.
                listed = packs_in(self._folder)
            else:
                # Not a network's stale listing, nor what is merged without end, tells that a block is nowhere.
                self.unread |= vanished
            self.version += found
            return found

    def _new(self, listed: set[str]) -> tuple[list[Locations], dict[str, CASError]]:
        """The rows of packs that are new or were restored, and the packs that were gone when they were opened."""
        parts: list[Locations] = []
        vanished: dict[str, CASError] = {}
        for number, archive in enumerate(self.archives):
            if archive.damage is not None and archive.changed():
                with suppress(CASError):
                    parts.append(self._rows(archive, number))
        self.unread = {}
        for name in sorted(listed - self._names):
            archive = Archive(self._folder / "packs" / name)
            try:
                parts.append(self._rows(archive, len(self.archives)))
            except CASError as error:
                gone = isinstance(error.__cause__, FileNotFoundError)
                (vanished if gone else self.unread)[name] = error
                continue
            self.archives.append(archive)
            self._names.add(name)
            self._fresh_packs += archive.damage is None
        return parts, vanished

    def _forget(self, gone: set[str]) -> bool:
        """Lets go of packs that are gone. True when there were some."""
        if not gone:
            return False
        kept = [number for number, archive in enumerate(self.archives) if _name(archive) not in gone]
        self._fresh = Locations.merge([self._mapped, self._fresh]).only(kept)
        self._mapped = Locations.empty()
        self.archives = [self.archives[number] for number in kept]
        self._names -= gone
        self.gone = gone
        return True

    def _rows(self, archive: Archive, number: int) -> Locations:
        header, index = archive.open()
        return Locations.of(index, number, header.data_offset if header else 0)

    def damaged(self) -> list[Archive]:
        """The packs in which something was found wrong."""
        with self._lock:
            return [archive for archive in self.archives if archive.damage is not None]

    def save(self) -> None:
        """
        Merges small packs, and writes one index file over all sound packs, where that is worth it.

        The index is 20 bytes a block of the whole store. So a small addition to a large one, a day of many years,
        waits for others: its packs are read through their own indexes.
        """
        with self._lock:
            self.refresh()
            merged = self._merge_packs()
            small = self._fresh_packs < MAX_FRESH_PACKS and len(self._fresh) < MIN_FRESH_SHARE * len(
                self._mapped
            )
            if merged or (self._fresh_packs > 1 and not small):
                self._write()

    def update(self) -> None:
        """Writes one index file over all sound packs, whatever it costs."""
        with self._lock:
            self.refresh()
            self._write()

    def rewrite(self) -> None:
        """As `update`, from what the packs themselves say alone, and not from an index file."""
        with self._lock:
            self._mapped = self._fresh = Locations.empty()
            self.archives, self._names, self._fresh_packs = [], set(), 0
            self._uses_file = self.opened = False
            self.refresh()
            self._write()

    @property
    def sound(self) -> int:
        """How many packs have nothing wrong, as far as was seen."""
        return sum(archive.damage is None for archive in self.archives)

    @property
    def rows(self) -> int:
        """How many blocks there are, as often as they are there."""
        return len(self._mapped) + len(self._fresh)

    def _write(self) -> None:
        every = Locations.merge([self._mapped, self._fresh])
        sound = [number for number, archive in enumerate(self.archives) if archive.damage is None]
        names = [_name(self.archives[number]) for number in sound]
        parts = _encode(names, every.only(sound))
        final = self._folder / "index" / f"{parts[-1].hex()[:40]}.mpi"
        temporary = self._folder / "tmp" / temporary_name()
        with outside("cannot write", final):
            for path in (temporary, final):
                make_folder(path.parent)
            old = set(final.parent.glob("*.mpi"))
            write_durably(temporary, final, parts)
            for path in old - {final}:
                with suppress(FileNotFoundError, IsADirectoryError, PermissionError):  # it does no harm
                    path.unlink()
        self._mapped, self._fresh, self._fresh_packs = every, Locations.empty(), 0

    def _merge_packs(self) -> bool:
        """Merges small packs. True when there were enough of them."""
        sizes: dict[str, int] = {}
        for archive in self.archives:
            with suppress(OSError):  # gone by now, or what cannot be looked at, which stays
                if archive.damage is None:
                    sizes[_name(archive)] = archive.path.stat().st_size
        gone = {name for names in groups(sizes) for name in merge(self._folder, names)}
        if self._forget(gone):
            self.gone = set()
            self.refresh()
        return bool(gone)

    def _map(self, listed: set[str]) -> None:
        """
        Uses the index file that covers most of the packs that are there, as far as it is about those.

        What it says of a pack stays right, since the name of a pack is the hash of where its blocks are.
        """
        best: tuple[list[str], list[int], Locations] | None = None
        for path in (self._folder / "index").glob("*.mpi"):
            try:
                names, locations = _read(path)
                there = [number for number, name in enumerate(names) if name in listed]
            except (OSError, ValueError, TypeError, KeyError):
                continue  # lost, damaged or foreign: the packs say the same
            if there and (best is None or len(best[1]) < len(there)):
                best = names, there, locations
        if best is not None:
            names, there, locations = best
            self._mapped = locations if len(there) == len(names) else locations.only(there)
            self.archives += [Archive(self._folder / "packs" / names[number]) for number in there]
            self._names.update(names[number] for number in there)


def packs_in(folder: Path) -> set[str]:
    """
    The packs that are there, as KIND/NAME.car.

    What is renamed into a folder, and what is removed from it, while it is read may both be left out. So two
    listings have to agree: a merged pack is there before those that it replaces go.
    """
    listed = _listed(folder)
    for _ in range(LISTINGS):
        before, listed = listed, _listed(folder)
        if listed == before:
            break
    return listed


def _listed(folder: Path) -> set[str]:
    listed: set[str] = set()
    for kind in KINDS:
        packs = folder / "packs" / kind
        with outside("cannot list", packs), suppress(FileNotFoundError), os.scandir(packs) as entries:
            listed.update(
                f"{kind}/{entry.name}" for entry in entries if entry.name.endswith(".car") and _is_file(entry)
            )
    return listed


def _is_file(entry: os.DirEntry[str]) -> bool:
    """Whether it is a file, or what cannot be told from one: to open it says why, and the others are read."""
    try:
        return entry.is_file()
    except OSError:
        return True


def rows_of(folder: Path, name: str) -> dict[int, int]:
    """
    What index files say of one pack: the first eight bytes of a digest, as a number, by where its section starts.

    For a pack whose own index is lost.
    """
    rows: dict[int, int] = {}
    for path in (folder / "index").glob("*.mpi"):
        try:
            names, locations = _read(path)
        except (OSError, ValueError, TypeError, KeyError):
            continue  # lost, damaged or foreign
        if name in names:
            own = locations.files == names.index(name)
            rows.update(zip(locations.offsets[own].tolist(), locations.prefixes[own].tolist(), strict=True))
    return rows


def _name(archive: Archive) -> str:
    """KIND/NAME.car"""
    return f"{archive.path.parent.name}/{archive.path.name}"


def _encode(names: list[str], rows: Locations) -> list[bytes | memoryview]:
    """The parts of an index file, of which the last is the digest of the others."""
    head = json.dumps({"packs": names, "rows": len(rows)}).encode()
    head += b" " * (-len(head) % 8)  # unaligned columns would be copied at every search
    columns = [column.view(np.uint8).data for column in (rows.prefixes, rows.offsets, rows.files)]
    parts: list[bytes | memoryview] = [MAGIC, len(head).to_bytes(8, "little"), head, *columns]
    digest = blake3()
    for part in parts:
        digest.update(part)
    return [*parts, digest.digest()]


def _read(path: Path) -> tuple[list[str], Locations]:
    """The names and rows of an index file. Raises `ValueError` and others when it is none."""
    data, digest = _hashed(path)
    body, start = len(data) - DIGEST_BYTES, len(MAGIC) + 8
    if body < start or data[: len(MAGIC)].tobytes() != MAGIC:
        raise ValueError("no multi-pack index")
    if digest != data[body:].tobytes():
        raise ValueError("damaged")
    at = start + int.from_bytes(data[len(MAGIC) : start].tobytes(), "little")
    head = from_json(data[start:at].tobytes())
    rows: int = head["rows"]
    if not isinstance(head["packs"], list):
        raise ValueError("its packs are no list")
    if at + rows * 20 != body or at % 8:
        raise ValueError(f"{body - at} bytes of columns, expected {rows} rows of 20")
    prefixes, offsets = data[at : at + 16 * rows].view(np.uint64).reshape(2, rows)
    locations = Locations(prefixes, data[at + 16 * rows : body].view(np.uint32), offsets)
    if rows and int(locations.files.max()) >= len(head["packs"]):
        raise ValueError(f"a row in file {locations.files.max()} of {len(head['packs'])}")
    if rows and int(offsets.max()) >= MAX_OFFSET:
        raise ValueError(f"an offset of {offsets.max()}")
    for first in range(0, rows, _ROWS_AT_ONCE):
        part = prefixes[first : first + _ROWS_AT_ONCE + 1]
        if (part[1:] < part[:-1]).any():
            raise ValueError("rows out of order")
    return head["packs"], locations


def _hashed(path: Path) -> tuple[NDArray[np.uint8], bytes]:
    """
    The bytes of an index file, mapped where they are many, and the digest of what it should be the digest of.

    They are read, not mapped, to be hashed: where a disk fails that raises, and a mapped page kills the process.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size <= MAPPED_BYTES:
            data = np.frombuffer(file.read(), np.uint8)
            return data, blake3(data.data[:-DIGEST_BYTES]).digest()
        digest, left = blake3(), size - DIGEST_BYTES
        while left and (piece := file.read(min(left, _READ_BYTES))):
            digest.update(piece)
            left -= len(piece)
        return np.memmap(file, np.uint8, "r"), digest.digest()
