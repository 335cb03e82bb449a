"""What the tests share."""

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NoReturn

import pytest
from distributed import Client, LocalCluster
from hypothesis import settings
from kubo.daemon import Daemon
from kubo.program import find_ipfs
from peers.js_hashmap import JsPeer
from peers.py_hamt import PeerUnavailable, PyHamt

# So that what fails in the contract of stores says what was found.
pytest.register_assert_rewrite("hamt_bulk.testing.contract", "hamt_bulk.testing.reading")

# A shell that starts this in the background has it ignore Ctrl-C, and so would every program that is started here.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says more about the machine than about the code; a hang is pytest-timeout's.
settings.register_profile("here", deadline=None)
settings.load_profile("here")


@pytest.fixture
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for the disk, in tests that are not about its losing power."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


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
