"""Arguments of tasks that the scheduler passes on without looking inside."""

import uuid
import zlib
from typing import Any, Generic, TypeVar

from distributed.protocol import pickle

T = TypeVar("T")

MAX_COMPRESSED_BYTES = 8 << 20
"""
Parcels up to this size are compressed: the tasks of a batch differ in a few bytes, so of 150 bytes a Dask
block 16 are left. Above it they hold data, on which the time is wasted.
"""


class Parcel(Generic[T]):
    """
    An argument of a task that is pickled when it is first sent, and opened where it is used.

    The scheduler passes its bytes on. Tasks inside it would be unpickled there, pickled again, and kept:
    distributed remembers the last 1,000 messages to each worker, 1 KB a Dask block. And Dask tokenizes
    what it sends, which takes ten times as long as pickling. In one process nothing is pickled.
    """

    def __init__(self, content: T) -> None:
        self._content = content
        self._sealed: SealedParcel | None = None
        self._token = uuid.uuid4().hex

    def open(self) -> T:
        """What is in it."""
        return self._content

    def __reduce__(self) -> tuple[Any, ...]:
        if self._sealed is None:
            data = pickle.dumps(self._content)
            small = len(data) <= MAX_COMPRESSED_BYTES
            self._sealed = SealedParcel(self._token, zlib.compress(data, 1) if small else data, small)
        return self._sealed.__reduce__()

    def __dask_tokenize__(self) -> str:
        return self._token


class SealedParcel:
    """A `Parcel` in another process."""

    def __init__(self, token: str, data: bytes, compressed: bool) -> None:
        self._token = token
        self._data = data
        self._compressed = compressed

    def open(self) -> Any:
        """What is in it."""
        return pickle.loads(zlib.decompress(self._data) if self._compressed else self._data)

    def __reduce__(self) -> tuple[Any, ...]:
        return SealedParcel, (self._token, self._data, self._compressed)

    def __dask_tokenize__(self) -> str:
        return self._token
