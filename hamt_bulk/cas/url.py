"""Stores by their URL."""

import os
import re
from threading import Lock

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
        case _:
            raise InvalidInput(
                f"{text!r}: no store of kind {scheme!r}; known are a path, path.car and memory://"
            )
