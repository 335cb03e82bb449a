"""
What a check of a hierarchy in packs takes: on a Client beside this process alone, and with Zarr's metadata beside
without.

Two processes share the cores with the driver; what is read is in the system's cache.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import dask

from benchmarks.measure import Seconds, cluster, fresh_folder, ratio, seconds
from benchmarks.report import Row, ratio_at_most, record, run
from hamt_bulk import PackCAS, build
from hamt_bulk.integrity import check

VALUE_BYTES = 16 << 10

CLIENT_LIMIT = 0.8
ZARR_LIMIT = 1.25
"""The walk over keys alone, where metadata weighs most, may take so much more for it."""


@dataclass(frozen=True, slots=True)
class Size:
    """So many keys, and pairs of runs."""

    keys: int
    pairs: int


SIZES = {"tiny": Size(2000, 1), "small": Size(30_000, 3), "full": Size(300_000, 3)}


def document(keys: int) -> bytes:
    """The metadata of an array of so many chunks."""
    grid = {"name": "regular", "configuration": {"chunk_shape": [1, 64, 64]}}
    encoding = {"name": "default", "configuration": {"separator": "/"}}
    array = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [-(-keys // 100), 640, 640],
        "data_type": "float32",
        "chunk_grid": grid,
        "chunk_key_encoding": encoding,
        "fill_value": 0.0,
        "codecs": [{"name": "bytes", "configuration": {"endian": "little"}}],
        "attributes": {},
    }
    return json.dumps(array).encode()


def items(keys: int) -> Iterator[tuple[str, bytes]]:
    """A group, an array, and its chunks."""
    yield "zarr.json", b'{"zarr_format": 3, "node_type": "group", "attributes": {}}'
    yield "t2m/zarr.json", document(keys)
    for number in range(keys):
        key = f"t2m/c/{number // 100}/{number // 10 % 10}/{number % 10}"
        yield key, os.urandom(VALUE_BYTES)


def rows(size: Size) -> Iterator[Row]:
    """With and without a Client, with and without the metadata, of values and of keys alone."""
    with fresh_folder() as folder:
        cas = PackCAS(folder / "store")
        root = build(items(size.keys), cas)

        def taken(values: bool, zarr: bool) -> Seconds:
            def call() -> None:
                report = check(root, cas, values=values, zarr=zarr, progress=False)
                assert report.ok, report
                assert report.entries == size.keys + 2

            return seconds(call)

        def alone(values: bool, zarr: bool) -> Seconds:
            with dask.config.set(scheduler="synchronous"):
                return taken(values, zarr)

        name = f"{size.keys:,} keys with values of {VALUE_BYTES >> 10} KiB"
        metadata = ratio(partial(alone, True, True), partial(alone, True, False), size.pairs)
        yield ratio_at_most(f"{name}, with metadata / without", metadata, ZARR_LIMIT)
        each = metadata.subject[0] / size.keys * 1e6
        yield record(f"{name}, a key", each, " µs")
        metadata = ratio(partial(alone, False, True), partial(alone, False, False), size.pairs)
        yield record(
            f"{size.keys:,} keys, no values, with metadata / without", metadata.median, " ×", metadata.note
        )
        with cluster() as client:
            workers = len(client.scheduler_info()["workers"])
            parallel = ratio(partial(taken, True, True), partial(alone, True, True), size.pairs)
            yield ratio_at_most(
                f"{name}, on {workers} worker processes / in this one", parallel, CLIENT_LIMIT
            )


if __name__ == "__main__":
    run("Check: a hierarchy in packs", rows, SIZES)
