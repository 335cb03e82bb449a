"""
Pinning services, which keep roots for others: the IPFS Pinning Service API.

    POST   /pins               {cid, name, origins, meta}      a request; the service then fetches the blocks
    POST   /pins/{requestid}   the same                        in place of another, whose blocks are not let go between
    GET    /pins/{requestid}   {requestid, status, created, pin, delegates, info}
    GET    /pins?cid=…&name=…&status=…&before=…&limit=…        {count, results}, the newest first
    DELETE /pins/{requestid}

Source: https://ipfs.github.io/pinning-services-api-spec/
"""

import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hamt_bulk.block import AnyCID, text
from hamt_bulk.cas.ipfs.address import address_of
from hamt_bulk.cas.ipfs.connection import Access, connection_of, disconnect
from hamt_bulk.cas.ipfs.credentials import NOTHING, Auth, credentials_of
from hamt_bulk.cas.ipfs.gateways import secrets_of
from hamt_bulk.cas.ipfs.kubo import KuboCAS
from hamt_bulk.cas.loop import run_sync
from hamt_bulk.cas.retries import Retries
from hamt_bulk.errors import InvalidInput, NotPortable
from hamt_bulk.ipfs.pinapi import PinningApi
from hamt_bulk.ipfs.remotepins import (
    ALIVE,
    AUTH_VARIABLE,
    MAX_ORIGINS,
    STATES,
    PinState,
    RemotePin,
    id_of,
    v1,
    wanted,
)

CONCURRENCY = 8
WAIT_SECONDS = 3600.0
_LOOPBACK = ("/ip4/127.", "/ip6/::1/", "/dns4/localhost/")
_POLL_SECONDS, _POLL_FACTOR, _MAX_POLL_SECONDS = 0.5, 1.5, 15.0


