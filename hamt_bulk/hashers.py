"""
The hashes that place keys in a tree, by name and by multicodec code.

A py-hamt tree does not say which it was built with. An IPLD HashMap records the code in its root, so reading one needs
the function that goes with the code; others than those here are registered by the program, as with IAMap's
`registerHasher`. They are not the hashers that name blocks (`block.Hasher`).

Codes: https://github.com/multiformats/multicodec, table.csv, which now calls 0x22 murmur3-x64-64: the first 8 of the 16
bytes; the name and the digest here are those of IPLD HashMap's libraries. The two place alike down to 64 bits.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import TypeAlias

import mmh3
from blake3 import blake3

from hamt_bulk.errors import InvalidInput

HashFn: TypeAlias = Callable[[bytes], bytes]
"""The hash that places keys in a tree: a digest of always the same length."""

MIN_DIGEST_BYTES = 4
"""The shortest of the table's hashes. Keys that share a whole digest cannot be told apart."""

MAX_CODE = (1 << 63) - 1
"""The largest number that a multicodec varint holds."""

_SAMPLES = (b"", b"a", bytes(range(256)))


def blake3_hashfn(data: bytes) -> bytes:
    """The 32 bytes of blake3: the hash that places keys in py-hamt's trees."""
    return blake3(data).digest()


def sha2_256_hashfn(data: bytes) -> bytes:
    """The 32 bytes of sha2-256: the only hash that ipld-hashmap places keys with, whatever code it records."""
    return hashlib.sha256(data).digest()


def murmur3_128_hashfn(data: bytes) -> bytes:
    """The 16 bytes of MurmurHash3's 128-bit x64 variant, seed 0: its two 64-bit halves, each big-endian."""
    # The digest of mmh3 has each half little-endian.
    first, second = mmh3.mmh3_x64_128_utupledigest(data)
    return first.to_bytes(8, "big") + second.to_bytes(8, "big")


def murmur3_32_hashfn(data: bytes) -> bytes:
    """The 4 bytes of MurmurHash3's 32-bit x86 variant, seed 0, little-endian, as IAMap and @multiformats/murmur3 have them."""
    return mmh3.mmh3_32_digest(data)


@dataclass(frozen=True, slots=True)
class KeyHasher:
    """
    A hash that places keys in a tree.

    name  such as `"sha2-256"`
    code  its multicodec code, which roots record
    hash  the function; `hash(b"")` tells the length of its digests

    It pickles with its function, which therefore has to be one that a module defines, or one that cloudpickle takes;
    where it arrives nothing needs to be registered. Raises `InvalidInput` for a function that cannot place keys.
    """

    name: str
    code: int
    hash: HashFn

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not self.name:
            raise InvalidInput(f"a key hasher's name must be text that is not empty, found {self.name!r}")
        if type(self.code) is not int or not 0 <= self.code <= MAX_CODE:
            raise InvalidInput(
                f"{self.name!r}: the multicodec code must be a whole number from 0 to {MAX_CODE:#x}, found {self.code!r}"
            )
        lengths = []
        for sample in _SAMPLES:
            digest = self.hash(sample)
            if type(digest) is not bytes:
                raise InvalidInput(
                    f"{self.name!r}: its function gave {type(digest).__name__}, expected bytes: return the digest itself"
                )
            if self.hash(sample) != digest:
                raise InvalidInput(f"{self.name!r}: its function gave two digests for {sample[:8]!r}")
            lengths.append(len(digest))
        if min(lengths) < MIN_DIGEST_BYTES or len(set(lengths)) > 1:
            raise InvalidInput(
                f"{self.name!r}: its function gave digests of {', '.join(map(str, lengths))} bytes, "
                f"expected one length of at least {MIN_DIGEST_BYTES}"
            )


_lock = Lock()
_by_code: dict[int, KeyHasher] = {}


def register_hasher(name: str, code: int, hash: HashFn) -> KeyHasher:
    """
    The key hasher of this name and code, which `hasher_of` finds from now on in this process.

    hash  bytes to a digest, always of the same length, at least 4 bytes

    The same call may come again. Raises `InvalidInput` when the name or the code already stands for something else.
    """
    hasher = KeyHasher(name, code, hash)
    with _lock:
        for found in _by_code.values():
            if found == hasher:
                return found
            if name == found.name or code == found.code:
                raise InvalidInput(
                    f"{name!r} ({code:#x}) cannot be registered: {found.name!r} ({found.code:#x}) already is, with "
                    f"{_called(found.hash)}; give yours another name and code, or a layout the KeyHasher itself"
                )
        _by_code[code] = hasher
    return hasher


def hasher_of(which: str | int | KeyHasher) -> KeyHasher:
    """The key hasher of this name or multicodec code; a `KeyHasher` is itself. Raises `InvalidInput` for an unknown one."""
    if isinstance(which, KeyHasher):
        return which
    with _lock:
        known = list(_by_code.values())
    for hasher in known:
        if which in (hasher.name, hasher.code):
            return hasher
    said = f"hash code {which:#x}" if isinstance(which, int) else f"key hasher {which!r}"
    names = ", ".join(f"{hasher.name} ({hasher.code:#x})" for hasher in known)
    raise InvalidInput(
        f"{said} is not registered: there are {names}; "
        "for others call hamt_bulk.register_hasher(name, code, function)"
    )


def _called(function: HashFn) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"


SHA2_256 = register_hasher("sha2-256", 0x12, sha2_256_hashfn)
BLAKE3 = register_hasher("blake3", 0x1E, blake3_hashfn)
MURMUR3_128 = register_hasher("murmur3-128", 0x22, murmur3_128_hashfn)
MURMUR3_32 = register_hasher("murmur3-32", 0x23, murmur3_32_hashfn)
