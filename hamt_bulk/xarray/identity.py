"""Which build it is: what decides which bytes a Dask block becomes, and under which keys."""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from blake3 import blake3

from hamt_bulk.block import Data
from hamt_bulk.bulk import Target
from hamt_bulk.crypto import Encryption
from hamt_bulk.journal import Build
from hamt_bulk.keys import array_of
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
    values = [(key.decode(), pointer) for key, pointer in zip(saved.keys, saved.pointers, strict=True)]
    return Build(
        {
            "base": {"": root or b""},
            "tree": {"": f"{target.layout.max_bucket_size} {target.layout.hasher}".encode()},
            "metadata": {key: _digest(value or b"") for key, value in documents.items()},
            "values": _values(values, documents),
            "grid": _grids(sources),
        }
    )


def encrypted_identity(
    target: Target,
    root: bytes | None,
    documents: Mapping[str, Data | None],
    saved: Mapping[str, bytes],
    sources: Sequence[Source],
    encryption: Encryption,
) -> Build:
    """
    `identity` of an encrypted build. What is stored may be other bytes each time, so it is known by plain values.

    A journal may lie beside the encrypted data, so its digests are keyed, and its names those in the tree.

    saved  the digest, by `encryption`, of each chunk that was in memory
    """
    digest, name = encryption.digest, encryption.name
    values = _values(sorted(saved.items()), documents)
    return Build(
        {
            "base": {"": root or b""},
            "encryption": {"": bytes.fromhex(encryption.fingerprint)},
            "tree": {"": f"{target.layout.max_bucket_size} {target.layout.hasher}".encode()},
            "metadata": {name(key): digest(value or b"") for key, value in documents.items()},
            "values": {name(path): digest(value) for path, value in values.items()},
            "grid": {name(path): digest(value) for path, value in _grids(sources).items()},
        }
    )


def source_names(sources: Sequence[Source], encryption: Encryption | None) -> dict[str, str]:
    """The names of the Dask arrays, which may have those of variables and files in them, by variable."""
    names = {source.target.path: source.array.name for source in sources}
    if encryption is None or not encryption.hide_names:
        return names
    return {encryption.name(path): encryption.digest(array.encode()).hex() for path, array in names.items()}


def _values(saved: Iterable[tuple[str, bytes]], documents: Mapping[str, Data | None]) -> dict[str, bytes]:
    """A digest of the chunks of each array that were in memory: of their keys, and what tells their values apart."""
    arrays: dict[str, list[bytes]] = defaultdict(list)
    for name, value in saved:
        if name not in documents:
            array = array_of(name)
            arrays[name if array is None else array] += (name.encode(), b"\0", value)
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
