"""Builds on workers in other processes, which reach the daemon, or do not."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import dask
import dask.array as da
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster

from hamt_bulk import HAMT, InMemoryCAS, KuboCAS
from hamt_bulk.cas.loop import run_sync
from hamt_bulk.errors import CASError, NotPortable
from hamt_bulk.xarray import to_hamt
from kubo.daemon import Daemon, free_port
from kubo.proxy import Proxy

pytestmark = pytest.mark.timeout(120)
NewKubo = Callable[..., Daemon]
SECRET = "a-token-nobody-guesses"


def dataset() -> xr.Dataset:
    values = da.arange(200 * 60, chunks=60, dtype="f4").reshape(200, 60).rechunk((5, 20))
    return xr.Dataset({"a": (("x", "y"), values)}, coords={"y": np.arange(60)})


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    options = {"n_workers": 2, "threads_per_worker": 2, "processes": True, "dashboard_address": ":0"}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        yield client


@pytest.fixture(scope="module")
def expected() -> object:
    with dask.config.set(scheduler="synchronous"):
        return to_hamt(dataset(), InMemoryCAS())


def test_two_workers_write_to_one_daemon(client: Client, new_kubo: NewKubo, expected: object) -> None:
    daemon = new_kubo()
    with Proxy(daemon.rpc_url) as proxy:
        root = to_hamt(dataset(), KuboCAS(rpc_base_url=proxy.url), pin="a")
        assert root == expected
        assert daemon.pins() == {str(root): "a"}, "what the workers held is let go of"
        assert len([request for request in proxy.requests if "/dag/import" in request.path]) < 40
    daemon.gc()
    opened = xr.open_dataset(root, engine="hamt", cas=KuboCAS(rpc_base_url=daemon.rpc_url), chunks={})
    xr.testing.assert_equal(opened.compute(), dataset().compute())


def test_a_daemon_that_workers_cannot_reach_fails_at_once(client: Client, new_kubo: NewKubo) -> None:
    """The classic: 127.0.0.1 is the driver's machine here, and each worker's own there."""
    daemon = new_kubo()
    cas = KuboCAS(rpc_base_url=daemon.rpc_url)

    def unreachable() -> None:
        from hamt_bulk.cas.ipfs import transport

        async def send(self: object, request: object) -> None:
            raise transport.Unanswered("no connection: Connection refused", refused=True)

        transport.AiohttpTransport.send_before = transport.AiohttpTransport.send
        transport.AiohttpTransport.send = send

    def reachable() -> None:
        from hamt_bulk.cas.ipfs import transport

        transport.AiohttpTransport.send = transport.AiohttpTransport.send_before

    client.run(unreachable)
    try:
        with pytest.raises(CASError, match=r"the worker .*127\.0\.0\.1 is each worker's own machine"):
            to_hamt(dataset(), cas, pin="a")
    finally:
        client.run(reachable)
    assert daemon.pins() == {}


def test_another_daemon_on_a_worker_fails_at_once(client: Client, new_kubo: NewKubo) -> None:
    daemon = new_kubo()
    cas = KuboCAS(rpc_base_url=daemon.rpc_url)
    announced = type(cas).announce

    with pytest.MonkeyPatch.context() as patch, pytest.raises(CASError, match=r"another daemon answers"):
        patch.setattr(KuboCAS, "announce", lambda self: announced(self).replace("12D3", "12D4"))
        to_hamt(dataset(), cas)


def test_no_daemon_at_all_fails_before_any_work(client: Client) -> None:
    with pytest.raises(CASError, match=r"Connection refused"):
        to_hamt(dataset(), KuboCAS(rpc_base_url=f"http://127.0.0.1:{free_port()}"))


def protected(new_kubo: NewKubo) -> Daemon:
    user = {"builder": {"AuthSecret": f"bearer:{SECRET}", "AllowedPaths": ["/api/v0"]}}
    return new_kubo(config={"API.Authorizations": user}, authorization=f"bearer:{SECRET}")


def test_credentials_come_from_the_workers_environment(
    client: Client, new_kubo: NewKubo, expected: object
) -> None:
    daemon = protected(new_kubo)
    cas = KuboCAS(rpc_base_url=daemon.rpc_url, auth=f"bearer:{SECRET}")
    with pytest.raises(NotPortable, match=r"HAMT_BULK_KUBO_AUTH"):
        to_hamt(dataset(), cas)
    # What a worker has found once stays, so this is another store.
    again = KuboCAS(rpc_base_url=daemon.rpc_url, auth=f"bearer:{SECRET}")
    client.run(lambda: os.environ.__setitem__("HAMT_BULK_KUBO_AUTH", f"bearer:{SECRET}"))
    try:
        assert to_hamt(dataset(), again, pin="a") == expected
    finally:
        client.run(lambda: os.environ.__delitem__("HAMT_BULK_KUBO_AUTH"))
    assert list(daemon.pins().values()) == ["a"]


def test_credentials_come_from_dasks_configuration(
    client: Client, new_kubo: NewKubo, expected: object
) -> None:
    daemon = protected(new_kubo)

    def configure(secret: str | None) -> None:
        import dask

        dask.config.set({"hamt-bulk.kubo.auth": secret})

    client.run(configure, f"bearer:{SECRET}")
    try:
        with dask.config.set({"hamt-bulk.kubo.auth": f"bearer:{SECRET}"}):
            assert to_hamt(dataset(), KuboCAS(rpc_base_url=daemon.rpc_url), pin="a") == expected
    finally:
        client.run(configure, None)


def test_a_live_client_stays_here(client: Client, kubo: Daemon) -> None:
    httpx = pytest.importorskip("httpx")
    with pytest.raises(NotPortable, match=r"client_factory"):
        to_hamt(dataset(), KuboCAS(client=httpx.AsyncClient(), rpc_base_url=kubo.rpc_url))


def test_threads_use_a_live_client(kubo: Daemon, expected: object) -> None:
    httpx = pytest.importorskip("httpx")
    live = httpx.AsyncClient()
    with dask.config.set(scheduler="threads", num_workers=4):
        cas = KuboCAS(client=live, rpc_base_url=kubo.rpc_url)
        assert to_hamt(dataset(), cas) == expected
    cas.close()
    run_sync(live.aclose())  # whose connections are those of the loop that they were used on


def test_what_was_saved_and_never_flushed_arrives_when_the_program_ends(kubo: Daemon) -> None:
    program = (
        "import asyncio, sys; from hamt_bulk import KuboCAS\n"
        "cas = KuboCAS(rpc_base_url=sys.argv[1])\n"
        "print(asyncio.run(cas.save(b'saved and forgotten', 'raw')))"
    )
    run = [sys.executable, "-W", "error", "-c", program, kubo.rpc_url]
    done = subprocess.run(run, capture_output=True, text=True, check=True)
    assert kubo.get(done.stdout.strip()) == b"saved and forgotten"
    assert not done.stderr


async def test_a_hamt_like_py_hamts(kubo: Daemon) -> None:
    """Its users change one import."""
    async with KuboCAS(rpc_base_url=kubo.rpc_url, gateway_base_url=kubo.gateway_url) as cas:
        hamt = await HAMT.build(cas=cas, values_are_bytes=True)
        await hamt.set("key", b"value")
        assert await hamt.get("key") == b"value"
        await hamt.make_read_only()
        root = hamt.root_node_id
        again = await HAMT.build(cas=cas, root_node_id=root, values_are_bytes=True, read_only=True)
        assert {key async for key in again.keys()} == {"key"}  # noqa: SIM118
