"""Encrypted Zarr stores of a few values, in each format, and what is read of them."""

from typing import Any

import numpy as np
from keys_hidden import KEY
from zarr.core.sync import sync
from zarr_stores import buffer, new_hamt

from hamt_bulk import Encryption, build, errors
from hamt_bulk.block import to_cid
from hamt_bulk.zarr import ZarrHAMTStore

BOUND = Encryption(KEY, header=b"era5")
HIDING = Encryption(KEY, header=b"era5", hide_names=True)
THREE = Encryption(KEY, header=b"era5", format="py-hamt-3")
EVERY = [BOUND, HIDING, THREE]
IDS = ["bound", "hidden", "py-hamt-3"]

REFUSALS = (errors.WrongKey, errors.NotAuthentic)
"""What a value that was not sealed here, for its key and header, raises."""

VALUES = {"a/c/0": b"first", "a/c/1": b"second", "zarr.json": b"{}", "a/zarr.json": b"{ }"}

LARGE = np.random.default_rng(1).bytes((5 << 20) + 7)
"""A value of several blocks and many segments, and not a whole number of either."""


def new_store(encryption: Encryption | None, cas: Any = None, **options: Any) -> ZarrHAMTStore:
    return ZarrHAMTStore(new_hamt(cas, **options), encryption=encryption)


def stored(encryption: Encryption, values: dict[str, bytes], cas: Any = None) -> ZarrHAMTStore:
    """The read-only store of a tree with these values."""
    store = new_store(encryption, cas)
    for key, value in values.items():
        sync(store.set(key, buffer(value)))
    return ZarrHAMTStore.open(store.flush(), store.hamt.cas, encryption=encryption)


def value(store: ZarrHAMTStore, key: str, byte_range: Any = None) -> bytes | None:
    """What is read under a key, or `None`."""
    found = sync(store.get(key, None, byte_range))
    return None if found is None else found.to_bytes()


def rerooted(store: ZarrHAMTStore, changes: dict[str, bytes]) -> ZarrHAMTStore:
    """The store of a tree that has other pointers under some names."""
    links = {name: to_cid(pointer) for name, pointer in changes.items()}
    root = build(links, store.hamt.cas, base=store.root)
    return ZarrHAMTStore.open(root, store.hamt.cas, encryption=store.encryption)


def pointer(store: ZarrHAMTStore, key: str) -> bytes:
    """The CID that a key has in the tree."""
    found = store.hamt.draft.tree.pointer(store.name_of(key))
    assert found is not None
    return found


def with_bytes(store: ZarrHAMTStore, key: str, data: bytes) -> ZarrHAMTStore:
    """The store of a tree that has these bytes, as they are, under a key."""
    root = build({store.name_of(key): data}, store.hamt.cas, base=store.root)
    return ZarrHAMTStore.open(root, store.hamt.cas, encryption=store.encryption)
