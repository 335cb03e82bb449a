"""What a store reads with, on its way to processes some of which cannot have it."""

import pickle
from collections.abc import Callable, Iterator, Sequence
from functools import partial
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
    parts = cas, encryption
    return _Bound(parts, partial(_parts_elsewhere, cas.hasher)) if any(map(_is_bound, parts)) else parts


def carried_root(source: Root) -> "Root | _Bound":
    """As `carried`, for a root of any kind."""
    return _Bound(source, partial(RootElsewhere, source.root)) if _is_bound(source) else source


def _is_bound(part: object) -> bool:
    """Whether it, or something that a root is read with, is of use in this process alone."""
    match part:
        case Root():
            return any(map(_is_bound, part.__reduce__()[1]))
        case ContentAddressedStore() | Encryption():
            try:
                part.refuse_other_processes()
            except NotPortable:
                return True
    return False


class _Bound:
    """What is of use in this process alone; in another one it is what `elsewhere` makes of the reason."""

    def __init__(self, value: object, elsewhere: Callable[[str], object]) -> None:
        self._value = value
        self._elsewhere = elsewhere

    def __reduce__(self) -> tuple[Callable[..., object], tuple[Any, ...]]:
        return _unbound, (pickle.dumps(self._value), self._elsewhere)


def _unbound(data: bytes, elsewhere: Callable[[str], object]) -> object:
    try:
        return pickle.loads(data)
    except NotPortable as error:
        return elsewhere(str(error))


def _parts_elsewhere(hasher: Hasher, reason: str) -> Parts:
    return Elsewhere(reason, hasher), None


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
