"""A Kubo daemon as a store."""

import atexit
import os
import re
import weakref
from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from threading import Lock
from typing import Any, Self

import httpx

from hamt_bulk.block import DAG_CBOR, MAX_BLOCK_BYTES, Block, Hasher, parse
from hamt_bulk.cas.files import absolute
from hamt_bulk.cas.ipfs.address import address_of
from hamt_bulk.cas.ipfs.builds import KuboBuilds
from hamt_bulk.cas.ipfs.connection import Access, LiveClient
from hamt_bulk.cas.ipfs.credentials import Auth, credentials_of
from hamt_bulk.cas.ipfs.gateways import CONCURRENCY, IPFSReader, gateways_of, positive, secrets_of
from hamt_bulk.cas.ipfs.holds import Hold
from hamt_bulk.cas.ipfs.lists import by_lists, listed
from hamt_bulk.cas.ipfs.rest import Rest, leave, settle_beside, settle_left
from hamt_bulk.cas.ipfs.rpc import CommandFailed
from hamt_bulk.cas.ipfs.uploads import KuboWriter, SharedWriter
from hamt_bulk.cas.loop import run_sync
from hamt_bulk.cas.retries import Retries
from hamt_bulk.cas.writer import Receipt, Writer
from hamt_bulk.errors import BlockNotFound, InvalidInput

RPC_URL = "http://127.0.0.1:5001"
GATEWAY_URL = "http://127.0.0.1:8080"
"""Where a daemon on this machine answers, unless its configuration says otherwise."""


