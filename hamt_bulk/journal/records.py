"""
What a journal holds, byte by byte.

    file    = "hamt_bulk journal 1\\n" record*
    record  = <u32 length of body> body chain            little-endian
    body    = dag-cbor map: "kind" and the fields of `Build`, `Opening` or `Batch`
    chain   = the first 16 bytes of blake3(chain of the record before, body); before the first: of the magic

The first record is the `Build`, the others follow in the order in which things happened. Since each checksum covers
all that went before, a record counts only where it was written: what a disk brings back from elsewhere does not.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeAlias

import libipld
import numpy as np
from blake3 import blake3

from hamt_bulk.block import Data, parse
from hamt_bulk.errors import InvalidInput
from hamt_bulk.foreign import from_cbor
from hamt_bulk.manifest import HashFn, Manifest, digests_of
from hamt_bulk.pointers import is_inline
from hamt_bulk.ragged import Ragged, offsets_of

MAGIC = b"hamt_bulk journal 1\n"

CHAIN_BYTES = 16
LENGTH_BYTES = 4

Ranges: TypeAlias = list[tuple[int, int]]
"""Numbers of Dask blocks: from the first up to, but without, the second of each."""


@dataclass(frozen=True, slots=True)
class Build:
    """
    Which build it is: digests by what they are of, such as {"grid": {"t2m": …}, "base": {"root": …}}.

    Two builds whose digests are equal write the same chunks under the same keys from Dask blocks with the same numbers.
    """

    parts: Mapping[str, Mapping[str, bytes]]


@dataclass(frozen=True, slots=True)
class Opening:
    """
    One call that writes the journal.

    process   for people: who, where and since when
    versions  of the packages that decide which bytes are stored
    sources   the names of the Dask arrays, which change with the files that they are read from
    leases    what the store knows the blocks of this call by, where it needs to keep them
    total     how many units the whole build has; 0: not told
    units     what is counted, such as Dask blocks
    """

    process: str
    versions: Mapping[str, str]
    sources: Mapping[str, str]
    leases: Sequence[str] = ()
    total: int = 0
    units: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Dask blocks that are finished, and what became of them. `lengths` are u32, little-endian."""

    blocks: Ranges
    keys: bytes
    key_lengths: bytes
    pointers: bytes
    pointer_lengths: bytes

    @classmethod
    def of(cls, blocks: Ranges, manifest: Manifest) -> "Batch":
        """The record of a finished batch."""
        keys, pointers = manifest.keys, manifest.pointers
        return cls(
            blocks,
            keys.data.tobytes(),
            keys.lengths.astype("<u4").tobytes(),
            pointers.data.tobytes(),
            pointers.lengths.astype("<u4").tobytes(),
        )

    def manifest(self, hash_fn: HashFn, *, any_keys: bool = False) -> Manifest:
        """
        The edits. The hashes of the keys are made anew.

        any_keys  whether keys may be no UTF-8; else such a key raises `InvalidInput`
        """
        keys = list(_column(self.keys, self.key_lengths))
        for key in () if any_keys else keys:
            try:
                key.decode()
            except UnicodeDecodeError as error:
                raise InvalidInput(
                    f"a journal has the key {key!r}, and keys here are text: {error}"
                ) from None
        pointers = list(_column(self.pointers, self.pointer_lengths))
        return Manifest.from_columns(digests_of(keys, hash_fn), keys, pointers)

    def cids(self) -> Iterator[bytes]:
        """The stored values that it names."""
        pointers = _column(self.pointers, self.pointer_lengths)
        return (pointer for pointer in pointers if pointer and not is_inline(pointer))


Record: TypeAlias = Build | Opening | Batch

_KINDS: dict[str, type[Record]] = {"build": Build, "opening": Opening, "batch": Batch}
_NAMES = {kind: name for name, kind in _KINDS.items()}


def start() -> bytes:
    """The chain that the first record continues."""
    return blake3(MAGIC).digest()[:CHAIN_BYTES]


def encode(record: Record, chain: bytes) -> tuple[bytes, bytes]:
    """The bytes of a record that follows `chain`, and the chain after it."""
    fields = {name: getattr(record, name) for name in record.__slots__}
    if isinstance(record, Batch):
        fields["blocks"] = [list(block) for block in record.blocks]
    if isinstance(record, Opening):
        fields["leases"] = list(record.leases)
    body: bytes = libipld.encode_dag_cbor({"kind": _NAMES[type(record)], **fields})
    after = continued(chain, body)
    return len(body).to_bytes(LENGTH_BYTES, "little") + body + after, after


