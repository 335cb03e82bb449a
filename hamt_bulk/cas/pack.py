"""A folder of packs: the embedded default, and for a cluster on shared storage."""

import os
import secrets
import threading
import weakref
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from hamt_bulk.block import Block, Data, Hasher, text, verify
from hamt_bulk.cas.archive import forget
from hamt_bulk.cas.base import LocalCAS, Receipt, Writer
from hamt_bulk.cas.files import outside, replace_durably, sync_folder
from hamt_bulk.cas.packfile import KINDS, PackWriter, temporary_name
from hamt_bulk.cas.packindex import PackIndex
from hamt_bulk.errors import BlockMismatch, BlockNotFound, CASError, InvalidInput

FORMAT = "hamt_bulk pack store 1\n"
"""What the file `format` of every such folder says."""

IMPLICIT_PACK_BYTES = 64 << 20
"""Blocks that were saved one by one are put into a pack when there are this many bytes of them."""


class PackCAS(LocalCAS):
    """
    Blocks in immutable packs, CARv2 files with an index, in one folder.

        format                 which layout this is
        packs/nodes/NAME.car   nodes of trees
        packs/values/NAME.car  everything else
        index/NAME.mpi         one index over many packs, made again when it is lost
        tmp/                   what is being written; never read

    Any number of processes and hosts may write at the same time without locks: each writer makes packs
    of its own, and a pack is there as soon as the `flush` of its writer returns. Readers see every
    finished pack, also those that were finished after they opened the folder.
    """

    def __init__(self, path: str | os.PathLike[str], hasher: Hasher = "blake3") -> None:
        super().__init__(hasher)
        self.path = Path(os.path.abspath(os.fspath(path)))
        self._checked = False
        self._index = PackIndex(self.path)
        self._implicit: _SharedWriter | None = None
        self._lock = threading.Lock()

    def read_blocks(self, cids: Sequence[bytes]) -> list[Data]:
        return [self._read(cid) for cid in cids]

    def load_blocks(self, cids: Sequence[bytes]) -> list[Data]:
        return self.read_blocks(cids)  # each is verified where another copy may still be tried

    def _read(self, cid: bytes) -> Data:
        waiting = self._implicit.read(cid) if self._implicit is not None else None
        if waiting is not None:
            return waiting
        damage: BlockMismatch | None = None
        for attempt in range(2):
            for archive, offset in self._index.find(cid):
                try:
                    data = archive.read(offset, cid)
                    if data is not None:
                        verify(cid, data)
                        return data
                except BlockMismatch as error:
                    damage = BlockMismatch(f"{error} (in {archive.path})")
            if damage is not None:
                raise damage
            if attempt == 0 and not self._refresh():
                break
        raise BlockNotFound(f"no block {text(cid)} in {self.path}: {self._why_not()}")

    def _refresh(self) -> bool:
        """Looks for new packs. True when there were some."""
        self._check_format()
        return self._index.refresh()

    def _why_not(self) -> str:
        if not self.path.exists():
            return "there is no such folder; was another path meant?"
        if damaged := self._index.damaged():
            lines = "; ".join(f"{archive.path.name}: {archive.damage}" for archive in damaged[:3])
            return f"{len(damaged)} of its packs are damaged and may have held it ({lines}). Restore them from a copy"
        return f"its {len(self._index.archives)} packs are sound and do not hold it; was it built in another store?"

    def has_blocks(self, cids: Sequence[bytes]) -> list[bool]:
        found = [self._has(cid) for cid in cids]
        if not all(found) and self._refresh():
            found = [here or self._has(cid) for here, cid in zip(found, cids, strict=True)]
        return found

    def _has(self, cid: bytes) -> bool:
        if self._implicit is not None and self._implicit.read(cid) is not None:
            return True
        return any(archive.read(offset, cid) is not None for archive, offset in self._index.find(cid))

    def writer(self) -> Writer:
        self._create()
        return PackWriter(self.path, self.hasher)

    def _implicit_writer(self) -> Writer:
        with self._lock:
            if self._implicit is None:
                self._create()
                self._implicit = _SharedWriter(self.path, self.hasher)
                # What was saved and never flushed is not lost to a forgotten call.
                weakref.finalize(self, self._implicit.flush)
            return self._implicit

    def flush(self) -> Receipt:
        return self._implicit.flush() if self._implicit is not None else Receipt()

    def finish(self) -> None:
        if self.path.exists():
            self._index.save()

    def announce(self) -> str:
        """Leaves a token in the folder, by which `preflight` knows on a worker that it is the same one."""
        self._create()
        token = secrets.token_hex(8)
        path = self.path / "tmp" / f"preflight-{token}"
        with outside("cannot write", path):
            path.touch()
        return token

    def preflight(self, token: str) -> None:
        path = self.path / "tmp" / f"preflight-{token}"
        if not path.exists():
            raise CASError(
                f"{self.path} on this worker is not the folder that the driver sees: packs written here would "
                "be lost. Put the store on a file system that all workers share"
            )
        with outside("cannot write", self.path / "tmp"):
            probe = self.path / "tmp" / temporary_name()
            probe.touch()
            probe.unlink()

    def retract(self, token: str) -> None:
        (self.path / "tmp" / f"preflight-{token}").unlink(missing_ok=True)

    def _create(self) -> None:
        if self._check_format():
            return
        with outside("cannot create", self.path):
            for folder in [*(self.path / "packs" / kind for kind in KINDS), self.path / "index", self.path / "tmp"]:
                folder.mkdir(parents=True, exist_ok=True)
            temporary = self.path / "tmp" / temporary_name()
            temporary.write_text(FORMAT)
            sync_folder(self.path / "packs")
            # Always the same bytes, so it does not matter who is last.
            replace_durably(temporary, self.path / "format")
        self._checked = True

    def _check_format(self) -> bool:
        """Whether there is a store yet. Raises `InvalidInput` for a folder that holds something else."""
        if self._checked:
            return True
        with outside("cannot open", self.path):
            try:
                found = (self.path / "format").read_text(errors="replace")[:200]
            except FileNotFoundError:
                if self.path.is_dir() and not {"packs", "index", "tmp"}.issuperset(os.listdir(self.path)):
                    raise InvalidInput(
                        f"{self.path} is a folder with other things in it, not a pack store: choose a new or empty one"
                    ) from None
                return False
        if found != FORMAT:
            raise InvalidInput(
                f"{self.path / 'format'} says {found.strip()!r}, expected {FORMAT.strip()!r}: "
                "the store was made by another version or is something else"
            )
        self._checked = True
        return True

    def close(self) -> None:
        self.flush()
        forget(self.path)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.path, self.hasher)

    def __dask_tokenize__(self) -> tuple[str, str, str]:
        return (type(self).__qualname__, str(self.path), self.hasher)

    def __repr__(self) -> str:
        return f"PackCAS({str(self.path)!r}, {self.hasher!r})"


class _SharedWriter(Writer):
    """The writer behind `save`: for all threads, and readable before it is flushed."""

    def __init__(self, folder: Path, hasher: str) -> None:
        super().__init__(hasher)
        self._writer = PackWriter(folder, hasher)
        self._flushed = Receipt()
        self._lock = threading.Lock()

    def save_many(self, blocks: Iterable[Block]) -> None:
        with self._lock:
            self._writer.save_many(blocks)
            if self._writer.size > IMPLICIT_PACK_BYTES:
                self._flushed += self._writer.flush()

    def read(self, cid: bytes) -> bytes | None:
        with self._lock:
            return self._writer.read(cid)

    def flush(self) -> Receipt:
        with self._lock:
            receipt, self._flushed = self._flushed + self._writer.flush(), Receipt()
            return receipt

    def close(self) -> None:
        with self._lock:
            self._writer.close()