class KuboCAS(KuboBuilds):
    """
    A Kubo daemon: written to by its RPC, read from gateways and, where those have not what is wanted, by the RPC.

        cas = KuboCAS(rpc_base_url="http://127.0.0.1:5001")

    What is saved is on the daemon after `flush`, and held there, whatever is garbage-collected meanwhile: what a build
    writes until it has ended, what `save` and a `HAMT` write until `close`. A finished root is not pinned unless it is
    asked for: pass `pin=` to `to_hamt` and `build`, or call `pin_cid`, or the next `ipfs repo gc` takes it. Pins whose
    names begin with "hamt_bulk hold" are those of processes that died, or of builds whose journal waits for the same call:
    they are let go of when it has been made, and may be removed when nobody will make it.

    hasher              names the blocks: "blake3" or "sha2-256"
    client              a live `httpx.AsyncClient` to use. It stays in this process, and is used on a loop of ours: not on
                        another one at the same time
    rpc_base_url        `None`: that of a daemon on this machine
    gateway_base_url    `None`: that of a daemon on this machine; with `rpc_base_url` alone, reads go to the RPC
    concurrency         requests under way at each server
    gateway_base_urls   several gateways, in order of preference
    client_factory      gives the client to use; called once in every process
    verify_content      content is always verified; `False` is refused
    headers, auth       credentials: `auth` is "bearer:TOKEN", "basic:USER:PASSWORD", (user, password) or an
                        `httpx.Auth`. They go to the RPC and `gateway_base_url` alone, and never into a pickle:
                        workers take theirs from HAMT_BULK_KUBO_AUTH and HAMT_BULK_KUBO_HEADERS in the environment,
                        or `hamt-bulk.kubo.auth` and `.headers` in Dask's configuration, as does a KuboCAS without
    pin_on_add          keep what is saved pinned for ever, by the link lists of its imports
    chunker             "size-N": values above N bytes, at most 1 MiB, are split. Another N gives other roots
    max_retries, initial_delay, backoff_factor
                        how often, and after how many seconds, a request is sent again that may fare better
    spool               a folder, shared with the workers, that keeps what a build has sent until its root is known to be
                        complete: what a daemon loses is sent again from there
    """

    def __init__(
        self,
        hasher: Hasher = "blake3",
        client: httpx.AsyncClient | None = None,
        rpc_base_url: str | None = None,
        gateway_base_url: str | None = None,
        concurrency: int = CONCURRENCY,
        *,
        gateway_base_urls: Sequence[str] | None = None,
        client_factory: Callable[[], httpx.AsyncClient] | None = None,
        verify_content: bool = True,
        headers: Mapping[str, str] | None = None,
        auth: Auth | None = None,
        pin_on_add: bool = False,
        chunker: str = f"size-{MAX_BLOCK_BYTES}",
        max_retries: int = 3,
        initial_delay: float = 1.0,
        backoff_factor: float = 2.0,
        spool: str | PathLike[str] | None = None,
    ) -> None:
        if not verify_content:
            raise InvalidInput("verify_content=False: content is always verified, and it costs 2 % of a read")
        if client is not None and client_factory is not None:
            raise InvalidInput("client and client_factory: give one of them")
        if (client is not None or client_factory is not None) and (headers or auth is not None):
            raise InvalidInput("headers and auth go without a client: set them on the client itself")
        if gateway_base_url is not None and gateway_base_urls is not None:
            raise InvalidInput("gateway_base_url and gateway_base_urls: give one of them")
        urls = list(gateway_base_urls or ([gateway_base_url] if gateway_base_url is not None else []))
        if not urls and rpc_base_url is None:
            urls = [GATEWAY_URL]
        rpc, secret = address_of(RPC_URL if rpc_base_url is None else rpc_base_url, "rpc_base_url")
        if secret is not None and (client is not None or client_factory is not None):
            raise InvalidInput(
                "a user and password in rpc_base_url go without a client: set them on the client itself"
            )
        found = gateways_of(urls, "gateway_base_urls" if gateway_base_urls else "gateway_base_url")
        trusted = {rpc.origin, *(address.origin for address, _ in found[:1] if gateway_base_urls is None)}
        # The environment's credentials are the daemon's, whose gateway is on the same host if it is its own.
        given = auth is not None or bool(headers) or client is not None or client_factory is not None
        credentials = credentials_of(auth, headers)
        if not given:
            trusted = {origin for origin in trusted if origin[:2] == rpc.origin[:2]}
        super().__init__(
            hasher,
            Access(
                rpc=rpc,
                gateways=tuple(address for address, _ in found),
                trusted=frozenset(trusted),
                own_secrets=(
                    *secrets_of([(rpc, secret)], for_daemon=True),
                    *secrets_of(found, for_daemon=False),
                ),
                credentials=credentials,
                client=None if client is None else LiveClient(client),
                client_factory=client_factory,
                concurrency=positive("concurrency", concurrency),
                retries=Retries(max_retries, initial_delay, backoff_factor),
            ),
        )
        self.leaf_bytes = _leaf_bytes(chunker)
        self.pin_on_add = pin_on_add
        self._spool = None if spool is None else absolute(spool)
        self._begin(None)

    def _begin(self, hold: Hold | None) -> None:
        """As a build with this hold has it; `None`: not for a build."""
        self._is_build = hold is not None
        self._hold = hold or Hold.new(self.hasher, for_ever=self.pin_on_add)
        self._rest = Rest(self._access, self._hold)
        if hold is None:
            self._finalizer = weakref.finalize(self, leave, self._rest)
            self._finalizer.atexit = False
        self._implicit: SharedWriter | None = None
        self._lock = Lock()
        _living.add(self)

    # Reading: what was saved and has not arrived yet is read here.

    async def _block(self, cid: bytes) -> bytes:
        unsent = self._unsent(cid)
        return await super()._block(cid) if unsent is None else unsent

    async def _blocks(self, cids: Sequence[bytes]) -> list[Any]:
        nodes = [
            cid for cid in dict.fromkeys(cids) if parse(cid).codec == DAG_CBOR and self._unsent(cid) is None
        ]
        found = await by_lists(self.connection, self.rpc, nodes, self.hasher)
        rest = [cid for cid in cids if cid not in found]
        found |= zip(rest, await super()._blocks(rest), strict=True)
        return [found[cid] for cid in cids]

    async def _path(self, root: bytes, segments: Sequence[str]) -> list[Block]:
        unsent = self._unsent(root)
        return await super()._path(root, segments) if unsent is None else [Block(root, unsent)]

    async def _size(self, cid: bytes) -> int:
        unsent = self._unsent(cid)
        return await super()._size(cid) if unsent is None else len(unsent)

    def has_blocks(self, cids: Sequence[bytes]) -> list[bool]:
        there = run_sync(listed(self.rpc, [cid for cid in dict.fromkeys(cids) if self._unsent(cid) is None]))
        rest = [cid for cid in cids if cid not in there]
        there.update(cid for cid, has in zip(rest, super().has_blocks(rest), strict=True) if has)
        return [cid in there for cid in cids]

    async def _has(self, cid: bytes) -> bool:
        """Whether the daemon itself has a block: a copy goes by this."""
        if self._unsent(cid) is not None:
            return True
        try:
            await self.rpc.size(cid)
        except BlockNotFound:
            return False
        except CommandFailed as error:
            if error.status != 403:
                raise
            return await super()._has(cid)
        return True

    def _unsent(self, cid: bytes) -> bytes | None:
        return None if self._implicit is None else self._implicit.read(cid)

    # Writing.

    def _implicit_writer(self) -> Writer:
        with self._lock:
            if self._implicit is None:
                writer = self.writer()
                assert isinstance(writer, KuboWriter)
                self._implicit = self._rest.writer = SharedWriter(writer)
            return self._implicit

    def flush(self) -> Receipt:
        settle_beside()
        return self._implicit.flush() if self._implicit is not None else Receipt()

    def close(self) -> None:
        try:
            self.flush()
            if not self._is_build:
                self._rest.settle()
        finally:
            super().close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.aclose()

    def __reduce__(self) -> tuple[Any, ...]:
        state = (self.hasher, self._access, self.leaf_bytes, self.pin_on_add, self._spool)
        # What another object of this name saves is its own: only a build's workers share what they hold.
        return _again, (type(self), *state, self._hold if self._is_build else None)

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        access = self._access
        servers = tuple(str(address) for address in (access.rpc, *access.gateways))
        return type(self).__qualname__, self.hasher, servers, self.leaf_bytes

    def __repr__(self) -> str:
        gateways = [address.url for address in self._access.gateways]
        also = f", gateway_base_urls={gateways}" if gateways else ""
        return f"KuboCAS({self.hasher!r}, rpc_base_url={str(self._access.rpc)!r}{also})"


