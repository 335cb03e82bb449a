"""What a folder of packs takes on the disk: bytes beside those of the blocks, and files."""

import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import dask

from benchmarks.data import maps
from benchmarks.measure import files_below, fresh_folder
from benchmarks.report import Row, at_most, record, run
from hamt_bulk import PackCAS
from hamt_bulk.block import Block, identify
from hamt_bulk.xarray import to_hamt

KIBIBYTE = 1 << 10

LIMITS = {KIBIBYTE: 1.09, 4 * KIBIBYTE: 1.02, 16 * KIBIBYTE: 1.02, 1024 * KIBIBYTE: 1.02}
"""Bytes on the disk for each byte of blocks, by the size of a block."""

PACK_BYTES = 64 << 20
"""A file may hold less than this only when there are no more than `OTHER_FILES` that do."""

OTHER_FILES = 8
"""The last pack of values, those of metadata, of nodes and of the root, the index, the file `format`."""


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of blocks of each size, and datasets as (chunks, side of a chunk of four bytes a value)."""

    bytes: int
    datasets: tuple[tuple[int, int], ...]


SIZES = {
    "tiny": Size(1 << 20, ((4, 16),)),
    "small": Size(64 << 20, ((256, 512), (4096, 64))),
    "full": Size(512 << 20, ((1024, 512), (16384, 64))),
}


def rows(size: Size) -> Iterator[Row]:
    """A line for each size of block, and two for each dataset."""
    for block_bytes in LIMITS:
        yield of_blocks(block_bytes, size.bytes // block_bytes)
    for chunks, side in size.datasets:
        yield from of_dataset(chunks, side)


def of_blocks(block_bytes: int, count: int) -> Row:
    """Random blocks from one writer."""
    with fresh_folder() as folder:
        with PackCAS(folder / "store").writer() as writer:
            for _ in range(count):
                data = os.urandom(block_bytes)
                writer.save_many([Block(identify(data), data)])
            writer.flush()
        packs, others = _on_disk(folder)
    note = f"{count:,} blocks, {packs:,} bytes of packs, {others:,} of other files"
    name = f"blocks of {block_bytes // KIBIBYTE} KiB, bytes on disk a byte"
    return at_most(name, packs / (count * block_bytes), LIMITS[block_bytes], " ×", note)


def of_dataset(chunks: int, side: int) -> Iterator[Row]:
    """A dataset that no compressor makes smaller, stored on two threads."""
    dataset = maps(chunks, side, "random")
    with fresh_folder() as folder:
        with dask.config.set(scheduler="threads", num_workers=2):
            to_hamt(dataset, PackCAS(folder / "store"), progress=False)
        packs, others = _on_disk(folder)
        kinds = [
            f"{len(files_below(path))} of {path.name}" for path in sorted((folder / "store/packs").iterdir())
        ]
        files = len(files_below(folder))
    name = f"{dataset.nbytes >> 20} MiB in chunks of {4 * side * side // KIBIBYTE} KiB"
    most = math.ceil(dataset.nbytes / PACK_BYTES) + OTHER_FILES
    yield at_most(f"{name}, files", files, most, note="packs: " + ", ".join(kinds))
    note = f"{packs:,} bytes of packs with the nodes, {others:,} of other files"
    yield record(f"{name}, bytes on disk a byte", packs / dataset.nbytes, " ×", note)


def _on_disk(folder: Path) -> tuple[int, int]:
    """Bytes that packs take on the disk, and those that all other files take."""
    taken = {True: 0, False: 0}
    for path in files_below(folder):
        taken[path.suffix == ".car"] += path.stat().st_blocks * 512
    return taken[True], taken[False]


if __name__ == "__main__":
    run("Disk: a folder of packs", rows, SIZES)
