"""Roots of every kind that `open_root` knows, by name, and what they hold in the tests."""

import json
import os
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import dag_cbor
import mmh3
import numpy as np
import pytest
import xarray as xr
from hypothesis import strategies as st
from old_writers import (
    DOCUMENTS,
    Blocks,
    hash_map,
    ipldstore,
    ipldstore_with_hamt,
    link,
    py_hamt_2,
    unixfs_file,
)
from stored import by_to_zarr

from hamt_bulk import InMemoryCAS, open_root
from hamt_bulk.block import DAG_CBOR
from hamt_bulk.formats.root import Root

Writer = Callable[[Mapping[str, bytes], Blocks], bytes]

PY_HAMT_1 = ("hashAlg", "bucketSize", "hamt")


def linked(items: Mapping[Any, bytes], blocks: Blocks) -> dict[Any, Any]:
    return {key: link(blocks.put(value)) for key, value in items.items()}


def mixed(items: Mapping[str, bytes], blocks: Blocks) -> bytes:
    """Keys as text and as bytes in turn, values inline and linked in turn."""
    entries = [
        (key if number % 2 else key.encode(), value if number % 3 else link(blocks.put(value)))
        for number, (key, value) in enumerate(items.items())
    ]
    return hash_map(entries, blocks)


def emptied_2(items: Mapping[str, bytes], blocks: Blocks) -> bytes:
    """py-hamt 2 after as many other keys were deleted, which left nodes that are too small."""
    others = {f"other/{key}": b"other" for key in items}
    return py_hamt_2({**others, **items}, blocks, deleted=others)


WRITERS: dict[str, tuple[str, Writer]] = {
    "py-hamt 2": ("py-hamt-2", py_hamt_2),
    "py-hamt 2 after deletes": ("py-hamt-2", emptied_2),
    "py-hamt 2 inline": ("py-hamt-2", lambda items, blocks: py_hamt_2(items, blocks, inline=True)),
    "py-hamt 2 links": (
        "py-hamt-2",
        lambda items, blocks: py_hamt_2(linked(items, blocks), blocks, inline=True),
    ),
    "py-hamt 2 files": (
        "py-hamt-2",
        lambda items, blocks: py_hamt_2(
            {key: link(unixfs_file(value, blocks, 1000)) for key, value in items.items()}, blocks, inline=True
        ),
    ),
    "py-hamt 2 from the first byte": (
        "py-hamt-2",
        lambda items, blocks: py_hamt_2(items, blocks, first_byte=0),
    ),
    "py-hamt 1": (
        "hashmap",
        lambda items, blocks: hash_map(linked(items, blocks).items(), blocks, names=PY_HAMT_1),
    ),
    "py-hamt 1 of bytes": (
        "hashmap",
        lambda items, blocks: hash_map(
            linked({key.encode(): value for key, value in items.items()}, blocks).items(),
            blocks,
            names=("hash_alg", "bucket_size", "hamt"),
        ),
    ),
    "py-hamt 1 of both": ("hashmap", mixed),
    "py-hamt 1 of murmur3": (
        "hashmap",
        lambda items, blocks: hash_map(
            items.items(), blocks, digest=lambda key: mmh3.mmh3_32_digest(key)[::-1], code=0x23
        ),
    ),
    "js ipld-hashmap": (
        "hashmap",
        lambda items, blocks: hash_map(items.items(), blocks, bit_width=5, bucket_size=3),
    ),
    "ipldstore": ("ipldstore", ipldstore),
    "ipldstore with a HashMap": ("ipldstore", ipldstore_with_hamt),
}

EXAMPLES = 1000 if os.environ.get("HAMT_BULK_FULL") == "1" else 30

EACH = pytest.mark.parametrize("name", WRITERS)


def as_it_comes_back(name: str, items: Mapping[str, bytes]) -> dict[str, bytes]:
    """The values, documents as they come out of an ipldstore: in the order of dag-cbor."""
    if not name.startswith("ipldstore"):
        return dict(items)
    found = {}
    for key, value in items.items():
        if key.rpartition("/")[2] in DOCUMENTS:
            value = json.dumps(dag_cbor.decode(dag_cbor.encode(json.loads(value)))).encode()
        found[key] = value
    return found


def dataset() -> xr.Dataset:
    """Chunks enough for nodes below the root, strings, a scalar."""
    return xr.Dataset(
        {
            "t2m": (("time", "x"), np.arange(60 * 12, dtype="f8").reshape(60, 12), {"units": "K"}),
            "names": ("x", np.array([f"station {number}" for number in range(12)])),
            "mask": ("x", np.arange(12, dtype="i2")),
            "height": ((), 2.0),
        },
        coords={"time": np.array("2020-01-01", "M8[ns]") + np.arange(60), "x": np.linspace(0, 1, 12)},
        attrs={"title": "old"},
    )


@cache
def hierarchy(zarr_format: int, rows: int = 1) -> dict[str, bytes]:
    return by_to_zarr(
        dataset(), zarr_format=zarr_format, encoding={"t2m": {"chunks": (rows, 3)}, "mask": {"chunks": (5,)}}
    )


def written(name: str, items: Mapping[str, bytes]) -> Root:
    blocks = Blocks()
    root = WRITERS[name][1](items, blocks)
    return open_root(root, blocks.memory())


def names(data: bytes, codec: int = DAG_CBOR) -> tuple[bytes, InMemoryCAS]:
    blocks = Blocks()
    return blocks.put(data, codec), blocks.memory()


plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text() | st.binary() | st.floats(0, 1),
    lambda inside: st.lists(inside, max_size=3) | st.dictionaries(st.text(), inside, max_size=3),
    max_leaves=6,
)
"""Any IPLD value but links."""


def as_text(key: str | bytes) -> str | bytes:
    """A key as `items` gives it: text where it can be."""
    try:
        return key.decode() if isinstance(key, bytes) else key
    except UnicodeDecodeError:
        return key
