"""What a pack's index says of its blocks, by where their sections start."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from hamt_bulk.block import varint
from hamt_bulk.car_index import Index


class Name(NamedTuple):
    """A block as an index has it: without the codec."""

    hash_code: int
    digest: bytes

    def cid(self, codec: int) -> bytes:
        """The CID, with a codec that the index does not have."""
        return b"\x01" + varint(codec) + varint(self.hash_code) + varint(len(self.digest)) + self.digest


class Named:
    """The blocks of an index in the order of their sections. Offsets are from the file's start."""

    def __init__(self, index: Index, data_offset: int) -> None:
        self._columns = [(code, columns.digests) for (code, _), columns in index.items()]
        empty = np.zeros(0, np.uint64)
        offsets = np.concatenate([empty, *(columns.offsets for columns in index.values())])
        group = np.repeat(np.arange(len(self._columns)), [len(digests) for _, digests in self._columns])
        row = np.concatenate(
            [np.zeros(0, np.int64), *(np.arange(len(digests)) for _, digests in self._columns)]
        )
        order = np.argsort(offsets, kind="stable")
        self.offsets: NDArray[np.uint64] = offsets[order] + np.uint64(data_offset)
        self._group, self._row = group[order], row[order]

    def at(self, offset: int) -> list[Name]:
        """The blocks whose sections start there: one, in a sound index."""
        first = int(self.offsets.searchsorted(np.uint64(offset)))
        last = int(self.offsets.searchsorted(np.uint64(offset), "right"))
        return [self.name(number) for number in range(first, last)]

    def after(self, offset: int) -> int | None:
        """Where the next section starts, or `None`."""
        number = int(self.offsets.searchsorted(np.uint64(offset), "right"))
        return int(self.offsets[number]) if number < len(self.offsets) else None

    def elsewhere(self, offsets: Sequence[int]) -> Iterator[tuple[int, Name]]:
        """The sections that start at none of `offsets`."""
        known = np.array(offsets, np.uint64)
        for number in np.flatnonzero(~np.isin(self.offsets, known)).tolist():
            yield int(self.offsets[number]), self.name(number)

    def name(self, number: int) -> Name:
        """The block of the section that comes as the `number`th."""
        code, digests = self._columns[int(self._group[number])]
        return Name(code, digests[int(self._row[number])].tobytes())

    def __len__(self) -> int:
        return len(self.offsets)
