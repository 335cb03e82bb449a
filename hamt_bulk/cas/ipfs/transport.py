"""
How one request goes out and its answer comes back.

aiohttp, unless the caller brings an httpx client or an httpx `Auth`: a small answer costs it 0.12 ms of CPU
against 0.4 (httpx over aiohttp) and 2 (httpx). Neither follows redirects, keeps cookies nor asks for
compressed answers.
"""

import asyncio
import os
import socket
import ssl
import threading
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import aiohttp
import httpx
from aiohttp.abc import AbstractResolver, ResolveResult

from hamt_bulk.block import Data
from hamt_bulk.cas.ipfs.credentials import Credentials, masked
from hamt_bulk.errors import InvalidInput

CONNECT_SECONDS = 10.0

USER_AGENT = "hamt_bulk"
"""Kubo refuses some commands to whoever has "/kubo/" or "/go-ipfs/" in this header."""

BODY_SECONDS = 900.0
"""The longest time from the head of an answer to its end: a server may send a byte now and then, without end."""

_READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Request:
    """
    What is asked.

    body     pieces of known length, sent one after another; `None`: no body
    trusted  whether the server is one for which the credentials are
    limit    the most bytes that an answer may have
    seconds  the longest time without a byte of an answer
    """

    method: str
    url: str
    headers: Mapping[str, str]
    body: Sequence[Data] | None
    trusted: bool
    limit: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back; the names of `headers` are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Unanswered(Exception):
    """
    No whole answer came.

    refused  nobody took the connection, so nothing was sent
    repeats  it would be the same another time
    """

    def __init__(self, reason: str, *, refused: bool = False, repeats: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused
        self.repeats = repeats


UPLOAD_BYTES = 1 << 16
"""From here on a body may still be on its way when the server has answered."""

_REFUSALS = frozenset({401, 403, 404, 405})


class Transport(ABC):
    """Connections of one process to servers; used on one event loop."""

    async def send(self, request: Request) -> Answer:
        """
        The answer. Raises `Unanswered`.

        Neither that nor an answer that refuses repeats what was sent as a credential.
        """
        try:
            return await self._send(request)
        except Unanswered as error:
            if error.refused or error.repeats or sum(map(len, request.body or ())) < UPLOAD_BYTES:
                raise
            # Who refuses an upload need not read it, and what it answers may be lost as the connection breaks. It
            # is heard without a body; a command that wants one does nothing then.
            answer = await self._send(
                replace(request, body=[], seconds=min(request.seconds, CONNECT_SECONDS))
            )
            if answer.status not in _REFUSALS:
                raise
            return answer

    @abstractmethod
    async def _send(self, request: Request) -> Answer:
        """As `send`, as often as it is called."""

    @abstractmethod
    async def close(self) -> None:
        """Closes connections that this object opened."""


def transport_of(
    credentials: Credentials,
    client: httpx.AsyncClient | None,
    client_factory: Callable[[], httpx.AsyncClient] | None,
) -> Transport:
    """What to send requests with."""
    if client is not None:
        return HttpxTransport(client, owned=False)
    if client_factory is not None:
        made = client_factory()
        if not isinstance(made, httpx.AsyncClient):
            raise InvalidInput(f"client_factory gave a {type(made).__name__}, expected an httpx.AsyncClient")
        return HttpxTransport(made, owned=True)
    if credentials.auth is not None:
        # trust_env: the environment's proxies would be shown the credentials.
        own = httpx.AsyncClient(auth=credentials.auth, headers=credentials.headers, trust_env=False)
        return HttpxTransport(own, owned=True)
    return AiohttpTransport(credentials)


class Resolver(AbstractResolver):
    """
    Addresses of host names, by a thread for each.

    aiohttp's own shares the loop's executor, whose threads may all wait for uploads that wait for an address, and
    which takes nothing any more as the interpreter ends.
    """

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[Any]] = loop.create_future()

        def settle(infos: list[Any] | None, error: OSError | None) -> None:
            if found.done():
                return
            if error is not None:
                found.set_exception(error)
            else:
                found.set_result(infos or [])

        def look() -> None:
            try:
                infos = socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
            except OSError as error:
                loop.call_soon_threadsafe(settle, None, error)
            else:
                loop.call_soon_threadsafe(settle, infos, None)

        try:
            threading.Thread(target=look, name="hamt-bulk-resolve", daemon=True).start()
        except RuntimeError:  # the interpreter ends, and starts no threads
            look()
        return [
            ResolveResult(hostname=host, host=address[0], port=address[1], family=kind, proto=proto, flags=0)
            for kind, _, proto, _, address in await found
        ]

    async def close(self) -> None:
        """There is nothing to close."""


