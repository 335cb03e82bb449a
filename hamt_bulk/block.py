"""
Blocks and the CIDs that name them.

Inside the package a CID is its binary form, `bytes`; `multiformats.CID` appears at the public edge
only, because decoding one takes 0.2 ms.

    CIDv1 = 01 <codec: varint> <hash code: varint> <digest length: varint> <digest>

Source: https://github.com/multiformats/cid and the multicodec table.
"""

import base64
import copyreg
import hashlib
from collections.abc import Callable
from functools import lru_cache
from os import PathLike
from typing import Literal, NamedTuple, TypeAlias

from blake3 import blake3
from multiformats import CID

from hamt_bulk.errors import BlockMismatch, InvalidInput

RAW = 0x55
DAG_PB = 0x70
DAG_CBOR = 0x71

SHA2_256 = 0x12
BLAKE3 = 0x1E

MAX_BLOCK_BYTES = 1 << 20
"""The largest block this package writes, in bytes: Bitswap carries 2 MiB at most, Kubo's importers 1 MiB."""

MAX_CID_BYTES = 128
"""A bound for readers of foreign bytes. Ours are 36 bytes long."""

MAX_CID_CHARACTERS = 1 + 8 * MAX_CID_BYTES
"""The text of the longest in base 2. Decoding some bases takes the square of the length."""

Data: TypeAlias = bytes | bytearray | memoryview
"""Anything with the buffer protocol that hashes and writes without a copy."""

Hasher: TypeAlias = Literal["blake3", "sha2-256"]
"""What names the blocks. It is not the hash that places keys in a tree."""

AnyCID: TypeAlias = CID | str | bytes
"""A CID as callers have it: an object, its text (also as `ipfs://CID`), or its binary form."""

HASH_CODES: dict[str, int] = {"blake3": BLAKE3, "sha2-256": SHA2_256}
CODECS: dict[str, int] = {"raw": RAW, "dag-pb": DAG_PB, "dag-cbor": DAG_CBOR}

_DIGESTS: dict[int, Callable[[Data], bytes]] = {
    BLAKE3: lambda data: blake3(data).digest(),
    SHA2_256: lambda data: hashlib.sha256(data).digest(),
}


class Block(NamedTuple):
    """Bytes and the CID that names them."""

    cid: bytes
    data: Data


class CIDParts(NamedTuple):
    """What a binary CID says."""

    codec: int
    hash_code: int
    digest: bytes


def identify(data: Data, codec: int = RAW, hasher: str = "blake3") -> bytes:
    """The CID of `data`. `hasher` is `"blake3"` or `"sha2-256"`."""
    code = hash_code(hasher)
    return cid_head(codec, code) + _DIGESTS[code](data)


def hash_code(hasher: str) -> int:
    """The multihash code of `hasher`. Raises `InvalidInput` for one that blocks cannot be named with."""
    try:
        return HASH_CODES[hasher]
    except KeyError:
        known = ", ".join(repr(name) for name in HASH_CODES)
        raise InvalidInput(f"hasher={hasher!r}: blocks can be named with {known}") from None


def cid_head(codec: int, code: int) -> bytes:
    """The four bytes that precede the digest in every CID this package writes."""
    return bytes((1, codec, code, 32))


def verify(cid: bytes, data: Data) -> None:
    """Raises `BlockMismatch` unless `data` hashes to `cid`."""
    parts = parse(cid)
    digest = _DIGESTS.get(parts.hash_code)
    if digest is None or len(parts.digest) != 32:
        raise InvalidInput(
            f"{text(cid)}: hash code {parts.hash_code:#x} with {len(parts.digest)} bytes cannot be verified; "
            "blocks are named with blake3 or sha2-256, 32 bytes"
        )
    found = digest(data)
    if found != parts.digest:
        raise BlockMismatch(
            f"block {text(cid)}: its {len(data)} bytes hash to {found.hex()[:16]}…, expected "
            f"{parts.digest.hex()[:16]}…. The copy is damaged: fetch the block from another store"
        )


