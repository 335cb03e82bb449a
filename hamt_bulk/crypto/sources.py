"""
Where a key comes from, and how it stays out of everything that is written.

The bytes of a key are held by one object, a `Source`, which shows them to nobody: not in its repr, not in its pickle.
"""

import base64
import os
import pickle
import threading
import uuid
from collections.abc import Callable
from functools import lru_cache
from types import FunctionType
from typing import Any, TypeAlias
from weakref import WeakValueDictionary

from hamt_bulk.crypto.keyfiles import KeyEnv, KeyFile
from hamt_bulk.crypto.subkeys import KEY_BYTES, Subkeys
from hamt_bulk.errors import CASError, InvalidInput, NotPortable, WrongKey

Fetch: TypeAlias = Callable[[], bytes]
"""Gives the 32 bytes of a key."""

KEPT_SOURCES = 16
"""Keys that came from pickles and that a process keeps, for the next task with one of these."""

INSTEAD = "give KeyFile(path), KeyEnv(name), or a function of a module that every process can import"


class Source:
    """
    A key, or what fetches it, for one header; with all that is derived from it.

    Pickles as a reference to what fetches the key and a check value of the key, or, where the key was given as
    bytes, as a token of this process. In another process such a token is a source without a key, which raises
    `NotPortable` when it is used: raised while a worker unpickles, it would break the connection, and not fail the task.
    """

    __slots__ = (
        "__weakref__",
        "_fetch",
        "_lock",
        "_place",
        "_subkeys",
        "expected",
        "header",
    )

    def __init__(self, key: bytes | Fetch, header: bytes, expected: bytes | None = None) -> None:
        self.header = header
        self.expected = expected
        """The key's check value in the process that this came from."""
        self._lock = threading.RLock()
        self._place = os.getpid(), uuid.uuid4().hex
        """The process that has the key, and which of its keys it is."""
        self._fetch: Fetch | None = None
        self._subkeys: Subkeys | None = None
        if isinstance(key, (bytes, bytearray, memoryview)):
            self._subkeys = Subkeys.of(_checked(bytes(key), "the key"), header)
        elif callable(key):
            _reference(key)
            self._fetch = key
        else:
            raise InvalidInput(
                f"the key is a {type(key).__name__}, expected {KEY_BYTES} bytes, or a callable that returns them, such as "
                "KeyFile(path) or KeyEnv(name)"
            )
        _living[self._place] = self

    @property
    def is_here(self) -> bool:
        """Whether the key need not be fetched any more."""
        return self._subkeys is not None

    @property
    def is_portable(self) -> bool:
        """Whether another process can fetch the key."""
        return self._fetch is not None

    def subkeys(self) -> Subkeys:
        """
        What is derived from the key, which is fetched the first time.

        Raises `CASError` or `InvalidInput` when it cannot be, `WrongKey` when it is another one than where this came from.
        """
        if self._subkeys is None:
            with self._lock:
                if self._subkeys is None:
                    self._subkeys = self._fetched()
        return self._subkeys

    def _fetched(self) -> Subkeys:
        if self._fetch is None:
            raise self._absent(f"process {os.getpid()}")
        who = shown(self._fetch)
        try:
            found: object = self._fetch()
        except InvalidInput as error:
            raise InvalidInput(f"the key could not be fetched from {who}: {error}") from None
        except OSError as error:
            raise CASError(f"the key could not be fetched from {who}: {error}") from error
        except Exception as error:
            # Its text is the caller's own, and may say what must not be said.
            raise CASError(
                f"the key could not be fetched from {who}, which raised {type(error).__name__}"
            ) from error
        if not isinstance(found, (bytes, bytearray, memoryview)):
            raise InvalidInput(
                f"{who} gave a {type(found).__name__}, expected the {KEY_BYTES} bytes of a key"
            )
        key = _checked(bytes(found), f"what {who} gave")
        _refuse_key_in_pickle(self._fetch, key)
        subkeys = Subkeys.of(key, self.header)
        if self.expected is not None and self.expected != subkeys.key_id:
            raise WrongKey(
                f"{who} gives another key in process {os.getpid()} than where this came from: key id "
                f"{subkeys.key_id.hex()}, expected {self.expected.hex()}"
            )
        return subkeys

    def refuse_other_processes(self) -> None:
        """Raises `NotPortable` when the key is known in this process alone."""
        if self._fetch is None:
            raise self._absent("workers in other processes")

    def _absent(self, user: str) -> NotPortable:
        process = self._place[0]
        if user == f"process {process}":
            return NotPortable(
                "this key was given as bytes, and its Encryption is gone: keep it as long as what was pickled is used, or "
                f"{INSTEAD}"
            )
        return NotPortable(
            f"this key was given as bytes in process {process} and does not leave it, so {user} cannot use it: {INSTEAD}"
        )

    def __reduce__(self) -> tuple[Any, ...]:
        if self._fetch is None:
            return _find, (self._place, self.header)
        if not isinstance(self._fetch, (KeyFile, KeyEnv, FunctionType)):
            self.subkeys()  # refuses one that would take the key along
        # Plain pickle, within whatever pickles this: others would send a function's code and what it refers to.
        expected = self.expected if self._subkeys is None else self._subkeys.key_id
        return _from_pickle, (_reference(self._fetch), self.header, expected)

    def __repr__(self) -> str:
        return "<key>" if self._fetch is None else shown(self._fetch)


