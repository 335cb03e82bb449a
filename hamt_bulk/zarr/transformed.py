"""py-hamt 2's `transformer_encode` and `transformer_decode`, around any Zarr store."""

from collections.abc import AsyncIterator, Callable, Iterable
from typing import Self, TypeAlias

from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from hamt_bulk.keys import folder_start
from hamt_bulk.zarr.reading import bounds_of, heavy

Transform: TypeAlias = Callable[[str, bytes], bytes]
"""Gives for a key and bytes other bytes."""


class TransformedStore(Store):
    """
    A Zarr store whose values are in another form in the store that it wraps.

        TransformedStore(store, encode, decode)

    encode  called with key and value for what is stored of it
    decode  called with key and what is stored for the value

    Values are read whole, and ranges cut from them; sizes are those of values. Both are called in threads for all but
    small values. What they raise comes out: a `KeyError` or `FileNotFoundError` zarr takes for "no such chunk". Pickles
    if its parts do. It does not use zarr's own `WrapperStore`, which hands some calls on to the store within.
    """

    supports_partial_writes = False  # an abstract property before zarr 3.1.3

    def __init__(self, store: Store, encode: Transform, decode: Transform) -> None:
        super().__init__(read_only=store.read_only)
        self.store = store
        self.encode = encode
        self.decode = decode

    @property
    def read_only(self) -> bool:
        return self.store.read_only

    @property
    def supports_writes(self) -> bool:
        return self.store.supports_writes

    @property
    def supports_deletes(self) -> bool:
        return self.store.supports_deletes

    @property
    def supports_listing(self) -> bool:
        return self.store.supports_listing

    def with_read_only(self, read_only: bool = False) -> Self:
        return type(self)(self.store.with_read_only(read_only), self.encode, self.decode)

    async def _open(self) -> None:
        await self.store._ensure_open()
        await super()._open()

    def close(self) -> None:
        self.store.close()
        super().close()

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        found = await self.store.get(key, prototype or default_buffer_prototype())
        if found is None:
            return None
        value = await self._decoded(key, found)
        if byte_range is not None:
            start, stop = bounds_of(key, byte_range, len(value))
            value = value[start:stop]
        return (prototype or default_buffer_prototype()).buffer.from_bytes(value)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        return [await self.get(key, prototype, wanted) for key, wanted in key_ranges]

    async def exists(self, key: str) -> bool:
        return await self.store.exists(key)

    async def getsize(self, key: str) -> int:
        found = await self.store.get(key, default_buffer_prototype())
        if found is None:
            raise FileNotFoundError(key)
        return len(await self._decoded(key, found))

    async def getsize_prefix(self, prefix: str) -> int:
        start = folder_start(prefix)
        return sum([await self.getsize(key) async for key in self.store.list_prefix(start)])

    async def set(self, key: str, value: Buffer) -> None:
        await self.store.set(key, await self._encoded(key, value))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        if not await self.store.exists(key):
            await self.store.set_if_not_exists(key, await self._encoded(key, value))

    async def set_partial_values(self, key_start_values: Iterable[tuple[str, int, bytes]]) -> None:
        """Refused: no store of zarr's takes parts of values, and zarr asks none to."""
        raise NotImplementedError("values are written whole")  # abstract before zarr 3.1.3

    async def delete(self, key: str) -> None:
        await self.store.delete(key)

    async def delete_dir(self, prefix: str) -> None:
        await self.store.delete_dir(prefix)

    async def clear(self) -> None:
        await self.store.clear()

    async def is_empty(self, prefix: str) -> bool:
        return await self.store.is_empty(prefix)

    def list(self) -> AsyncIterator[str]:
        return self.store.list()

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        return self.store.list_prefix(prefix)

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        return self.store.list_dir(prefix)

    async def _encoded(self, key: str, value: Buffer) -> Buffer:
        if not isinstance(value, Buffer):
            raise TypeError(f"`value` must be a Buffer instance. Got an instance of {type(value)} instead.")
        data = value.to_bytes()
        return type(value).from_bytes(await heavy(len(data), self.encode, key, data))

    async def _decoded(self, key: str, found: Buffer) -> bytes:
        data = found.to_bytes()
        return await heavy(len(data), self.decode, key, data)

    def __eq__(self, value: object) -> bool:
        return (
            type(value) is type(self)
            and self.store == value.store
            and (self.encode, self.decode) == (value.encode, value.decode)
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.store!r})"

    __str__ = __repr__