def _leaf_bytes(chunker: str) -> int:
    found = re.fullmatch(r"size-([1-9]\d{0,9})", chunker) if isinstance(chunker, str) else None
    if found is None or int(found[1]) > MAX_BLOCK_BYTES:
        raise InvalidInput(
            f"chunker={chunker!r}: expected 'size-N', N of 1 to {MAX_BLOCK_BYTES} bytes; other chunkers, such as rabin, "
            "give roots that depend on them"
        )
    return int(found[1])


def _again(
    kind: type[KuboCAS],
    hasher: Hasher,
    access: Access,
    leaf_bytes: int,
    pin_on_add: bool,
    spool: Path | None,
    hold: Hold | None,
) -> KuboCAS:
    cas = kind.__new__(kind)
    IPFSReader.__init__(cas, hasher, access)
    cas.leaf_bytes, cas.pin_on_add, cas._spool = leaf_bytes, pin_on_add, spool
    cas._begin(None)
    if hold is not None:
        cas._begin(hold)
    return cas


_living: "weakref.WeakSet[KuboCAS]" = weakref.WeakSet()


def _after_fork() -> None:
    """A forked child starts afresh: the locks may be held by threads, and what waits is its parent's."""
    for cas in list(_living):
        cas._finalizer.detach()  # what the parent has left to do is the parent's, and so is its hold
        cas._begin(cas._hold if cas._is_build else None)


@atexit.register
def _close_all() -> None:
    """Sends what was saved and never flushed, and lets go of what is held, as the interpreter ends."""
    for cas in list(_living):
        leave(cas._rest)
    settle_left()


os.register_at_fork(after_in_child=_after_fork)
