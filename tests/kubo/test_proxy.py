"""The proxy is as good as nothing without a fault, and does each fault as it says."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPConnection, HTTPException, HTTPResponse, IncompleteRead, RemoteDisconnected
from typing import NamedTuple

import pytest

from .daemon import Daemon
from .faults import Alter, CleanTruncate, Delay, Drop, Fault, Redirect, Request, Status, Truncate
from .proxy import Proxy

BLOCK = os.urandom(100_000)


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture
def proxy(kubo: Daemon) -> Iterator[Proxy]:
    """Before the RPC, whose answers are chunked."""
    with Proxy(kubo.rpc_url) as proxy:
        yield proxy


@pytest.fixture
def gateway(kubo: Daemon) -> Iterator[Proxy]:
    """Before the gateway, whose answers have a length."""
    with Proxy(kubo.gateway_url) as proxy:
        yield proxy


@pytest.fixture
def raw(kubo: Daemon) -> str:
    """The CID of `BLOCK`."""
    return kubo.put(BLOCK)


def connect(proxy: Proxy) -> HTTPConnection:
    return HTTPConnection(proxy.url.removeprefix("http://"), timeout=20)


def ask(
    connection: HTTPConnection,
    method: str,
    path: str,
    body: bytes | Iterator[bytes] | None = None,
    **headers: str,
) -> Answer:
    connection.request(method, path, body, headers, encode_chunked=not isinstance(body, bytes | None))
    answer: HTTPResponse = connection.getresponse()
    return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())


def ask_once(proxy: Proxy, path: str, method: str = "GET") -> Answer:
    with closing(connect(proxy)) as connection:
        return ask(connection, method, path)


@pytest.mark.parametrize("chunked", [True, False])
def test_large_bodies_pass_in_both_directions(
    proxy: Proxy, gateway: Proxy, kubo: Daemon, chunked: bool
) -> None:
    data = os.urandom(20 << 20)
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n%b\r\n--b--\r\n' % data
    pieces = (body[start : start + 300_001] for start in range(0, len(body), 300_001))
    with closing(connect(proxy)) as connection:
        path = "/api/v0/add?raw-leaves=true&cid-version=1&pin=false&quiet="
        headers = {"Content-Type": "multipart/form-data; boundary=b", "Authorization": "Bearer a"}
        root = json.loads(ask(connection, "POST", path, pieces if chunked else body, **headers).body)["Hash"]
        read = ask(connection, "POST", f"/api/v0/cat?arg={root}")
    assert read.headers["transfer-encoding"] == "chunked" and read.body == data
    again = ask_once(gateway, f"/ipfs/{root}")
    assert again.headers["content-length"] == str(len(data)) and again.body == data
    assert kubo.ipfs("cat", root) == data
    first, second = proxy.requests
    assert (first.method, first.path, first.status, first.fault) == ("POST", path, 200, None)
    assert first.body_length == len(body) and first.authorization == "Bearer a"
    assert ("content-length" in first.headers) is not chunked
    assert second.route == "/api/v0/cat" and second.params == {"arg": [root]}
    assert second.authorization is None
    # One, unless the daemon answered before it had read to the end of a body in chunks, and let go.
    assert proxy.connections <= (2 if chunked else 1)


def test_connections_live_on_and_heads_and_ranges_are_relayed(gateway: Proxy, raw: str) -> None:
    path = f"/ipfs/{raw}?format=raw"
    with closing(connect(gateway)) as connection:
        for start in range(200):
            part = ask(connection, "GET", path, Range=f"bytes={start}-{start + 9}")
            assert (part.status, part.body) == (206, BLOCK[start : start + 10])
        head = ask(connection, "HEAD", path)
        assert head.headers["content-length"] == str(len(BLOCK)) and head.body == b""
        etag = head.headers["etag"]
        assert ask(connection, "GET", path, **{"If-None-Match": etag}).status == 304
        assert ask(connection, "GET", path).body == BLOCK
    assert (gateway.connections, gateway.most_at_once, len(gateway.requests)) == (1, 1, 203)
    assert [request.status for request in gateway.requests[-3:]] == [200, 304, 200]


def test_trailers_are_relayed(new_kubo: Callable[..., Daemon]) -> None:
    """Kubo puts errors there once it has begun to answer."""
    kubo = new_kubo()
    root = kubo.add(os.urandom(3 << 20))
    leaf = json.loads(kubo.rpc("dag/get", {"arg": root}))["Links"][2]["Hash"]["/"]
    kubo.rpc("block/rm", {"arg": leaf})
    with Proxy(kubo.rpc_url) as proxy, socket.create_connection(("127.0.0.1", int(proxy.url[-5:]))) as client:
        client.sendall(b"POST /api/v0/cat?arg=%b HTTP/1.1\r\nHost: a\r\n\r\n" % root.encode())
        client.settimeout(10)
        answer = b""
        while not (answer.endswith(b"\r\n\r\n") and b"\r\n0\r\n" in answer):
            answer += client.recv(1 << 16)
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert b"X-Stream-Error: " in answer.rpartition(b"\r\n0\r\n")[2]


def test_a_dropped_request_does_or_does_not_reach_the_daemon(proxy: Proxy, kubo: Daemon, raw: str) -> None:
    pin = f"/api/v0/pin/add?arg={raw}"
    for after in (False, True):
        proxy.rule(Drop(after), times=1)
        with pytest.raises((RemoteDisconnected, ConnectionResetError)):
            ask_once(proxy, pin, "POST")
        assert (raw in kubo.pins()) is after
    assert ask_once(proxy, pin, "POST").status == 200
    assert [request.status for request in proxy.requests] == [None, None, 200]
    kubo.rpc("pin/rm", {"arg": raw})


def test_a_delayed_request_reaches_the_daemon_later_or_its_answer_the_client(
    proxy: Proxy, kubo: Daemon, raw: str
) -> None:
    seconds = 0.5
    for after in (False, True):
        proxy.clear()
        proxy.rule(Delay(seconds, after))
        with ThreadPoolExecutor() as pool:
            started = time.monotonic()
            asked = pool.submit(ask_once, proxy, f"/api/v0/pin/add?arg={raw}", "POST")
            if after:
                while raw not in kubo.pins():
                    time.sleep(0.01)
                assert not asked.done()
            else:
                assert raw not in kubo.pins() or time.monotonic() - started >= seconds
            assert asked.result().status == 200
        assert time.monotonic() - started >= seconds
        assert raw in kubo.pins()
        kubo.rpc("pin/rm", {"arg": raw})


@pytest.mark.parametrize("size", [0, 1, 70_000])
def test_a_truncated_answer_breaks_off(proxy: Proxy, gateway: Proxy, raw: str, size: int) -> None:
    for at, method, path in [
        (proxy, "POST", f"/api/v0/block/get?arg={raw}"),
        (gateway, "GET", f"/ipfs/{raw}"),
    ]:
        at.rule(Truncate(size))
        with pytest.raises(IncompleteRead) as raised:
            ask_once(at, path, method)
        assert raised.value.partial == BLOCK[:size]


@pytest.mark.parametrize("size", [0, 1, 70_000, 200_000])
def test_a_cleanly_truncated_answer_looks_whole(proxy: Proxy, gateway: Proxy, raw: str, size: int) -> None:
    """The connection lives on."""
    for at, method, path in [
        (proxy, "POST", f"/api/v0/block/get?arg={raw}"),
        (gateway, "GET", f"/ipfs/{raw}"),
    ]:
        at.rule(CleanTruncate(size), times=1)
        with closing(connect(at)) as connection:
            assert ask(connection, method, path).body == BLOCK[:size]
            assert ask(connection, method, path).body == BLOCK
        assert at.connections == 1


@pytest.mark.parametrize("position", [0, 65_536, 99_999, 100_000])
def test_an_altered_answer_differs_in_one_bit(proxy: Proxy, raw: str, position: int) -> None:
    proxy.rule(Alter(position))
    expected = bytearray(BLOCK + b"\0")
    expected[position] ^= 1
    assert ask_once(proxy, f"/api/v0/block/get?arg={raw}", "POST").body == expected[: len(BLOCK)]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        (Status(429, {"Retry-After": "1"}, b"later"), (429, "retry-after", "1", b"later")),
        (Status(599), (599, "content-length", "0", b"")),
        (Redirect("http://127.0.0.1:1/"), (307, "location", "http://127.0.0.1:1/", b"")),
        (Redirect("/elsewhere", 301), (301, "location", "/elsewhere", b"")),
    ],
)
def test_another_answer_is_given_and_the_daemon_is_not_asked(
    proxy: Proxy, kubo: Daemon, raw: str, fault: Fault, expected: tuple[int, str, str, bytes]
) -> None:
    """The request's body is read, so the connection lives on."""
    proxy.rule(fault, times=1)
    status, name, value, body = expected
    with closing(connect(proxy)) as connection:
        answer = ask(connection, "POST", f"/api/v0/pin/add?arg={raw}", bytes(1 << 20))
        assert (answer.status, answer.headers[name], answer.body) == (status, value, body)
        assert raw not in kubo.pins()
        assert ask(connection, "POST", "/api/v0/version").status == 200
    assert [request.status for request in proxy.requests] == [status, 200]
    assert [request.fault for request in proxy.requests] == [fault, None]
    assert proxy.requests[0].body_length == 1 << 20