_living: "WeakValueDictionary[tuple[int, str], Source]" = WeakValueDictionary()


def _find(place: tuple[int, str], header: bytes) -> Source:
    """The source of a token, or one without a key."""
    source = _living.get(place) if place[0] == os.getpid() else None
    if source is None:
        source = Source.__new__(Source)
        source.header, source.expected = header, None
        source._place, source._lock = place, threading.RLock()
        source._fetch = source._subkeys = None
    return source


@lru_cache(KEPT_SOURCES)
def _from_pickle(reference: bytes, header: bytes, expected: bytes | None) -> Source:
    """
    The source that a pickle speaks of, one for all tasks of this process.

    Each task unpickles its own, one after the other, and would fetch the key each time.
    """
    return Source(pickle.loads(reference), header, expected)


def _reference(fetch: Fetch) -> bytes:
    """The plain pickle of what fetches a key. Raises `NotPortable` for what has none, or one of this process alone."""
    try:
        reference = pickle.dumps(fetch, protocol=5)
    except Exception as error:
        raise NotPortable(
            f"{shown(fetch)} cannot fetch a key elsewhere, since it cannot be imported there ({type(error).__name__}): "
            f"{INSTEAD}"
        ) from None
    if b"__main__" in reference:
        raise NotPortable(
            f"{shown(fetch)} is defined in __main__, which is another program on a worker: move it to a module, or "
            f"{INSTEAD}"
        )
    return reference


def _refuse_key_in_pickle(fetch: Fetch, key: bytes) -> None:
    """Raises `NotPortable` when whoever reads a pickle of `fetch` has the key."""
    reference = _reference(fetch)
    forms = [key, key.hex().encode(), key.hex().upper().encode()]
    forms += [encode(key).rstrip(b"=") for encode in (base64.b64encode, base64.urlsafe_b64encode)]
    if any(form in reference for form in forms):
        raise NotPortable(
            f"{shown(fetch)} holds the key itself, which would go into every pickle of it, and so to Dask's scheduler: "
            f"{INSTEAD}"
        )


def shown(fetch: Fetch) -> str:
    """What fetches a key, without what it holds: a repr of the caller's own may show the key."""
    if isinstance(fetch, (KeyFile, KeyEnv)):
        return repr(fetch)
    named = fetch if hasattr(fetch, "__qualname__") else type(fetch)
    return f"{named.__module__}.{getattr(named, '__qualname__', '?')}"


def _checked(key: bytes, what: str) -> bytes:
    if len(key) != KEY_BYTES:
        raise InvalidInput(f"{what} has {len(key)} bytes, expected {KEY_BYTES}")
    return key


def _after_fork() -> None:
    """A forked child has no other threads: one that held a lock never lets go."""
    for source in list(_living.values()):
        source._lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
