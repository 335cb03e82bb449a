"""Wrong addresses, servers that are none, old and broken ones: the error says who answered what, and what to do."""

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from hamt_bulk import GatewayCAS, KuboCAS, open_cas
from hamt_bulk.block import identify, text
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.cas.ipfs import server
from hamt_bulk.errors import BlockMismatch, BlockNotFound, CASError, HamtError, InvalidInput, ReadOnly

from .daemon import Daemon, free_port
from .faults import Redirect, Status
from .proxy import Proxy

ABSENT = identify(b"nobody has this block")
PAGE = Status(
    200, {"Content-Type": "text/html; charset=utf-8"}, b"<!DOCTYPE html><html>a page" + b" of it" * 99
)


@pytest.fixture
def rpc(kubo: Daemon) -> Iterator[Proxy]:
    with Proxy(kubo.rpc_url) as proxy:
        yield proxy


@pytest.fixture
def gateway(kubo: Daemon) -> Iterator[Proxy]:
    with Proxy(kubo.gateway_url) as proxy:
        yield proxy


def daemon_at(url: str, **options: Any) -> KuboCAS:
    return KuboCAS(rpc_base_url=url, initial_delay=0.01, max_retries=2, **options)


def write(cas: ContentAddressedStore) -> None:
    with cas.writer() as writer:
        writer.save(b"a value")
        writer.flush()


def refused(call: Callable[[], object], *words: str, kind: type[HamtError] = CASError) -> None:
    """Has the call raise an error of this kind with all of these words in it."""
    with pytest.raises(kind) as raised:
        call()
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize(
    "kind", [daemon_at, lambda url: GatewayCAS(url, initial_delay=5.0)], ids=["rpc", "gateway"]
)
def test_where_nobody_listens_the_first_request_says_so_at_once(
    kind: Callable[[str], ContentAddressedStore],
) -> None:
    url = f"http://127.0.0.1:{free_port()}"
    started = time.monotonic()
    refused(lambda: kind(url).load_many([ABSENT]), url, "no connection", "refused")
    refused(lambda: kind(f"{url}/path").has_many([ABSENT]), f"{url}/path", "no connection")
    refused(lambda: kind("http://name.invalid").load_many([ABSENT]), "http://name.invalid", "no connection")
    assert time.monotonic() - started < 4


def test_who_has_answered_before_is_asked_again(kubo: Daemon, rpc: Proxy) -> None:
    """It may be starting again."""
    cas = KuboCAS(rpc_base_url=rpc.url, initial_delay=0.3)
    cid = kubo.put(b"value")
    assert cas.load_many([cid]) == [b"value"]
    rpc.down()
    threading.Timer(0.5, rpc.up).start()
    assert cas.load_many([cid]) == [b"value"]
    cas.close()


def test_the_ports_of_a_daemon_changed_about_are_told(kubo: Daemon) -> None:
    """Neither is a block that is not there."""
    cid = kubo.put(b"value")
    wrong = GatewayCAS(kubo.rpc_url, initial_delay=0.01)
    for call in (wrong.load_many, wrong.has_many, wrong.size_many):
        refused(lambda call=call: call([cid]), kubo.rpc_url, "no gateway answers there", "8080")
    cas = daemon_at(kubo.gateway_url)
    for call in (cas.load_many, cas.has_many, cas.size_many):
        refused(lambda call=call: call([cid]), kubo.gateway_url, "404", "5001")
    refused(lambda: write(cas), kubo.gateway_url, "404", "5001")
    both = daemon_at(kubo.gateway_url, gateway_base_url=kubo.rpc_url)
    refused(lambda: both.load_many([cid]), kubo.gateway_url, kubo.rpc_url)
    mixed = daemon_at(kubo.rpc_url, gateway_base_url=kubo.rpc_url)
    assert mixed.load_many([cid]) == [b"value"]


def test_the_wrong_scheme_is_told(kubo: Daemon) -> None:
    for cas in (
        daemon_at(kubo.rpc_url.replace("http", "https")),
        GatewayCAS(kubo.gateway_url.replace("http", "https")),
    ):
        refused(lambda cas=cas: cas.load_many([ABSENT]), "https://127.0.0.1", "no connection")


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Status(404, body=b"404 page not found\n"), ["404", "so old that it lacks dag/import"]),
        (Status(413, {"Content-Type": "text/html"}, b"<html>Request Entity Too Large"), ["413", "32 MiB"]),
        (PAGE, ["<!DOCTYPE html>", "expected JSON", "is this a Kubo RPC?"]),
        (
            Status(200, {"Content-Type": "application/json"}, b'{"Root":{"Cid":{"/":"bafkqaaa"}}}\n'),
            ["Stats", "older"],
        ),
        (Status(200), ["no Stats"]),
        (Status(400, body=b"argument is required"), ["400", "argument is required"]),
        (Status(403, body=b"403 - Forbidden\n"), ["403", "credentials", "API.Authorizations"]),
        (Redirect("https://other.example/api/v0/dag/import"), ["redirects to https://other.example:443"]),
    ],
    ids=str,
)
def test_an_import_that_is_refused_says_why_and_is_not_repeated(
    rpc: Proxy, answer: Any, words: list[str]
) -> None:
    rpc.rule(answer)
    refused(lambda: write(daemon_at(rpc.url)), rpc.url, *words)
    routes = [request.route for request in rpc.requests]
    assert routes.count("/api/v0/dag/import") == 1


