"""`engine="hamt"`: what was stored is opened again."""

from pathlib import Path

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from distributed import Client, LocalCluster
from test_to_hamt import calendars, packed, strings, weather

from hamt_bulk import InMemoryCAS, PackCAS, build
from hamt_bulk.block import identify, text
from hamt_bulk.errors import BlockNotFound, InvalidInput, MalformedNode
from hamt_bulk.xarray import to_hamt
from hamt_bulk.zarr import ZarrHAMTStore


def small_strings():
    return strings()[["fixed", "bytes"]]


@pytest.mark.parametrize("make", [weather, packed, calendars, small_strings, xr.Dataset])
@pytest.mark.parametrize("options", [{}, {"zarr_format": 2}], ids=["zarr 3", "zarr 2"])
def test_a_dataset_comes_back_as_from_a_zarr_store(make, options):
    cas, store = InMemoryCAS(), zarr.storage.MemoryStore()
    root = to_hamt(make(), cas, **options)
    make().to_zarr(store, **options)
    expected = xr.open_dataset(store, engine="zarr")
    xr.testing.assert_identical(xr.open_dataset(root, engine="hamt", cas=cas).load(), expected.load())
    opened = xr.open_dataset(root, engine="hamt", cas=cas, chunks={})
    like = xr.open_dataset(store, engine="zarr", chunks={})
    assert {name: var.chunks for name, var in opened.variables.items()} == {
        name: var.chunks for name, var in like.variables.items()
    }
    xr.testing.assert_identical(opened.compute(), expected)
    xr.testing.assert_identical(xr.open_zarr(ZarrHAMTStore.open(root, cas)).compute(), expected)


def test_a_data_tree_comes_back(tmp_path):
    tree = xr.DataTree.from_dict(
        {"/": weather()[["orography"]], "/coarse": weather(), "/coarse/deep": weather()}
    )
    cas = PackCAS(tmp_path)
    root = to_hamt(tree, cas)
    opened = xr.open_datatree(root, engine="hamt", cas=str(tmp_path))
    xr.testing.assert_equal(opened.load(), tree.load())
    groups = xr.open_groups(root, engine="hamt", cas=cas)
    assert sorted(groups) == ["/", "/coarse", "/coarse/deep"]
    coarse = xr.open_dataset(root, engine="hamt", cas=cas, group="coarse")
    xr.testing.assert_equal(
        coarse.t2m.reset_coords(drop=True), weather().t2m.drop_vars(["lat", "lon"]).compute()
    )


@pytest.mark.parametrize("form", [lambda c: c, str, lambda c: f"ipfs://{c}", lambda c: Path(str(c))])
def test_a_root_is_taken_in_every_form(form):
    cas = InMemoryCAS()
    root = to_hamt(weather(), cas)
    assert xr.open_dataset(form(root), engine="hamt", cas=cas).attrs == {"title": "weather"}
    assert set(xr.open_datatree(form(root), engine="hamt", cas=cas).variables) == set(weather().variables)


def test_a_cid_object_is_recognised_without_an_engine():
    cas = InMemoryCAS()
    root = to_hamt(weather(), cas)
    assert xr.backends.plugins.guess_engine(str(root)) == "hamt"
    assert xr.open_dataset(root, cas=cas).attrs == {"title": "weather"}


def test_decoders_and_dropped_variables_reach_xarray():
    cas = InMemoryCAS()
    root = to_hamt(packed(), cas)
    raw = xr.open_dataset(root, engine="hamt", cas=cas, mask_and_scale=False, decode_times=False)
    assert raw.t2m.dtype == np.int16
    assert "t2m" not in xr.open_dataset(root, engine="hamt", cas=cas, drop_variables="t2m")


def test_chunks_are_read_on_workers_of_a_cluster(tmp_path):
    cas = PackCAS(tmp_path)
    root = to_hamt(weather(), cas)
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
    with cluster, Client(cluster):
        opened = xr.open_dataset(root, engine="hamt", cas=cas, chunks={})
        xr.testing.assert_equal(opened.compute(), weather().compute())
        assert to_hamt(opened.drop_encoding(), cas, encoding={}) == to_hamt(
            weather().compute().chunk(opened.chunks).drop_encoding(), cas
        )


def test_opening_reads_no_chunk():
    class Watched(InMemoryCAS):
        def load_blocks(self, cids):
            read.extend(cids)
            return super().load_blocks(cids)

    read: list[bytes] = []
    cas = Watched()
    root = to_hamt(weather(), cas)
    read.clear()
    opened = xr.open_dataset(root, engine="hamt", cas=cas, chunks={})
    before = len(read)
    with dask.config.set(scheduler="synchronous"):
        opened.t2m[0, 0, 0].compute()
    assert len(read) <= before + 2  # at most one more node, and the chunk


@pytest.mark.parametrize("root", ["nonsense", "/tmp/x.nc", "bafyr4i"])
def test_a_root_that_is_no_cid_is_refused(root):
    with pytest.raises(InvalidInput, match="not a CID"):
        xr.open_dataset(root, engine="hamt", cas=InMemoryCAS())


def test_a_missing_store_is_asked_for():
    with pytest.raises(InvalidInput, match='cas="store"'):
        xr.open_dataset(text(identify(b"", 0x71)), engine="hamt")


def test_a_missing_root_is_named(tmp_path):
    root = text(identify(b"gone", 0x71))
    for cas in (InMemoryCAS(), PackCAS(tmp_path / "none")):
        with pytest.raises(BlockNotFound, match=root):
            xr.open_dataset(root, engine="hamt", cas=cas)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("block", "message"),
    [
        (b"\xa3\x64hamt\x80\x67hashAlg\x12\x6abucketSize\x03", "IPLD HashMap"),
        (b"\xa1\x61a\x01", "a map of 1 keys: 'a'; for an ipldstore"),
        (b"\x82\x41\x00\x80", "child node of an IPLD HashMap"),
        (b"\x01", "a int"),
    ],
)
def test_a_block_of_another_format_is_named(block, message):
    cas = InMemoryCAS()
    with cas.writer() as writer:
        root = writer.save(block, "dag-cbor")
        writer.flush()
    with pytest.raises((MalformedNode, InvalidInput), match=message):
        xr.open_dataset(text(root), engine="hamt", cas=cas)


def test_a_tree_that_is_no_zarr_hierarchy_is_not_an_empty_dataset():
    cas = InMemoryCAS()
    root = build({"some": b"thing"}, cas)
    with pytest.raises((FileNotFoundError, ValueError)):
        xr.open_dataset(root, engine="hamt", cas=cas)


def test_py_hamt_builds_the_same_root_from_the_same_keys_and_bytes(py_hamt):
    from stored import by_to_zarr

    for make, options in ((weather, {}), (packed, {"zarr_format": 2}), (calendars, {})):
        peer = py_hamt.build(by_to_zarr(make(), **options).items())
        assert str(to_hamt(make(), InMemoryCAS(), **options)) == peer.root
