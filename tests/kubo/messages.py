"""HTTP/1.1 messages, read as they come."""

from asyncio import IncompleteReadError, StreamReader
from typing import NamedTuple

PIECE_SIZE = 1 << 18
MAX_HEAD_SIZE = 1 << 20
UNKNOWN = -1
"""How much is left of a body that ends with its connection."""


class Head(NamedTuple):
    """What stands before a body."""

    data: bytes
    """All of it, with the empty line."""
    start: list[str]
    """The three parts of the first line."""
    headers: dict[str, str]
    """By lower-case name."""

    @property
    def is_chunked(self) -> bool:
        return "chunked" in self.headers.get("transfer-encoding", "").lower()

    @property
    def has_length(self) -> bool:
        """Else a request has no body, and an answer's ends with the connection."""
        return self.is_chunked or "content-length" in self.headers


async def read_head(reader: StreamReader) -> Head | None:
    """The next message's head, or `None` at the end."""
    try:
        data = await reader.readuntil(b"\r\n\r\n")
    except IncompleteReadError as error:
        if error.partial:
            raise
        return None
    first, *lines = data.decode("latin-1").rstrip("\r\n").split("\r\n")
    headers: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        headers[name.lower()] = ", ".join(filter(None, [headers.get(name.lower()), value.strip()]))
    return Head(data, [*first.split(" ", 2), "", ""][:3], headers)


class Body:
    """The bytes after a head, without their framing."""

    def __init__(self, reader: StreamReader, head: Head | None) -> None:
        """Without a head there is no body."""
        self.is_chunked = head is not None and head.is_chunked
        self.has_end = head is None or head.has_length
        self.length: int | None = None
        """Where the head tells it."""
        if not self.is_chunked and self.has_end:
            self.length = 0 if head is None else int(head.headers["content-length"])
        self._reader = reader
        self._left = 0 if self.is_chunked else UNKNOWN if self.length is None else self.length
        self._trailers = b""
        self._ended = False

    async def read(self) -> bytes:
        """The next bytes, or none at the end. Raises `IncompleteReadError` where the connection ends first."""
        if self.is_chunked and not self._left and not self._ended:
            await self._next_chunk()
        if not self._left:
            return b""
        if self._left == UNKNOWN:
            return await self._reader.read(PIECE_SIZE)
        piece = await self._reader.read(min(self._left, PIECE_SIZE))
        if not piece:
            raise IncompleteReadError(b"", self._left)
        self._left -= len(piece)
        if self.is_chunked and not self._left:
            await self._reader.readexactly(2)
        return piece

    async def _next_chunk(self) -> None:
        line = await self._reader.readuntil(b"\r\n")
        self._left = int(line.partition(b";")[0], 16)
        if not self._left:
            self._ended = True
            while (line := await self._reader.readuntil(b"\r\n")) != b"\r\n":
                self._trailers += line

    def frame(self, piece: bytes) -> bytes:
        """What is sent for a piece; an empty one would be the end."""
        return b"%x\r\n%b\r\n" % (len(piece), piece) if self.is_chunked else piece

    def end(self) -> bytes:
        """What is sent after the last piece."""
        return b"0\r\n%b\r\n" % self._trailers if self.is_chunked else b""
