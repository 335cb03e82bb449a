"""Blocks in a dict of this process."""

import os
import uuid
from collections.abc import Iterable, Sequence
from typing import Any
from weakref import WeakValueDictionary

from hamt_bulk.block import Block, Data, Hasher, text
from hamt_bulk.cas.base import LocalCAS, Receipt, Writer
from hamt_bulk.errors import BlockNotFound, NotPortable


class InMemoryCAS(LocalCAS):
    """
    Blocks in a dict.

    Pickles as a token of this process, so it serves every scheduler that stays in it, threads included,
    and refuses to be unpickled in another.
    """

    def __init__(self, hasher: Hasher = "blake3") -> None:
        super().__init__(hasher)
        self.blocks: dict[bytes, bytes] = {}
        self._token = uuid.uuid4().hex
        _living[self._token] = self

    def read_blocks(self, cids: Sequence[bytes]) -> list[Data]:
        try:
            return [self.blocks[cid] for cid in cids]
        except KeyError as error:
            raise BlockNotFound(
                f"no block {text(error.args[0])} in memory, among {len(self.blocks)}: was it built with another CAS?"
            ) from None

    def has_blocks(self, cids: Sequence[bytes]) -> list[bool]:
        return [cid in self.blocks for cid in cids]

    def writer(self) -> Writer:
        return _MemoryWriter(self)

    def _implicit_writer(self) -> Writer:
        return self.writer()

    def refuse_other_processes(self) -> None:
        raise NotPortable(_message(os.getpid(), "workers in other processes"))

    def __reduce__(self) -> tuple[Any, ...]:
        return _find, (os.getpid(), self._token)

    def __dask_tokenize__(self) -> tuple[str, str]:
        return (type(self).__qualname__, self._token)

    def __repr__(self) -> str:
        return f"InMemoryCAS({self.hasher!r}): {len(self.blocks)} blocks"


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
    """Blocks go in at once: in one process there is nothing to make durable."""

    def __init__(self, cas: InMemoryCAS) -> None:
        super().__init__(cas.hasher)
        self._cas = cas
        self._receipt = Receipt()

    def save_many(self, blocks: Iterable[Block]) -> None:
        # A copy of each: a view would keep alive, or change with, the caller's buffer.
        new = {block.cid: bytes(block.data) for block in blocks if block.cid not in self._cas.blocks}
        self._cas.blocks.update(new)
        self._receipt += Receipt(len(new), sum(map(len, new.values())))

    def flush(self) -> Receipt:
        receipt, self._receipt = self._receipt, Receipt()
        return receipt

    def close(self) -> None:
        self._receipt = Receipt()
