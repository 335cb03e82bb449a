"""
Kubo's RPC: commands by POST.

    POST /api/v0/{command}?arg=…&option=…        files as multipart/form-data, answers as JSON, one object a line

Source: https://docs.ipfs.tech/reference/kubo/rpc/ and what Kubo 0.42 was seen to answer.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlencode

from hamt_bulk.block import Data, text, to_bytes, verify
from hamt_bulk.cas.ipfs.server import READ_SECONDS
from hamt_bulk.cas.ipfs.source import MAX_BLOCK_ANSWER_BYTES, Source
from hamt_bulk.cas.ipfs.transport import Answer
from hamt_bulk.errors import BlockMismatch, BlockNotFound, CASError, InvalidInput
from hamt_bulk.foreign import from_json
from hamt_bulk.wording import printable

LONG_SECONDS = 900.0
"""For commands that wait for a garbage collection, or walk a whole tree, before their first byte."""

_BOUNDARY = "hamt-bulk-7b1c2f4e9d"
_FILE = 'Content-Disposition: form-data; name="file"; filename="{}"\r\nContent-Type: application/octet-stream\r\n\r\n'
_MISSING = re.compile(r"(?:could not find|not found).*?\b(baf\w{20,}|Qm\w{44})")
_FLEETING = re.compile(
    r"\bEOF\b|connection reset|broken pipe|too many open files|\btimeout\b|datastore closed"
)

Options = Sequence[tuple[str, str]]
"""Arguments and options of a command, in order; a name may come several times."""


class CommandFailed(CASError):
    """A command that the daemon refused; `said` is its own message."""

    said: str = ""
    status: int = 0


class Rpc(Source):
    """A Kubo daemon, by its RPC."""

    hedges = False  # it is the daemon behind the gateway, as a rule

    async def command(
        self,
        name: str,
        options: Options = (),
        *,
        files: Sequence[Sequence[Data]] = (),
        seconds: float = READ_SECONDS,
        retries: int | None = None,
        limit: int = MAX_BLOCK_ANSWER_BYTES,
    ) -> bytes:
        """
        What a command answers.

        files  each in pieces, sent as they are

        Raises `CommandFailed`, or `CASError` when the daemon cannot be reached.
        """
        path = f"/api/v0/{name}" + (f"?{urlencode(options)}" if options else "")
        headers, body = {}, None
        if files:
            headers = {"Content-Type": f"multipart/form-data; boundary={_BOUNDARY}"}
            body = list(_multipart(files))
        answer = await self.server.ask(
            "POST",
            path,
            headers=headers,
            body=body if body is not None else [],
            repeats=_repeats,
            seconds=seconds,
            retries=retries,
            limit=limit,
        )
        if answer.status != 200:
            raise self._refused(name, answer)
        return answer.body

    async def lines(self, name: str, options: Options = (), **more: Any) -> list[dict[str, Any]]:
        """As `command`, for answers of JSON objects, one a line."""
        body = await self.command(name, options, **more)
        if _objects(body) is None and body.startswith(b"{") and more.get("retries") != 0:
            # It was cut on its way.
            body = await self.command(name, options, **more)
        with self.understood(name, body):
            objects = _objects(body)
            if objects is None:
                raise ValueError("no objects")
        return objects

    @contextmanager
    def understood(self, name: str, answer: object) -> Iterator[None]:
        """Within it, what does not fit of an answer is a `CASError` that shows it."""
        try:
            yield
        except (ValueError, TypeError, AttributeError, LookupError, OverflowError) as error:
            body = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            raise self.server.failure(
                f"{name} answered {self.server.quoted(body, 80)!r}, expected JSON as Kubo gives it: is this a Kubo RPC?"
            ) from error

    async def block(self, cid: bytes) -> bytes:
        try:
            data = await self.command("block/get", [("arg", text(cid)), ("offline", "true")])
        except CommandFailed as error:
            if _MISSING.search(error.said):
                raise self.not_found(cid, error.said) from error
            raise
        try:
            verify(cid, data)
        except BlockMismatch as error:
            raise self.altered(error) from error
        return data

    async def size(self, cid: bytes) -> int:
        try:
            found = await self.lines("block/stat", [("arg", text(cid)), ("offline", "true")])
        except CommandFailed as error:
            if _MISSING.search(error.said):
                raise self.not_found(cid, error.said) from error
            raise
        with self.understood("block/stat", found):
            [one] = found
            size = one["Size"]
            if type(size) is not int or size < 0:
                raise ValueError(f"a size of {size!r}")
            return size

    async def identity(self, *, retries: int | None = None) -> str:
        """What tells this daemon from others: its peer ID; where that is not allowed, nothing."""
        try:
            found = await self.lines("id", retries=retries)
        except CommandFailed as error:
            if error.status != 403:
                raise
            return ""
        with self.understood("id", found):
            return str(found[0]["ID"])

    def _refused(self, name: str, answer: Answer) -> CommandFailed:
        said = _message(answer)
        hint = ""
        match answer.status:
            case 401 | 403:
                hint = (
                    ": it wants credentials (auth='bearer:…' or HAMT_BULK_KUBO_AUTH), or its API.Authorizations "
                    f"do not allow /api/v0/{name}"
                )
            case 404 | 405 | 501:
                hint = (
                    ": no Kubo RPC answers there (a gateway? the RPC is usually at port 5001), or one so old that it "
                    f"lacks {name}"
                )
            case _ if "no space left" in said:
                hint = (
                    ": the disk behind the daemon is full. Make room there, restart the daemon, which lets go of what it "
                    "was writing, and call again"
                )
            case 413:
                hint = ": something before the daemon limits the size of requests; raise that limit to 32 MiB"
        error = CommandFailed(
            f"{self.server.address}: {name} failed: {self.server.credentials.redacted(f'{answer.status} {said}')}{hint}"
        )
        error.said, error.status = said, answer.status
        return error


def _objects(body: bytes) -> list[dict[str, Any]] | None:
    """JSON objects, one a line; `None` where there is something else."""
    try:
        objects = [from_json(line) for line in body.splitlines() if line.strip()]
    except ValueError:
        return None
    return objects if all(isinstance(found, dict) for found in objects) else None


def missing_in(error: CommandFailed) -> bytes | None:
    """The block that a command did not find, if that is why it failed."""
    found = _MISSING.search(error.said)
    try:
        return None if found is None else to_bytes(found[1])
    except InvalidInput:  # a word that only looks like one
        return None


def absent(error: CommandFailed, what: str) -> BlockNotFound:
    """The error for a tree that is not whole on the daemon."""
    return BlockNotFound(
        f"{what}: {error}. Copy the root there again from a store that has it (hamt_bulk.copy), or build again; "
        "a garbage collection takes what is not pinned"
    )


def _message(answer: Answer) -> str:
    """What the daemon says is wrong."""
    try:
        said = from_json(answer.body)["Message"]
    except (ValueError, LookupError, TypeError):
        said = answer.body[:300].decode(errors="replace")
    return printable(" ".join(str(said).split())[:600])


def _repeats(answer: Answer) -> bool:
    """Whether an error is the daemon's own, which it gives again, and not of something before it."""
    if answer.status != 500 or not answer.headers.get("content-type", "").startswith("application/json"):
        return False
    return not _FLEETING.search(_message(answer))


def _multipart(files: Iterable[Sequence[Data]]) -> Iterable[Data]:
    for number, pieces in enumerate(files):
        start = b"" if number == 0 else b"\r\n"
        yield start + f"--{_BOUNDARY}\r\n{_FILE.format(number)}".encode()
        yield from pieces
    yield f"\r\n--{_BOUNDARY}--\r\n".encode()
