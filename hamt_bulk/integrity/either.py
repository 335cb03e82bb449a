"""Two stores as one, for reading."""

from collections.abc import Sequence
from typing import NoReturn

from multiformats import CID

from hamt_bulk.block import AnyCID
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.cas.wrap import verified
from hamt_bulk.cas.writer import CodecInput
from hamt_bulk.errors import HamtError, ReadOnly


class Either(ContentAddressedStore):
    """Values from the first store, or from the second when the first one fails; all of them verified."""

    verifies = True

    def __init__(self, first: ContentAddressedStore, second: ContentAddressedStore) -> None:
        self._first, self._second = verified(first), verified(second)

    async def load(
        self, id: AnyCID, offset: int | None = None, length: int | None = None, suffix: int | None = None
    ) -> bytes:
        try:
            return await self._first.load(id, offset, length, suffix)
        except HamtError:
            return await self._second.load(id, offset, length, suffix)

    def load_many(self, cids: Sequence[AnyCID]) -> list[bytes]:
        try:
            return self._first.load_many(cids)
        except HamtError:
            return self._second.load_many(cids)

    def load_range(self, cid: AnyCID, start: int, stop: int | None) -> bytes:
        try:
            return self._first.load_range(cid, start, stop)
        except HamtError:
            return self._second.load_range(cid, start, stop)

    async def save(self, data: bytes, codec: CodecInput) -> CID:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ReadOnly(f"{self!r} is for reading: write to one of the two")

    def __repr__(self) -> str:
        return f"Either({self._first!r}, {self._second!r})"
