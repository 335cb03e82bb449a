"""The key of the tests of encryption, and whether it has got out."""

import base64
import os
import threading
from pathlib import Path

KEY = bytes.fromhex("8f1d3c5577a9bbdd0213243546576879f0e1d2c3b4a5968778695a4b3c2d1e0f")

FORMS = {
    "raw": KEY,
    "hex": KEY.hex().encode(),
    "HEX": KEY.hex().upper().encode(),
    "base64": base64.b64encode(KEY).rstrip(b"="),
    "url-safe base64": base64.urlsafe_b64encode(KEY).rstrip(b"="),
    "repr": repr(KEY)[2:-1].encode(),
    "list": str(list(KEY))[1:-1].encode(),
}


def assert_hidden(*written: object) -> None:
    """That the key is in none of these in any form: bytes, files, or the text of anything else."""
    for thing in written:
        if isinstance(thing, Path):
            data = thing.read_bytes()
        elif isinstance(thing, (bytes, bytearray, memoryview)):
            data = bytes(thing)
        else:
            data = f"{thing}\n{thing!r}".encode()
        for form, text in FORMS.items():
            assert text not in data, f"{form} in {type(thing).__name__}"


def fetched() -> bytes:
    """The key, for those who import this."""
    with open(os.environ["KEY_OF_TESTS_LOG"], "a") as log:
        log.write(f"{os.getpid()}\n")
    return KEY


def given() -> bytes:
    """The key."""
    return KEY


def broken() -> bytes:
    raise KeyError(f"the vault refuses {KEY.hex()}")


def short() -> bytes:
    return KEY[:31]


def text() -> str:
    return KEY.hex()


class Vault:
    """Holds the key, and shows it."""

    def __init__(self, key: bytes | str) -> None:
        self.key = key

    def __call__(self) -> bytes:
        return self.key if isinstance(self.key, bytes) else bytes.fromhex(self.key)

    def __repr__(self) -> str:
        return f"Vault({self.key!r})"


class Named:
    """Fetches the key by a name."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self) -> bytes:
        return KEY


def noting() -> bytes:
    """The key, after it was noted in which thread it is fetched."""
    seen(threading.get_ident())
    return KEY


def seen(thread: int) -> None:
    """Replaced by tests."""
