"""The blocks that were read of a pack, to be compared with what its index and its name say."""

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from hamt_bulk.block import DAG_CBOR, RAW, Data, parse
from hamt_bulk.car import section_head
from hamt_bulk.car_index import Columns, Index
from hamt_bulk.packs.named import Named


class Piece(NamedTuple):
    """
    A block of a pack, or the place where one was.

    offset  of its section, from the file's start
    cid     `None` where nothing tells
    data    its bytes, which hash to `cid`; `None` when they are damaged or gone
    fault   what is wrong there, if anything; with `data` it is something beside the block
    """

    offset: int
    cid: bytes | None
    data: Data | None
    fault: str | None


class Summary:
    """
    What was read so far, in 48 bytes a block.

    whole    how many blocks are
    damaged  how many are not
    starts   where all their sections are, from the file's start
    """

    def __init__(self) -> None:
        self.whole = self.damaged = 0
        self._name = blake3()
        self.starts = array("Q")
        self._digests: dict[tuple[int, int], bytearray] = {}
        self._offsets: dict[tuple[int, int], array[int]] = {}

    def add(self, piece: Piece) -> None:
        """Takes a piece, in the order of the file."""
        if piece.cid is None or piece.data is None:
            self.starts.append(piece.offset)
            self.damaged += 1
        else:
            self.add_head(piece.cid, piece.offset, len(piece.data))

    def add_head(self, cid: bytes, offset: int, length: int) -> None:
        """Takes a block of that many bytes by its section's head."""
        self.starts.append(offset)
        self.whole += 1
        self._name.update(section_head(cid, length))
        parts = parse(cid)
        if parts.hash_code != 0:  # an index has no identity CIDs
            key = parts.hash_code, len(parts.digest)
            self._digests.setdefault(key, bytearray()).extend(parts.digest)
            self._offsets.setdefault(key, array("Q")).append(offset)

    @property
    def name(self) -> str:
        """What a pack of these blocks is called."""
        return f"{self._name.hexdigest()[:40]}.car"

    def index(self, data_offset: int) -> Index:
        """The index of the whole blocks of a payload that starts at `data_offset`."""
        return {
            key: Columns(
                np.frombuffer(digests, np.uint8).reshape(len(self._offsets[key]), key[1]),
                np.frombuffer(self._offsets[key], np.uint64) - np.uint64(data_offset),
            )
            for key, digests in self._digests.items()
        }

    def only_named(self, named: Named, end: int, codec: int) -> Iterator[Piece]:
        """Blocks that the index names and the sections, which end at `end`, do not have."""
        whole = {key: np.sort(_words(columns.digests)) for key, columns in self.index(0).items() if key[1]}
        for offset, name in named.elsewhere(self.starts):
            words = whole.get((name.hash_code, len(name.digest)))
            if words is not None and _has(words, name.digest):
                continue  # the index is wrong about its place alone
            where = "the file ends before it" if offset >= end else "no section starts there"
            yield Piece(offset, name.cid(codec), None, f"only the index names it: {where}")

    def left_out(self, named: Named) -> int:
        """How many whole blocks the index does not lead to. Hash codes do not count in a store's search."""
        return sum(
            digest.tobytes() not in [name.digest for name in named.at(int(offset))]
            for columns in self.index(0).values()
            for digest, offset in zip(columns.digests, columns.offsets, strict=True)
        )


def codec_of(path: Path) -> int:
    """The codec of the blocks of a pack, by its folder, where nothing else tells."""
    return DAG_CBOR if path.parent.name == "nodes" else RAW


def _words(digests: NDArray[np.uint8]) -> NDArray[np.bytes_]:
    return np.ascontiguousarray(digests).view(f"S{digests.shape[1]}").reshape(-1)


def _has(words: NDArray[np.bytes_], digest: bytes) -> bool:
    wanted = np.frombuffer(digest, words.dtype)
    place = min(int(words.searchsorted(wanted)[0]), len(words) - 1)
    return bool(words[place] == wanted[0])
