"""A store whose calls are made again when the outside has failed."""

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any, Self, TypeVar

from multiformats import CID

from hamt_bulk.block import AnyCID, Block, Data, to_cid
from hamt_bulk.cas.base import CodecInput, ContentAddressedStore, Receipt, Writer, blocks_of
from hamt_bulk.cas.blocks import BlockCAS
from hamt_bulk.cas.retries import Attempts, Retries, retried, retried_async
from hamt_bulk.cas.rewriting import KEPT_BYTES, RetryingWriter, Unflushed, fixed
from hamt_bulk.cas.wrap import save_value, verified
from hamt_bulk.cas.wrapping import WrappingBlockCAS, WrappingCAS, has_writer
from hamt_bulk.errors import BlockNotFound, CASError, InvalidInput

T = TypeVar("T")


class RetryingCAS(WrappingCAS):
    """
    A store around one on flaky storage: what fails with `CASError` is tried again.

        cas = RetryingCAS(PackCAS("/mnt/share/store"), Retries(max_retries=6))

    Not tried again are failures that stay until somebody does something: no space, no permission, a file in the
    way; and what comes before a build (`announce`, `preflight`), which is to fail early. A block that is not what
    its CID says is read once more, also from a store that does not verify: it is hashed here.

    What is saved is kept until it is flushed, so that a writer that lost it can be replaced; beyond 64 MiB it is
    flushed at once. Servers' stores (`KuboCAS`, `GatewayCAS`) try again by themselves, and need no such store.
    """

    def __new__(cls, inner: ContentAddressedStore, retries: Retries | None = None) -> Self:
        if cls is RetryingCAS and isinstance(inner, BlockCAS):
            return super().__new__(_RetryingBlockCAS)  # type: ignore[return-value]
        return super().__new__(cls)

    def __init__(self, inner: ContentAddressedStore, retries: Retries | None = None) -> None:
        if not isinstance(inner, ContentAddressedStore):
            raise InvalidInput(f"not a store: {type(inner).__name__}; give a ContentAddressedStore")
        if not (retries is None or isinstance(retries, Retries)):
            raise InvalidInput(f"retries={retries!r}: expected Retries(max_retries=…, initial_delay=…)")
        super().__init__(verified(inner))
        self.retries = retries or Retries()
        self._saved = Unflushed()
        self._process = os.getpid()

    def _options(self) -> tuple[Any, ...]:
        return (self.retries,)

    def _around(self, inner: ContentAddressedStore) -> Self:
        other = super()._around(inner)
        other._saved = Unflushed()
        return other

    # Reading.

    async def load(
        self, id: AnyCID, offset: int | None = None, length: int | None = None, suffix: int | None = None
    ) -> bytes:
        async def call() -> bytes:
            kept = self._unflushed
            while True:
                changes = kept.changes
                try:
                    return await self.inner.load(id, offset, length, suffix)
                except BlockNotFound:
                    if not kept.may_come_back(changes):
                        raise
                    await kept.aside(self._give_again)
                except CASError:
                    if kept.size and kept.lose(changes):  # it may be what waits that cannot be read
                        with suppress(CASError):
                            await kept.aside(self._give_again)
                    raise

        return await retried_async(call, self.retries)

    def _read(self, call: Callable[[], T]) -> T:
        """What `call` gives, made again after failures that may pass."""

        def attempt() -> T:
            kept = self._unflushed
            while True:
                changes = kept.changes
                try:
                    return call()
                except BlockNotFound:
                    if not kept.may_come_back(changes):
                        raise
                    self._give_again()
                except CASError:
                    if kept.size and kept.lose(changes):  # it may be what waits that cannot be read
                        with suppress(CASError):
                            self._give_again()
                    raise

        return retried(attempt, self.retries)

    def load_range(self, cid: AnyCID, start: int, stop: int | None) -> bytes:
        return self._read(lambda: self.inner.load_range(cid, start, stop))

    def load_many(self, cids: Sequence[AnyCID]) -> list[bytes]:
        return self._read(lambda: self.inner.load_many(cids))

    def load_ipld_path(self, root: AnyCID, segments: Sequence[str]) -> list[Block]:
        return self._read(lambda: self.inner.load_ipld_path(root, segments))

    def has_many(self, cids: Sequence[AnyCID]) -> list[bool]:
        return self._read(lambda: self.inner.has_many(cids))

    def claim_many(self, cids: Sequence[AnyCID]) -> list[bool]:
        return self._read(lambda: self.inner.claim_many(cids))

    def size_many(self, cids: Sequence[AnyCID]) -> list[int]:
        return self._read(lambda: self.inner.size_many(cids))

    # Writing.

    def writer(self) -> Writer:
        if not has_writer(self.inner):
            return super(WrappingCAS, self).writer()  # by `save`
        return RetryingWriter(self.inner.writer, self.retries)

    async def save(self, data: bytes, codec: CodecInput) -> CID:
        return to_cid(await self.save_value(data, codec))

    async def save_value(self, data: Data, codec: CodecInput) -> bytes:
        """As `save`, with the CID's bytes."""
        if not has_writer(self.inner):  # what it took is there, flushed or not
            return await retried_async(lambda: save_value(self.inner, data, codec), self.retries)
        kept, value = self._unflushed, fixed(data)
        if kept.size > KEPT_BYTES:
            await kept.aside(self.flush)
        attempts = Attempts(self.retries)
        while True:
            try:
                if kept.is_lost:
                    await kept.aside(self._give_again)
                changes = kept.changes
                try:
                    cid = await save_value(self.inner, value, codec)
                except CASError:
                    if not kept.lose(changes):
                        continue  # what another call's failure has done, that call counts
                    raise
            except CASError as error:
                seconds = attempts.after(error)
            else:
                if kept.add(value, codec, changes):
                    return cid
                continue  # another call has opened the store anew, and it may have dropped this value
            await asyncio.sleep(seconds)

    def flush(self) -> Receipt:
        return retried(self._flush, self.retries)

    def _flush(self) -> Receipt:
        kept = self._unflushed
        with kept.turn:
            self._give_what_is_lost(kept)
            taken = kept.now()
            try:
                receipt = self.inner.flush()
            except CASError:
                kept.is_lost = True
                raise
            if not kept.is_lost:
                kept.remove(taken)
            receipt, kept.receipt = kept.receipt + receipt, Receipt()
            return receipt

    def _give_again(self) -> None:
        kept = self._unflushed
        with kept.turn:
            self._give_what_is_lost(kept)

    def _give_what_is_lost(self, kept: Unflushed) -> None:
        """Writes, durably, what the store has lost of what `save` was given."""
        if not kept.is_lost:
            return  # or another thread has done it
        with suppress(CASError):  # says what it said before
            self.inner.close()
        kept.is_lost = False  # what is lost from now on is noticed
        kept.changed()
        values = kept.now()
        try:
            with self.inner.writer() as writer:
                given = (blocks_of(*value, writer.hasher, writer.leaf_bytes)[1] for value in values.values())
                writer.save_many(
                    chain.from_iterable(given)
                )  # in one call, of which there is only one that may fail
                kept.receipt += writer.flush()
        except BaseException:
            kept.is_lost = True
            raise
        kept.remove(values)
        kept.changed()  # who looked for a block until now has to look again

    @property
    def _unflushed(self) -> Unflushed:
        if self._process != os.getpid():  # what waits in a forked child is its parent's
            self._saved, self._process = Unflushed(), os.getpid()
        return self._saved

    def close(self) -> None:
        try:
            self.flush()
        finally:
            self._saved = Unflushed()
            self.inner.close()

    # A build.

    def secure(self, root: bytes, name: str | None, base: bytes | None) -> None:
        retried(lambda: self.inner.secure(root, name, base), self.retries)

    def started(self, base: bytes | None) -> None:
        retried(lambda: self.inner.started(base), self.retries)

    def finish(self) -> None:
        retried(self.inner.finish, self.retries)

    def begin(self) -> Self:
        inner = retried(self.inner.begin, self.retries)
        return self if inner is self.inner else self._around(inner)

    def __reduce__(self) -> tuple[Any, ...]:
        return RetryingCAS, (self.inner, self.retries)

    def __repr__(self) -> str:
        return f"RetryingCAS({self.inner!r}, {self.retries!r})"


class _RetryingBlockCAS(RetryingCAS, WrappingBlockCAS):
    """As `RetryingCAS`, around a store that gives single blocks."""

    def load_blocks(self, cids: Sequence[bytes]) -> list[Data]:
        return self._read(lambda: self.inner.load_blocks(cids))

    def has_blocks(self, cids: Sequence[bytes]) -> list[bool]:
        return self._read(lambda: self.inner.has_blocks(cids))

    def size_blocks(self, cids: Sequence[bytes]) -> list[int]:
        return self._read(lambda: self.inner.size_blocks(cids))
