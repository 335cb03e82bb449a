"""
The format "bound": each value is tied to its key name, and byte ranges of it can be read alone.

    stored   = head segment*                   at least one segment
    head     = magic  key id (8)  prefix (19)                              32 bytes
    magic    = ff 48 42 45 01                  "HBE", and the version of the format
    segment  = ciphertext  tag (16)            of 65,536 bytes of the value; the last of what is left, which is nothing
                                               only where the value is empty

Segment number i (from 0) of a value is XChaCha20-Poly1305 under subkey("value") with

    nonce    = prefix  u32 BE i  01 if it is the last one, else 00          24 bytes
    data     = u64 LE n, n bytes, for each of "hamt_bulk encryption 1 value", the header and the key name (UTF-8)

which is the STREAM construction of Hoang, Reyhanitabar, Rogaway and Vizár, "Online Authenticated-Encryption and its
Nonce-Reuse Misuse-Resistance" (2015). So a segment that was altered, is in another place, comes from another value,
or is the last one and should not be (or the other way round), is not opened.

The prefix is random, or, in deterministic mode, the first 19 bytes of blake3 keyed by subkey("nonce") over

    u64 LE n, n bytes of the data above, and the value.
"""

import os
from typing import NamedTuple

from blake3 import blake3
from Crypto.Cipher import ChaCha20_Poly1305

from hamt_bulk.block import Data
from hamt_bulk.crypto.subkeys import KEY_ID_BYTES, Subkeys, lengths_ahead
from hamt_bulk.errors import InvalidInput, NotAuthentic, WrongKey

MAGIC = b"\xffHBE\x01"
PREFIX_BYTES = 19
HEAD_BYTES = len(MAGIC) + KEY_ID_BYTES + PREFIX_BYTES

SEGMENT_BYTES = 64 << 10
TAG_BYTES = 16
SEALED_BYTES = SEGMENT_BYTES + TAG_BYTES
"""The length of a segment as it is stored, unless it is the last one."""

MAX_SEGMENTS = 1 << 32

DOMAIN = b"hamt_bulk encryption 1 value"


class Shape(NamedTuple):
    """How a stored value is made up: of so many segments, the last of which has `last` bytes of the value."""

    segments: int
    last: int

    @property
    def size(self) -> int:
        """The length of the value."""
        return (self.segments - 1) * SEGMENT_BYTES + self.last


