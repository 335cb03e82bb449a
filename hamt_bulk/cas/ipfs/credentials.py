"""
What servers ask for before they answer, kept out of pickles, logs, graphs and errors.

Credentials are given as Kubo's own command line takes them (`ipfs --api-auth`):

    bearer:TOKEN      basic:USER:PASSWORD
"""

import base64
import json
import os
import re
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import quote, quote_plus
from weakref import WeakValueDictionary

import httpx

from hamt_bulk.cas.configured import providers
from hamt_bulk.errors import InvalidInput, NotPortable

AUTH_VARIABLE = "HAMT_BULK_KUBO_AUTH"
HEADERS_VARIABLE = "HAMT_BULK_KUBO_HEADERS"

Auth = str | tuple[str, str] | httpx.Auth
"""`"bearer:TOKEN"`, `"basic:USER:PASSWORD"`, (user, password), or an httpx `Auth`."""

_living: "WeakValueDictionary[str, Credentials]" = WeakValueDictionary()
_kept: dict[str, "Credentials"] = {}
"""Those that a pickle of this process names, or that were found for one of another."""

_lock = threading.Lock()
_MASK = "…"
_LEAST_SECRET = 4  # shorter ones are in every text
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")


class Credentials:
    """
    Headers with secrets, and perhaps an httpx `Auth`.

    Pickles as a token, by which its own process finds it again; another process takes what it has itself in its
    environment or configuration, and refuses when it has nothing, or where it is not `for_daemon`.
    """

    def __init__(
        self, headers: Mapping[str, str], auth: httpx.Auth | None = None, *, for_daemon: bool = True
    ) -> None:
        self.headers = dict(headers)
        self.auth = auth
        self._for_daemon = for_daemon
        self._token = uuid.uuid4().hex
        with _lock:
            _living[self._token] = self

    def __bool__(self) -> bool:
        return bool(self.headers) or self.auth is not None

    def check(self) -> None:
        """Raises `NotPortable` when this process has none of what was meant."""

    def redacted(self, text: str) -> str:
        """`text` without the secrets, should a server repeat them."""
        return masked(text, self.headers.values())

    def __reduce__(self) -> tuple[Callable[..., "Credentials"], tuple[Any, ...]]:
        if not self:
            return _nothing, ()
        with _lock:
            _kept.setdefault(self._token, self)
        return _again, (self._token, self._for_daemon)

    def __repr__(self) -> str:
        names = [*self.headers, *([type(self.auth).__name__] if self.auth is not None else [])]
        return f"Credentials({', '.join(names)})"


NOTHING = Credentials({})


class Lost(Credentials):
    """Credentials that this process has not. Whoever wants to use them is told how to give them to it."""

    def __bool__(self) -> bool:
        return True

    def check(self) -> None:
        if not self._for_daemon:
            raise NotPortable(
                f"the credentials of a gateway do not travel to other processes, here {os.getpid()}: give "
                "`client_factory`, a function that makes a client with them there"
            )
        raise NotPortable(
            f"credentials do not travel to other processes, and process {os.getpid()} has none: set "
            f"{AUTH_VARIABLE} (bearer:TOKEN or basic:USER:PASSWORD) or {HEADERS_VARIABLE} (JSON) in the environment "
            "of every worker, or `hamt-bulk.kubo.auth` in its Dask configuration"
        )


def masked(text: str, headers: Iterable[str]) -> str:
    """`text` without the values of `headers`, whole or without their scheme, as they are or decoded or quoted."""
    secrets: set[str] = set()
    for value in headers:
        scheme, _, rest = value.partition(" ")
        found = [value, rest]
        if scheme.lower() == "basic":
            with suppress(ValueError):
                pair = base64.b64decode(rest).decode()
                found += [pair, pair.partition(":")[2]]
        for secret in (*found, *map(str.strip, found)):
            secrets |= {secret, quote(secret, safe=""), quote_plus(secret)}
            secrets |= {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1]}
    # The longest first, lest a part of it is taken out of the middle.
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= _LEAST_SECRET:
            text = text.replace(secret, _MASK)
    return text


