"""
An HTTP/1.1 proxy before a daemon, which notes the requests and fails when told to.

Heads, pieces and trailers are relayed as they come, in both directions at once, so that what is between client
and server without a fault is as good as nothing. Each client connection has one to the server. One thing is not
passed on: a client that leaves while it waits for an answer.
"""

import asyncio
import re
import threading
from asyncio import IncompleteReadError, StreamReader, StreamWriter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from http.client import responses
from typing import Any, TypeVar
from urllib.parse import urlsplit

from .daemon import free_port
from .faults import Alter, CleanTruncate, Delay, Drop, Fault, Redirect, Request, Rule, Status, Truncate
from .messages import MAX_HEAD_SIZE, Body, Head, read_head

GRACE_SECONDS = 1.0
"""For the rest of a request that was answered before its end."""

Result = TypeVar("Result")


class Proxy:
    """
    A proxy before `target`, a URL without a path, while its `with` block runs.

    At the end it raises what went wrong in itself or in a rule.
    """

    def __init__(self, target: str) -> None:
        self.requests: list[Request] = []
        """In the order of their arrival."""
        self.connections = 0
        """How many clients opened."""
        self.most_at_once = 0
        """The largest number of requests that were under way together."""
        self._target = urlsplit(target)
        self._rules: list[Rule] = []
        self._lock = threading.Lock()
        self._under_way = 0
        self._failures: list[Exception] = []
        self._port = free_port()
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[Any]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    def rule(
        self,
        fault: Fault | Callable[[Request], Fault | None],
        when: Callable[[Request], bool] = lambda request: True,
        times: int | None = None,
    ) -> None:
        """
        Apply `fault` to the requests that `when` chooses; the earliest rule that has one for a request decides.

        A function of the request can give the fault, and `None` for none. Both are called at the request's
        head, on the proxy's thread.
        """
        with self._lock:
            self._rules.append(Rule(fault, when, times))

    def clear(self) -> None:
        """Forget the requests and the rules."""
        with self._lock:
            self._rules.clear()
            self.requests.clear()
            self.connections, self.most_at_once = 0, self._under_way

    def down(self) -> None:
        """Break all connections, and refuse new ones."""
        self._run(self._close())

    def up(self) -> None:
        """Listen again, on the same port."""
        self._run(self._listen())

    def __enter__(self) -> "Proxy":
        self._thread.start()
        self.up()
        return self

    def __exit__(self, kind: object, *exc_info: object) -> None:
        self.down()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
        if self._failures and kind is None:
            raise self._failures[0]

    def _run(self, work: Coroutine[Any, Any, Result]) -> Result:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    async def _listen(self) -> None:
        assert self._server is None, "the proxy listens"
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self._port, limit=MAX_HEAD_SIZE, backlog=1024
        )

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.sleep(0.001)  # Transports close in the loop's next rounds.

    async def _serve(self, reader: StreamReader, writer: StreamWriter) -> None:
        """All requests of one connection."""
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self.connections += 1
        link = Link(reader, writer)
        try:
            while self._server is not None and await self._serve_one(link):
                pass
        except (OSError, IncompleteReadError):
            pass  # A side is gone: so is the other.
        except Exception as error:
            self._failures.append(error)
        except asyncio.CancelledError:
            writer.transport.abort()  # Not raised on: nobody awaits this, and asyncio would log it.
        finally:
            writer.close()
            link.drop_server()
            self._tasks.discard(task)

    async def _serve_one(self, link: "Link") -> bool:
        """Relay the next request and its answer. False if that was the connection's last."""
        if (head := await read_head(link.reader)) is None:
            return False
        method, path, _ = head.start
        request = Request(method, path, head.headers)
        with self._lock:
            faults = (fault for rule in self._rules if (fault := rule.take(request)) is not None)
            request.fault = next(faults, None)
            self.requests.append(request)
        self._under_way += 1
        self.most_at_once = max(self.most_at_once, self._under_way)
        try:
            return await self._exchange(link, head, request)
        finally:
            self._under_way -= 1

    async def _exchange(self, link: "Link", head: "Head", request: Request) -> bool:
        body = Body(link.reader, head if head.has_length else None)
        match request.fault:
            case Drop(after=False):
                return False
            case Delay(seconds, after=False):
                await asyncio.sleep(seconds)
            case Status() | Redirect() as fault:
                while piece := await body.read():
                    request.body_length += len(piece)
                await give(link.writer, request, fault.status() if isinstance(fault, Redirect) else fault)
                return True
        await link.reach_server(self._target.hostname, self._target.port)
        sending = asyncio.create_task(send(link, head, body, request))
        try:
            if not await relay_answer(link, request):
                return False
            await asyncio.wait([sending], timeout=GRACE_SECONDS)
            return sending.done() and sending.exception() is None
        finally:
            sending.cancel()
            with suppress(OSError, IncompleteReadError, asyncio.CancelledError):
                await sending


