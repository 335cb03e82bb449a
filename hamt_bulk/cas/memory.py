"""Blocks in a dict of this process."""

import os
import uuid
from collections.abc import Iterable, Sequence
from threading import Lock
from typing import Any
from weakref import WeakValueDictionary

from hamt_bulk.block import DAG_PB, AnyCID, Block, Data, Hasher, parse, text, to_bytes
from hamt_bulk.cas.blocks import MAX_INLINE_BYTES, LocalCAS
from hamt_bulk.cas.writer import Receipt, Writer, as_bytes
from hamt_bulk.errors import BlockNotFound, NotPortable


class InMemoryCAS(LocalCAS):
    """
    Blocks in a dict.

    Pickles as a token of this process, so it serves every scheduler that stays in it, threads included,
    and refuses to be unpickled in another.
    """

    in_memory = True

    def __init__(self, hasher: Hasher = "blake3") -> None:
        super().__init__(hasher)
        self.blocks: dict[bytes, bytes] = {}
        self._saved = Receipt()
        self._lock = Lock()
        self._token = uuid.uuid4().hex
        _living[self._token] = self

    async def load(
        self, id: AnyCID, offset: int | None = None, length: int | None = None, suffix: int | None = None
    ) -> bytes:
        cid = to_bytes(id)
        if len(self.blocks.get(cid, b"")) > MAX_INLINE_BYTES or parse(cid).codec == DAG_PB:
            return await super().load(id, offset, length, suffix)
        return self._load(cid, offset, length, suffix)

    def read_blocks(self, cids: Sequence[bytes]) -> list[Data]:
        try:
            return [self.blocks[cid] for cid in cids]
        except KeyError as error:
            raise BlockNotFound(
                f"no block {text(error.args[0])} in memory, among {len(self.blocks)}: was it built with "
                "another CAS?"
            ) from None

    def size_blocks(self, cids: Sequence[bytes]) -> list[int]:
        sizes = [len(self.blocks[cid]) for cid in cids if cid in self.blocks]
        return sizes if len(sizes) == len(cids) else super().size_blocks(cids)

    def has_blocks(self, cids: Sequence[bytes]) -> list[bool]:
        return [cid in self.blocks for cid in cids]

    def writer(self) -> Writer:
        return _MemoryWriter(self)

    def _implicit_writer(self) -> Writer:
        return _ImplicitWriter(self)

    def _put(self, blocks: dict[bytes, bytes]) -> Receipt:
        with self._lock:
            new = {cid: data for cid, data in blocks.items() if cid not in self.blocks}
            self.blocks.update(new)
        return Receipt(len(new), sum(map(len, new.values())))

    def flush(self) -> Receipt:
        with self._lock:
            receipt, self._saved = self._saved, Receipt()
            return receipt

    def refuse_other_processes(self) -> None:
        raise NotPortable(_message(os.getpid(), "workers in other processes"))

    def __reduce__(self) -> tuple[Any, ...]:
        return _find, (os.getpid(), self._token)

    def __dask_tokenize__(self) -> tuple[str, str]:
        return (type(self).__qualname__, self._token)

    def __repr__(self) -> str:
        return f"InMemoryCAS({self.hasher!r}, {len(self.blocks)} blocks)"


_living: "WeakValueDictionary[str, InMemoryCAS]" = WeakValueDictionary()


def _find(process: int, token: str) -> InMemoryCAS:
    cas = _living.get(token) if process == os.getpid() else None
    if cas is None:
        raise NotPortable(_message(process, f"process {os.getpid()}"))
    return cas


def _message(process: int, user: str) -> str:
    return (
        f"this InMemoryCAS lives in process {process} and cannot be used by {user}: "
        'give them a store that they can reach, such as PackCAS("folder")'
    )


class _MemoryWriter(Writer):
    """Blocks go in at once when they are flushed."""

    def __init__(self, cas: InMemoryCAS) -> None:
        super().__init__(cas.hasher)
        self._cas = cas
        self._waiting: dict[bytes, bytes] = {}

    def save_many(self, blocks: Iterable[Block]) -> None:
        for cid, data in blocks:
            if cid not in self._waiting and cid not in self._cas.blocks:
                # A copy: a view would keep alive, or change with, the caller's buffer.
                self._waiting[cid] = bytes(as_bytes(data))

    def flush(self) -> Receipt:
        waiting, self._waiting = self._waiting, {}
        return self._cas._put(waiting)

    def close(self) -> None:
        self._waiting = {}


class _ImplicitWriter(_MemoryWriter):
    """The writer behind `save`, whose blocks are there when it returns."""

    def save_many(self, blocks: Iterable[Block]) -> None:
        super().save_many(blocks)
        receipt = self.flush()
        with self._cas._lock:
            self._cas._saved += receipt
