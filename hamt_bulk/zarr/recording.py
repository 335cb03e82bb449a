"""A Zarr store that keeps what is written until somebody takes it."""

from collections.abc import Iterator
from typing import Any

from zarr.core.buffer import Buffer
from zarr.storage import MemoryStore

from hamt_bulk.block import Data
from hamt_bulk.zarr.keys import is_metadata


class _Record(dict[str, Buffer]):
    """What was written, and which keys were deleted: zarr deletes a chunk that is all fill value."""

    def __init__(self) -> None:
        super().__init__()
        self.deleted: set[str] = set()

    def __setitem__(self, key: str, value: Buffer) -> None:
        self.deleted.discard(key)
        super().__setitem__(key, value)

    def __delitem__(self, key: str) -> None:
        self.deleted.add(key)
        super().__delitem__(key)


class RecordingStore(MemoryStore):
    """
    Records keys and values.

    A copy that was pickled starts empty: each task of a build unpickles its targets and so has a record
    of its own, whatever threads, retries and speculative runs there are.
    """

    _store_dict: _Record

    def __init__(self) -> None:
        super().__init__(_Record())

    def __reduce__(self) -> tuple[Any, ...]:
        return RecordingStore, ()

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = object.__hash__

    def take_chunks(self) -> Iterator[tuple[str, Data | None]]:
        """
        Removes and gives all chunks, by key; `None` for one that was deleted.

        Not in the order in which zarr's threads were done: a batch that is written again makes the same pack.
        """
        for key in sorted(key for key in self._store_dict if not is_metadata(key)):
            yield key, _data(self._store_dict.pop(key))
        for key in sorted(self._store_dict.deleted):
            if not is_metadata(key):
                self._store_dict.deleted.discard(key)
                yield key, None

    def metadata(self) -> Iterator[tuple[str, Data]]:
        """The metadata documents, by key."""
        for key, value in sorted(self._store_dict.items()):
            if is_metadata(key):
                yield key, _data(value)


def _data(value: Buffer) -> Data:
    array = value.as_numpy_array()
    return array.data.cast("B") if array.size and array.flags.c_contiguous else value.to_bytes()
