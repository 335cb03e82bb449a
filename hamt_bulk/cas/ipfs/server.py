"""One server: requests that are sent again where that helps, and answers that say who gave them."""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urljoin, urlsplit

from hamt_bulk.block import Data
from hamt_bulk.cas.ipfs.address import Address, origin_of
from hamt_bulk.cas.ipfs.credentials import Credentials
from hamt_bulk.cas.ipfs.retry import TRANSIENT, delay_after
from hamt_bulk.cas.ipfs.transport import Answer, Request, Transport, Unanswered
from hamt_bulk.cas.retries import Retries
from hamt_bulk.errors import CASError
from hamt_bulk.wording import printable

MAX_REDIRECTS = 5

MAX_ANSWER_BYTES = 64 << 20
"""A bound for what a server can make us hold. What is asked for is far smaller."""

MAX_FAILURE_CHARACTERS = 2000
"""So much of what a server says goes into an error."""

READ_SECONDS = 60.0
"""The longest time without a byte of an answer, unless the caller knows better."""

Repeats = Callable[[Answer], bool]
"""Whether an answer would be the same another time."""


class Server:
    """
    A server, and how it is spoken to.

    credentials  for its origin; it is sent them at once, since Kubo answers 403 and not 401 without
    """

    def __init__(
        self,
        address: Address,
        transport: Transport,
        credentials: Credentials,
        retries: Retries,
        concurrency: int,
        *,
        trusted: bool,
    ) -> None:
        self.address = address
        self.credentials = credentials
        self._transport = transport
        self._retries = retries
        self._trusted = trusted
        self._turn = asyncio.Semaphore(concurrency)
        self._has_answered = False

    async def ask(
        self,
        method: str,
        path: str,
        *,
        headers: Mapping[str, str] | None = None,
        body: Sequence[Data] | None = None,
        repeats: Repeats = lambda answer: False,
        retries: int | None = None,
        limit: int = MAX_ANSWER_BYTES,
        seconds: float = READ_SECONDS,
    ) -> Answer:
        """
        The answer, whatever its status. A transient one is asked for again, unless it `repeats`.

        retries  how often; `None`: as this server's policy says

        Raises `CASError` when no answer comes. A server that never answered is not asked twice: a wrong address
        stays wrong.
        """
        request = Request(method, self.address.url + path, headers or {}, body, self._trusted, limit, seconds)
        most = self._retries.max_retries if retries is None else retries
        for number in range(most + 1):
            found: Mapping[str, str] = {}
            unanswered: Unanswered | None = None
            try:
                async with self._turn:
                    answer = await self._redirected(request)
            except Unanswered as error:
                unanswered = error
            if unanswered is not None:
                never = unanswered.refused and not self._has_answered
                if number == most or never or unanswered.repeats:
                    raise self.failure(str(unanswered))
            else:
                self._has_answered = True
                if number == most or answer.status not in TRANSIENT or repeats(answer):
                    return answer
                found = answer.headers
            await asyncio.sleep(delay_after(self._retries, number, found, time.time()))
        raise AssertionError("the last attempt returns or raises")

    async def _redirected(self, request: Request) -> Answer:
        """
        The answer, redirects followed. Credentials stay with the origin that they are for.

        What is posted is not sent elsewhere: it is a command, or data, for the configured server.
        """
        for _ in range(MAX_REDIRECTS + 1):
            answer = await self._transport.send(request)
            target = answer.headers.get("location")
            if answer.status not in (301, 302, 303, 307, 308) or not target:
                return answer
            url, origin = _target(request.url, target)
            same = origin == self.address.origin
            if not origin[1] or (request.method not in ("GET", "HEAD") and not same):
                raise self.failure(
                    f"redirects to {self._shown(url)}, which is not followed: give the address that answers itself"
                )
            request = Request(
                request.method,
                url,
                request.headers,
                request.body,
                request.trusted and same,
                request.limit,
                request.seconds,
            )
        raise self.failure(
            f"redirects more than {MAX_REDIRECTS} times, in the end to {self._shown(request.url)}"
        )

    def failure(self, what: str) -> CASError:
        """The error that says what this server did, without secrets, and not at any length."""
        return CASError(
            f"{self.address}: {printable(self.credentials.redacted(what))[:MAX_FAILURE_CHARACTERS]}"
        )

    def says(self, answer: Answer) -> str:
        """What an answer says of itself, in a few words and without secrets."""
        return f"{answer.status} {self.quoted(answer.body)}".strip()

    def quoted(self, body: bytes, length: int = 300) -> str:
        """The beginning of what a server sent, without secrets."""
        # Before it is cut: half a secret is not found.
        text = self.credentials.redacted(body[: 1 << 16].decode(errors="replace"))
        return printable(" ".join(text.split())[:length])

    def _shown(self, url: str) -> str:
        scheme, host, port = origin_of(url)
        return f"{scheme}://{host}:{port}" if host else self.credentials.redacted(url[:80])


def _target(url: str, target: str) -> tuple[str, tuple[str, str, int]]:
    """Where a redirect leads, and its origin; ("", "", 0) when that is nowhere."""
    try:
        found = urljoin(url, target)
    except ValueError:
        return target, ("", "", 0)
    # A name and password that a server puts there are nothing that this client was given.
    return (found, origin_of(found)) if "@" not in urlsplit(found).netloc else (found, ("", "", 0))
