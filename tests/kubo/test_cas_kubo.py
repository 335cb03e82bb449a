"""A Kubo daemon and its gateway keep the contract of every store."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hamt_bulk.block import text
from hamt_bulk.cas import ContentAddressedStore, GatewayCAS, KuboCAS
from hamt_bulk.testing.contract import CASContract, ReadContract, Value
from kubo.daemon import Daemon


def flip(daemon: Daemon, cid: bytes) -> None:
    """Changes a byte of a block in the daemon's own files."""
    data = daemon.get(text(cid))
    [file] = [path for path in (daemon.repo / "blocks").glob("*/*.data") if path.read_bytes() == data]
    file.write_bytes(bytes([data[0] ^ 1]) + data[1:])


@pytest.mark.usefixtures("daemons")
class OnKubo:
    """Daemons of its own for every store."""

    @pytest.fixture(scope="class")
    @classmethod
    def daemons(cls, ipfs_binary: Path) -> Iterator[None]:
        cls.binary, cls.running = ipfs_binary, {}
        yield
        for daemon in cls.running.values():
            daemon.stop()

    binary: Path
    running: dict[str, Daemon]

    def daemon(self, folder: Path) -> Daemon:
        daemon = Daemon(self.binary, folder)
        daemon.start()
        self.running[daemon.rpc_url] = daemon
        return daemon


class TestKubo(OnKubo, CASContract):
    def fresh(self, folder: Path) -> ContentAddressedStore:
        daemon = self.daemon(folder)
        return KuboCAS(rpc_base_url=daemon.rpc_url, gateway_base_url=daemon.gateway_url, initial_delay=0.01)

    def corrupt(self, cas: ContentAddressedStore, cid: bytes) -> None:
        assert isinstance(cas, KuboCAS)
        flip(self.running[cas.rpc_base_url], cid)


class TestKuboWithoutGateway(TestKubo):
    def fresh(self, folder: Path) -> ContentAddressedStore:
        return KuboCAS("sha2-256", rpc_base_url=self.daemon(folder).rpc_url, initial_delay=0.01)


class TestGateway(OnKubo, ReadContract):
    def holding(self, folder: Path, stored: Sequence[Value]) -> ContentAddressedStore:
        daemon = self.daemon(folder)
        with KuboCAS(rpc_base_url=daemon.rpc_url).writer() as writer:
            for value, codec in stored:
                writer.save(value, codec)
            writer.flush()
        self.running[daemon.gateway_url] = daemon
        return GatewayCAS(daemon.gateway_url, initial_delay=0.01)

    def corrupt(self, cas: ContentAddressedStore, cid: bytes) -> None:
        assert isinstance(cas, GatewayCAS)
        flip(self.running[cas.urls[0]], cid)