class AiohttpTransport(Transport):
    """One session, whose connections are kept open."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._session: aiohttp.ClientSession | None = None
        self._is_closed = False

    def _opened(self) -> aiohttp.ClientSession:
        """The session, made on the loop that it is used on."""
        if self._is_closed:
            raise Unanswered("the store was closed meanwhile", repeats=True)
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0, resolver=Resolver()),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
                auto_decompress=False,
                read_bufsize=_READ_BYTES,
            )
        return self._session

    async def _send(self, request: Request) -> Answer:
        secrets = self._credentials.headers if request.trusted else {}
        own = {name.lower() for name in request.headers}
        headers = {name: value for name, value in secrets.items() if name.lower() not in own}
        headers |= request.headers
        if request.body is not None:
            headers["Content-Length"] = str(sum(map(len, request.body)))
        try:
            return _cleaned(await self._exchange(request, headers), secrets.values())
        except Unanswered as error:
            failure = error
        except aiohttp.ClientConnectorError as error:
            failure = Unanswered(f"no connection: {_reason(error.os_error)}", refused=True)
        except TimeoutError as error:
            connecting = isinstance(error, aiohttp.ConnectionTimeoutError)
            failure = Unanswered(_late(request, connecting=connecting), refused=connecting)
        except ValueError as error:
            failure = Unanswered(f"no request can be made: {type(error).__name__}: {error}", repeats=True)
        except (aiohttp.ClientError, OSError) as error:
            failure = Unanswered(f"the connection broke: {type(error).__name__}: {error}")
        # Out here, since what was caught has the headers in it.
        raise _without(failure, secrets.values())

    async def _exchange(self, request: Request, headers: Mapping[str, str]) -> Answer:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=request.seconds)
        # aiohttp has no limit for a server that stops reading.
        async with asyncio.timeout(None) as sending:
            async with self._opened().request(
                request.method,
                request.url,
                data=None if request.body is None else _pieces(request.body, request.seconds, sending),
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                sending.reschedule(_now() + _body_seconds(request))
                body = await _read(response, request.limit)
                return Answer(
                    response.status, {name.lower(): value for name, value in response.headers.items()}, body
                )

    async def close(self) -> None:
        self._is_closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, of at most `limit` bytes."""
    length = response.content_length
    if length is not None and response.method != "HEAD":
        _refuse_long(length, limit)
        return await response.read()
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        _refuse_long(len(body), limit)
    return bytes(body)


