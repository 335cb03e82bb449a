"""What a real py-hamt has encrypted is read here, and the other way round."""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from stored import in_tree
from zarr.core.sync import sync
from zarr_stores import buffer, new_hamt

from hamt_bulk import Encryption, InMemoryCAS, SimpleEncryptedZarrHAMTStore, errors
from hamt_bulk.block import text, to_bytes
from hamt_bulk.xarray import to_hamt
from hamt_bulk.zarr import ZarrHAMTStore

from .py_hamt import PeerError, PyHamt

KEY, HEADER = bytes(range(32)), b"a header"
ENCRYPTION = Encryption(KEY, header=HEADER, format="py-hamt-3")

VALUES = {
    "zarr.json": b'{"zarr_format":3,"node_type":"group","attributes":{}}',
    "v/c/0/0": b"",
    "v/c/0/1": b"x",
    "v/c/1/0": bytes(range(256)) * 1000,
    **{f"w/c/{number}": b"%d" % number for number in range(40)},
}


def cas_of(blocks: dict[str, bytes]) -> InMemoryCAS:
    cas = InMemoryCAS()
    cas.blocks |= {to_bytes(cid): data for cid, data in blocks.items()}
    return cas


def blocks_of(cas: InMemoryCAS) -> dict[str, bytes]:
    return {text(cid): data for cid, data in cas.blocks.items()}


def test_values_that_py_hamt_has_encrypted_are_read(py_hamt: PyHamt):
    theirs = py_hamt.encrypted(KEY, HEADER, values=VALUES, wanted=VALUES)
    assert theirs.values == VALUES
    cas = cas_of(theirs.blocks)
    for store in (
        ZarrHAMTStore.open(theirs.root, cas, encryption=ENCRYPTION),
        SimpleEncryptedZarrHAMTStore.open(theirs.root, cas, KEY, HEADER),
    ):
        assert {key: sync(store.get(key)).to_bytes() for key in VALUES} == VALUES
        assert sync(store.getsize("v/c/1/0")) == 256_000
    found = in_tree(theirs.root, cas)
    assert {key: ENCRYPTION.open(key, stored) for key, stored in found.items()} == VALUES


def test_py_hamt_reads_values_that_were_encrypted_here(py_hamt: PyHamt):
    store = SimpleEncryptedZarrHAMTStore(new_hamt(), False, KEY, HEADER)
    for key, value in VALUES.items():
        sync(store.set(key, buffer(value)))
    root, blocks = str(store.flush()), blocks_of(store.hamt.cas)
    theirs = py_hamt.encrypted(KEY, HEADER, root=root, blocks=blocks, wanted=[*VALUES, "nothing"])
    assert theirs.values == {**VALUES, "nothing": None}
    with pytest.raises(PeerError, match="Decryption failed"):
        py_hamt.encrypted(KEY, b"another", root=root, blocks=blocks, wanted=["zarr.json"])


def test_an_array_that_py_hamt_has_encrypted_is_opened(py_hamt: PyHamt):
    numbers = [float(number) for number in range(7)]
    theirs = py_hamt.encrypted(KEY, HEADER, array=numbers)
    assert theirs.array == numbers
    cas = cas_of(theirs.blocks)
    store = ZarrHAMTStore.open(theirs.root, cas, encryption=ENCRYPTION)
    assert list(zarr.open_array(store, path="a", mode="r")) == numbers
    for other in (
        Encryption(bytes(32), header=HEADER, format="py-hamt-3"),
        Encryption(KEY, format="py-hamt-3"),
    ):
        with pytest.raises(errors.WrongKey):
            zarr.open_array(ZarrHAMTStore.open(theirs.root, cas, encryption=other), path="a", mode="r")


def test_py_hamt_opens_a_dataset_that_was_built_here(py_hamt: PyHamt):
    ds = xr.Dataset({"a": ("x", da.arange(12, chunks=2, dtype="f8"))}, coords={"x": np.arange(12)})
    cas = InMemoryCAS()
    root = to_hamt(ds, cas, encryption=ENCRYPTION, consolidated=False)
    theirs = py_hamt.encrypted(KEY, HEADER, root=str(root), blocks=blocks_of(cas))
    assert theirs.array == list(range(12))
