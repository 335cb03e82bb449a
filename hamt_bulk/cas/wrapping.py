"""Stores around a store: what they do not change is handed on to the store within."""

import copy
import pickle
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

from multiformats import CID

from hamt_bulk.block import AnyCID, Block, Data
from hamt_bulk.cas.base import CodecInput, ContentAddressedStore, Receipt, Writer
from hamt_bulk.cas.blocks import BlockCAS


def configuration(cas: ContentAddressedStore) -> tuple[str, str]:
    """What tells one store's configuration from another's: the same in every process that has the store."""
    kind = f"{type(cas).__module__}.{type(cas).__qualname__}"
    tokenize = getattr(cas, "__dask_tokenize__", None)
    if tokenize is not None:
        return kind, repr(tokenize())
    try:
        return kind, pickle.dumps(cas).hex()
    except Exception:  # a store that cannot travel, whatever it raises, is equal to itself alone
        return kind, f"at {id(cas):x}"


def innermost(cas: ContentAddressedStore) -> ContentAddressedStore:
    """The store within all that was put around it."""
    while isinstance(cas, WrappingCAS):
        cas = cas.inner
    return cas


def has_writer(cas: ContentAddressedStore) -> bool:
    """Whether it takes blocks as they are; a store without a writer of its own has nothing but `save`."""
    return type(innermost(cas)).writer is not ContentAddressedStore.writer


class WrappingCAS(ContentAddressedStore):
    """A store that hands every call on to `inner`; a subclass changes what it is for, and gives `_options`."""

    def __init__(self, inner: ContentAddressedStore) -> None:
        self.inner = inner
        self.hasher = inner.hasher
        self.verifies = inner.verifies
        self.loads_paths = inner.loads_paths
        self.unseen_seconds = inner.unseen_seconds

    def _options(self) -> tuple[Any, ...]:
        """What the constructor takes after the store."""
        return ()

    def _around(self, inner: ContentAddressedStore) -> Self:
        """The same around another store."""
        other = copy.copy(self)
        other.inner = inner
        return other

    async def save(self, data: bytes, codec: CodecInput) -> CID:
        return await self.inner.save(data, codec)

    async def load(
        self, id: AnyCID, offset: int | None = None, length: int | None = None, suffix: int | None = None
    ) -> bytes:
        return await self.inner.load(id, offset, length, suffix)

    def load_range(self, cid: AnyCID, start: int, stop: int | None) -> bytes:
        return self.inner.load_range(cid, start, stop)

    def load_many(self, cids: Sequence[AnyCID]) -> list[bytes]:
        return self.inner.load_many(cids)

    def load_ipld_path(self, root: AnyCID, segments: Sequence[str]) -> list[Block]:
        return self.inner.load_ipld_path(root, segments)

    def has_many(self, cids: Sequence[AnyCID]) -> list[bool]:
        return self.inner.has_many(cids)

    def claim_many(self, cids: Sequence[AnyCID]) -> list[bool]:
        return self.inner.claim_many(cids)

    def size_many(self, cids: Sequence[AnyCID]) -> list[int]:
        return self.inner.size_many(cids)

    def writer(self) -> Writer:
        return self.inner.writer()

    def flush(self) -> Receipt:
        return self.inner.flush()

    def begin(self) -> Self:
        inner = self.inner.begin()
        return self if inner is self.inner else self._around(inner)

    def started(self, base: bytes | None) -> None:
        self.inner.started(base)

    def copying(self) -> AbstractContextManager[None]:
        return self.inner.copying()

    def check_pin(self, name: str | None) -> None:
        self.inner.check_pin(name)

    def secure(self, root: bytes, name: str | None, base: bytes | None) -> None:
        self.inner.secure(root, name, base)

    def finish(self) -> None:
        self.inner.finish()

    def abandon(self) -> None:
        self.inner.abandon()

    def leave(self) -> None:
        self.inner.leave()

    @property
    def lease(self) -> str:
        return self.inner.lease

    def take_over(self, leases: Sequence[str], cids: Sequence[AnyCID]) -> list[bool]:
        return self.inner.take_over(leases, cids)

    @property
    def journals(self) -> Path | None:
        return self.inner.journals

    def refuse_other_processes(self) -> None:
        self.inner.refuse_other_processes()

    def announce(self) -> str:
        return self.inner.announce()

    def preflight(self, token: str) -> None:
        self.inner.preflight(token)

    def retract(self, token: str) -> None:
        self.inner.retract(token)

    def close(self) -> None:
        self.inner.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.inner, *self._options())

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return type(self).__qualname__, configuration(self.inner), *map(repr, self._options())

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, (self.inner, *self._options())))})"


class WrappingBlockCAS(WrappingCAS, BlockCAS):
    """As `WrappingCAS`, around a store that gives single blocks."""

    inner: BlockCAS

    async def save_value(self, data: Data, codec: CodecInput) -> bytes:
        return await self.inner.save_value(data, codec)

    def load_blocks(self, cids: Sequence[bytes]) -> list[Data]:
        return self.inner.load_blocks(cids)

    def has_blocks(self, cids: Sequence[bytes]) -> list[bool]:
        return self.inner.has_blocks(cids)

    def size_blocks(self, cids: Sequence[bytes]) -> list[int]:
        return self.inner.size_blocks(cids)

    def _implicit_writer(self) -> Writer:
        return self.inner._implicit_writer()
