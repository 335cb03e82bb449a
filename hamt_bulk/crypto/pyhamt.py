"""
What py-hamt's encryption writes, to read it and to write it.

    stored   = nonce (24)  tag (16)  ciphertext          XChaCha20-Poly1305 under the key itself
    data     = the header

"py-hamt-3", its SimpleEncryptedZarrHAMTStore, does so with every value. "py-hamt-2", its Zarr transformers, does so with
the dag-cbor form of a value (a byte string), but for keys that end in zarr.json and those whose first part is an
excluded variable, which stay clear. What a writer excluded the tree does not say: bytes that cannot be decrypted and
are a dag-cbor byte string in the strict sense are taken for it, as py-hamt does.

Neither binds a value to its key, so whoever can write can move a chunk from one key to another unnoticed, and in
"py-hamt-2" put a plain value in the place of an encrypted one. Neither tells a wrong key from an altered value.
"""

import os
from typing import TYPE_CHECKING

from Crypto.Cipher import ChaCha20_Poly1305

from hamt_bulk.block import Data
from hamt_bulk.crypto import bound
from hamt_bulk.errors import NotAuthentic, WrongKey

if TYPE_CHECKING:
    from collections.abc import Collection

NONCE_BYTES = 24
TAG_BYTES = 16
OVERHEAD_BYTES = NONCE_BYTES + TAG_BYTES


def encrypted(key: bytes, header: bytes, value: Data) -> bytes:
    """What is stored for a value."""
    nonce = os.urandom(NONCE_BYTES)
    cipher = ChaCha20_Poly1305.new(key=key, nonce=nonce)
    cipher.update(header)
    ciphertext, tag = cipher.encrypt_and_digest(value)
    return b"".join((nonce, tag, ciphertext))


def decrypted(key: bytes, header: bytes, name: str, stored: Data) -> bytes:
    """The value stored under `name`. Raises `NotAuthentic` for what is too short, and else `WrongKey`."""
    view = memoryview(stored).cast("B")
    if len(view) < OVERHEAD_BYTES:
        raise NotAuthentic(
            f"{name!r} has {len(view)} bytes, and encrypted by py-hamt it would have {OVERHEAD_BYTES} or more: "
            f"{bound.looks(view)}"
        )
    cipher = ChaCha20_Poly1305.new(key=key, nonce=view[:NONCE_BYTES])
    cipher.update(header)
    try:
        return cipher.decrypt_and_verify(view[OVERHEAD_BYTES:], view[NONCE_BYTES:OVERHEAD_BYTES])
    except ValueError:
        raise WrongKey(
            f"{name!r} cannot be decrypted: the key or the header is another one, or the data was altered; py-hamt's "
            f"format cannot tell which{_hint(view)}"
        ) from None


def _hint(stored: Data) -> str:
    start = bytes(stored[:64])
    if start.startswith(bound.MAGIC):
        return ". It is encrypted by this package, in the format 'bound'"
    return f"; {bound.looks(start)}" if start.lstrip()[:1] in (b"{", b"[") else ""


def is_clear_in_2(key: str, excluded: "Collection[str]") -> bool:
    """Whether py-hamt 2 stores the value of `key` as it is."""
    first, slash, _ = key.partition("/")
    return key.endswith("zarr.json") or (bool(slash) and first in excluded)


def cbor_bytes(value: Data) -> bytes:
    """The dag-cbor form of a byte string."""
    return _cbor_head(len(value)) + bytes(value)


def from_cbor_bytes(data: Data) -> bytes | None:
    """The byte string of which this is the dag-cbor form, to the last byte and in the shortest form; else `None`."""
    view = memoryview(data).cast("B")
    if not view or view[0] >> 5 != 2:
        return None
    extra = {24: 1, 25: 2, 26: 4, 27: 8}.get(view[0] & 31, 0)
    size = int.from_bytes(view[1 : 1 + extra], "big") if extra else view[0] & 31
    head = _cbor_head(size)
    if bytes(view[: len(head)]) != head or len(view) != len(head) + size:
        return None
    return bytes(view[len(head) :])


def _cbor_head(size: int) -> bytes:
    if size < 24:
        return bytes((0x40 | size,))
    for code, width in ((24, 1), (25, 2), (26, 4)):
        if size < 1 << (8 * width):
            return bytes((0x40 | code,)) + size.to_bytes(width, "big")
    return b"\x5b" + size.to_bytes(8, "big")
