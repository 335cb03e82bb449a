"""Where servers are: URLs without the secrets that people put into them."""

import base64
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from hamt_bulk.errors import InvalidInput

_PORTS = {"http": 80, "https": 443}
_HOST = re.compile(r"[^\s\x00-\x20%<>\"{}|\\^`/?#@\[\]]+|[0-9a-f:.]+(%\w+)?")


@dataclass(frozen=True, slots=True)
class Address:
    """
    A server, and the path below which it answers.

    url     without trailing slash, user name, password, query and fragment
    origin  scheme, host and port: credentials go to one origin and no other
    """

    url: str
    origin: tuple[str, str, int]

    def __str__(self) -> str:
        return self.url


def origin_of(url: str) -> tuple[str, str, int]:
    """Scheme, host and port of a URL; ("", "", 0) of what is none."""
    try:
        parts = urlsplit(url)
        scheme, host = parts.scheme.lower(), (parts.hostname or "").lower()
        if parts.port == 0 or not _HOST.fullmatch(host):
            return "", "", 0
        host.encode("idna")  # what cannot be a name raises here, and not in the middle of a request
        return scheme, host, parts.port or _PORTS[scheme]
    except (ValueError, KeyError):
        return "", "", 0


def address_of(url: str, option: str) -> tuple[Address, str | None]:
    """
    The address in `url`, and the value of an `Authorization` header for the user and password in it.

    Raises `InvalidInput` that names the `option`, and never shows the URL's password.
    """
    if not isinstance(url, str):
        raise InvalidInput(f"{option} is a {type(url).__name__}, expected text such as http://127.0.0.1:5001")
    scheme, host, port = origin_of(url)
    _, has_user, last = url.rpartition("@")
    if not host:
        raise InvalidInput(f"{option}={last[:80]!r}: expected a URL such as http://127.0.0.1:5001")
    parts = urlsplit(url)
    if has_user and "@" not in parts.netloc:
        # What was taken for the host may be a secret.
        raise InvalidInput(
            f"{option}=…@{last[:80]}: a user name or password with one of / ? # in it; write them as %2F, %3F, %23"
        )
    if parts.query or parts.fragment:
        raise InvalidInput(f"{option}: {scheme}://{host}:{port} has a query or fragment, expected neither")
    secret = None
    if parts.username is not None or parts.password is not None:
        pair = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        secret = "Basic " + base64.b64encode(pair.encode()).decode()
    shown_host = f"[{host}]" if ":" in host else host
    shown_port = "" if parts.port is None else f":{parts.port}"
    url = f"{scheme}://{shown_host}{shown_port}{parts.path.rstrip('/')}"
    return Address(url, (scheme, host, port)), secret


def gateway_address(url: str, option: str) -> tuple[Address, str | None]:
    """
    As `address_of`, for a gateway, whose URL may end with `/ipfs`.

    A Kubo gateway sends whoever says `localhost` to a sub-domain for each CID; the address does without.
    """
    address, secret = address_of(url, option)
    scheme, host, port = address.origin
    path = urlsplit(address.url).path.removesuffix("/ipfs").rstrip("/")
    if host == "localhost" and scheme == "http":
        host = "127.0.0.1"
    shown_host = f"[{host}]" if ":" in host else host
    shown_port = "" if port == _PORTS[scheme] else f":{port}"
    return Address(f"{scheme}://{shown_host}{shown_port}{path}", (scheme, host, port)), secret
