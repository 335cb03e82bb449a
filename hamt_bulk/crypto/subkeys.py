"""
What is derived from a key, each for one use.

    subkey(use)  = blake3 derive_key(context "hamt_bulk 2026-10 encryption 1 <use>", key)
    key id       = the first 8 bytes of blake3 keyed by subkey("key id") over the header
"""

from typing import NamedTuple

from blake3 import blake3

KEY_BYTES = 32
KEY_ID_BYTES = 8


class Subkeys(NamedTuple):
    """
    The keys of one key and header, by what they are for.

    given    the key itself, which only the formats of others use
    key_id   tells keys and headers apart; it is public
    """

    given: bytes
    value: bytes
    nonce: bytes
    name_tag: bytes
    name_stream: bytes
    digest: bytes
    fingerprint: bytes
    key_id: bytes

    @classmethod
    def of(cls, key: bytes, header: bytes) -> "Subkeys":
        """All that is derived from `key`."""
        key_id = blake3(header, key=_derived(key, "key id")).digest()[:KEY_ID_BYTES]
        return cls(
            key,
            value=_derived(key, "value"),
            nonce=_derived(key, "nonce"),
            name_tag=_derived(key, "name tag"),
            name_stream=_derived(key, "name stream"),
            digest=_derived(key, "digest"),
            fingerprint=_derived(key, "fingerprint"),
            key_id=key_id,
        )

    def __repr__(self) -> str:
        return "Subkeys(…)"

    def __reduce__(self) -> str:
        raise TypeError("keys are not pickled")


def _derived(key: bytes, use: str) -> bytes:
    return blake3(key, derive_key_context=f"hamt_bulk 2026-10 encryption 1 {use}").digest()


def lengths_ahead(*parts: bytes) -> bytes:
    """The parts one after the other, each after its length as u64 LE, so that no two sequences give the same bytes."""
    return b"".join(len(part).to_bytes(8, "little") + part for part in parts)
