"""Files that people write: keys, and how values are encrypted."""

import typer

from hamt_bulk.cli.encryption import encryption_of
from hamt_bulk.crypto import KeyFile
from hamt_bulk.errors import InvalidInput

from .target import Target, Wrong, scratch

TOML = b'key_file = "secret.key"\nheader = "era5"\nexclude_vars = ["time", "lat"]\ndeterministic = true\n'


def _key(data: bytes) -> None:
    path = scratch("secret.key")
    path.write_bytes(data)
    if len(key := KeyFile(path)()) != 32:
        raise Wrong(f"a key of {len(key)} bytes")


def _encryption(data: bytes) -> None:
    path = scratch("encryption.toml")
    path.write_bytes(data)
    try:
        encryption_of(path)
    except typer.BadParameter as error:
        raise InvalidInput(str(error)[:4000] or "nothing") from None


TARGETS = [
    Target("key file", _key, [bytes(32), b"0" * 64 + b"\n"], (InvalidInput,), None, [b"\n", b"\r\n", b"f"]),
    Target(
        "encryption file",
        _encryption,
        [TOML, b'key_env = "KEY"\n'],
        (InvalidInput,),
        None,
        [
            b"[" * 3000,
            b"a." * 2000,
            b"= 1e400",
            b"[[x]]\n",
            b'"""',
            b'"\\ud800"',
            b"= 9" + b"9" * 5000,
            b"\xff",
        ],
    ),
]
