"""The writer of a Kubo daemon: blocks collected, sent while the task goes on, and sent again when that fails."""

import threading
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from typing import Any

from hamt_bulk.block import Block
from hamt_bulk.cas.ipfs.connection import Access, Connection, connection_of
from hamt_bulk.cas.ipfs.holds import Hold
from hamt_bulk.cas.ipfs.imports import MAX_IMPORT_BLOCKS, MAX_IMPORT_BYTES, import_held, link_list
from hamt_bulk.cas.ipfs.rpc import Rpc
from hamt_bulk.cas.loop import start
from hamt_bulk.cas.writer import MAX_TRANSFER_BYTES, Receipt, Writer, as_bytes
from hamt_bulk.errors import InvalidInput

CLOSE_SECONDS = 10.0
"""How long a writer that is left waits for what is on its way."""


@dataclass(frozen=True, slots=True)
class _Upload:
    blocks: Mapping[bytes, bytes]
    future: "Future[None]"


class KuboWriter(Writer):
    """
    Blocks on their way to a daemon, at most 16 MiB in a request.

    What fails to arrive waits here again, so nothing is lost: the error is raised by the next call, and `flush`
    sends once more what waits.

    spool  writes the same blocks to disk, durable before this writer's are
    hold   keeps the blocks from garbage collections
    """

    def __init__(
        self,
        access: Access,
        hasher: str,
        leaf_bytes: int,
        spool: Writer | None,
        hold: Hold,
    ) -> None:
        super().__init__(hasher, leaf_bytes)
        self._access = access
        self._spool = spool
        self._hold = hold
        self._begin()

    @property
    def _connection(self) -> Connection:
        return connection_of(self._access, self)

    @property
    def _rpc(self) -> Rpc:
        rpc = self._connection.rpc
        assert rpc is not None
        return rpc

    def _begin(self) -> None:
        self._unsent: dict[bytes, bytes] = {}
        """All that has not arrived for certain."""
        self._waiting: dict[bytes, int] = {}
        """What of it is not on its way, and how many bytes that is."""
        self._waiting_bytes = 0
        self._uploads: list[_Upload] = []
        self._known: set[bytes] = set()
        self._receipt = Receipt()

    def save_many(self, blocks: Iterable[Block]) -> None:
        self._collect(wait=False)
        for cid, data in blocks:
            data = as_bytes(data)
            if len(data) > MAX_TRANSFER_BYTES:
                raise InvalidInput(f"a block of {len(data)} bytes, at most {MAX_TRANSFER_BYTES} can travel")
            if cid in self._known:
                continue
            # A copy where it is a view: the caller may change its buffers once this returns.
            block = bytes(data)
            if self._spool is not None:
                self._spool.save_many([Block(cid, block)])
            self._known.add(cid)
            self._take(cid, block)
            self._receipt += Receipt(1, len(block))
            if self._waiting_bytes >= MAX_IMPORT_BYTES or len(self._waiting) >= MAX_IMPORT_BLOCKS:
                self._send()

    @property
    def is_used(self) -> bool:
        """Whether something was saved since the last `flush`."""
        return bool(self._known)

    def read(self, cid: bytes) -> bytes | None:
        """A block that may not have arrived yet, or `None`."""
        return self._unsent.get(cid)

    def flush(self) -> Receipt:
        if self._spool is not None:
            self._spool.flush()
        while self._waiting:
            self._send()
        self._collect(wait=True)
        receipt = self._receipt
        self._begin()
        return receipt

    def close(self) -> None:
        # Whoever lets go of what is held after this has to find all of it.
        _, running = wait([upload.future for upload in self._uploads], CLOSE_SECONDS)
        for future in running:
            future.cancel()
        if self._spool is not None:
            self._spool.close()
        self._begin()

    def _take(self, cid: bytes, block: bytes) -> None:
        self._unsent[cid] = block
        self._waiting[cid] = len(block)
        self._waiting_bytes += len(block)

    def _send(self) -> None:
        """Sends what waits, or as much of it as one request carries, once there is a turn for it."""
        blocks: dict[bytes, bytes] = {}
        size = 0
        while self._waiting and size < MAX_IMPORT_BYTES and len(blocks) < MAX_IMPORT_BLOCKS:
            cid, length = next(iter(self._waiting.items()))
            del self._waiting[cid]
            blocks[cid] = self._unsent[cid]
            size += length
        self._waiting_bytes -= size
        upload = None
        try:
            turn, rpc = self._connection.imports, self._rpc
            turn.acquire()
            try:
                future = start(self._import(rpc, blocks))
            except BaseException:
                turn.release()
                raise
            future.add_done_callback(_release(turn))
            upload = _Upload(blocks, future)
        finally:
            if upload is None:
                for cid, block in blocks.items():
                    self._take(cid, block)
            else:
                self._uploads.append(upload)

    async def _import(self, rpc: Rpc, blocks: Mapping[bytes, bytes]) -> None:
        held = link_list(blocks, self.hasher, self._hold.token)
        # First, so that it is found whatever happens to the answer, or to this process.
        await self._hold.note(rpc, held.cid)
        await import_held(rpc, held, blocks)

    def _collect(self, *, wait: bool) -> None:
        """Takes note of uploads that have ended. What failed waits again, and the first error is raised."""
        failure: Exception | None = None
        for upload in list(self._uploads):
            if not wait and not upload.future.done():
                continue
            try:
                upload.future.result()
            except Exception as error:
                failure = failure or error
                for cid, block in upload.blocks.items():
                    self._take(cid, block)
            else:
                for cid in upload.blocks:
                    del self._unsent[cid]
            self._uploads.remove(upload)
        if failure is not None:
            raise failure


def _release(turn: threading.BoundedSemaphore) -> Callable[[Any], None]:
    return lambda _: turn.release()


class SharedWriter(Writer):
    """The writer behind `save`: for all threads, and readable before its blocks have arrived."""

    def __init__(self, writer: KuboWriter) -> None:
        super().__init__(writer.hasher, writer.leaf_bytes)
        self._writer = writer
        self._lock = threading.Lock()

    def save_many(self, blocks: Iterable[Block]) -> None:
        some = list(blocks)
        with self._lock:
            self._writer.save_many(some)

    def read(self, cid: bytes) -> bytes | None:
        """A block that may not have arrived yet, or `None`. Takes no lock, whose holder may wait for the reader."""
        return self._writer.read(cid)

    def flush(self) -> Receipt:
        with self._lock:
            return self._writer.flush()

    def close(self) -> None:
        with self._lock:
            self._writer.close()

    @property
    def is_used(self) -> bool:
        """Whether something was saved since the last `flush`."""
        return self._writer.is_used
