"""How many requests it takes, counted at a proxy."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import xarray as xr

from hamt_bulk import HAMT, GatewayCAS, KuboCAS, build
from hamt_bulk.xarray import to_hamt
from hamt_bulk.zarr import ZarrHAMTStore
from kubo.daemon import Daemon
from kubo.faults import Status
from kubo.proxy import Proxy

SHAPE = (60, 40, 40)
CHUNKS = (1, 2, 4)
"""12,000 chunks: with the keys that are added a tree of three levels."""


def dataset() -> xr.Dataset:
    values = np.arange(np.prod(SHAPE), dtype="f4").reshape(SHAPE)
    data = da.from_array(values, chunks=(1, 40, 40))
    coords = {"time": np.arange(SHAPE[0]), "lat": np.arange(SHAPE[1]) / 2}
    return xr.Dataset({"t2m": (("time", "lat", "lon"), data)}, coords=coords)


@pytest.fixture(scope="module")
def root(kubo: Daemon) -> object:
    cas = KuboCAS(rpc_base_url=kubo.rpc_url)
    root = to_hamt(dataset(), cas, encoding={"t2m": {"chunks": CHUNKS}}, max_bucket_size=1)
    others = {f"other/c/{number}": b"the same" for number in range(30_000)}
    root = build(others, cas, base=root, max_bucket_size=1)
    return root


@pytest.fixture
def proxy(kubo: Daemon) -> Iterator[Proxy]:
    with Proxy(kubo.gateway_url) as proxy:
        yield proxy


def deep_times(root: object, kubo: Daemon) -> list[int]:
    """Of which times the first chunk lies two nodes below the root."""
    found = []
    for time in range(SHAPE[0]):
        tree = ZarrHAMTStore.open(root, GatewayCAS(kubo.gateway_url)).hamt.draft.tree
        tree.pointer(f"t2m/c/{time}/0/0")
        if len(tree.cache._nodes) == 3:
            found.append(time)
    return found


def test_a_chunk_of_a_cold_dataset_takes_four(root: object, kubo: Daemon, proxy: Proxy) -> None:
    """Two for the metadata, two for a chunk; two for each index coordinate that xarray loads."""
    times = deep_times(root, kubo)
    assert len(times) > 20
    ds = xr.open_dataset(root, engine="hamt", cas=GatewayCAS(proxy.url), chunks=None)
    indexes = len(ds.indexes)
    assert indexes == 2
    assert len(proxy.requests) <= 2 + 2 * indexes
    proxy.clear()
    expected = dataset().t2m.values
    for number, time in enumerate(times, 1):
        chunk = ds.t2m[time, :2, :4].values
        np.testing.assert_array_equal(chunk, expected[time, :2, :4])
        assert len(proxy.requests) <= 2 * number


def test_a_lookup_takes_one_and_a_second_below_the_same_node_none(
    root: object, kubo: Daemon, proxy: Proxy
) -> None:
    tree = ZarrHAMTStore.open(root, GatewayCAS(proxy.url)).hamt.draft.tree
    assert tree.pointer("t2m/c/5/0/0") is not None
    assert len(proxy.requests) == 1
    assert tree.pointer("t2m/c/5/0/0") is not None
    assert tree.pointer("t2m/c/17/0/0") is not None
    assert len(proxy.requests) == 2
    assert tree.pointer("t2m/c/600/0/0") is None, "a key that is not there costs no more"
    assert len(proxy.requests) <= 3


def test_many_at_once_share_their_nodes(root: object, kubo: Daemon, proxy: Proxy) -> None:
    ds = xr.open_dataset(root, engine="hamt", cas=GatewayCAS(proxy.url), chunks=None)
    proxy.clear()
    part = ds.t2m[:2].values
    np.testing.assert_array_equal(part, dataset().t2m.values[:2])
    paths = [request.path for request in proxy.requests]
    assert len(paths) == len(set(paths)), "nothing is asked for twice"
    assert len(paths) <= 2 * 400


@pytest.mark.parametrize("code", [400, 406, 501])
def test_a_gateway_without_cars_is_read_level_by_level(
    root: object, kubo: Daemon, proxy: Proxy, code: int
) -> None:
    proxy.rule(Status(code, {}, b"no such format"), when=lambda request: "format=car" in request.path)
    tree = ZarrHAMTStore.open(root, GatewayCAS(proxy.url)).hamt.draft.tree
    first, second, *_ = deep_times(root, kubo)
    assert tree.pointer(f"t2m/c/{first}/0/0") is not None
    assert len(proxy.requests) == 1 + 3
    assert tree.pointer(f"t2m/c/{second}/0/0") is not None
    assert len(proxy.requests) <= 1 + 3 + 2, "it is not asked for CARs again"


def test_concurrent_gets_ask_once_for_each_node(root: object, kubo: Daemon, proxy: Proxy) -> None:
    async def gets() -> None:
        cas = GatewayCAS(proxy.url)
        hamt = await HAMT.build(cas=cas, root_node_id=root, read_only=True, values_are_bytes=True)
        values = await asyncio.gather(*(hamt.get(f"other/c/{number}") for number in range(64)))
        assert values == [b"the same"] * 64

    asyncio.run(gets())
    nodes = [
        request.path.partition("?")[0].split("/")[2]
        for request in proxy.requests
        if "format=car" in request.path
    ]
    assert len(nodes) == len(set(nodes))


def test_an_append_asks_for_what_it_changes_alone(tmp_path: Path, root: object, kubo: Daemon) -> None:
    ds = dataset()
    day = ds.isel(time=[0]).assign_coords(time=[SHAPE[0]])
    with Proxy(kubo.rpc_url) as rpc:
        cas = KuboCAS(rpc_base_url=rpc.url, gateway_base_url=kubo.gateway_url)
        new = to_hamt(day, cas, base=root, append_dim="time", max_bucket_size=1)
        imports = [request for request in rpc.requests if "dag/import" in request.path]
        assert len(imports) <= 10
        assert sum(request.body_length for request in imports) < 10_000_000
        assert new != root