def test_the_earliest_rule_that_has_a_fault_decides(proxy: Proxy) -> None:
    def every_second(request: Request) -> Fault | None:
        return Status(500) if len(proxy.requests) % 2 else None

    proxy.rule(every_second, when=lambda request: request.route == "/api/v0/id", times=2)
    proxy.rule(Status(503), when=lambda request: "arg" in request.params, times=3)
    statuses = [ask_once(proxy, f"/api/v0/{path}", "POST").status for path in ["id", "id?arg=a"] * 4]
    assert statuses == [200, 500, 200, 500, 200, 503, 200, 503]
    assert ask_once(proxy, "/api/v0/id?arg=", "POST").status == 503
    proxy.rule(Status(500))
    proxy.clear()
    assert proxy.requests == []
    assert ask_once(proxy, "/api/v0/id", "POST").status == 200


def test_a_proxy_that_is_down_refuses_and_comes_back_on_its_port(proxy: Proxy) -> None:
    url = proxy.url
    proxy.rule(Delay(60), times=1)
    with ThreadPoolExecutor() as pool, closing(connect(proxy)) as idle:
        under_way = pool.submit(ask_once, proxy, "/api/v0/version", "POST")
        while not proxy.requests:
            time.sleep(0.01)
        assert ask(idle, "POST", "/api/v0/version").status == 200
        proxy.down()
        with pytest.raises((RemoteDisconnected, ConnectionResetError)):
            under_way.result(10)
        with pytest.raises((HTTPException, ConnectionError)):
            ask(idle, "POST", "/api/v0/version")
    with pytest.raises(ConnectionRefusedError):
        ask_once(proxy, "/api/v0/version", "POST")
    proxy.up()
    assert ask_once(proxy, "/api/v0/version", "POST").status == 200
    assert proxy.url == url