def said(message: str) -> Status:
    body = json.dumps({"Message": message, "Code": 0, "Type": "error"}).encode()
    return Status(500, {"Content-Type": "application/json"}, body)


def test_a_full_disk_is_told_and_not_written_to_again(rpc: Proxy) -> None:
    full = 'import failed at block "bafkr4i": failed to write to temp file: write /x/y.data: no space left on device'
    rpc.rule(said(full))
    refused(
        lambda: write(daemon_at(rpc.url)), rpc.url, "no space left on device", "disk", "restart the daemon"
    )
    assert len(rpc.requests) == 1


def test_what_the_daemon_itself_says_is_not_asked_for_again(rpc: Proxy, gateway: Proxy) -> None:
    cas = KuboCAS(rpc_base_url=rpc.url, gateway_base_url=gateway.url)
    refused(
        lambda: cas.load_many([ABSENT]),
        *(text(ABSENT), rpc.url, gateway.url, "garbage collection", "not found locally", "add a gateway"),
        kind=BlockNotFound,
    )
    assert (len(rpc.requests), len(gateway.requests)) == (1, 1)
    assert cas.has_many([ABSENT]) == [False]
    cas.close()


@pytest.mark.parametrize("code", [403, 404, 410, 400, 401, 405, 413, 501])
def test_a_refusal_is_not_asked_for_again(rpc: Proxy, gateway: Proxy, code: int) -> None:
    cas = KuboCAS(rpc_base_url=rpc.url, gateway_base_url=gateway.url)
    for proxy in (rpc, gateway):
        proxy.rule(Status(code, body=b"no"))
    with pytest.raises(HamtError, match=str(code)):
        cas.load_many([ABSENT])
    assert (len(rpc.requests), len(gateway.requests)) == (1, 1)
    cas.close()


@pytest.mark.parametrize(("code", "seconds"), [(429, "1"), (503, "1"), (502, "0")])
def test_a_server_that_asks_for_time_is_given_it(
    kubo: Daemon, gateway: Proxy, code: int, seconds: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    waited, sleep = [], asyncio.sleep

    async def brief(delay: float) -> None:
        waited.append(delay)
        await sleep(0)

    monkeypatch.setattr(server.asyncio, "sleep", brief)
    cid = kubo.put(b"value")
    gateway.rule(Status(code, {"Retry-After": seconds}), times=2)
    assert GatewayCAS(gateway.url, initial_delay=77.0).load_many([cid]) == [b"value"]
    assert [delay for delay in waited if delay != 0.001] == [float(seconds)] * 2


def test_a_page_where_a_gateway_should_be_is_told(gateway: Proxy) -> None:
    gateway.rule(PAGE)
    cas = GatewayCAS(gateway.url)
    for call in (cas.load_many, cas.size_many, cas.has_many):
        refused(lambda call=call: call([ABSENT]), gateway.url, "HTML", "no gateway answers there")
    refused(lambda: cas.load_ipld_path(ABSENT, ["1", "0"]), gateway.url, "HTML")


def test_bytes_that_are_others_are_a_mismatch_that_names_the_server(rpc: Proxy, gateway: Proxy) -> None:
    for proxy in (rpc, gateway):
        proxy.rule(Status(200, {"Content-Type": "application/vnd.ipld.raw"}, b"other bytes"))
    cas = daemon_at(rpc.url, gateway_base_url=gateway.url)
    refused(lambda: cas.load_many([ABSENT]), rpc.url, gateway.url, "other bytes", kind=BlockMismatch)


def test_stores_are_opened_by_their_url(kubo: Daemon, rpc: Proxy, gateway: Proxy) -> None:
    cid = kubo.put(b"value")
    for url, proxies in {
        rpc.url.replace("http", "kubo"): [rpc],
        rpc.url.replace("http", "KUBO") + "/": [rpc],
        f"{rpc.url.replace('http', 'kubo')}?gateway={gateway.url}": [gateway],
        f"{rpc.url.replace('http', 'kubo')}?gateway={kubo.rpc_url}&gateway={gateway.url}/ipfs": [gateway],
        gateway.url: [gateway],
        f"{gateway.url}/ipfs/": [gateway],
    }.items():
        cas = open_cas(url)
        assert cas.load_many([cid]) == [b"value"]
        assert [bool(proxy.requests) for proxy in (rpc, gateway)] == [
            proxy in proxies for proxy in (rpc, gateway)
        ]
        rpc.clear()
        gateway.clear()
        cas.close()
    refused(lambda: write(open_cas(gateway.url)), "read only", kind=ReadOnly)
    secure = open_cas(kubo.rpc_url.replace("http", "kubos"))
    refused(lambda: secure.load_many([cid]), kubo.rpc_url.replace("http", "https"), "no connection")


@pytest.mark.parametrize(
    "url",
    [
        "kubo://host:port",
        "kubo://user:s3cret@host:port",
        "kubo://host?gatway=http://x",
        "kubo://host?gateway=x",
        "kubo://host?gateway=",
        "kubo://host#s3cret",
        "https://",
        "https://user:s3cret@",
        "https://user:s3/cret@host",
        "ipfs://bafkqaaa",
    ],
)
def test_a_url_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidInput) as raised:
        open_cas(url)
    assert "s3" not in str(raised.value)
