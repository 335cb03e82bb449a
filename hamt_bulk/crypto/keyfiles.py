"""Keys in files and in environment variables."""

import base64
import binascii
import os
from pathlib import Path

from hamt_bulk.crypto.subkeys import KEY_BYTES
from hamt_bulk.errors import InvalidInput

MAX_FILE_BYTES = 4096
"""Of a key file no more is read."""


class KeyFile:
    """The key in a file: 32 raw bytes, or 64 hexadecimal digits, which one end of line may follow."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.path.abspath(os.fspath(path))

    def __call__(self) -> bytes:
        with Path(self.path).open("rb") as file:
            data = file.read(MAX_FILE_BYTES)
        if len(data) == KEY_BYTES:
            return data
        digits = data.removesuffix(b"\n").removesuffix(b"\r")
        key = _from_hex(digits)
        if key is None:
            raise InvalidInput(
                f"{self.path} holds {len(data)} bytes, expected {KEY_BYTES} raw bytes or {2 * KEY_BYTES} hexadecimal digits"
            )
        return key

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.path == other.path

    def __hash__(self) -> int:
        return hash(self.path)

    def __repr__(self) -> str:
        return f"KeyFile({self.path!r})"


class KeyEnv:
    """The key in an environment variable: 64 hexadecimal digits, or base64 of 32 bytes."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self) -> bytes:
        text = os.environ.get(self.name)
        if text is None:
            raise InvalidInput(f"the environment variable {self.name!r} is not set in process {os.getpid()}")
        data = text.strip().encode(errors="replace")
        key = _from_hex(data) or _from_base64(data)
        if key is None:
            raise InvalidInput(
                f"the environment variable {self.name!r} holds {len(data)} characters that are not a key: expected "
                f"{2 * KEY_BYTES} hexadecimal digits, or base64 of {KEY_BYTES} bytes"
            )
        return key

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"KeyEnv({self.name!r})"


def _from_hex(data: bytes) -> bytes | None:
    if len(data) != 2 * KEY_BYTES:
        return None
    try:
        return binascii.unhexlify(data)
    except binascii.Error:
        return None


def _from_base64(data: bytes) -> bytes | None:
    digits = data.rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
    try:
        key = base64.b64decode(digits + b"=" * (-len(digits) % 4), validate=True)
    except binascii.Error:
        return None
    return key if len(key) == KEY_BYTES else None
