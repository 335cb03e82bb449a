"""What a proxy does to a request, and what it notes of one."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TypeAlias
from urllib.parse import parse_qs


@dataclass(frozen=True, slots=True)
class Drop:
    """
    The connection is closed without an answer.

    after  once the server has answered; else before the server hears of the request
    """

    after: bool = False


@dataclass(frozen=True, slots=True)
class Delay:
    """The server is asked later, or its answer is given later (`after`)."""

    seconds: float
    after: bool = False


@dataclass(frozen=True, slots=True)
class Truncate:
    """The connection is closed after `size` bytes of the answer's body, whatever its head has promised."""

    size: int


@dataclass(frozen=True, slots=True)
class CleanTruncate:
    """The answer's body is its first `size` bytes, and nothing in HTTP shows that there was more."""

    size: int


@dataclass(frozen=True, slots=True)
class Alter:
    """One bit of the answer's body is another, in the byte at `position`. A shorter body stays as it is."""

    position: int


@dataclass(frozen=True, slots=True)
class Status:
    """This is the answer, and the server is not asked. The request's body is read."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class Redirect:
    """The answer is that `url` should be asked, and the server is not."""

    url: str
    code: int = 307

    def status(self) -> Status:
        return Status(self.code, {"Location": self.url})


Fault: TypeAlias = Drop | Delay | Truncate | CleanTruncate | Alter | Status | Redirect


@dataclass(slots=True)
class Request:
    """A request as the proxy saw it."""

    method: str
    path: str
    """With the query."""
    headers: dict[str, str]
    """By lower-case name."""
    body_length: int = 0
    """Bytes received up to now, without framing: 0 where rules are asked."""
    status: int | None = None
    """Of the answer that the client was given; `None` is none, or none yet."""
    fault: Fault | None = None

    @property
    def route(self) -> str:
        """The path without the query."""
        return self.path.partition("?")[0]

    @property
    def params(self) -> dict[str, list[str]]:
        """The query's values by name, empty ones included."""
        return parse_qs(self.path.partition("?")[2], keep_blank_values=True)

    @property
    def authorization(self) -> str | None:
        return self.headers.get("authorization")


@dataclass(slots=True)
class Rule:
    """When there is which fault."""

    fault: Fault | Callable[[Request], Fault | None]
    when: Callable[[Request], bool]
    left: int | None
    """How many times yet; `None` is without end."""

    def take(self, request: Request) -> Fault | None:
        """The fault for this request, which is one time less for others."""
        if self.left == 0 or not self.when(request):
            return None
        fault = self.fault(request) if callable(self.fault) else self.fault
        if fault is not None and self.left is not None:
            self.left -= 1
        return fault
