"""Stores with the methods that ipldstore's have: `put`, `get`, and CAR files."""

import pickle
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from io import BytesIO
from typing import Any, BinaryIO, overload

from dag_cbor.ipld import IPLDKind
from multiformats import CID, multibase, multicodec

from hamt_bulk.block import (
    DAG_CBOR,
    DAG_PB,
    HASH_CODES,
    RAW,
    AnyCID,
    Block,
    Data,
    Hasher,
    identify,
    parse,
    text,
    to_bytes,
    to_cid,
    varint,
)
from hamt_bulk.cas import BlockCAS, InMemoryCAS
from hamt_bulk.cas.loop import run_sync
from hamt_bulk.cas.wrap import save_value
from hamt_bulk.errors import BlockNotFound, CASError, InvalidInput, MalformedNode
from hamt_bulk.formats.ipldstore_cbor import Link, decode
from hamt_bulk.ipldstore.cars import open_car, take_car, write_car
from hamt_bulk.pointers import encoded


class CAStore(BlockCAS):
    """What ipldstore's stores do, on any store of blocks."""

    def get(self, cid: AnyCID) -> IPLDKind:
        """The bytes that a raw CID or that of a file names; the value that a dag-cbor CID names."""
        name = to_bytes(cid)
        codec = parse(name).codec
        if codec in (RAW, DAG_PB):
            return self.load_many([name])[0]
        if codec != DAG_CBOR:
            raise InvalidInput(
                f"{text(name)}: codec {codec:#x}, and values are read as raw, dag-pb and dag-cbor"
            )
        data = self.get_raw(name)
        try:
            value = decode(data)
        except ValueError as error:
            raise MalformedNode(f"{text(name)} is not dag-cbor: {error}") from None
        return _with_cids(value)

    def put(self, value: IPLDKind) -> CID:
        """The CID of a value, which is now in the store: bytes as raw, or a file above 1 MiB; all else as dag-cbor."""
        if isinstance(value, bytes):
            return to_cid(run_sync(save_value(self, value)))
        return self.put_raw(encoded(value), "dag-cbor")

    def get_raw(self, cid: AnyCID) -> bytes:
        """The block that a CID names."""
        return bytes(self.load_blocks([to_bytes(cid)])[0])

    def put_raw(self, raw_value: bytes, codec: Any) -> CID:
        """
        The CID of one block of any length, which is now in the store.

        codec  its name, its code, or multiformats' object for it
        """
        if not isinstance(raw_value, bytes):
            raise InvalidInput(f"a block must be bytes, found {type(raw_value).__name__}: encode it first")
        cid = b"\x01" + varint(_code(codec)) + identify(raw_value, RAW, self.hasher)[2:]
        self._implicit_writer().save_many([Block(cid, raw_value)])
        return to_cid(cid)

    def __contains__(self, cid: object) -> bool:
        return self.has_blocks([to_bytes(cid)])[0]  # type: ignore[arg-type]  # what is none is refused there

    @overload
    def to_car(self, root: AnyCID, stream: BinaryIO) -> int: ...

    @overload
    def to_car(self, root: AnyCID, stream: None = None) -> bytes: ...

    def to_car(self, root: AnyCID, stream: BinaryIO | None = None) -> bytes | int:
        """A CARv1 of all that `root` reaches, root first: its bytes, or how many went into `stream`."""
        if stream is not None:
            return write_car(to_bytes(root), self, stream)
        write_car(to_bytes(root), self, buffer := BytesIO())
        return buffer.getvalue()

    def import_car(self, stream_or_bytes: bytes | BinaryIO) -> list[CID]:
        """
        The roots that a CAR file names, of either version, whose blocks are now in the store under their own names.

        Whether the file has all that they reach is not looked at. Raises `InvalidInput` or `BlockMismatch` for a
        file that is damaged.
        """
        with open_car(stream_or_bytes) as (file, header):
            take_car(file, header, self)
            return [to_cid(root) for root in header.roots]


