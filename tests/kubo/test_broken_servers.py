"""Servers whose answers have no end, or are none: memory stays small, and the error says whose fault it is."""

import socket
import threading
import tracemalloc
from typing import Any

import httpx
import pytest

from hamt_bulk import GatewayCAS, KuboCAS
from hamt_bulk.block import MAX_BLOCK_BYTES, identify
from hamt_bulk.cas.ipfs import imports, rest, transport
from hamt_bulk.errors import CASError

ABSENT = identify(b"nobody has this block")


class Endless:
    """A server that answers every request with a head and a body that has no end."""

    def __init__(self, head: bytes) -> None:
        self.connections = 0
        self._head = head
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            self.connections += 1
            threading.Thread(target=self._answer, args=(client,), daemon=True).start()

    def _answer(self, client: socket.socket) -> None:
        with client:
            try:
                client.recv(1 << 16)
                client.sendall(self._head)
                while True:
                    client.sendall(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
            except OSError:
                return

    def __enter__(self) -> "Endless":
        return self

    def __exit__(self, *error: object) -> None:
        self._socket.close()


@pytest.mark.parametrize("client", [None, httpx.AsyncClient], ids=["aiohttp", "httpx"])
@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 500 Internal Server Error\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
    ids=["chunked", "long", "until the end", "an error"],
)
def test_an_answer_without_end_is_given_up_once_and_not_kept(head: bytes, client: Any) -> None:
    with Endless(head) as endless:
        for cas in (
            GatewayCAS(endless.url, client_factory=client),
            KuboCAS(rpc_base_url=endless.url, client_factory=client),
        ):
            tracemalloc.start()
            with pytest.raises(CASError, match=f"{endless.url}: an answer of more than 33554432 bytes"):
                cas.load_many([ABSENT])
            _, most = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert most < 160 << 20
            cas.close()
        assert endless.connections == 2


@pytest.mark.parametrize(
    "said",
    [b"", b"\r\n\r\n", b"SSH-2.0-OpenSSH_9.6\r\n", b"HTTP/1.1 banana\r\n\r\n", b"\x16\x03\x01\x02\x00" * 20],
)
def test_what_is_no_web_server_is_told(said: bytes) -> None:
    with Silent(said) as other:
        for cas in (
            KuboCAS(rpc_base_url=other.url, initial_delay=0.01, max_retries=1),
            GatewayCAS(other.url, initial_delay=0.01, max_retries=1),
        ):
            with pytest.raises(CASError, match=f"{other.url}: the connection broke"):
                cas.load_many([ABSENT])
            cas.close()


class Silent(Endless):
    """A server that says something else, and goes."""

    def _answer(self, client: socket.socket) -> None:
        with client:
            client.recv(1 << 16)
            client.sendall(self._head)


class Deaf(Endless):
    """A server that takes a connection and reads nothing."""

    def _answer(self, client: socket.socket) -> None:
        with client:
            threading.Event().wait(60)


@pytest.mark.parametrize("client", [None, httpx.AsyncClient], ids=["aiohttp", "httpx"])
def test_a_server_that_stops_reading_is_given_up(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imports, "LONG_SECONDS", 0.5)
    monkeypatch.setattr(rest, "SETTLE_SECONDS", 0.5)  # it is deaf to the end of the hold, too
    with Deaf(b"") as deaf:
        cas = KuboCAS(rpc_base_url=deaf.url, client_factory=client, max_retries=0)
        with cas.writer() as writer:
            for number in range(17):
                writer.save(bytes([number]) * MAX_BLOCK_BYTES)
            with pytest.raises(CASError, match=f"{deaf.url}: no answer for 0.5 s"):
                writer.flush()
        cas.close()


class Dripping(Endless):
    """A server that sends a byte now and then."""

    def _answer(self, client: socket.socket) -> None:
        with client:
            client.recv(1 << 16)
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
            try:
                for _ in range(600):
                    client.sendall(b"x")
                    threading.Event().wait(0.1)
            except OSError:
                return


@pytest.mark.parametrize("client", [None, httpx.AsyncClient], ids=["aiohttp", "httpx"])
def test_an_answer_that_hardly_goes_on_is_given_up(client: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "_body_seconds", lambda request: 0.5)
    with Dripping(b"") as dripping:
        cas = GatewayCAS(dripping.url, client_factory=client, max_retries=0)
        with pytest.raises(CASError, match=f"{dripping.url}: no answer"):
            cas.load_many([ABSENT])
        cas.close()
