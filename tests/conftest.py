"""What the tests share."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import dask
import pytest
from distributed import Client, LocalCluster
from hypothesis import settings
from keys_hidden import KEY
from kubo.daemon import Daemon
from kubo.program import find_ipfs
from peers.js_hashmap import JsPeer
from peers.py_hamt import PeerUnavailable, PyHamt

from hamt_bulk.cas import InMemoryCAS, LocalCAS, PackCAS

# So that what fails in the contract of stores and in helpers says what was found.
pytest.register_assert_rewrite("hamt_bulk.testing.contract", "hamt_bulk.testing.reading")
pytest.register_assert_rewrite(
    "checked", "cli_called", "diffed", "ipldstore_made", "packs_made", "zarr3_made", "zarr_stores"
)

# A shell that starts this in the background has it ignore Ctrl-C, and so would every program that is started here.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more about the machine than about the code; a hang is pytest-timeout's.
settings.register_profile("here", deadline=None)
settings.load_profile("here")


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the disk, in tests that are not about its losing power."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    """A file with the key of the tests of encryption."""
    (tmp_path / "key").write_bytes(KEY)
    return tmp_path / "key"


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Dask computes in the thread that asks."""
    with dask.config.set(scheduler="sync"):
        yield


@pytest.fixture
def cut_batches(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Has tasks take batches of at most so many bytes, however few Dask blocks those are."""

    def cut(max_bytes: int) -> None:
        monkeypatch.setattr("hamt_bulk.dask.batches.BATCH_BYTES", max_bytes)
        monkeypatch.setattr("hamt_bulk.dask.batches.SMALL_BATCH_BLOCKS", 1)
        monkeypatch.setattr("hamt_bulk.dask.batches.SMALL_BATCH_BYTES", 1)

    return cut


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Where a pack store can be made."""
    return tmp_path / "store"


@pytest.fixture(params=["memory", "pack"])
def cas(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LocalCAS]:
    """An empty store, of each of two kinds."""
    cas = InMemoryCAS() if request.param == "memory" else PackCAS(tmp_path / "store")
    yield cas
    cas.flush()  # what was saved in vain, before its folder goes


@pytest.fixture(scope="module")
def threads() -> Iterator[Client]:
    """A cluster in this process."""
    with (
        LocalCluster(
            n_workers=2,
            threads_per_worker=2,
            processes=False,
            dashboard_address="127.0.0.1:0",
            protocol="inproc",
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="module")
def processes() -> Iterator[Client]:
    """A cluster of two processes."""
    with (
        LocalCluster(
            n_workers=2, threads_per_worker=1, processes=True, dashboard_address="127.0.0.1:0"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


@pytest.fixture(scope="session")
def py_hamt() -> Iterator[PyHamt]:
    """A real py-hamt; without one the test is skipped, or fails where HAMT_BULK_REQUIRE_PEERS is 1."""
    try:
        peer = PyHamt.start()
    except PeerUnavailable as error:
        do_without(error)
    with peer:
        yield peer


@pytest.fixture(scope="session")
def js() -> Iterator[JsPeer]:
    """JavaScript's ipld-hashmap and IAMap; without them skipped, or failed where HAMT_BULK_REQUIRE_PEERS is 1."""
    try:
        peer = JsPeer.start()
    except PeerUnavailable as error:
        do_without(error)
    with peer:
        yield peer


@pytest.fixture(scope="session")
def ipfs_binary() -> Path:
    """Kubo's program; without one the test is skipped, or fails where HAMT_BULK_REQUIRE_PEERS is 1."""
    try:
        return find_ipfs()
    except PeerUnavailable as error:
        do_without(error)


@pytest.fixture(scope="session")
def kubo(ipfs_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A running Kubo daemon. Other tests' blocks and pins are in it too: leave it running, and never `gc`."""
    with Daemon(ipfs_binary, tmp_path_factory.mktemp("kubo")) as daemon:
        yield daemon


@pytest.fixture
def new_kubo(ipfs_binary: Path, tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Makes running Kubo daemons for one test, from the settings and the authorization of `Daemon`."""
    with ExitStack() as stack:

        def new(config: Mapping[str, Any] | None = None, authorization: str | None = None) -> Daemon:
            folder = tmp_path / f"kubo{len(daemons)}"
            daemons.append(stack.enter_context(Daemon(ipfs_binary, folder, config, authorization)))
            return daemons[-1]

        daemons: list[Daemon] = []
        yield new


def do_without(error: PeerUnavailable) -> NoReturn:
    if os.environ.get("HAMT_BULK_REQUIRE_PEERS") == "1":
        pytest.fail(f"HAMT_BULK_REQUIRE_PEERS is 1, and {error}", pytrace=False)
    pytest.skip(str(error))
