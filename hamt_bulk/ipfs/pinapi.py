"""The HTTP of pinning services."""

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from hamt_bulk.block import text
from hamt_bulk.cas.ipfs.retry import delay_after
from hamt_bulk.cas.ipfs.server import Server
from hamt_bulk.cas.ipfs.transport import Answer
from hamt_bulk.cas.retries import Retries
from hamt_bulk.errors import CASError, InvalidInput
from hamt_bulk.ipfs.remotepins import ALIVE, STATES, RemotePin, check, is_for, read_answer, read_pin, v1

PAGE = 1000
"""Requests in one answer, the most that the API knows."""

MAX_ANSWER_BYTES = 8 << 20
"""The longest answer that is read. A request has some hundred bytes, and JSON takes twenty times its length in memory."""

MAX_PAGES = 1000
MAX_LISTED_BYTES = 64 << 20
"""Where a list ends, of which a service may have another page for ever: more than 100,000 requests."""

_NOT_NOW = (429, 503)
_PERHAPS = (500, 502, 504)


class PinningApi:
    """A pinning service, by its API."""

    def __init__(self, server: Server, retries: Retries) -> None:
        self.server = server
        self._retries = retries

    async def send(self, pin: Mapping[str, Any], replaced: str | None) -> RemotePin:
        """
        Sends a request once, unless the service says "not now".

        When it breaks off it may have arrived, and sent again would be a second one: the service is asked.
        """
        path = _path(replaced) if replaced is not None else "/pins"
        for number in range(self._retries.max_retries + 1):
            try:
                answer = await self._ask("POST", path, pin, retries=0)
            except CASError:
                if arrived := await self._arrived(pin, replaced):
                    return arrived
                raise
            if answer.status not in _NOT_NOW or number == self._retries.max_retries:
                break
            await asyncio.sleep(delay_after(self._retries, number, answer.headers, time.time()))
        if answer.status in _PERHAPS and (arrived := await self._arrived(pin, replaced)):
            return arrived
        return self._pin_in(answer)

    async def _arrived(self, pin: Mapping[str, Any], replaced: str | None) -> RemotePin | None:
        """The request that the service has after all, if it can be asked."""
        try:
            found = await self.requests(None, v1(pin["cid"]), ALIVE)
            if replaced is not None and found and await self._has(replaced):
                return None
        except CASError:
            return None
        return next((one for one in found if one.name == pin.get("name", "")), None)

    async def _has(self, request_id: str) -> bool:
        answer = await self._ask("GET", _path(request_id))
        if answer.status != 404:
            check(self.server, answer)
        return answer.status != 404

    async def request(self, request_id: str) -> RemotePin:
        """A request as it is now."""
        return self._pin_in(await self._ask("GET", _path(request_id)))

    async def requests(self, name: str | None, cid: bytes | None, states: Sequence[str]) -> list[RemotePin]:
        """The requests with this name, for this root and in one of these states, the newest first."""
        if isinstance(states, str) or not states or not set(states) <= set(STATES):
            raise InvalidInput(f"status={states!r}: expected some of {', '.join(STATES)}")
        asked = {"limit": str(PAGE), "status": ",".join(states)}
        asked |= {} if cid is None else {"cid": text(cid)}
        asked |= {} if name is None else {"name": name, "match": "exact"}
        found: dict[str, RemotePin] = {}
        room = MAX_LISTED_BYTES
        for _ in range(MAX_PAGES):
            answer = await self._ask("GET", f"/pins?{urlencode(asked)}")
            page, count = self._page_in(answer)
            known = len(found)
            found |= {pin.request_id: pin for pin in page}
            if not page or len(page) >= count:
                break
            if len(found) == known:
                raise self.server.failure(
                    f"gives the same {len(page)} of {count} requests again and again: ask for a name or a root"
                )
            asked["before"] = page[-1].created
            room -= len(answer.body)
            if room < 0:
                raise self._endless(found)
        else:
            raise self._endless(found)
        # A service may not know a filter, and `unpin` would remove what others want.
        return [
            pin
            for pin in found.values()
            if name in (None, pin.name) and (cid is None or is_for(pin, cid)) and pin.status in states
        ]

    def _endless(self, found: Mapping[str, RemotePin]) -> CASError:
        return self.server.failure(
            f"has more requests than are listed, {len(found):,} came: ask for a name or a root"
        )

    async def remove(self, request_id: str) -> None:
        """Removes a request, if it is there."""
        answer = await self._ask("DELETE", _path(request_id))
        if answer.status != 404:
            check(self.server, answer)

    def _page_in(self, answer: Answer) -> tuple[list[RemotePin], int]:
        """Some requests, the newest first, and how many there are up to the newest of them."""
        said = read_answer(self.server, answer)
        try:
            return [read_pin(pin) for pin in said["results"]], int(said["count"])
        except (LookupError, TypeError, ValueError, OverflowError) as error:
            raise self.server.failure(f"listed no requests: {error!r}: is this a pinning service?") from error

    def _pin_in(self, answer: Answer) -> RemotePin:
        try:
            return read_pin(read_answer(self.server, answer))
        except ValueError as error:
            raise self.server.failure(f"answered no request: {error}: is this a pinning service?") from error

    async def _ask(
        self, method: str, path: str, pin: Mapping[str, Any] | None = None, *, retries: int | None = None
    ) -> Answer:
        headers = {"Accept": "application/json"}
        if pin is None:
            return await self.server.ask(
                method, path, headers=headers, retries=retries, limit=MAX_ANSWER_BYTES
            )
        headers["Content-Type"] = "application/json"
        body = [json.dumps(pin).encode()]
        return await self.server.ask(
            method, path, headers=headers, body=body, retries=retries, limit=MAX_ANSWER_BYTES
        )


def _path(request_id: str) -> str:
    return f"/pins/{quote(request_id, safe='')}"
