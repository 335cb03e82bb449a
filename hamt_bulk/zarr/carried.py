"""What a store reads with, on its way to processes some of which cannot have it."""

import pickle
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

from multiformats import CID

from hamt_bulk.block import AnyCID, Hasher
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.cas.writer import CodecInput
from hamt_bulk.crypto import Encryption
from hamt_bulk.errors import NotPortable

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
