"""Datasets in IPLD HashMaps: built from others, appended to by `to_hamt`, opened by xarray, looked after."""

import pickle

import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from zarr.errors import GroupNotFoundError

from hamt_bulk import (
    CarCAS,
    Encryption,
    HashMap,
    InMemoryCAS,
    PackCAS,
    ZarrHAMTStore,
    build,
    check,
    convert,
    copy,
    merge,
    open_root,
)
from hamt_bulk.block import to_bytes
from hamt_bulk.errors import BlockNotFound
from hamt_bulk.packs import drop
from hamt_bulk.xarray import to_hamt

SHAPES = [HashMap(5, 3), HashMap(3, 1, "murmur3-32"), HashMap(11, 2, "blake3", text_keys=True)]


def days(first: int, last: int) -> xr.Dataset:
    data = np.arange(first * 6, last * 6, dtype=float).reshape(-1, 6)
    return xr.Dataset({"t": (("time", "x"), data)}, coords={"time": np.arange(first, last)}).chunk(
        {"time": 1}
    )


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_day_more_in_a_hashmap(shape):
    cas = InMemoryCAS()
    encoding = {"time": {"chunks": (4,)}}
    first = convert(to_hamt(days(0, 30), cas, encoding=encoding, progress=False), cas, shape, progress=False)
    longer = to_hamt(days(30, 40), cas, base=first, append_dim="time", progress=False)
    opened = open_root(longer, cas)
    assert opened.layout == shape
    assert xr.open_dataset(longer, engine="hamt", cas=cas).identical(days(0, 40).load())
    at_once = to_hamt(days(0, 40), cas, encoding=encoding, progress=False)
    assert longer == convert(at_once, cas, shape, progress=False)
    assert check(longer, cas).ok
    assert to_hamt(days(0, 5), cas, base=longer, mode="w", progress=False) == convert(
        to_hamt(days(0, 5), cas, progress=False), cas, shape, progress=False
    )


def test_a_day_more_in_a_hashmap_from_worker_processes(tmp_path):
    cas, shape = PackCAS(tmp_path), HashMap(9, 2, "murmur3-128")
    first = convert(to_hamt(days(0, 30), cas, progress=False), cas, shape, progress=False)
    here = to_hamt(days(30, 60), cas, base=first, append_dim="time", progress=False)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0") as cluster, Client(cluster):
        assert convert(to_hamt(days(0, 30), cas, progress=False), cas, shape, progress=False) == first
        assert to_hamt(days(30, 60), cas, base=first, append_dim="time", progress=False) == here


@pytest.mark.parametrize("compute", [True, False])
def test_compute_may_wait(compute):
    cas = InMemoryCAS()
    first = convert(to_hamt(days(0, 3), cas, progress=False), cas, SHAPES[0], progress=False)
    new = to_hamt(days(3, 5), cas, base=first, append_dim="time", compute=compute, progress=False)
    root = new if compute else new.compute()
    assert xr.open_dataset(root, engine="hamt", cas=cas).identical(days(0, 5).load())


@pytest.mark.parametrize("hide_names", [False, True])
def test_an_encrypted_hashmap(hide_names):
    cas = InMemoryCAS()
    encryption = Encryption(bytes(range(32)), hide_names=hide_names, deterministic=True)
    root = to_hamt(days(0, 9), cas, encryption=encryption, progress=False)
    mapped = convert(root, cas, SHAPES[0], progress=False)
    assert convert(mapped, cas, progress=False) == root
    read = xr.open_dataset(mapped, engine="hamt", cas=cas, encryption=encryption, chunks={})
    assert read.load().identical(days(0, 9).load())
    with pytest.raises((ValueError, GroupNotFoundError), match=r"encrypt|No group"):
        xr.open_dataset(mapped, engine="hamt", cas=cas)
    longer = to_hamt(days(9, 12), cas, base=mapped, append_dim="time", encryption=encryption, progress=False)
    assert open_root(longer, cas).kind == "hashmap"
    read = xr.open_dataset(longer, engine="hamt", cas=cas, encryption=encryption)
    assert read.identical(days(0, 12).load())
    clear = convert(longer, cas, SHAPES[1], decryption=encryption, progress=False)
    assert xr.open_dataset(clear, engine="hamt", cas=cas).identical(days(0, 12).load())
    assert check(longer, cas, encryption=encryption).ok


def test_a_store_of_a_hashmap_is_written_to_and_travels_when_it_is_read():
    cas = InMemoryCAS()
    root = convert(to_hamt(days(0, 3), cas, progress=False), cas, SHAPES[0], progress=False)
    store = ZarrHAMTStore.open(root, cas, layout=SHAPES[0])
    assert xr.open_zarr(store).identical(days(0, 3).load())
    assert pickle.loads(pickle.dumps(store)) == store
    changed = build({"note.txt": b"more"}, cas, base=root)
    assert open_root(changed, cas).get("note.txt") == b"more"


def test_two_sides_of_a_hashmap_are_merged():
    cas = InMemoryCAS()
    base = convert(to_hamt(days(0, 3), cas, progress=False), cas, SHAPES[0], progress=False)
    ours = to_hamt(days(3, 5), cas, base=base, append_dim="time", progress=False)
    wind = days(0, 3).rename(t="wind")[["wind"]].drop_vars("time")
    theirs = to_hamt(wind.rename(time="step"), cas, base=base, mode="a", progress=False)
    merged = xr.open_dataset(merge(base, ours, theirs, cas), engine="hamt", cas=cas)
    assert set(merged.data_vars) == {"t", "wind"}
    assert merged.sizes["time"] == 5


@pytest.mark.parametrize("to", [SHAPES[1], "ipldstore"], ids=str)
def test_a_root_of_others_is_copied_and_kept_with_all_below_it(tmp_path, to):
    cas = PackCAS(tmp_path / "store")
    kept = convert(to_hamt(days(0, 40), cas, zarr_format=2, progress=False), cas, to, progress=False)
    copy(kept, cas, tmp_path / "one.car")
    found = dict(open_root(kept, cas).items())
    car = CarCAS(tmp_path / "one.car")
    assert dict(open_root(kept, car).items()) == found
    assert [bytes(root) for root in car.roots] == [to_bytes(kept)]

    build({"other": b"that nobody keeps"}, cas)
    drop(tmp_path / "store", [kept], older_than_hours=0)
    again = PackCAS(tmp_path / "store")
    assert dict(open_root(kept, again).items()) == found
    with pytest.raises(BlockNotFound):
        open_root(build({"other": b"that nobody keeps"}, InMemoryCAS()), again)
    copied = copy(kept, again, InMemoryCAS())
    assert copied.copied_blocks == copied.blocks