def test_many_clients_are_served_at_once(proxy: Proxy) -> None:
    proxy.rule(Delay(0.3))
    with ThreadPoolExecutor(40) as pool:
        started = time.monotonic()
        answers = pool.map(lambda _: ask_once(proxy, "/api/v0/version", "POST"), range(40))
        assert [answer.status for answer in answers] == [200] * 40
        assert time.monotonic() - started < 6
    assert 1 < proxy.most_at_once <= 40 == proxy.connections


def test_a_daemon_can_go_and_come_behind_the_proxy(new_kubo: Callable[..., Daemon]) -> None:
    kubo = new_kubo()
    with Proxy(kubo.rpc_url) as proxy, closing(connect(proxy)) as connection:
        assert ask(connection, "POST", "/api/v0/version").status == 200
        kubo.kill()
        with pytest.raises((RemoteDisconnected, ConnectionResetError)):
            ask_once(proxy, "/api/v0/version", "POST")
        kubo.start()
        assert ask(connection, "POST", "/api/v0/version").status == 200


def test_what_goes_wrong_in_a_rule_is_raised_at_the_end(kubo: Daemon) -> None:
    with pytest.raises(ZeroDivisionError), Proxy(kubo.rpc_url) as proxy:
        proxy.rule(Drop(), when=lambda request: bool(1 // 0))
        with pytest.raises(RemoteDisconnected):
            ask_once(proxy, "/api/v0/version", "POST")