class HttpxTransport(Transport):
    """A client that the caller set up; its headers and `auth` are taken for credentials."""

    def __init__(self, client: httpx.AsyncClient, *, owned: bool) -> None:
        self._client = client
        self._owned = owned

    async def _send(self, request: Request) -> Answer:
        headers = {
            "User-Agent": USER_AGENT,
            "Accept": "*/*",
            **request.headers,
            "Accept-Encoding": "identity",
        }
        secrets = []
        if request.trusted:
            taken = _OWN_HEADERS | {name.lower() for name in request.headers}
            own = {name: value for name, value in self._client.headers.items() if name not in taken}
            headers = own | headers
            secrets = list(own.values())
        content = None
        if request.body is not None:
            headers["Content-Length"] = str(sum(map(len, request.body)))
            content = _Body(request.body)
        try:
            timeout = httpx.Timeout(request.seconds, connect=CONNECT_SECONDS)
            message = httpx.Request(
                request.method,
                request.url,
                headers=headers,
                content=content,
                extensions={"timeout": timeout.as_dict()},
            )
            return await self._exchange(message, request, secrets)
        except Unanswered as error:
            failure = error
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            failure = Unanswered(f"no connection: {error}", refused=True)
        except (httpx.TimeoutException, TimeoutError):
            failure = Unanswered(_late(request))
        except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError, ValueError) as error:
            failure = Unanswered(f"no request can be made: {type(error).__name__}: {error}", repeats=True)
        except (httpx.HTTPError, RuntimeError, OSError) as error:
            # A client that its owner has closed raises `RuntimeError`.
            failure = Unanswered(f"the connection broke: {type(error).__name__}: {error}")
        # Out here, since what was caught has the request in it.
        raise _without(failure, secrets)

    async def _exchange(self, message: httpx.Request, request: Request, secrets: list[str]) -> Answer:
        auth: Any = httpx.USE_CLIENT_DEFAULT if request.trusted else None
        response = await self._client.send(message, stream=True, auth=auth, follow_redirects=False)
        try:
            # What the client's `auth` has added is known once it was sent.
            secrets += [response.request.headers.get("authorization", "")]
            async with asyncio.timeout(_body_seconds(request)):
                body = bytearray()
                async for piece in response.aiter_raw():
                    body += piece
                    _refuse_long(len(body), request.limit)
        finally:
            await response.aclose()
        return _cleaned(Answer(response.status_code, dict(response.headers), bytes(body)), secrets)

    async def close(self) -> None:
        if self._owned:
            await self._client.aclose()


_OWN_HEADERS = frozenset({"user-agent", "accept", "accept-encoding", "connection", "host"})
"""What httpx sets on every client, and no caller means as a credential."""


class _Body:
    """A request's body, which can be sent again: an `Auth` may answer a challenge."""

    def __init__(self, body: Sequence[Data]) -> None:
        self._body = body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for piece in self._body:
            yield piece  # type: ignore[misc]  # buffers are written as they are


async def _pieces(body: Sequence[Data], seconds: float, sending: asyncio.Timeout) -> AsyncIterator[bytes]:
    """The pieces of a body. Each has `seconds` to be taken, and then the answer so many to begin."""
    with suppress(RuntimeError):  # the answer came before the end of what it answers
        for piece in body:
            sending.reschedule(_now() + seconds)
            yield piece  # type: ignore[misc]  # buffers are written as they are
        sending.reschedule(_now() + 2 * seconds)


def _now() -> float:
    return asyncio.get_running_loop().time()


def _refuse_long(length: int, limit: int) -> None:
    if length > limit:
        raise Unanswered(f"an answer of more than {limit} bytes, expected at most that", repeats=True)


def _body_seconds(request: Request) -> float:
    return max(BODY_SECONDS, request.seconds)


def _late(request: Request, *, connecting: bool = False) -> str:
    return (
        f"no connection within {CONNECT_SECONDS:g} s"
        if connecting
        else f"no answer for {request.seconds:g} s"
    )


def _reason(error: OSError) -> str:
    """Why there is no connection, as the system says it; asyncio's own text is that there is none."""
    if isinstance(error, (ssl.SSLError, socket.gaierror)) or not error.errno or error.errno < 0:
        return str(error.strerror or error)
    return os.strerror(error.errno)


def _cleaned(answer: Answer, secrets: Collection[str]) -> Answer:
    """An answer without `secrets`, which some servers repeat as they refuse them."""
    if answer.status < 400 or not secrets:
        return answer
    shown = masked(answer.body[:_SHOWN_BYTES].decode(errors="replace"), secrets)
    return Answer(answer.status, answer.headers, shown.encode())


_SHOWN_BYTES = 1 << 16
"""What is left of an answer that refuses; nobody reads further."""


def _without(failure: Unanswered, secrets: Collection[str]) -> Unanswered:
    return Unanswered(masked(str(failure), secrets), refused=failure.refused, repeats=failure.repeats)
