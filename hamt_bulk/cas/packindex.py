"""
The packs of a folder as one searchable whole.

What the packs' own indexes say is kept as two `Locations`: those of a multi-pack index file, mapped
into memory, and those of packs that came after it. So a search is two steps, however many packs there
are. The file may be lost or damaged at any time; it is made of the packs' indexes, and made again.

    file     = magic <u64 length> json {"packs": [name, …], "rows": n}
               prefixes u64[n]  offsets u64[n]  files u32[n]  blake3 of all before
"""

import json
import os
from pathlib import Path
from threading import RLock

import numpy as np
from blake3 import blake3

from hamt_bulk.cas.archive import Archive
from hamt_bulk.cas.files import outside, replace_durably
from hamt_bulk.cas.locations import Locations
from hamt_bulk.cas.packfile import KINDS, temporary_name

MAGIC = b"hamt_bulk multi-pack index 1\n\0\0\0"
DIGEST_BYTES = 32


class PackIndex:
    """Every finished pack of a folder, as far as `refresh` has seen."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = RLock()
        self.archives: list[Archive] = []
        self._names: set[str] = set()
        self._mapped = Locations.empty()
        self._fresh = Locations.empty()
        self._fresh_packs = 0
        self._opened = False

    def find(self, cid: bytes) -> list[tuple[Archive, int]]:
        """Where the block may be."""
        with self._lock:
            rows = self._mapped.find(cid) + self._fresh.find(cid)
            return [(self.archives[file], offset) for file, offset in rows]

    def refresh(self) -> bool:
        """Takes in packs that were finished since the last time. True when there were some."""
        with self._lock:
            listed = self._list()
            first = not self._opened
            if first:
                self._opened = True
                self._map(listed)
            new = sorted(listed - self._names)
            parts = [self._fresh]
            for name in new:
                archive = Archive(self._folder / "packs" / name)
                header, index = archive.open()
                parts.append(Locations.of(index, len(self.archives), header.data_offset if header else 0))
                self.archives.append(archive)
                self._names.add(name)
            if new:
                self._fresh = Locations.merge(parts)
                self._fresh_packs += len(new)
            return bool(new) or first

    def damaged(self) -> list[Archive]:
        """The packs in which something was found wrong when they were opened."""
        with self._lock:
            return [archive for archive in self.archives if archive.damage is not None]

    def _list(self) -> set[str]:
        listed: set[str] = set()
        for kind in KINDS:
            with outside("cannot list", self._folder / "packs" / kind):
                try:
                    names = os.listdir(self._folder / "packs" / kind)
                except FileNotFoundError:
                    continue
            listed |= {f"{kind}/{name}" for name in names if name.endswith(".car")}
        return listed

    def save(self) -> None:
        """Writes one index file over all packs, if more than one has none yet."""
        with self._lock:
            self.refresh()
            if self._fresh_packs < 2 or self.damaged():
                return
            every = Locations.merge([self._mapped, self._fresh])
            names = [archive.path.relative_to(self._folder / "packs").as_posix() for archive in self.archives]
            head = json.dumps({"packs": names, "rows": len(every)}).encode()
            parts = [MAGIC, len(head).to_bytes(8, "little"), head]
            parts += [column.tobytes() for column in (every.prefixes, every.offsets, every.files)]
            temporary = self._folder / "tmp" / temporary_name()
            digest = blake3()
            with outside("cannot write", temporary):
                with temporary.open("xb") as file:
                    for part in parts:
                        digest.update(part)
                        file.write(part)
                    file.write(digest.digest())
                    file.flush()
                    os.fsync(file.fileno())
                old = list((self._folder / "index").glob("*.mpi"))
                final = self._folder / "index" / f"{digest.hexdigest()[:40]}.mpi"
                replace_durably(temporary, final)
                for path in old:
                    if path != final:
                        path.unlink(missing_ok=True)
            self._mapped, self._fresh, self._fresh_packs = every, Locations.empty(), 0

    def _map(self, listed: set[str]) -> None:
        """Uses the index file that covers most of the packs that are there."""
        best: tuple[list[str], Locations] | None = None
        for path in (self._folder / "index").glob("*.mpi"):
            with outside("cannot read", path):
                read = _read(path)
            # An index of packs that are gone would send readers to them.
            if read and listed.issuperset(read[0]) and (best is None or len(best[0]) < len(read[0])):
                best = read
        if best is not None:
            names, self._mapped = best
            self.archives += [Archive(self._folder / "packs" / name) for name in names]
            self._names.update(names)


def _read(path: Path) -> tuple[list[str], Locations] | None:
    """The names and rows of an index file; `None` when it is damaged, since it can be made again."""
    try:
        data = np.memmap(path, np.uint8, "r")
    except (FileNotFoundError, ValueError):  # gone since it was listed, or empty
        return None
    body = len(data) - DIGEST_BYTES
    start = len(MAGIC) + 8
    if body < start or data[: len(MAGIC)].tobytes() != MAGIC:
        return None
    if blake3(memoryview(data)[:body]).digest() != data[body:].tobytes():
        return None
    length = int.from_bytes(data[len(MAGIC) : start].tobytes(), "little")
    head = json.loads(data[start : start + length].tobytes())
    rows, at = head["rows"], start + length
    columns = []
    for kind in (np.uint64, np.uint64, np.uint32):
        end = at + rows * np.dtype(kind).itemsize
        columns.append(np.ndarray(rows, kind, data, at) if rows else np.zeros(0, kind))
        at = end
    prefixes, offsets, files = columns
    return head["packs"], Locations(prefixes, files, offsets)
