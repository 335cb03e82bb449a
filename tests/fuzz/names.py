"""CIDs, names, and the signed records of names."""

import hashlib
from datetime import UTC, datetime
from random import Random

import libipld
from Crypto.PublicKey import ECC, RSA
from Crypto.Signature import eddsa

from hamt_bulk.block import DAG_PB, identify, parse, read_varint, text, to_bytes, to_cid, varint
from hamt_bulk.errors import InvalidInput
from hamt_bulk.ipfs import records
from hamt_bulk.ipfs.records import BadRecord, Record, key_of, name_of, read_record

from .target import Target, Wrong

NOW = datetime(2030, 1, 1, tzinfo=UTC)
_SECRET = eddsa.import_private_key(bytes(range(32)))
_PUBLIC = b"\x08\x01\x12\x20" + _SECRET.public_key().export_key(format="raw")
KEY = b"\x00" + bytes([len(_PUBLIC)]) + _PUBLIC
SAID = {
    "Value": b"/ipfs/bafkqaaa",
    "Validity": b"2099-01-01T00:00:00Z",
    "ValidityType": 0,
    "Sequence": 7,
    "TTL": 300,
}


def _field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    return varint(number << 3 | 2) + varint(len(value)) + value


def _signed(said: bytes) -> bytes:
    signature = eddsa.new(_SECRET, "rfc8032").sign(b"ipns-signature:" + said)
    return _field(8, signature) + _field(9, said)


def _binary(data: bytes) -> None:
    parts = parse(data)
    if not data.endswith(parts.digest) or to_bytes(text(data)) != data:
        raise Wrong("another CID")
    try:
        number, end = read_varint(data, 0)
    except ValueError:
        return
    if varint(number) != data[:end]:
        raise Wrong(f"a varint that is not in its shortest form: {data[:10].hex()}")


def _text(data: bytes) -> None:
    found = to_bytes(data.decode("latin-1"))
    if to_bytes(found) != found:
        raise Wrong("another CID")


def _name(data: bytes) -> None:
    key = key_of(data.decode("latin-1"))
    if key_of(name_of(key)) != key:
        raise Wrong("another name")


def _record(data: bytes) -> None:
    _checked(read_record(KEY, data, NOW))


def _signed_record(data: bytes) -> None:
    """What the owner of a name may sign: anything."""
    check, records._check_signature = records._check_signature, lambda *_: None
    try:
        _checked(read_record(KEY, _field(8, b"signature") + _field(9, data), NOW))
    finally:
        records._check_signature = check


def _public_key(data: bytes) -> None:
    """What the owner of a name may bring as the key that it is the hash of: anything."""
    key = b"\x12\x20" + hashlib.sha256(data).digest()
    record = _field(7, data) + _field(8, bytes(256)) + _field(9, libipld.encode_dag_cbor(SAID))
    _checked(read_record(key, record, NOW))


def _checked(record: Record) -> None:
    if not isinstance(record.value, str) or record.sequence < 0 or record.expires <= NOW:
        raise Wrong(f"{record} is valid")


def _made(random: Random) -> bytes:
    values = [
        0,
        -1,
        1 << 63,
        1.5,
        None,
        "text",
        b"",
        b"\xff",
        b"2099-01-01",
        b"9999-12-31T23:59:59-23:59",
        [],
        {},
    ]
    said = dict(SAID)
    for _ in range(random.randint(0, 2)):
        said[random.choice([*SAID, "more"])] = random.choice(values)
    return libipld.encode_dag_cbor(said)


def _made_cid(random: Random) -> bytes:
    """Of any codec and hash, with a digest that is as long as it says, nearly."""
    length = random.choice([0, 4, 20, 32, 64, 122, 123, 128])
    codes = [
        varint(random.choice([1, 0x55, 0x70, 0x71, 0x12, 0x1E, 0, 1 << 20, (1 << 63) - 1])) for _ in "ab"
    ]
    return (
        b"\x01"
        + codes[0]
        + codes[1]
        + varint(length)
        + random.randbytes(length - random.choice([0, 0, 0, 1]) if length else 0)
    )


_SAID = libipld.encode_dag_cbor(SAID)
RECORD = _signed(_SAID)
_WITH_COPIES = (
    _field(1, SAID["Value"]) + _field(3, 0) + _field(4, SAID["Validity"]) + _field(5, 7) + _field(6, 300)
)
_RSA = RSA.construct((int("c" + "5" * 511, 16) | 1, 65537))
_KEYS = [
    _PUBLIC,
    b"\x08\x00\x12" + varint(294) + _RSA.export_key("DER")[:294],
    _field(1, 0) + _field(2, _RSA.export_key("PEM")),
    _field(1, 1) + _field(2, ECC.construct(curve="ed25519", seed=bytes(32)).export_key(format="DER")),
]
_CIDS = [identify(b"a"), identify(b"a", DAG_PB, "sha2-256"), identify(b"a", DAG_PB, "sha2-256")[2:]]
_NAMES = [name_of(KEY), name_of(b"\x12\x20" + bytes(32)), f"ipns://{name_of(KEY)}/"]
_TEXTS = [*map(text, _CIDS), str(to_cid(_CIDS[2])), f"ipfs://{text(_CIDS[0])}/", text(_CIDS[0]).upper()]
_TOKENS = [
    b"b",
    b"B",
    b"z",
    b"k",
    b"f",
    b"0",
    b"Qm",
    b"\0",
    b"\x01\x55",
    b"1" * 3000,
    b"/",
    b"ipfs://",
    b"\xdf",
    b"\xb5",
]

TARGETS = [
    Target("cid", _binary, _CIDS, (InvalidInput,), _made_cid, _TOKENS),
    Target("text of a cid", _text, [name.encode() for name in _TEXTS], (InvalidInput,), None, _TOKENS),
    Target("name", _name, [name.encode() for name in _NAMES], (InvalidInput,), None, _TOKENS),
    Target("record", _record, [RECORD, RECORD + _WITH_COPIES], (BadRecord,)),
    Target("signed record", _signed_record, [_SAID], (BadRecord,), _made, [b"\x81" * 3000, b"\xf6", b"\xa0"]),
    Target(
        "public key",
        _public_key,
        _KEYS,
        (BadRecord,),
        None,
        [b"-----BEGIN RSA PRIVATE KEY-----", b"\x30\x82"],
    ),
]
