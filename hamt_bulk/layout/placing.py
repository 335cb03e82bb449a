"""Ways to keys through trees whose nodes have other than 256 slots: the bits of a hash, cut into slot numbers."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hamt_bulk.hashers import KeyHasher
from hamt_bulk.ragged import Bytes

ROWS_AT_ONCE = 1 << 14
"""How many digests are taken apart at a time: a byte a bit."""


@dataclass(frozen=True, slots=True)
class Placement:
    """
    The `hash_fn` of a tree: the way to a key.

    The slot at depth d is the bits d·w to (d+1)·w of the digest, most significant first, for a width w; bits past the
    digest's end are 0. A way has a byte for each, or two, big-endian, where w is above 8.

    Source: IPLD's HashMap specification (ipld.io/specs/advanced-data-layouts/hamt).
    """

    hasher: KeyHasher
    bit_width: int

    def __call__(self, key: bytes) -> bytes:
        digest = self.hasher.hash(key)
        if self.bit_width == 8:
            return digest
        width, bits = self.bit_width, 8 * len(digest)
        levels = -(-bits // width)
        number, mask = int.from_bytes(digest, "big") << levels * width - bits, (1 << width) - 1
        slots = ((number >> width * level) & mask for level in reversed(range(levels)))
        return bytes(slots) if width < 8 else b"".join(slot.to_bytes(2, "big") for slot in slots)

    def many(self, keys: Sequence[bytes]) -> Bytes:
        """The ways to `keys`, a row each."""
        call, size = self.hasher.hash, len(self.hasher.hash(b""))
        rows = np.frombuffer(b"".join([call(key) for key in keys]), np.uint8).reshape(len(keys), size)
        if self.bit_width == 8:
            return rows
        pieces = [
            self._cut(rows[start : start + ROWS_AT_ONCE]) for start in range(0, len(rows), ROWS_AT_ONCE)
        ]
        return np.concatenate(pieces)

    def _cut(self, digests: Bytes) -> Bytes:
        width, step = self.bit_width, 1 if self.bit_width <= 8 else 2
        bits = np.unpackbits(digests, axis=1)
        levels = -(-bits.shape[1] // width)
        whole = np.zeros((len(bits), levels * width), np.uint8)
        whole[:, : bits.shape[1]] = bits
        spread = np.zeros((len(bits), levels, 8 * step), np.uint8)
        spread[:, :, 8 * step - width :] = whole.reshape(len(bits), levels, width)
        return np.packbits(spread.reshape(len(bits), -1), axis=1)
