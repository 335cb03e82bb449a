"""The two stores of a copy: what the one has, and what the other lacks."""

import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from hamt_bulk import unixfs
from hamt_bulk.block import DAG_CBOR, RAW, Block, Data, parse, text, to_bytes
from hamt_bulk.cas import BlockCAS, CarCAS, ContentAddressedStore, Receipt, Writer
from hamt_bulk.cas.carfile import CarFile
from hamt_bulk.cas.wrap import Reader, VerifyingCAS, translated
from hamt_bulk.cas.wrapping import has_writer
from hamt_bulk.cas.writer import CodecInput, blocks_of
from hamt_bulk.errors import BlockNotFound, CASError, InvalidInput
from hamt_bulk.roots.names import batches, is_file

BLOCKS_AT_ONCE = 32
"""Blocks that are in memory together: 64 MiB of the largest that are exchanged."""

UNFLUSHED_BYTES = 1 << 30
UNFLUSHED_BLOCKS = 1 << 17
"""
What is written before a `flush`: the most that an interrupted copy has to write again, and, at some 400 bytes
a block, what a writer has to keep in mind.
"""

_CODECS: dict[int, CodecInput] = {RAW: "raw", DAG_CBOR: "dag-cbor"}


class Source:
    """What is copied from: every block compared with its CID, every error naming the store."""

    def __init__(self, cas: ContentAddressedStore) -> None:
        self._reader = Reader(cas)

    @property
    def gives_blocks(self) -> bool:
        """Whether it gives the blocks of a file one by one, and not only the file."""
        return isinstance(self._reader.cas, BlockCAS)

    def blocks(self, cids: Sequence[bytes]) -> Sequence[Data]:
        """The blocks of these names. Raises `BlockNotFound` with the first that is not there."""
        try:
            return self._load(cids)
        except BlockNotFound as error:
            self._refuse(text(self._missing(cids)), error)

    def value(self, pointer: bytes) -> bytes:
        """A value, whole."""
        try:
            return self._reader.blocks([pointer])[0]
        except BlockNotFound as error:
            self._refuse(f"{text(pointer)}, or a block of it", error)

    def _load(self, cids: Sequence[bytes]) -> Sequence[Data]:
        cas = self._reader.cas
        if isinstance(cas, BlockCAS):
            with translated(cas, cids):
                return cas.load_blocks(cids)
        return self._reader.blocks(cids)

    def _missing(self, cids: Sequence[bytes]) -> bytes:
        for cid in cids[:-1]:
            try:
                self._load([cid])
            except BlockNotFound:
                return cid
        return cids[-1]

    def _refuse(self, what: str, error: BlockNotFound) -> NoReturn:
        raise BlockNotFound(f"the source, {plain(self._reader.cas)!r}, lacks {what}: {error}") from error


class Target:
    """
    What is copied to. It is asked before it is written to, and its writer is opened when something lacks.

    copied  what was flushed
    """

    def __init__(
        self, has_many: Callable[[Sequence[bytes]], list[bool]], writer: Callable[[], Writer]
    ) -> None:
        self._has_many = has_many
        self._open = writer
        self._writer: Writer | None = None
        self._unflushed = Receipt()
        self.copied = Receipt()

    def lacking(self, cids: Sequence[bytes]) -> list[bytes]:
        """Those of `cids` that are not there."""
        return [cid for cid, there in zip(cids, self._has_many(cids), strict=True) if not there]

    def blocks_of_file(self, root: bytes) -> int | None:
        """How many blocks a file has; `None` unless all of them are there and can be looked at."""
        return None

    def save_many(self, blocks: Sequence[Block]) -> None:
        """Takes blocks, to be flushed."""
        self._opened().save_many(blocks)
        self._count(Receipt(len(blocks), sum(len(data) for _, data in blocks)))

    def flush(self) -> None:
        """Makes durable what was saved."""
        if self._writer is not None:
            self.copied += self._writer.flush()
        self._unflushed = Receipt()

    def finish(self) -> None:
        """Called when all is copied and flushed."""

    def _opened(self) -> Writer:
        if self._writer is None:
            self._writer = self._open()
        return self._writer

    def _count(self, saved: Receipt) -> None:
        self._unflushed += saved
        if self._unflushed.bytes > UNFLUSHED_BYTES or self._unflushed.blocks > UNFLUSHED_BLOCKS:
            self.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._writer is not None:
            self._writer.close()