def credentials_of(
    auth: Auth | None, headers: Mapping[str, str] | None, *, for_daemon: bool = True
) -> Credentials:
    """
    What the caller gave; if that is nothing, what this process has configured.

    for_daemon  whether they are for a Kubo daemon, as is what processes have configured
    """
    if auth is None and not headers:
        return (configured() if for_daemon else None) or NOTHING
    return _parsed(auth, headers or {}, "auth", for_daemon)


def configured() -> Credentials | None:
    """What this process has in its environment or its configuration."""
    sources = [{"auth": os.environ.get(AUTH_VARIABLE, ""), "headers": os.environ.get(HEADERS_VARIABLE, "")}]
    sources += [dict(provider()) for provider in providers]
    for source in sources:
        auth, headers = source.get("auth"), source.get("headers")
        if auth or headers:
            return _parsed(auth or None, _headers_of(headers or "{}"), AUTH_VARIABLE)
    return None


def _headers_of(text: str) -> dict[str, str]:
    try:
        headers = json.loads(text)
        if not isinstance(headers, dict) or not all(isinstance(value, str) for value in headers.values()):
            raise ValueError
    except ValueError:
        raise InvalidInput(
            f'{HEADERS_VARIABLE}: expected JSON such as {{"X-Api-Key": "…"}}, found other text of {len(text)} characters'
        ) from None
    return headers


def _parsed(
    auth: Auth | None, headers: Mapping[str, str], option: str, for_daemon: bool = True
) -> Credentials:
    headers = dict(headers)
    own: httpx.Auth | None = None
    match auth:
        case None:
            pass
        case httpx.Auth():
            own = auth
        case (str(user), str(password)) if ":" not in user:
            headers = _with(headers, _basic(f"{user}:{password}"))
        case str() if auth.startswith("bearer:") and len(auth) > len("bearer:"):
            headers = _with(headers, f"Bearer {auth.removeprefix('bearer:')}")
        case str() if auth.startswith("basic:") and auth.count(":") >= 2:
            headers = _with(headers, _basic(auth.removeprefix("basic:")))
        case _:
            raise InvalidInput(
                f"{option}: expected 'bearer:TOKEN', 'basic:USER:PASSWORD', (user, password) or an httpx.Auth, "
                f"found another {type(auth).__name__}"
            )
    for name, value in headers.items():
        if not isinstance(name, str) or not _HEADER_NAME.fullmatch(name):
            raise InvalidInput(f"headers: {str(name)[:80]!r} is no name of a header")
        if not isinstance(value, str) or not _HEADER_VALUE.fullmatch(value):
            raise InvalidInput(
                f"the value of the header {name} is a {type(value).__name__} that cannot be sent: expected ASCII "
                "text without line breaks. A secret that was read from a file may end with one"
            )
    return Credentials(headers, own, for_daemon=for_daemon)


def _with(headers: Mapping[str, str], authorization: str) -> dict[str, str]:
    """`headers`, which may have an `Authorization` in whatever case, with this one."""
    others = {name: value for name, value in headers.items() if str(name).lower() != "authorization"}
    return others | {"Authorization": authorization}


def _basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _nothing() -> Credentials:
    return NOTHING


def _again(token: str, for_daemon: bool) -> Credentials:
    """The credentials of a pickle. One object for all copies, since connections are kept by it."""
    with _lock:
        here = _kept.get(token) or _living.get(token)
    if here is not None:
        return here
    found = configured() if for_daemon else None
    here = Lost({}, for_daemon=for_daemon) if found is None else found
    # Where it came from it is found again, should it go back.
    here._token = token
    if found is None:
        return here  # not kept: the environment may get it yet
    with _lock:
        return _kept.setdefault(token, here)


def _after_fork() -> None:
    """Another thread of the parent may have held the lock."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
