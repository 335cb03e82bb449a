"""What a store reads with, on its way to processes some of which cannot have it."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn, TypeAlias

from dag_cbor.ipld import IPLDKind
from multiformats import CID

from hamt_bulk.block import AnyCID, Hasher
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.cas.writer import CodecInput
from hamt_bulk.crypto import Encryption
from hamt_bulk.errors import NotPortable
from hamt_bulk.formats.root import Root

Parts: TypeAlias = "tuple[ContentAddressedStore, Encryption | None]"


def carried(cas: ContentAddressedStore, encryption: Encryption | None) -> "Parts | _Bound":
    """
    The parts as they are pickled.

    In a process that cannot have them they become a store that says so when it is read, and not yet as it is unpickled:
    a Dask worker that fails in the middle of a message is lost, and so is the next one, and the caller waits for ever.
    """
    try:
        cas.refuse_other_processes()
        if encryption is not None:
            encryption.refuse_other_processes()
    except NotPortable:
        return _Bound(cas, encryption)
    return cas, encryption


class _Bound:
    """Parts of which one is of use in this process alone."""

    def __init__(self, cas: ContentAddressedStore, encryption: Encryption | None) -> None:
        self._parts = cas, encryption

    def __reduce__(self) -> tuple[Callable[..., Parts], tuple[Any, ...]]:
        return _unbound, (pickle.dumps(self._parts), self._parts[0].hasher)


def _unbound(data: bytes, hasher: Hasher) -> Parts:
    try:
        parts: Parts = pickle.loads(data)
    except NotPortable as error:
        return Elsewhere(str(error), hasher), None
    return parts


def carried_root(source: Root) -> "Root | _BoundRoot":
    """As `carried`, for a root of any kind."""
    return _BoundRoot(source) if _is_bound(source) else source


def _is_bound(source: Root) -> bool:
    """Whether something that the root is read with is of use in this process alone."""
    for part in source.__reduce__()[1]:
        if isinstance(part, Root):
            if _is_bound(part):
                return True
        elif isinstance(part, (ContentAddressedStore, Encryption)):
            try:
                part.refuse_other_processes()
            except NotPortable:
                return True
    return False


class _BoundRoot:
    """A root of which something is of use in this process alone."""

    def __init__(self, source: Root) -> None:
        self._source = source

    def __reduce__(self) -> tuple[Callable[..., Root], tuple[Any, ...]]:
        return _unbound_root, (pickle.dumps(self._source), self._source.root)


def _unbound_root(data: bytes, root: bytes) -> Root:
    try:
        source: Root = pickle.loads(data)
    except NotPortable as error:
        return RootElsewhere(root, str(error))
    return source


class RootElsewhere(Root):
    """A root that this process cannot read: whoever does gets to know why."""

    kind = "elsewhere"

    def __init__(self, root: bytes, reason: str) -> None:
        super().__init__(root, Elsewhere(reason, "blake3"))
        self._reason = reason

    def pointers(self) -> Iterator[tuple[str, bytes]]:
        raise NotPortable(self._reason)

    def pointer(self, key: str) -> bytes | None:
        raise NotPortable(self._reason)

    def values(self, entries: Sequence[tuple[str, bytes]]) -> list[IPLDKind]:
        raise NotPortable(self._reason)

    def read(
        self, key: str, pointer: bytes, start: int = 0, stop: int | None = None, suffix: int | None = None
    ) -> bytes:
        raise NotPortable(self._reason)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.root, self._reason)


class Elsewhere(ContentAddressedStore):
    """A store that this process cannot have, or not with its key: whoever reads gets to know why."""

    verifies = True

    def __init__(self, reason: str, hasher: Hasher) -> None:
        self._reason = reason
        self.hasher = hasher

    async def load(
        self, id: AnyCID, offset: int | None = None, length: int | None = None, suffix: int | None = None
    ) -> bytes:
        self._refuse()

    async def save(self, data: bytes, codec: CodecInput) -> CID:
        self._refuse()

    def refuse_other_processes(self) -> None:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise NotPortable(self._reason)
