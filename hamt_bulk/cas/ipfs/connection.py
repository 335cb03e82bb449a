"""
What one process shares of a store on IPFS: connections, the health of its servers, and turns.

Stores are unpickled in every task, so what they connect with is kept by configuration. It lives on the private
loop, and is made again in a forked child.
"""

import atexit
import os
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from weakref import WeakSet, WeakValueDictionary

import httpx

from hamt_bulk.cas.ipfs.address import Address
from hamt_bulk.cas.ipfs.credentials import Credentials
from hamt_bulk.cas.ipfs.gateway import Gateway
from hamt_bulk.cas.ipfs.rpc import Rpc
from hamt_bulk.cas.ipfs.server import Server
from hamt_bulk.cas.ipfs.source import Source
from hamt_bulk.cas.ipfs.sources import Sources
from hamt_bulk.cas.ipfs.transport import Transport, transport_of
from hamt_bulk.cas.loop import run_sync, start
from hamt_bulk.cas.retries import Retries
from hamt_bulk.errors import NotPortable

IMPORTS_AT_ONCE = 2
"""Requests of blocks that one process has under way. With two the daemon is busy all the time."""

CLOSE_SECONDS = 5.0

MAX_CONNECTIONS = 16
"""Configurations that a process keeps connections for when nobody uses them."""


@dataclass(frozen=True, slots=True)
class Access:
    """Servers and how they are spoken to. Credentials are compared by identity."""

    rpc: Address | None
    gateways: tuple[Address, ...]
    trusted: frozenset[tuple[str, str, int]]
    own_secrets: tuple[tuple[tuple[str, str, int], Credentials], ...]
    credentials: Credentials
    client: "LiveClient | None"
    client_factory: Callable[[], httpx.AsyncClient] | None
    concurrency: int
    retries: Retries


class LiveClient:
    """A client that the caller made. It pickles as a token of its process, and refuses to be in another."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.process = os.getpid()
        self._token = uuid.uuid4().hex
        _living[self._token] = self

    def __reduce__(self) -> tuple[Callable[[int, str], "LiveClient"], tuple[int, str]]:
        return _find, (os.getpid(), self._token)


_living: "WeakValueDictionary[str, LiveClient]" = WeakValueDictionary()


def _find(process: int, token: str) -> LiveClient:
    found = _living.get(token) if process == os.getpid() else None
    if found is None:
        raise _elsewhere(process)
    return found


def _elsewhere(process: int) -> NotPortable:
    return NotPortable(
        f"a live client of process {process} cannot go to process {os.getpid()}: give `client_factory`, a function "
        "that makes the client there"
    )


class Connection:
    """What `Access` says, opened."""

    def __init__(self, access: Access) -> None:
        access.credentials.check()
        for _, own in access.own_secrets:
            own.check()
        if access.client is not None and access.client.process != os.getpid():
            raise _elsewhere(access.client.process)  # a forked child would speak on its parent's connections
        self._access = access
        self._transports: list[Transport] = []
        shared = transport_of(
            access.credentials, None if access.client is None else access.client.client, access.client_factory
        )
        self._transports.append(shared)
        self.users: WeakSet[object] = WeakSet()
        """Stores of this process that have not been closed."""
        self.refuses_lists = False
        """Whether the daemon does not let us ask for many blocks by a list of them."""
        self.imports = threading.BoundedSemaphore(IMPORTS_AT_ONCE)
        self.rpc = None if access.rpc is None else Rpc(self._server(access.rpc, shared))
        self.gateways = [Gateway(self._server(address, shared)) for address in access.gateways]
        # The daemon itself comes last: a gateway gives whole paths.
        daemon: list[Source] = [self.rpc] if self.rpc is not None else []
        self.sources = Sources([*self.gateways, *daemon], access.concurrency)

    def _server(self, address: Address, shared: Transport) -> Server:
        access, transport, credentials = self._access, shared, self._access.credentials
        trusted = address.origin in access.trusted
        for origin, own in access.own_secrets:
            if origin == address.origin:
                headers = credentials.headers if trusted else {}
                credentials, trusted = Credentials(headers | own.headers), True
                transport = transport_of(credentials, None, None)
                self._transports.append(transport)
        return Server(address, transport, credentials, access.retries, access.concurrency, trusted=trusted)

    async def close(self) -> None:
        """Closes all connections."""
        for transport in self._transports:
            await transport.close()


_open: "OrderedDict[Access, Connection]" = OrderedDict()
_lock = threading.Lock()


def connection_of(access: Access, user: object) -> Connection:
    """The connection of this process for `access`, open as long as somebody uses it."""
    with _lock:
        found = _open.get(access)
        if found is None:
            found = _open[access] = Connection(access)
            unused = [one for one, connection in _open.items() if one != access and not connection.users]
            for one in unused[: max(len(_open) - MAX_CONNECTIONS, 0)]:
                start(_open.pop(one).close())
        _open.move_to_end(access)
        found.users.add(user)
        return found


def disconnect(access: Access, user: object) -> None:
    """
    Closes the connections of this process for `access`, unless others than `user` use them; the next use opens them
    again. Not to be called on the private loop.
    """
    with _lock:
        found = _open.get(access)
        if found is not None:
            found.users.discard(user)
            if found.users:
                return
            del _open[access]
    if found is not None:
        run_sync(found.close())


@atexit.register
def _close_all() -> None:
    """Closes what is open, without which aiohttp complains as the interpreter ends."""
    with _lock:
        left = list(_open.values())
        _open.clear()
    for connection in left:
        with suppress(TimeoutError):
            start(connection.close()).result(CLOSE_SECONDS)


def _after_fork() -> None:
    """The parent's connections are the parent's."""
    global _lock
    _lock = threading.Lock()
    _inherited.extend(_open.values())
    _open.clear()


_inherited: list[Connection] = []
"""Connections of the process that this one was forked from. To close one would disturb its owner."""

os.register_at_fork(after_in_child=_after_fork)
