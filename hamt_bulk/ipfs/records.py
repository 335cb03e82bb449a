"""
Signed records of IPNS names, which whoever serves them need not be trusted with.

    message IpnsEntry {
        1 value   3 validityType   4 validity   5 sequence   6 ttl      copies for old readers: as in `data`, or none
        7 pubKey                                                        where the name is only its hash
        8 signatureV2                                                   of "ipns-signature:" + data
        9 data                                                          DAG-CBOR, of what the copies are named for
    }
    message PublicKey { 1 type: 0 RSA, 1 Ed25519   2 data }

A name is the multihash of its public key's message: identity for Ed25519, sha2-256 for RSA.

Source: https://specs.ipfs.tech/ipns/ipns-record/
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from multiformats import CID, multibase

from hamt_bulk.block import MAX_CID_CHARACTERS, SHA2_256, parse, read_varint
from hamt_bulk.errors import CASError, InvalidInput
from hamt_bulk.foreign import from_cbor

MAX_RECORD_BYTES = 10 << 10

_LIBP2P_KEY = 0x72
_IDENTITY = 0x00
_RSA, _ED25519 = 0, 1
_RSA_BITS = range(2048, 8193)
_RSA_BYTES = 1100
_RSA_HEAD = re.compile(
    rb"\x30\x82..\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00\x03\x82", re.DOTALL
)
"""A key of 2048 bits or more in PKIX. Of other forms, such as private keys, much would be computed to see that they
are sound."""
_PREFIXES = ("ipns://", "/ipns/")
_COPIES = {1: "Value", 3: "ValidityType", 4: "Validity", 5: "Sequence", 6: "TTL"}
_PUBLIC_KEY, _SIGNATURE_V1, _SIGNATURE, _DATA = 7, 2, 8, 9


class BadRecord(CASError):
    """A record that its name's key did not sign so, or that is valid no longer."""


@dataclass(frozen=True, slots=True)
class Record:
    """
    What the owner of a name says.

    value    a path, such as `/ipfs/bafyr4i…`
    expires  when the record ends
    """

    value: str
    sequence: int
    expires: datetime


def key_of(name: str) -> bytes:
    """The multihash in a name: `k51…`, `12D3…`, `Qm…`, also after `ipns://` or `/ipns/`. Raises `InvalidInput`."""
    if not isinstance(name, str):
        raise InvalidInput(f"not a name: {type(name).__name__} {name!r}; expected text such as k51qzi5uqu5d…")
    bare = name
    for prefix in _PREFIXES:
        bare = bare.removeprefix(prefix)
    bare = bare.removesuffix("/")
    try:
        if len(bare) > MAX_CID_CHARACTERS:
            raise ValueError(f"{len(bare)} characters, at most {MAX_CID_CHARACTERS}")
        cid = b"\x01\x72" + multibase.decode("z" + bare) if bare.startswith(("1", "Qm")) else None
        cid = bytes(CID.decode(bare)) if cid is None else cid
        codec, code, digest = parse(cid)
        if codec != _LIBP2P_KEY:
            raise ValueError(f"codec {codec:#x}, expected {_LIBP2P_KEY:#x}, a key")
        if code not in (_IDENTITY, SHA2_256) or (code == SHA2_256) != (len(digest) == 32):
            raise ValueError(f"a hash with code {code:#x} and {len(digest)} bytes")
    except (ValueError, LookupError) as error:
        raise InvalidInput(
            f"not a name: {name!r:.200} ({error}); expected a key's, such as k51qzi5uqu5d…. A domain is none: nobody "
            "signs what it points to"
        ) from None
    return cid[2:]


def name_of(key: bytes) -> str:
    """The text of a name, `k51…`, from its multihash."""
    return str(multibase.encode(b"\x01\x72" + key, "base36"))