def decode(body: bytes) -> Record:
    """The record of which these are the bytes between length and chain. Raises `InvalidInput`."""
    try:
        fields: Any = from_cbor(body)
        kind = _KINDS[fields.pop("kind")]
        record = kind(**fields)
        _CHECKS[kind](record)
    except Exception as error:  # bytes of any kind give TypeError, KeyError, AttributeError and more
        raise InvalidInput(
            f"a journal's record of {len(body)} bytes is none ({type(error).__name__}: {str(error)[:100]})"
        ) from None
    return (
        Batch(
            [(first, after) for first, after in record.blocks],
            record.keys,
            record.key_lengths,
            record.pointers,
            record.pointer_lengths,
        )
        if isinstance(record, Batch)
        else record
    )


def read(file: BinaryIO) -> Iterator[tuple[Record, int, bytes]]:
    """
    The whole records at the start of a file, each with where it ends and the chain after it.

    Ends where a record is cut short or damaged: what follows does not count. Raises `InvalidInput` for what is no
    journal at all. Memory is that of a record, which is no longer than the file.
    """
    size = file.seek(0, 2)
    file.seek(0)
    found = file.read(len(MAGIC))
    if found != MAGIC:
        raise InvalidInput(f"no journal: it starts with {found!r}, expected {MAGIC!r}")
    at, chain = len(MAGIC), start()
    while at + LENGTH_BYTES + CHAIN_BYTES < size:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        end = at + LENGTH_BYTES + length + CHAIN_BYTES
        if end > size:
            return
        body, after = file.read(length), file.read(CHAIN_BYTES)
        if after != continued(chain, body):
            return
        yield decode(body), end, after
        at, chain = end, after


def continued(chain: bytes, body: Data) -> bytes:
    """The chain after a record of these bytes."""
    digest = blake3(chain)
    digest.update(body)
    return digest.digest()[:CHAIN_BYTES]


def _column(data: bytes, lengths: bytes) -> Ragged:
    return Ragged(np.frombuffer(data, np.uint8), offsets_of(np.frombuffer(lengths, "<u4").astype(np.int64)))


def _check_build(build: Build) -> None:
    for name, digests in build.parts.items():
        _expect(isinstance(name, str) and isinstance(digests, dict), "parts by name")
        _expect(all(isinstance(digest, bytes) for digest in digests.values()), "a digest for each part")


def _check_opening(opening: Opening) -> None:
    _expect(isinstance(opening.process, str), "a process")
    leases = opening.leases
    _expect(isinstance(leases, (list, tuple)), "a list of leases")
    _expect(all(isinstance(lease, str) for lease in leases), "leases as text")
    _expect(isinstance(opening.total, int) and isinstance(opening.units, str), "a number of units")
    for texts in (opening.versions, opening.sources):
        _expect(all(isinstance(text, str) for text in texts.values()), "versions and sources as text")


def _check_batch(batch: Batch) -> None:
    before = 0
    for first, after in batch.blocks:
        _expect(isinstance(first, int) and isinstance(after, int), "numbers of Dask blocks")
        _expect(before <= first < after, "ranges of Dask blocks in their order")
        before = after
    for data, lengths in ((batch.keys, batch.key_lengths), (batch.pointers, batch.pointer_lengths)):
        _expect(isinstance(data, bytes) and isinstance(lengths, bytes) and len(lengths) % 4 == 0, "columns")
        total = int(np.frombuffer(lengths, "<u4").sum(dtype=np.uint64))
        _expect(total == len(data), f"columns whose lengths add up to their {len(data)} bytes, not {total}")
    _expect(len(batch.key_lengths) == len(batch.pointer_lengths), "a pointer for each key")
    for pointer in _column(batch.pointers, batch.pointer_lengths):
        if is_inline(pointer):
            from_cbor(pointer[1:])
        elif pointer:
            parse(pointer)


def _expect(holds: bool, what: str) -> None:
    if not holds:
        raise ValueError(f"expected {what}")


_CHECKS: dict[type[Record], Any] = {Build: _check_build, Opening: _check_opening, Batch: _check_batch}
