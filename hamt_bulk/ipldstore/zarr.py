"""The Zarr store of an `IPLDStore`, to read and write."""

from collections.abc import Iterable
from typing import Any, Self

from zarr.abc.store import Store
from zarr.core.buffer import Buffer

from hamt_bulk.errors import NotPortable
from hamt_bulk.formats.root import Root
from hamt_bulk.ipldstore.mapping import IPLDStore
from hamt_bulk.keys import folder_start
from hamt_bulk.zarr.folders import Folders
from hamt_bulk.zarr.roots import RootStore
from hamt_bulk.zarr.store import StoreIsReadOnly


class IPLDZarrStore(RootStore):
    """
    What is in an `IPLDStore`, as a Zarr store; several see the same keys.

    Zarr v2 is what ipldstore has: `ds.to_zarr(store, zarr_format=2)`. Version 3 can be written too, and its metadata,
    `zarr.json`, are values with a CID each, which ipldstore itself does not inline.

    It cannot be pickled: freeze, and give workers `open_root(root, cas).store()`.
    """

    supports_writes = True
    supports_deletes = True

    def __init__(self, mapping: IPLDStore, read_only: bool = False) -> None:
        Store.__init__(self, read_only=read_only)
        self.mapping = mapping
        self._folders = None

    @property
    def source(self) -> Root:  # type: ignore[override]  # another one after each root that the mapping is given
        """What is read."""
        return self.mapping._opened

    def _remember(self, folders: Folders) -> None:
        """Keys are in memory, and may be edited."""

    async def set(self, key: str, value: Buffer) -> None:
        self._check_writable()
        if not isinstance(value, Buffer):
            raise TypeError(
                f"{type(self).__name__}.set(): `value` must be a Buffer instance. Got an instance of {type(value)} instead."
            )
        await self._run(self.mapping._record, key, await self.mapping._saved(key, value.to_bytes()))

    async def set_if_not_exists(self, key: str, value: Buffer) -> None:
        self._check_writable()
        if not await self.exists(key):
            await self.set(key, value)

    async def set_partial_values(self, key_start_values: Iterable[tuple[str, int, bytes]]) -> None:
        """Refused: no store of zarr's takes parts of values, and zarr asks none to."""
        self._check_writable()
        raise NotImplementedError("values are written whole")

    async def delete(self, key: str) -> None:
        self._check_writable()
        await self._run(self.mapping._remove, key)

    async def delete_dir(self, prefix: str) -> None:
        self._check_writable()
        start = folder_start(prefix)
        for key in await self._run(lambda: [*self.source.keys(start)]):
            await self._run(self.mapping._remove, key)

    async def clear(self) -> None:
        self._check_writable()
        self.mapping.clear()

    def _check_writable(self) -> None:
        if self.read_only:
            raise StoreIsReadOnly("store was opened in read-only mode and does not support writing")

    def with_read_only(self, read_only: bool = False) -> Self:
        """A store of the same keys that refuses writes, or takes them."""
        return type(self)(self.mapping, read_only)

    def __eq__(self, value: object) -> bool:
        return (
            isinstance(value, IPLDZarrStore)
            and self.mapping is value.mapping
            and self.read_only == value.read_only
        )

    def __hash__(self) -> int:
        return id(self.mapping)

    def __str__(self) -> str:
        return repr(self)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.mapping!r})"

    def __dask_tokenize__(self) -> tuple[object, ...]:
        return type(self).__qualname__, self.mapping._token, self.mapping._version

    def __reduce__(self) -> tuple[Any, ...]:
        raise NotPortable(
            "an IPLDZarrStore cannot go to another process, where what is written would be lost: freeze it, and give "
            "workers hamt_bulk.formats.open_root(root, cas).store()"
        )
