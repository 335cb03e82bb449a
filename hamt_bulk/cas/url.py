"""Stores by their URL."""

import os
import re
from threading import Lock
from urllib.parse import parse_qs

from hamt_bulk.cas.base import ContentAddressedStore
from hamt_bulk.cas.car import CarCAS
from hamt_bulk.cas.files import absolute
from hamt_bulk.cas.memory import InMemoryCAS
from hamt_bulk.cas.pack import PackCAS
from hamt_bulk.errors import InvalidInput

_memory: dict[str, InMemoryCAS] = {}
_lock = Lock()


def open_cas(url: str | os.PathLike[str] | ContentAddressedStore) -> ContentAddressedStore:
    """
    The store that `url` names. A store is returned as it is.

        path, file://path    a folder of packs
        path.car             one CAR file, read-only
        kubo://host:port     a Kubo daemon's RPC, `kubos://` by TLS; ?gateway=URL, perhaps several times: read from it
        https://gateway      an IPFS gateway, read-only; also http://
        memory://NAME        a dict of this process; the same name is the same store
    """
    if isinstance(url, ContentAddressedStore):
        return url
    if not isinstance(url, (str, os.PathLike)):
        raise InvalidInput(f"not a store: {type(url).__name__}; give a ContentAddressedStore or a URL")
    text = os.fspath(url)
    if not isinstance(text, str):
        raise InvalidInput(f"not a store: {text!r}; give text")
    scheme, separator, rest = text.partition("://")
    if not separator or not re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]+", scheme):
        scheme, rest = "file", text
    if not rest and scheme == "file":
        raise InvalidInput(f"{text!r} names no store: give a path, such as 'store'")
    match scheme.lower():
        case "file":
            path = absolute(os.path.expanduser(rest))
            return CarCAS(path) if path.suffix == ".car" and not path.is_dir() else PackCAS(path)
        case "memory":
            with _lock:
                return _memory.setdefault(rest, InMemoryCAS())
        case "kubo" | "kubos":
            return _kubo("https" if scheme.lower() == "kubos" else "http", rest)
        case "http" | "https":
            # HTTP clients take 0.2 s to import, and stores on disk do without.
            from hamt_bulk.cas.ipfs import GatewayCAS

            return GatewayCAS(text)
        case _:
            raise InvalidInput(
                f"{scheme}://…: no store of kind {scheme!r}; known are a path, path.car, kubo://, https:// and memory://"
            )


def _kubo(scheme: str, rest: str) -> ContentAddressedStore:
    from hamt_bulk.cas.ipfs import KuboCAS

    server, _, query = rest.partition("?")
    options = parse_qs(query, keep_blank_values=True)
    if unknown := options.keys() - {"gateway"}:
        raise InvalidInput(f"kubo://…?{min(unknown)}=: expected gateway= alone")
    # Without a host it is the daemon of this machine.
    url = f"{scheme}://{server}" if server else None
    gateways = options.get("gateway", [])
    if len(gateways) == 1:
        return KuboCAS(rpc_base_url=url, gateway_base_url=gateways[0])
    return KuboCAS(rpc_base_url=url, gateway_base_urls=gateways or None)