def read_record(key: bytes, data: bytes, now: datetime) -> Record:
    """What the owner of the key with the multihash `key` signed in `data`. Raises `BadRecord`."""
    try:
        if len(data) > MAX_RECORD_BYTES:
            raise ValueError(f"{len(data)} bytes, at most {MAX_RECORD_BYTES}")
        fields = _fields(data)
        signed, signature = fields.get(_DATA), fields.get(_SIGNATURE)
        if not isinstance(signed, bytes) or not isinstance(signature, bytes) or not signed or not signature:
            raise ValueError("without signatureV2 and data")
        _check_signature(_public_key(key, fields.get(_PUBLIC_KEY)), b"ipns-signature:" + signed, signature)
        said = from_cbor(signed)
        if _SIGNATURE_V1 in fields or 1 in fields:
            for number, name in _COPIES.items():
                copy = fields.get(number, b"" if number in (1, 4) else 0)
                if copy != said[name]:
                    raise ValueError(f"{name} is not what was signed")
        return _valid(said, now)
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise BadRecord(
            f"the record of {name_of(key)} is not its owner's, or valid no longer: {error}"
        ) from None


def _valid(said: Any, now: datetime) -> Record:
    kind, value, until, sequence = (said[name] for name in ("ValidityType", "Value", "Validity", "Sequence"))
    if kind != 0 or not isinstance(sequence, int) or sequence < 0:
        raise ValueError("a validity type other than 0, or a sequence that is no number")
    expires = datetime.fromisoformat(until.decode("ascii"))
    if expires.tzinfo is None:
        raise ValueError(f"an end without a time zone: {until!r:.80}")
    if expires <= now:
        raise ValueError(f"it expired at {until.decode()}")
    return Record(value.decode(), sequence, expires)


def _public_key(key: bytes, given: Any) -> bytes:
    """The message PublicKey of a name, which the record brings where the name has only its hash."""
    code, digest = key[0], key[2:]
    if code == _IDENTITY:
        if given is not None and given != digest:
            raise ValueError("it brings another key")
        return digest
    if not isinstance(given, bytes):
        raise ValueError("it lacks the key")
    if hashlib.sha256(given).digest() != digest:
        raise ValueError("it brings another key")
    return given


def _check_signature(public_key: bytes, message: bytes, signature: bytes) -> None:
    """Raises `ValueError` unless the key signed the message."""
    # Its first import takes 0.1 s, and few processes need it.
    from Crypto.Hash import SHA256
    from Crypto.PublicKey import RSA
    from Crypto.Signature import eddsa, pkcs1_15

    fields = _fields(public_key)
    kind, data = fields.get(1), fields.get(2)
    if not isinstance(data, bytes):
        raise ValueError("a key without bytes")
    if kind == _ED25519:
        eddsa.new(eddsa.import_public_key(data), "rfc8032").verify(message, signature)
        return
    if kind != _RSA:
        raise ValueError(f"a key of type {kind!r:.80}, expected {_ED25519} (Ed25519) or {_RSA} (RSA)")
    if len(data) > _RSA_BYTES or not _RSA_HEAD.match(data):
        raise ValueError("an RSA key in another form than PKIX")
    rsa = RSA.import_key(data)
    if rsa.size_in_bits() not in _RSA_BITS:
        raise ValueError(f"an RSA key of {rsa.size_in_bits()} bits")
    if rsa.e >> 32:
        raise ValueError("an RSA key with an exponent of more than 32 bits")
    pkcs1_15.new(rsa).verify(SHA256.new(message), signature)


def _fields(message: bytes) -> dict[int, int | bytes]:
    """The fields of a protobuf message: numbers and bytes, the last of each."""
    found: dict[int, int | bytes] = {}
    at = 0
    while at < len(message):
        tag, at = read_varint(message, at)
        value, at = read_varint(message, at)
        match tag & 7:
            case 0:
                found[tag >> 3] = value
            case 2:
                if value > len(message) - at:
                    raise ValueError("the bytes end within a field")
                found[tag >> 3] = message[at : at + value]
                at += value
            case kind:
                raise ValueError(f"a field of type {kind}, expected 0 or 2")
    return found