class MappingCAStore(CAStore, InMemoryCAS):
    """
    Blocks in a mapping from the text of CIDs to bytes, wherever that keeps them. Also a store for all else here.

    default_hash  "sha2-256" or "blake3"
    default_base  of the text, such as "base32"

    A dict stays in its process, as an `InMemoryCAS` does; any other mapping goes to others as its own pickle. Nothing
    is flushed: what the mapping has taken counts as kept.
    """

    def __init__(
        self,
        mapping: MutableMapping[str, bytes] | None = None,
        default_hash: Any = "sha2-256",
        default_base: str = "base32",
    ) -> None:
        super().__init__(hasher_of(default_hash))
        self.mapping: MutableMapping[str, bytes] = {} if mapping is None else mapping
        self.default_base = default_base
        self.blocks = _ByText(self.mapping, default_base)  # type: ignore[assignment]  # as much of a dict as is used
        self.in_memory = isinstance(self.mapping, dict)

    def normalize_cid(self, cid: AnyCID) -> CID:
        """The CID as its text is in the mapping: version 1, in the base of the mapping."""
        return CID.decode(_version_1(to_bytes(cid))).set(base=self.default_base)

    def read_blocks(self, cids: Sequence[bytes]) -> list[Data]:
        try:
            return [self.blocks[cid] for cid in cids]
        except KeyError as error:
            raise BlockNotFound(f"no block {text(error.args[0])} in {self!r}") from None

    def refuse_other_processes(self) -> None:
        if self.in_memory:
            super().refuse_other_processes()

    def __reduce__(self) -> tuple[Any, ...]:
        if self.in_memory:
            return super().__reduce__()
        return type(self), (self.mapping, self.hasher, self.default_base)

    def __dask_tokenize__(self) -> tuple[str, str]:
        if self.in_memory:
            return super().__dask_tokenize__()
        kept = pickle.dumps((self.mapping, self.hasher, self.default_base))
        return type(self).__qualname__, sha256(kept).hexdigest()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({type(self.mapping).__name__}, {self.hasher!r}, {self.default_base!r})"


class _ByText(MutableMapping[bytes, bytes]):
    """Blocks by binary CID, in a mapping that has them by its text."""

    def __init__(self, mapping: MutableMapping[str, bytes], base: str) -> None:
        try:
            self._base = multibase.get(base)
        except (KeyError, ValueError) as error:
            raise InvalidInput(
                f"default_base={base!r}: no multibase of that name ({error}), such as 'base32'"
            ) from None
        self._mapping = mapping

    def _name(self, cid: bytes) -> str:
        cid = _version_1(cid)
        return text(cid) if self._base.name == "base32" else self._base.encode(cid)

    def __getitem__(self, cid: bytes) -> bytes:
        with self._translated(cid):
            return self._mapping[self._name(cid)]

    def __setitem__(self, cid: bytes, data: bytes) -> None:
        with self._translated(cid):
            self._mapping[self._name(cid)] = data

    def __delitem__(self, cid: bytes) -> None:
        with self._translated(cid):
            del self._mapping[self._name(cid)]

    def __contains__(self, cid: object) -> bool:
        assert isinstance(cid, bytes)
        with self._translated(cid):
            return self._name(cid) in self._mapping

    @contextmanager
    def _translated(self, cid: bytes) -> Iterator[None]:
        """Within it, what the mapping raises is a `KeyError` with the CID, or a `CASError`."""
        try:
            yield
        except KeyError:
            raise KeyError(cid) from None
        except Exception as error:
            what = f"{type(self._mapping).__name__} failed on block {text(cid)}"
            raise CASError(f"{what}: {type(error).__name__}: {error}") from error

    def __iter__(self) -> Iterator[bytes]:
        return map(to_bytes, self._mapping)

    def __len__(self) -> int:
        return len(self._mapping)


def iter_links(value: Any) -> Iterator[CID]:
    """The CIDs in an IPLD value, in order."""
    match value:
        case CID():
            yield value
        case dict():
            for part in value.values():
                yield from iter_links(part)
        case list():
            for part in value:
                yield from iter_links(part)


def hasher_of(default_hash: Any) -> Hasher:
    """What names the blocks, from its name, its code, or multiformats' object for it."""
    name = getattr(default_hash, "name", default_hash)
    for known, code in HASH_CODES.items():
        if name in (known, code):
            return known  # type: ignore[return-value]  # the names are those of `Hasher`
    known_names = ", ".join(map(repr, HASH_CODES))
    raise InvalidInput(f"default_hash={default_hash!r}: blocks can be named with {known_names}")


def _code(codec: Any) -> int:
    codec = getattr(codec, "code", codec)
    try:
        return int(multicodec.get(codec).code if isinstance(codec, str) else multicodec.get(code=codec).code)
    except (KeyError, ValueError, TypeError) as error:
        raise InvalidInput(f"codec={codec!r}: no multicodec ({error}), such as 'raw' or 'dag-cbor'") from None


def _version_1(cid: bytes) -> bytes:
    return cid if cid[:2] != b"\x12\x20" else bytes((1, DAG_PB)) + cid


def _with_cids(value: Any) -> IPLDKind:
    match value:
        case Link():
            return to_cid(bytes(value))
        case dict():
            return {key: _with_cids(part) for key, part in value.items()}
        case list():
            return [_with_cids(part) for part in value]
        case _:
            return value  # type: ignore[no-any-return]  # what CBOR has besides
