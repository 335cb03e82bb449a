"""Which build it is: what decides which bytes a Dask block becomes, and under which keys."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from blake3 import blake3

from hamt_bulk.block import Data
from hamt_bulk.bulk import Target
from hamt_bulk.journal import Build
from hamt_bulk.keys import CHUNK
from hamt_bulk.manifest import Manifest
from hamt_bulk.xarray.plan import Source


def identity(
    target: Target,
    root: bytes | None,
    documents: Mapping[str, Data | None],
    saved: Manifest,
    sources: Sequence[Source],
) -> Build:
    """
    The build of `sources` over the base `root`.

    documents  the metadata that is written, with all codecs
    saved      of what was in memory, coordinates for the most part
    """
    return Build(
        {
            "base": {"": root or b""},
            "tree": {"": f"{target.layout.max_bucket_size} {target.layout.hasher}".encode()},
            "metadata": {key: _digest(value or b"") for key, value in documents.items()},
            "values": _values(saved, documents),
            "grid": _grids(sources),
        }
    )


def source_names(sources: Sequence[Source]) -> dict[str, str]:
    """The names of the Dask arrays, by variable."""
    return {source.target.path: source.array.name for source in sources}


def _values(saved: Manifest, documents: Mapping[str, Data | None]) -> dict[str, bytes]:
    """A digest of the chunks of each array that were in memory."""
    arrays: dict[str, list[bytes]] = defaultdict(list)
    for key, pointer in zip(saved.keys, saved.pointers, strict=True):
        name = key.decode()
        if name not in documents:
            arrays[CHUNK.sub("", name)] += (key, b"\0", pointer)
    return {name: _digest(b"".join(parts)) for name, parts in arrays.items()}


def _grids(sources: Sequence[Source]) -> dict[str, bytes]:
    """A digest of how each array is cut, and where its Dask blocks come among all of them."""
    grids: dict[str, bytes] = {}
    count = 0
    for source in sources:
        zarr_chunks = getattr(source.target, "shards", None) or source.target.chunks
        region = [
            tuple(None if at is None else int(at) for at in (part.start, part.stop)) for part in source.region
        ]
        shape, chunks = ([int(size) for size in sizes] for sizes in (source.target.shape, zarr_chunks))
        config = getattr(source.target, "config", None) or source.target.async_array._config
        about = [
            count,
            str(source.array.dtype),
            shape,
            chunks,
            region,
            config.write_empty_chunks,
            config.order,
        ]
        digest = blake3(repr(about).encode())
        for sizes in source.array.chunks:
            digest.update(np.asarray([len(sizes), *sizes], "<i8").tobytes())
        path = source.target.path
        grids[path] = _digest(grids.get(path, b"") + digest.digest())
        count += source.array.npartitions
    return grids


def _digest(data: Data) -> bytes:
    return blake3(data).digest()[:16]