class StoreTarget(Target):
    """A store that takes blocks."""

    def __init__(self, cas: ContentAddressedStore, writer: Callable[[], Writer] | None = None) -> None:
        super().__init__(self._holds, writer or cas.writer)
        self._cas = cas
        self._kept, self._is_kept = ExitStack(), False

    def __enter__(self) -> Self:
        # What was saved on the object counts as there, so it has to last before anything links to it.
        self._cas.flush()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._kept:
            super().__exit__(kind, error, traceback)

    def _holds(self, cids: Sequence[bytes]) -> list[bool]:
        with translated(self._cas, cids):
            claimed = self._cas.claim_many(cids)
        if any(claimed):
            self._keep()
        return claimed

    def _opened(self) -> Writer:
        self._keep()
        return super()._opened()

    def _keep(self) -> None:
        """From the first block on that somebody counts on."""
        if not self._is_kept:
            self._kept.enter_context(self._cas.copying())
            self._is_kept = True

    def blocks_of_file(self, root: bytes) -> int | None:
        if not isinstance(self._cas, BlockCAS):
            return None
        seen: set[bytes] = set()
        level = {root}
        while level:
            if self.lacking(list(level)):
                return None
            seen |= level
            nodes, level = list(filter(is_file, level)), set()
            for batch in batches(nodes, BLOCKS_AT_ONCE):
                with translated(self._cas, batch):
                    level.update(link for data in self._cas.load_blocks(batch) for link in unixfs.links(data))
            level -= seen
        return len(seen)

    def finish(self) -> None:
        try:
            self._cas.finish()
        except CASError as error:
            # All is durable by now, so it costs nobody a root.
            what = "the copy is complete, but its store was not tidied up"
            warnings.warn(f"{what}: {error}", stacklevel=3)


class ValueTarget(StoreTarget):
    """A store that has nothing but `save`: it takes whole values and names them itself."""

    def save_many(self, blocks: Sequence[Block]) -> None:
        for cid, data in blocks:
            self._refuse_other_name(cid, data, _CODECS.get(parse(cid).codec))
        super().save_many(blocks)

    def save_value(self, pointer: bytes, value: bytes) -> None:
        """Takes a file, whole."""
        self._refuse_other_name(pointer, value, "raw")
        self._opened().save(value)
        self._count(Receipt(1, len(value)))

    def _refuse_other_name(self, cid: bytes, data: Data, codec: CodecInput | None) -> None:
        found = None if codec is None else blocks_of(data, codec, self._cas.hasher)[0]
        if found != cid:
            name = "nothing it knows" if found is None else text(found)
            raise InvalidInput(
                f"{text(cid)} cannot be copied to {self._cas!r}, whose `save` calls these {len(data)} bytes "
                f"{name}: copy to a store that takes blocks as they are, such as a PackCAS or a .car file"
            )


class CarTarget(Target):
    """A CAR file that is not there before all of it is."""

    def __init__(self, path: Path, root: bytes) -> None:
        self._file = CarFile(path, [root])
        super().__init__(self._file.has_many, lambda: self._file)

    def finish(self) -> None:
        self._file.finish()


def target_of(cas: ContentAddressedStore, root: bytes) -> Target:
    """What takes the blocks of `root`. A CAR file is made new, or else has to have them all."""
    if isinstance(cas, CarCAS):
        return _finished_file(cas, root) if os.path.lexists(cas.path) else CarTarget(cas.path, root)
    return StoreTarget(cas) if has_writer(cas) else ValueTarget(cas)


def _finished_file(cas: CarCAS, root: bytes) -> Target:
    def refuse(why: str) -> NoReturn:
        raise InvalidInput(
            f"{cas.path} is there already, and {why}: choose another name, or remove it before you copy"
        )

    try:
        roots = [to_bytes(cid) for cid in cas.roots]
    except InvalidInput as error:
        refuse(str(error))
    if roots != [root]:
        refuse(f"its roots are {', '.join(map(text, roots[:3])) or 'none'}, not {text(root)} alone")
    return StoreTarget(cas, lambda: refuse(f"it lacks blocks of {text(root)}, which it names as its root"))


def plain(cas: ContentAddressedStore) -> ContentAddressedStore:
    """`cas` without what was put around it to hash its blocks."""
    while isinstance(cas, VerifyingCAS):
        cas = cas.inner
    return cas
