"""ipldstores on a Kubo daemon, and roots as the fork put them there."""

import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import dag_cbor
import pytest
import xarray as xr
from ipldstore_made import VECTOR, VECTOR_ITEMS, as_ipldstore_gives, cbor_map, frozen_naively
from kubo.daemon import Daemon
from multiformats import CID
from test_zarr_read import dataset

from hamt_bulk import KuboCAS, build, errors
from hamt_bulk.block import text, to_bytes
from hamt_bulk.formats import open_root
from hamt_bulk.ipldstore import IPFSStore, IPLDStore, MappingCAStore, get_ipfs_mapper
from hamt_bulk.layout import HashMap
from hamt_bulk.testing.contract import LARGE


@pytest.fixture
def mapper(kubo: Daemon) -> Iterator[IPLDStore]:
    mapper = get_ipfs_mapper(kubo.rpc_url)
    yield mapper
    mapper.castore.close()


@pytest.fixture
def store(mapper: IPLDStore) -> IPFSStore:
    assert isinstance(mapper.castore, IPFSStore)
    return mapper.castore


def test_a_mapper_writes_ipldstores_root_to_the_daemon(kubo: Daemon, mapper: IPLDStore) -> None:
    mapper.update(VECTOR_ITEMS)
    assert str(mapper.freeze()) == VECTOR
    assert kubo.get(VECTOR) == frozen_naively(VECTOR_ITEMS)
    found = json.loads(kubo.rpc("dag/get", {"arg": f"{VECTOR}/a/.zattrs", "offline": True}))
    assert found == {"_ARRAY_DIMENSIONS": ["a"]}
    other = IPLDStore(KuboCAS("sha2-256", rpc_base_url=kubo.rpc_url))
    other.set_root(VECTOR)
    assert dict(other) == as_ipldstore_gives(VECTOR_ITEMS)


def test_the_arguments_of_the_fork_are_taken(kubo: Daemon) -> None:
    mapper = get_ipfs_mapper(kubo.rpc_url, 5, "size-262144", False)
    mapper["a"] = LARGE
    root = mapper.freeze()
    assert mapper["a"] == LARGE
    file = mapper.castore.get(root)["a"]  # type: ignore[attr-defined]
    assert len(json.loads(kubo.rpc("dag/get", {"arg": str(file)}))["Links"]) == -(-len(LARGE) // 262144)
    mapper.castore.close()
    with pytest.raises(errors.InvalidInput, match="chunker='rabin'"):
        get_ipfs_mapper(kubo.rpc_url, chunker="rabin")


@pytest.mark.parametrize("value", [b"bytes", {"a": [1, None]}, LARGE], ids=["bytes", "a map", "a file"])
def test_values_are_put_and_got(store: IPFSStore, value: Any) -> None:
    cid = store.put(value)
    assert cid in store and store.get(cid) == value
    store.flush()
    copy = pickle.loads(pickle.dumps(store))
    assert type(copy) is IPFSStore and copy.get(cid) == value and cid in copy
    assert cid == MappingCAStore().put(value)


def test_a_missing_block_is_not_in_it(store: IPFSStore) -> None:
    absent = MappingCAStore().put(b"nobody has this, nor ever will")
    assert absent not in store
    with pytest.raises(errors.BlockNotFound):
        store.get(absent)


def test_a_dataset_goes_to_the_daemon_and_comes_back(kubo: Daemon, mapper: IPLDStore) -> None:
    ds = dataset()
    ds.to_zarr(mapper.zarr_store, zarr_format=2, encoding={"t2m": {"chunks": (2, 6)}})
    root = mapper.freeze()
    opened = open_root(root, KuboCAS(rpc_base_url=kubo.rpc_url))
    assert opened.kind == "ipldstore"
    assert xr.open_zarr(opened.store()).identical(ds)


def test_the_daemon_takes_our_car_files_and_we_take_its(kubo: Daemon) -> None:
    store = IPLDStore()
    store.update({"b/0": b"imported", "b/1": LARGE, ".zattrs": b'{"title": "a CAR file"}'})
    kubo.rpc("dag/import", file=store.to_car())
    root = str(store.freeze())
    exported = kubo.rpc("dag/export", {"arg": root, "offline": True})
    copy = IPLDStore.from_car(BytesIO(exported))
    assert dict(copy) == dict(store) and str(copy.freeze()) == root
    assert exported == store.to_car()


def test_a_root_as_the_fork_put_it_is_read(kubo: Daemon, mapper: IPLDStore, store: IPFSStore) -> None:
    """Chunks by `ipfs add` with all of its defaults, in a HashMap; its root by `dag put`, maps as they came, with NaN."""
    chunks = {f"a/{number}.0": b"chunk %d" % number for number in range(60)} | {"a/60.0": LARGE}
    added = {}
    for key, value in chunks.items():
        said = kubo.rpc(
            "add", {"pin": False, "chunker": "size-262144", "cid-version": 0, "raw-leaves": False}, value
        )
        added[key] = CID.decode(json.loads(said.splitlines()[-1])["Hash"])
    assert all(cid.version == 0 for cid in added.values())
    hamt = build(added, store, layout=HashMap(8, 5, "sha2-256"))
    nan = bytes.fromhex("f97e00")
    documents = cbor_map([("units", dag_cbor.encode("K")), ("b", nan)])
    data = cbor_map(
        [("a", cbor_map([(".zattrs", documents)])), (".zattrs", b"\xa0"), ("hamt", dag_cbor.encode(hamt))]
    )
    said = kubo.rpc(
        "dag/put",
        {"store-codec": "dag-cbor", "input-codec": "dag-cbor", "hash": "sha2-256", "pin": True},
        data,
    )
    cid = json.loads(said)["Cid"]["/"]
    root = open_root(cid, store)
    expected = chunks | {".zattrs": b"{}", "a/.zattrs": b'{"b": NaN, "units": "K"}'}
    assert root.kind == "ipldstore" and dict(root.items()) == expected
    assert root.read("a/60.0", to_bytes(added["a/60.0"]), 300_000, 300_010) == LARGE[300_000:300_010]
    mapper.set_root(cid)
    assert mapper["a/60.0"] == LARGE and mapper["a/.zattrs"] == expected["a/.zattrs"]


def test_a_root_that_was_added_as_a_file_is_read_by_the_mapping(kubo: Daemon, mapper: IPLDStore) -> None:
    """As an older version of the fork had it."""
    said = kubo.rpc("add", {"cid-version": 0, "pin": False}, frozen_naively(VECTOR_ITEMS))
    cid = json.loads(said.splitlines()[-1])["Hash"]
    mapper.update(VECTOR_ITEMS)
    mapper.set_root(cid)
    assert dict(mapper) == as_ipldstore_gives(VECTOR_ITEMS)
    assert text(to_bytes(mapper.freeze())) != VECTOR


def test_names_that_need_no_client_import_none() -> None:
    code = "import hamt_bulk.ipldstore, sys; hamt_bulk.ipldstore.IPLDStore(); print(sorted({'httpx', 'zarr'} & {*sys.modules}))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "[]\n"
