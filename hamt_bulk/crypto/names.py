"""
Hidden key names: what stands in the tree in the place of a key.

    padded   = the key (UTF-8)  80  00*                 to the next multiple of 32 bytes
    tag      = the first 16 bytes of blake3 keyed by subkey("name tag") over
               u64 LE n, n bytes, for each of "hamt_bulk encryption 1 name" and the header, and then `padded`
    hidden   = tag  (padded xor blake3 keyed by subkey("name stream") over `tag`, as many bytes as `padded` has)

as base64url text without padding. This is the SIV composition of Rogaway and Shrimpton, "Deterministic
Authenticated-Encryption" (2006), with keyed blake3 for both its functions: a key has one hidden name, so that it can be
looked up, and text that no key was hidden as is told from one. Two names tell only whether they are equal, and each
its key's length in steps of 32 bytes.
"""

import base64
import binascii

from blake3 import blake3

from hamt_bulk.crypto.subkeys import Subkeys, lengths_ahead
from hamt_bulk.errors import NotAuthentic, WrongKey

DOMAIN = b"hamt_bulk encryption 1 name"
TAG_BYTES = 16
STEP_BYTES = 32


class HiddenNames:
    """The names of one key and header."""

    def __init__(self, subkeys: Subkeys, header: bytes) -> None:
        self._tag = blake3(lengths_ahead(DOMAIN, header), key=subkeys.name_tag)
        self._stream = blake3(key=subkeys.name_stream)

    def hide(self, key: str) -> str:
        """The name of `key`."""
        plain = key.encode() + b"\x80"
        plain += bytes(-len(plain) % STEP_BYTES)
        tag = self._tag_of(plain)
        return base64.urlsafe_b64encode(tag + self._masked(tag, plain)).rstrip(b"=").decode()

    def reveal(self, name: str) -> str:
        """The key whose name this is. Raises `NotAuthentic` for what is no hidden name, `WrongKey` for that of another."""
        hidden = decoded(name)
        if hidden is None:
            raise NotAuthentic(
                f"the tree has the key {name[:80]!r}, which is not a hidden name: it was written without hide_names=True"
            )
        tag = hidden[:TAG_BYTES]
        plain = self._masked(tag, hidden[TAG_BYTES:])
        if self._tag_of(plain) != tag:
            raise WrongKey(
                f"the tree has the hidden name {name[:80]!r}, which this key and header do not give: either of them is "
                "another one than it was written with, or the name was altered"
            )
        return plain.rstrip(b"\x00")[:-1].decode()

    def _tag_of(self, plain: bytes) -> bytes:
        hasher = self._tag.copy()
        return hasher.update(plain).digest()[:TAG_BYTES]

    def _masked(self, tag: bytes, data: bytes) -> bytes:
        stream = self._stream.copy().update(tag).digest(length=len(data))
        mixed = int.from_bytes(data, "little") ^ int.from_bytes(stream, "little")
        return mixed.to_bytes(len(data), "little")


def decoded(name: str) -> bytes | None:
    """The bytes of a hidden name; `None` for text that has not the form of one."""
    if len(name) < 64 or "/" in name or "+" in name:
        return None
    try:
        hidden = base64.b64decode(name + "=" * (-len(name) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        return None
    # Trailing bits that decode away would let two names stand for one key.
    if base64.urlsafe_b64encode(hidden).rstrip(b"=") != name.encode():
        return None
    return hidden if (len(hidden) - TAG_BYTES) % STEP_BYTES == 0 and len(hidden) > TAG_BYTES else None