class PinningService:
    """
    A pinning service.

        service = PinningService("https://api.example/psa", auth="bearer:TOKEN")
        service.wait(service.pin(root, name="era5", origins=addresses(cas)))

    url      without `/pins`
    auth     "bearer:TOKEN", or what `KuboCAS` takes; without, HAMT_BULK_PINNING_AUTH of the environment. It goes to
             this service alone, and never into a pickle: another process takes that of its own environment
    max_retries, initial_delay, backoff_factor
             how often, and after how many seconds, a request is sent again that may fare better
    """

    def __init__(
        self,
        url: str,
        *,
        auth: Auth | None = None,
        max_retries: int = 3,
        initial_delay: float = 1.0,
        backoff_factor: float = 2.0,
    ) -> None:
        bare = url.rstrip("/").removesuffix("/pins") if isinstance(url, str) else url
        address, secret = address_of(bare, "url")
        given = auth if auth is not None or secret is not None else os.environ.get(AUTH_VARIABLE) or None
        retries = Retries(max_retries, initial_delay, backoff_factor)
        self._access = Access(
            rpc=address,
            gateways=(),
            trusted=frozenset({address.origin}),
            own_secrets=secrets_of([(address, secret if given is None else None)], for_daemon=False),
            credentials=NOTHING if given is None else credentials_of(given, None),
            client=None,
            client_factory=None,
            concurrency=CONCURRENCY,
            retries=retries,
        )

    @property
    def url(self) -> str:
        """Where the service is, without `/pins`."""
        return str(self._access.rpc)

    def pin(
        self,
        root: AnyCID,
        *,
        name: str = "",
        origins: Sequence[str] = (),
        meta: Mapping[str, str] | None = None,
        replace: RemotePin | str | None = None,
    ) -> RemotePin:
        """
        The request to keep a root with all that it reaches, which the service fetches: see `wait`.

        origins  where the service finds the blocks, such as `addresses(cas)`; else it looks for them on the network
        meta     what the service is to note, or a wish that it knows
        replace  the request, perhaps by its ID, that this one takes the place of
        """
        pin = wanted(v1(root), name, origins, meta)
        return run_sync(self._api.send(pin, None if replace is None else id_of(replace)))

    def update(
        self,
        old_root: AnyCID,
        new_root: AnyCID,
        *,
        name: str | None = None,
        origins: Sequence[str] = (),
        meta: Mapping[str, str] | None = None,
    ) -> RemotePin:
        """
        The request for `new_root` in place of the newest for `old_root`; blocks of both are not let go between.

        name  of both requests; `None`: the old one's, whatever it is

        Raises `CASError` when the service has no request for `old_root`.
        """
        old, new = v1(old_root), v1(new_root)
        return run_sync(self._update(old, new, name, origins, meta))

    def wait(
        self,
        pin: RemotePin | str,
        *,
        seconds: float = WAIT_SECONDS,
        progress: Callable[[RemotePin], None] | None = None,
    ) -> RemotePin:
        """
        A request, perhaps by its ID, once its root is pinned.

        progress  is called with the request whenever it has changed

        Raises `CASError` when the service failed, or has not finished within `seconds`.
        """
        request_id = id_of(pin)
        end = time.monotonic() + seconds
        pause = _POLL_SECONDS
        last: RemotePin | None = None
        while True:
            now = self.status(request_id)
            if progress is not None and now != last:
                progress(now)
            last = now
            if now.status == "pinned":
                return now
            about = f"{now.cid} (request {request_id}; {now.details})"
            if now.status == "failed":
                raise self._api.server.failure(
                    f"could not pin {about}. Is a daemon that has it on the network, and reachable? Give its "
                    "`addresses` as origins"
                )
            left = end - time.monotonic()
            if left <= 0:
                raise self._api.server.failure(
                    f"has not pinned {about} within {seconds:g} s: {now.status}. It goes on: wait again"
                )
            time.sleep(min(pause, left))
            pause = min(pause * _POLL_FACTOR, _MAX_POLL_SECONDS)

    def status(self, pin: RemotePin | str) -> RemotePin:
        """A request, perhaps by its ID, as it is now."""
        return run_sync(self._api.request(id_of(pin)))

    def ls(
        self,
        name: str | None = None,
        cid: AnyCID | None = None,
        *,
        status: Sequence[PinState] = STATES,
    ) -> list[RemotePin]:
        """The requests with this name, for this root and in one of these states, the newest first."""
        return run_sync(self._api.requests(name, None if cid is None else v1(cid), status))

    def unpin(self, pin: RemotePin | AnyCID) -> None:
        """Removes a request, perhaps by its ID, or all requests for a root. What is gone already is no error."""
        run_sync(self._unpin(pin))

    def close(self) -> None:
        """Closes connections; the next call opens them again."""
        disconnect(self._access, self)

    @property
    def _api(self) -> PinningApi:
        rpc = connection_of(self._access, self).rpc  # of which only the server is used
        assert rpc is not None
        return PinningApi(rpc.server, self._access.retries)

    async def _update(
        self, old: bytes, new: bytes, name: str | None, origins: Sequence[str], meta: Mapping[str, str] | None
    ) -> RemotePin:
        found = await self._api.requests(name, old, ALIVE)
        if not found:
            named = "" if name is None else f" under the name {name!r}"
            raise self._api.server.failure(
                f"has no request for {text(old)}{named} to replace: pin the new root"
            )
        if old == new:
            return found[0]
        return await self._api.send(wanted(new, found[0].name, origins, meta), found[0].request_id)

    async def _unpin(self, pin: RemotePin | AnyCID) -> None:
        for request_id in await self._requests(pin):
            await self._api.remove(request_id)

    async def _requests(self, pin: RemotePin | AnyCID) -> list[str]:
        """The IDs of one request, or of all for a root."""
        if isinstance(pin, RemotePin):
            return [pin.request_id]
        try:
            root = v1(pin)
        except InvalidInput:
            if not isinstance(pin, str):
                raise
            return [id_of(pin)]
        return [found.request_id for found in await self._api.requests(None, root, STATES)]

    def __reduce__(self) -> tuple[Any, ...]:
        has_secret = bool(self._access.credentials or self._access.own_secrets)
        return _again, (self.url, self._access.retries, has_secret)

    def __repr__(self) -> str:
        return f"PinningService({self.url!r})"


def _again(url: str, retries: Retries, has_secret: bool) -> PinningService:
    service = PinningService(
        url,
        max_retries=retries.max_retries,
        initial_delay=retries.initial_delay,
        backoff_factor=retries.backoff_factor,
    )
    if has_secret and not service._access.credentials:
        raise NotPortable(
            f"credentials do not travel, and process {os.getpid()} has none for {url}: set {AUTH_VARIABLE} "
            "(bearer:TOKEN) in its environment"
        )
    return service


def addresses(cas: KuboCAS) -> list[str]:
    """Where other machines may reach the daemon, as `origins` of a pin; none when it is offline."""
    [said] = run_sync(cas.rpc.lines("id"))
    found = [str(address) for address in said.get("Addresses") or []]
    return [address for address in found if not address.startswith(_LOOPBACK)][:MAX_ORIGINS]
