"""
Merging small packs, so that many small additions do not become as many files.

Packs of about one size are merged once there are enough of them, as in a log-structured merge tree: a block
is written again once for each class of sizes, and a year of daily additions leaves some dozens of files. Large
packs stay as they are.

A merged pack is in place, durably, before the packs that it replaces go. Readers that knew of those
find that they are gone, and look again.
"""

import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from hamt_bulk.block import Block, verify
from hamt_bulk.car import read_header, scan
from hamt_bulk.cas.files import outside
from hamt_bulk.cas.packfile import PackWriter
from hamt_bulk.cas.packremoval import Stamp, remove, stamp
from hamt_bulk.errors import BlockMismatch, CASError, InvalidInput

MERGED_PACKS = 16
"""How many packs of a size it takes."""

SMALL_PACK_BYTES = 4 << 20
"""Larger packs are not merged."""

_CLASS_BITS = 3  # a class of sizes ends at eight times where it begins


def groups(sizes: Mapping[str, int], to_one: bool = False) -> list[list[str]]:
    """
    Which packs to merge into one each.

    sizes   bytes by name, KIND/NAME.car
    to_one  all small packs of a kind, however few there are
    """
    classes: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name, size in sizes.items():
        if size < SMALL_PACK_BYTES:
            classes[name.partition("/")[0], 0 if to_one else size.bit_length() // _CLASS_BITS].append(name)
    least = 2 if to_one else MERGED_PACKS
    return [sorted(names) for names in classes.values() if len(names) >= least]


def merge(folder: Path, names: Sequence[str]) -> list[str]:
    """
    The packs that were merged, and are gone. Those in which anything is wrong stay where they are.

    Raises `CASError` when the merged pack cannot be written.
    """
    merged: dict[str, Stamp] = {}
    with PackWriter(folder, "blake3") as writer:
        for name in names:
            path = folder / "packs" / name
            try:
                with outside("cannot read", path):
                    read, blocks = _blocks(path)
            except (CASError, InvalidInput, BlockMismatch):
                continue
            writer.save_many(blocks)
            merged[name] = read
        if len(merged) > 1:
            writer.flush()
    if len(merged) < 2:
        return []
    gone = []
    for name, read in merged.items():
        path = folder / "packs" / name
        # One of the old packs may have held all that the others did: then the merged one has its name and place.
        if path not in writer.paths and remove(path, read):
            gone.append(name)
    return gone


def _blocks(path: Path) -> tuple[Stamp, list[Block]]:
    """The stamp of a pack, and all of its blocks. Raises `InvalidInput` or `BlockMismatch` when it is damaged."""
    with path.open("rb") as file:
        read = stamp(os.fstat(file.fileno()))
        header = read_header(file)
        if header.version != 2 or not header.finished or header.index_offset is None:
            raise InvalidInput(f"{path} is not a finished pack")
        file.seek(header.data_offset)
        payload = memoryview(file.read(header.data_size))
        blocks = [
            Block(section.cid, payload[section.data_offset : section.data_offset + section.data_length])
            for section in scan(file, header)
        ]
    for cid, data in blocks:
        verify(cid, data)
    return read, blocks