def parse(cid: bytes) -> CIDParts:
    """The parts of a binary CIDv1. Raises `InvalidInput` when it is not one, to the last byte."""
    if len(cid) == 36 and cid[0] == 1 and cid[3] == 32 and max(cid[1], cid[2]) < 0x80:
        return CIDParts(cid[1], cid[2], cid[4:])
    try:
        if len(cid) > MAX_CID_BYTES:
            raise ValueError(f"{len(cid)} bytes, at most {MAX_CID_BYTES}")
        if len(cid) == 34 and cid[:2] == b"\x12\x20":  # CIDv0: a bare sha2-256 multihash of dag-pb
            return CIDParts(DAG_PB, SHA2_256, cid[2:])
        version, at = read_varint(cid, 0)
        codec, at = read_varint(cid, at)
        code, at = read_varint(cid, at)
        length, at = read_varint(cid, at)
        if version != 1:
            raise ValueError(f"version {version}, expected 1")
        if len(cid) - at != length:
            raise ValueError(f"a digest of {len(cid) - at} bytes, expected {length}")
    except ValueError as error:
        raise InvalidInput(f"not a CID: {bytes(cid[:40]).hex()}: {error}") from None
    return CIDParts(codec, code, cid[at:])


def to_bytes(cid: AnyCID | PathLike[str]) -> bytes:
    """
    The binary form of a CID in any of its forms. Raises `InvalidInput` otherwise.

    A path whose last part is a CID is taken for that CID, since xarray may turn text into a path.
    """
    if isinstance(cid, CID):
        return bytes(cid)
    if isinstance(cid, bytes):
        parse(cid)
        return cid
    if isinstance(cid, PathLike):
        cid = cid.__fspath__()
    if not isinstance(cid, str):
        raise InvalidInput(
            f"not a CID: {type(cid).__name__} {cid!r}; a CID object, its text or its bytes will do"
        )
    last = cid.removeprefix("ipfs://").rstrip("/").replace("\\", "/").rpartition("/")[2]
    try:
        if len(last) > MAX_CID_CHARACTERS:
            raise ValueError(f"{len(last)} characters, at most {MAX_CID_CHARACTERS}")
        if last.startswith(("b", "B")):
            body = last[1:].upper()
            binary = base64.b32decode(body + "=" * (-len(body) % 8))
        else:
            binary = bytes(CID.decode(last))
        parse(binary)
        # Trailing bits that decode away would let two texts name one CID.
        if last[:1] in "bB" and text(binary) != (last if last[:1] == "b" else last.lower()):
            raise ValueError("not in canonical base32")
    except (ValueError, LookupError) as error:
        shown = cid if len(cid) <= MAX_CID_CHARACTERS else f"{cid[:80]}…"
        raise InvalidInput(f"not a CID: {shown!r} ({error}); a root looks like bafyr4i…") from None
    return binary


def text(cid: bytes) -> str:
    """The base32 text of a binary CID, such as `bafyr4i…`."""
    return "b" + base64.b32encode(cid).decode().rstrip("=").lower()


def to_cid(cid: bytes) -> CID:
    """The public form of a binary CID, whose text is base32. Raises `InvalidInput` for codecs and hashes without names."""
    try:
        return CID.decode(cid).set(base="base32")
    except (ValueError, LookupError) as error:
        raise InvalidInput(f"{text(cid)} has no public form: {error}") from None


def _reduced(cid: CID) -> tuple[Callable[[str], CID], tuple[str]]:
    return CID.decode, (str(cid),)


# multiformats pickles a CID with its hash function, which cannot be pickled once anybody has hashed with it, or has made
# a CID of that hash by its constructor. Roots go to workers in graphs, so no CID is pickled that way.
copyreg.pickle(CID, _reduced)


def read_varint(data: Data, at: int) -> tuple[int, int]:
    """
    An unsigned LEB128 number of at most nine bytes in its shortest form, and the position after it.

    Raises `ValueError` when the bytes end early or hold no such number.
    """
    value = shift = 0
    for index in range(at, min(at + 9, len(data))):
        byte = data[index]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                raise ValueError("a varint in a longer form than needed")
            return value, index + 1
        shift += 7
    raise ValueError(
        "the bytes end within a varint" if len(data) < at + 9 else "a varint of more than 9 bytes"
    )


@lru_cache(4096)
def varint(value: int) -> bytes:
    """`value` as unsigned LEB128."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)
