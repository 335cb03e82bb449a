"""
How one request goes out and its answer comes back.

aiohttp, unless the caller brings an httpx client or an httpx `Auth`: a small answer costs it 0.12 ms of CPU
against 0.4 (httpx over aiohttp) and 2 (httpx). Neither follows redirects, keeps cookies nor asks for
compressed answers.
"""

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import aiohttp
import httpx

from hamt_bulk.block import Data
from hamt_bulk.cas.ipfs.credentials import Credentials
from hamt_bulk.errors import InvalidInput

CONNECT_SECONDS = 10.0

USER_AGENT = "hamt_bulk"
"""Kubo refuses some commands to whoever has "/kubo/" or "/go-ipfs/" in this header."""

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
    """No whole answer came: `refused` when nobody took the connection, so nothing was sent."""

    def __init__(self, reason: str, refused: bool = False) -> None:
        super().__init__(reason)
        self.refused = refused


class Transport(ABC):
    """Connections of one process to servers; used on one event loop."""

    @abstractmethod
    async def send(self, request: Request) -> Answer:
        """The answer. Raises `Unanswered`."""

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
        return HttpxTransport(
            httpx.AsyncClient(auth=credentials.auth, headers=credentials.headers), owned=True
        )
    return AiohttpTransport(credentials)


class AiohttpTransport(Transport):
    """One session, whose connections are kept open."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials
        self._session: aiohttp.ClientSession | None = None

    def _opened(self) -> aiohttp.ClientSession:
        """The session, made on the loop that it is used on."""
        if self._session is None:
            self._session = aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(limit=0),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
                auto_decompress=False,
                read_bufsize=_READ_BYTES,
            )
        return self._session

    async def send(self, request: Request) -> Answer:
        headers = dict(request.headers)
        if request.trusted:
            headers |= self._credentials.headers
        data: Any = None
        if request.body is not None:
            headers["Content-Length"] = str(sum(map(len, request.body)))
            data = _pieces(request.body)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_SECONDS, sock_read=request.seconds)
        try:
            async with self._opened().request(
                request.method,
                request.url,
                data=data,
                headers=headers,
                timeout=timeout,
                allow_redirects=False,
            ) as response:
                body = await _read(response, request.limit)
                status, found = response.status, response.headers
        except aiohttp.ClientConnectorError as error:
            raise Unanswered(
                f"no connection: {error.os_error.strerror or error.os_error}", refused=True
            ) from error
        except TimeoutError as error:
            connecting = isinstance(error, aiohttp.ConnectionTimeoutError)
            what = "no connection within" if connecting else "no answer for"
            seconds = CONNECT_SECONDS if connecting else request.seconds
            raise Unanswered(f"{what} {seconds:g} s", refused=connecting) from error
        except (aiohttp.ClientError, OSError) as error:
            raise Unanswered(f"the connection broke: {type(error).__name__}: {error}") from error
        _refuse_long(body, request.limit)
        return Answer(status, {name.lower(): value for name, value in found.items()}, body)

    async def close(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()


async def _read(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The body, or more than `limit` bytes of it."""
    if response.content_length is not None and response.content_length <= limit:
        return await response.read()
    body = bytearray()
    async for piece in response.content.iter_any():
        body += piece
        if len(body) > limit:
            break
    return bytes(body)


class HttpxTransport(Transport):
    """A client that the caller set up; its headers and `auth` are taken for credentials."""

    def __init__(self, client: httpx.AsyncClient, *, owned: bool) -> None:
        self._client = client
        self._owned = owned

    async def send(self, request: Request) -> Answer:
        headers = {"User-Agent": USER_AGENT, "Accept": "*/*", **request.headers}
        headers["Accept-Encoding"] = "identity"
        if request.trusted:
            own = {name: value for name, value in self._client.headers.items() if name not in _OWN_HEADERS}
            headers = own | headers
        content = None
        if request.body is not None:
            headers["Content-Length"] = str(sum(map(len, request.body)))
            content = _pieces(request.body)
        timeout = httpx.Timeout(request.seconds, connect=CONNECT_SECONDS)
        message = httpx.Request(
            request.method,
            request.url,
            headers=headers,
            content=content,
            extensions={"timeout": timeout.as_dict()},
        )
        auth: Any = httpx.USE_CLIENT_DEFAULT if request.trusted else None
        try:
            response = await self._client.send(message, stream=True, auth=auth, follow_redirects=False)
            try:
                body = bytearray()
                async for piece in response.aiter_raw():
                    body += piece
                    if len(body) > request.limit:
                        break
            finally:
                await response.aclose()
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            raise Unanswered(f"no connection: {error}", refused=True) from error
        except httpx.TimeoutException as error:
            raise Unanswered(f"no answer for {request.seconds:g} s") from error
        except httpx.HTTPError as error:
            raise Unanswered(f"the connection broke: {type(error).__name__}: {error}") from error
        _refuse_long(body, request.limit)
        return Answer(response.status_code, dict(response.headers), bytes(body))

    async def close(self) -> None:
        if self._owned:
            await self._client.aclose()


_OWN_HEADERS = frozenset({"user-agent", "accept", "accept-encoding", "connection", "host"})
"""What httpx sets on every client, and no caller means as a credential."""


async def _pieces(body: Sequence[Data]) -> AsyncIterator[bytes]:
    for piece in body:
        yield piece  # type: ignore[misc]  # buffers are written as they are


def _refuse_long(body: bytes | bytearray, limit: int) -> None:
    if len(body) > limit:
        raise Unanswered(f"an answer of more than {limit} bytes, expected at most that")
