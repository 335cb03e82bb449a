"""
What servers ask for before they answer, kept out of pickles, logs, graphs and errors.

Credentials are given as Kubo's own command line takes them (`ipfs --api-auth`):

    bearer:TOKEN      basic:USER:PASSWORD
"""

import base64
import json
import os
import threading
import uuid
from collections.abc import Callable, Mapping
from weakref import WeakValueDictionary

import httpx

from hamt_bulk.errors import InvalidInput, NotPortable

AUTH_VARIABLE = "HAMT_BULK_KUBO_AUTH"
HEADERS_VARIABLE = "HAMT_BULK_KUBO_HEADERS"

Auth = str | tuple[str, str] | httpx.Auth
"""`"bearer:TOKEN"`, `"basic:USER:PASSWORD"`, (user, password), or an httpx `Auth`."""

Provider = Callable[[], Mapping[str, str]]
"""Gives `auth` and `headers` (JSON) where a process has them configured, under those names."""

_providers: list[Provider] = []
_living: "WeakValueDictionary[str, Credentials]" = WeakValueDictionary()
_lock = threading.Lock()
_MASK = "…"


class Credentials:
    """
    Headers with secrets, and perhaps an httpx `Auth`.

    Pickles as a token, by which its own process finds it again; another process takes what it has itself in its
    environment or configuration, and refuses when it has nothing.
    """

    def __init__(self, headers: Mapping[str, str], auth: httpx.Auth | None = None) -> None:
        self.headers = dict(headers)
        self.auth = auth
        self._token = uuid.uuid4().hex
        with _lock:
            _living[self._token] = self

    def __bool__(self) -> bool:
        return bool(self.headers) or self.auth is not None

    def check(self) -> None:
        """Raises `NotPortable` when this process has none of what was meant."""

    def redacted(self, text: str) -> str:
        """`text` without the secrets, should a server repeat them."""
        for value in self.headers.values():
            for secret in (value, value.partition(" ")[2]):
                if len(secret) > 3:
                    text = text.replace(secret, _MASK)
        return text

    def __reduce__(self) -> tuple[Callable[..., "Credentials"], tuple[str, ...]]:
        return (_again, (self._token,)) if self else (_nothing, ())

    def __repr__(self) -> str:
        names = [*self.headers, *([type(self.auth).__name__] if self.auth is not None else [])]
        return f"Credentials({', '.join(names)})"


NOTHING = Credentials({})


class Lost(Credentials):
    """Credentials that this process has not. Whoever wants to use them is told how to give them to it."""

    def __bool__(self) -> bool:
        return True

    def check(self) -> None:
        raise NotPortable(
            f"credentials do not travel to other processes, and process {os.getpid()} has none: set "
            f"{AUTH_VARIABLE} (bearer:TOKEN or basic:USER:PASSWORD) or {HEADERS_VARIABLE} (JSON) in the environment "
            "of every worker, or `hamt-bulk.kubo.auth` in its Dask configuration"
        )


def credentials_of(auth: Auth | None, headers: Mapping[str, str] | None) -> Credentials:
    """What the caller gave; if that is nothing, what this process has configured."""
    if auth is None and not headers:
        return configured() or NOTHING
    return _parsed(auth, dict(headers or {}))


def configured() -> Credentials | None:
    """What this process has in its environment or its configuration."""
    sources = [{"auth": os.environ.get(AUTH_VARIABLE, ""), "headers": os.environ.get(HEADERS_VARIABLE, "")}]
    sources += [dict(provider()) for provider in _providers]
    for source in sources:
        auth, headers = source.get("auth"), source.get("headers")
        if auth or headers:
            return _parsed(auth or None, _headers_of(headers or "{}"))
    return None


def provide(provider: Provider) -> None:
    """Asks `provider` too for what a process has configured."""
    if provider not in _providers:
        _providers.append(provider)


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


def _parsed(auth: Auth | None, headers: dict[str, str]) -> Credentials:
    match auth:
        case None:
            return Credentials(headers)
        case httpx.Auth():
            return Credentials(headers, auth)
        case (str(user), str(password)):
            return Credentials(headers | {"Authorization": _basic(f"{user}:{password}")})
        case str() if auth.startswith("bearer:"):
            return Credentials(headers | {"Authorization": f"Bearer {auth.removeprefix('bearer:')}"})
        case str() if auth.startswith("basic:") and auth.count(":") >= 2:
            return Credentials(headers | {"Authorization": _basic(auth.removeprefix("basic:"))})
        case _:
            raise InvalidInput(
                "auth: expected 'bearer:TOKEN', 'basic:USER:PASSWORD', (user, password) or an httpx.Auth, "
                f"found another {type(auth).__name__}"
            )


def _basic(pair: str) -> str:
    return "Basic " + base64.b64encode(pair.encode()).decode()


def _nothing() -> Credentials:
    return NOTHING


def _again(token: str) -> Credentials:
    """The credentials of a pickle. One object for all copies, since connections are kept by it."""
    with _lock:
        here = _living.get(token) or _restored.get(token)
    if here is None:
        here = configured() or Lost({})
        with _lock:
            here = _restored.setdefault(token, here)
    return here


_restored: dict[str, Credentials] = {}
