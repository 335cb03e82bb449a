"""Encrypted values and hidden names, as a reader finds them in a tree of others."""

import struct
from random import Random

from hamt_bulk import Encryption
from hamt_bulk.crypto import bound
from hamt_bulk.errors import NotAuthentic, WrongKey

from .target import Target, Wrong

KEY = bytes(range(32))
BOUND = Encryption(KEY, deterministic=True)
HIDING = Encryption(KEY, hide_names=True)
THREE = Encryption(KEY, format="py-hamt-3")
TWO = Encryption(KEY, format="py-hamt-2")

VALUE = b"twenty bytes of data"
SEALED = bytes(BOUND.seal("a/c/0", VALUE))


def _bound(data: bytes) -> None:
    size = BOUND.size("a/c/0", len(data))
    value = BOUND.open("a/c/0", data)
    if value != VALUE or size != len(value):
        raise Wrong(f"{len(value)} bytes of a value that nobody encrypted")


def _range(data: bytes) -> None:
    """The first bytes say which range it is."""
    start, length = struct.unpack("<HH", data[:4].ljust(4, b"\0"))
    stored = data[4:]
    BOUND.check_head("a/c/0", stored[: bound.HEAD_BYTES])
    shape = bound.shape_of("a/c/0", len(stored))
    span = bound.span_of(shape, start, start + length)
    found = BOUND.open_range(
        "a/c/0", stored[: bound.HEAD_BYTES], stored[span.start : span.stop], shape, start, start + length
    )
    if found != VALUE[start : start + length]:
        raise Wrong(f"{found!r} of a value that nobody encrypted")


def _py_hamt(data: bytes) -> None:
    if THREE.open("a/c/0", data) != VALUE:
        raise Wrong("a value that nobody encrypted")


def _py_hamt_2(data: bytes) -> None:
    """Here anybody may put a plain value."""
    if TWO.seal("zarr.json", value := TWO.open("a/c/0", data)) != value:
        raise Wrong("no bytes")


def _name(data: bytes) -> None:
    name = data.decode("utf-8", "replace")
    if HIDING.name(HIDING.key_of(name)) != name:
        raise Wrong("two names of one key")


def _made(random: Random) -> bytes:
    """A head that counts, and what need not follow it."""
    return SEALED[: random.randrange(32, 37)] + random.randbytes(
        random.choice([0, 15, 16, 17, 100, 65_552, 70_000])
    )


ERRORS = (NotAuthentic, WrongKey)

TARGETS = [
    Target("encrypted value", _bound, [SEALED], ERRORS, _made, [bound.MAGIC, SEALED[:32]]),
    Target("encrypted range", _range, [struct.pack("<HH", 3, 9) + SEALED], ERRORS),
    Target("py-hamt 3 value", _py_hamt, [bytes(THREE.seal("a/c/0", VALUE))], ERRORS),
    Target(
        "py-hamt 2 value",
        _py_hamt_2,
        [bytes(TWO.seal("a/c/0", VALUE)), b"\x43abc"],
        ERRORS,
        None,
        [b"\x58", b"\x5b"],
    ),
    Target("hidden name", _name, [HIDING.name("zarr.json").encode()], ERRORS),
]