def shape_of(key: str, stored_size: int) -> Shape:
    """The shape of a stored value of this length. Raises `NotAuthentic` when there is none."""
    body = stored_size - HEAD_BYTES
    count = max(-(-body // SEALED_BYTES), 1)
    last = body - (count - 1) * SEALED_BYTES - TAG_BYTES
    if last < 0 or (last == 0 and count > 1):
        raise NotAuthentic(
            f"{key!r}: no value is stored in {stored_size} bytes: it was truncated or extended"
        )
    return Shape(count, last)


class Span(NamedTuple):
    """
    Segments that a range lies in.

    first, after  their numbers, of which `after` is not one of them
    start, stop   where they lie in the stored value
    """

    first: int
    after: int
    start: int
    stop: int


def span_of(shape: Shape, start: int, stop: int | None) -> Span:
    """
    The segments of bytes `start` to `stop` (exclusive; `None`: the end) of a value, as slicing takes them.

    One at least, so that also of a range behind the end something is verified.
    """
    first = min(start // SEGMENT_BYTES, shape.segments - 1)
    after = shape.segments if stop is None else min(-(-stop // SEGMENT_BYTES), shape.segments)
    after = max(after, first + 1)
    stored = HEAD_BYTES + (shape.segments - 1) * SEALED_BYTES + shape.last + TAG_BYTES
    return Span(
        first, after, HEAD_BYTES + first * SEALED_BYTES, min(HEAD_BYTES + after * SEALED_BYTES, stored)
    )


def seal(subkeys: Subkeys, header: bytes, key: str, value: Data, deterministic: bool) -> bytes:
    """What is stored for `value`."""
    view = memoryview(value).cast("B")
    data = _associated(header, key)
    if deterministic:
        hasher = blake3(key=subkeys.nonce)
        hasher.update(lengths_ahead(data))
        prefix = hasher.update(view).digest()[:PREFIX_BYTES]
    else:
        prefix = os.urandom(PREFIX_BYTES)
    parts = [MAGIC + subkeys.key_id + prefix]
    count = max(-(-len(view) // SEGMENT_BYTES), 1)
    if count > MAX_SEGMENTS:
        raise InvalidInput(f"{key!r} has {len(view)} bytes, more than can be encrypted as one value")
    for number in range(count):
        cipher = _cipher(subkeys, prefix, number, number == count - 1, data)
        piece = view[number * SEGMENT_BYTES : (number + 1) * SEGMENT_BYTES]
        parts += cipher.encrypt_and_digest(piece)
    return b"".join(parts)


def open_whole(subkeys: Subkeys, header: bytes, key: str, stored: Data) -> bytes:
    """The value. Raises `WrongKey` or `NotAuthentic`."""
    view = memoryview(stored).cast("B")
    prefix = read_head(subkeys, key, view)
    shape = shape_of(key, len(view))
    span = span_of(shape, 0, None)
    return b"".join(open_segments(subkeys, header, key, prefix, view[HEAD_BYTES:], span, shape))


def read_head(subkeys: Subkeys, key: str, stored: Data) -> bytes:
    """The nonce prefix. Raises `NotAuthentic` for what is no such value, `WrongKey` for that of another key."""
    head = bytes(stored[:HEAD_BYTES])
    if not head.startswith(MAGIC):
        raise NotAuthentic(f"{key!r} is not encrypted in the format 'bound': {looks(head)}")
    if len(head) < HEAD_BYTES:
        raise NotAuthentic(
            f"{key!r} was truncated: {len(head)} bytes, at least {HEAD_BYTES + TAG_BYTES} expected"
        )
    found = head[len(MAGIC) : len(MAGIC) + KEY_ID_BYTES]
    if found != subkeys.key_id:
        raise WrongKey(
            f"{key!r} was encrypted with the key id {found.hex()}, and the given key and header have "
            f"{subkeys.key_id.hex()}: either the key or the header is another one"
        )
    return head[-PREFIX_BYTES:]


def open_segments(
    subkeys: Subkeys, header: bytes, key: str, prefix: bytes, sealed: Data, span: Span, shape: Shape
) -> list[bytes]:
    """The plain bytes of the stored segments of `span`, of a value of this shape."""
    view = memoryview(sealed)
    data = _associated(header, key)
    pieces = []
    for number in range(span.first, span.after):
        at = (number - span.first) * SEALED_BYTES
        piece = view[at : at + SEALED_BYTES]
        cipher = _cipher(subkeys, prefix, number, number == shape.segments - 1, data)
        try:
            if len(piece) < TAG_BYTES:
                raise ValueError("no tag")
            pieces.append(cipher.decrypt_and_verify(piece[:-TAG_BYTES], piece[-TAG_BYTES:]))
        except ValueError:
            raise NotAuthentic(
                f"{key!r}: its segment {number} of {shape.segments} is not what was stored under this key: it was "
                "altered or truncated, or moved here from another key"
            ) from None
    return pieces


def looks(stored: Data) -> str:
    """What the first bytes of a value that is not encrypted look like, and what to do."""
    start = bytes(stored[:64])
    if start.startswith(MAGIC[:4]):
        return "it is of another version of that format, or was altered"
    if start.lstrip()[:1] in (b"{", b"["):
        return "it looks like a plain Zarr document: open it without encryption="
    return (
        f"it begins with {start[:8].hex() or 'nothing'}: plain bytes (open them without encryption=, or name the variable in "
        "exclude_vars), or those of another format (format='py-hamt-3', 'py-hamt-2')"
    )


def _associated(header: bytes, key: str) -> bytes:
    return lengths_ahead(DOMAIN, header, key.encode())


def _cipher(
    subkeys: Subkeys, prefix: bytes, number: int, is_last: bool, data: bytes
) -> "ChaCha20_Poly1305.ChaCha20Poly1305Cipher":
    nonce = prefix + number.to_bytes(4, "big") + bytes((is_last,))
    cipher = ChaCha20_Poly1305.new(key=subkeys.value, nonce=nonce)
    cipher.update(data)
    return cipher
