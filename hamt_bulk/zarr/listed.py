"""What the Zarr stores of this package share: what zarr asks of a store is answered from `get` and `list`."""

import asyncio
from collections.abc import AsyncIterator, Iterable

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype

from hamt_bulk.keys import folder_start


class ListedStore(Store):
    """A store whose keys have no order, so that a prefix spares no reads."""

    supports_listing: bool = True
    supports_partial_writes = False  # an abstract property before zarr 3.1.3

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return await asyncio.gather(*(self.get(key, prototype, wanted) for key, wanted in key_ranges))

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        async for key in self.list():
            if key.startswith(prefix):
                yield key

    async def is_empty(self, prefix: str) -> bool:
        start = folder_start(prefix)
        async for key in self.list():
            if key.startswith(start):
                return False
        return True
