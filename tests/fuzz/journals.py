"""Journals: files of any bytes, and records of any content under right checksums."""

from io import BytesIO
from random import Random

import libipld

from hamt_bulk.block import identify
from hamt_bulk.errors import InvalidInput
from hamt_bulk.journal.file import opening
from hamt_bulk.journal.records import (
    LENGTH_BYTES,
    MAGIC,
    Batch,
    Build,
    continued,
    decode,
    encode,
    read,
    start,
)
from hamt_bulk.manifest import Manifest, blake3_hashfn

from .target import Meter, Target

_MANIFEST = Manifest.of([("t2m/c/0/0", identify(b"chunk")), ("t2m/c/0/1", b""), ("é", identify(b"", 0x70))])
_RECORDS = [
    Build({"base": {"": b""}, "grid": {"t2m": bytes(16)}}),
    opening({"zarr": "3.1.6"}, {"t2m": "array-1"}),
    Batch.of([(0, 2), (5, 6)], _MANIFEST),
]
_KEYS = [b"kind", b"build", b"opening", b"batch", b"blocks", b"key_lengths", b"pointer_lengths", b"parts"]
_TOKENS = [bytes((0x60 + len(key),)) + key for key in _KEYS] + [b"\x80", b"\xa0", b"\x1b" + b"\xff" * 8]


def _journal(data: bytes) -> None:
    """A whole file. What is read of it is no more than there is."""
    meter = Meter(len(data), "bytes of records")
    for record, _, _ in read(BytesIO(data)):
        _use(record)
        meter.add(LENGTH_BYTES)


def _record(body: bytes) -> None:
    """The content of one record, as a whole journal would have it."""
    _use(decode(body))


def _use(record: object) -> None:
    if isinstance(record, Batch):
        manifest = record.manifest(blake3_hashfn)
        assert len(manifest) <= len(record.key_lengths) // 4
        assert all(first < after for first, after in record.blocks)


def _file(*bodies: bytes) -> bytes:
    data, chain = MAGIC, start()
    for body in bodies:
        chain = continued(chain, body)
        data += len(body).to_bytes(LENGTH_BYTES, "little") + body + chain
    return data


def _bodies() -> list[bytes]:
    return [encode(record, start())[0][LENGTH_BYTES:-16] for record in _RECORDS]


def _rechained(random: Random) -> bytes:
    """Records that were changed, with checksums that are right."""
    bodies = [bytearray(random.choice(_bodies())) for _ in range(random.randrange(5))]
    for body in bodies:
        for _ in range(random.randrange(3)):
            body[random.randrange(len(body))] = random.randrange(256)
    return _file(*map(bytes, bodies))


def _fields(random: Random) -> bytes:
    """A map with the fields of a record, of any kinds."""

    def anything(depth: int = 0) -> object:
        simple = [0, -1, 2**63, 1.5, None, True, "", "x", b"", b"\xff" * 4, identify(b""), [], {}]
        if depth < 3 and random.random() < 0.5:
            inner = [anything(depth + 1) for _ in range(random.randrange(4))]
            return inner if random.random() < 0.5 else {str(at): value for at, value in enumerate(inner)}
        return random.choice(simple)

    fields: dict[str, object] = libipld.decode_dag_cbor(random.choice(_bodies()))
    for name in random.sample(sorted(fields), random.randrange(3)):
        fields[name] = anything()
    return libipld.encode_dag_cbor(fields)


TARGETS = [
    Target("journal", _journal, [_file(*_bodies()), MAGIC], (InvalidInput,), _rechained, _TOKENS),
    Target("journal record", _record, _bodies(), (InvalidInput,), _fields, _TOKENS),
]