class Link:
    """A client's connection, and the one to the server that goes with it."""

    def __init__(self, reader: StreamReader, writer: StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.server: tuple[StreamReader, StreamWriter] | None = None

    async def reach_server(self, host: str | None, port: int | None) -> None:
        """Connect, unless the connection of the request before still stands."""
        if self.server is not None and (self.server[0].at_eof() or self.server[1].is_closing()):
            self.drop_server()
        if self.server is None:
            self.server = await asyncio.open_connection(host, port, limit=MAX_HEAD_SIZE)

    def drop_server(self) -> None:
        if self.server is not None:
            self.server[1].transport.abort()
        self.server = None


async def send(link: Link, head: Head, body: Body, request: Request) -> None:
    """Send the request on, and read it even if the server has answered and gone before its end."""
    assert link.server is not None
    writer = link.server[1]
    try:
        writer.write(head.data)
        while piece := await body.read():
            request.body_length += len(piece)
            if not writer.is_closing():
                writer.write(body.frame(piece))
                with suppress(ConnectionError):
                    await writer.drain()
        writer.write(body.end())
    except BaseException:
        writer.transport.abort()  # The client is gone: the server should know.
        raise


async def relay_answer(link: Link, request: Request) -> bool:
    """Give the server's answer to the client. False if no other can follow on this connection."""
    assert link.server is not None
    head = await read_head(link.server[0])
    while head is not None and head.start[1].startswith("1"):
        link.writer.write(head.data)
        head = await read_head(link.server[0])
    if head is None:
        return False
    status = int(head.start[1])
    has_body = request.method != "HEAD" and status not in (204, 304)
    body = Body(link.server[0], head if has_body else None)
    data = head.data
    match request.fault:
        case Drop(after=True):
            while await body.read():
                pass
            return False
        case Delay(seconds, after=True):
            await asyncio.sleep(seconds)
        case CleanTruncate(size) if body.length is not None:
            shorter = b"\\1 %d" % min(size, body.length)
            data = re.sub(rb"(?i)(\r\ncontent-length:)[^\r]*", shorter, data)
    request.status = status
    link.writer.write(data)
    position = 0
    while piece := await body.read():
        if kept := spoiled(piece, position, request.fault):
            link.writer.write(body.frame(kept))
            await link.writer.drain()
        position += len(piece)
    if isinstance(request.fault, Truncate):
        return False
    link.writer.write(body.end())
    await link.writer.drain()
    return body.has_end and "close" not in head.headers.get("connection", "").lower()


def spoiled(piece: bytes, position: int, fault: Fault | None) -> bytes:
    """What is left of the part of a body at `position`."""
    match fault:
        case Truncate(size) | CleanTruncate(size):
            return piece[: max(0, size - position)]
        case Alter(at) if position <= at < position + len(piece):
            altered = bytearray(piece)
            altered[at - position] ^= 1
            return bytes(altered)
    return piece


async def give(writer: StreamWriter, request: Request, answer: Status) -> None:
    """Answer with what the server was not asked for."""
    headers = {"Content-Length": str(len(answer.body)), **answer.headers}
    lines = [f"HTTP/1.1 {answer.code} {responses.get(answer.code, '')}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    request.status = answer.code
    writer.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
    writer.write(b"" if request.method == "HEAD" else answer.body)
    await writer.drain()
