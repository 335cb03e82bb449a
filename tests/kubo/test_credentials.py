"""Credentials reach the servers that they are for, at once, and nothing and nobody else."""

import json
import logging
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from dask.base import tokenize

from hamt_bulk import GatewayCAS, KuboCAS
from hamt_bulk.cas.ipfs.credentials import AUTH_VARIABLE, HEADERS_VARIABLE
from hamt_bulk.errors import CASError, HamtError

from .daemon import Daemon, header
from .faults import Drop, Fault, Redirect, Request, Status, Truncate
from .proxy import Proxy

USER, PASSWORD, TOKEN, KEY = "anna", 's3cret pass/word?"é', "t0ken-with-s3cret", "k3y-with-s3cret"
BASIC = f"basic:{USER}:{PASSWORD}"
QUOTED = "s3cret%20pass%2Fword%3F%22%C3%A9"
SECRET_PARTS = ("s3cret", "czNjcmV0", "pass/word", "YW5uYTp")
"""What no text may hold; two of them as base64 has them."""


@pytest.fixture(scope="module")
def daemon(ipfs_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One that asks for credentials: the token, or the password."""
    users = {
        "by-token": {"AuthSecret": f"bearer:{TOKEN}", "AllowedPaths": ["/api/v0"]},
        "by-password": {"AuthSecret": BASIC, "AllowedPaths": ["/api/v0"]},
    }
    folder = tmp_path_factory.mktemp("kubo")
    with Daemon(ipfs_binary, folder, {"API.Authorizations": users}, f"bearer:{TOKEN}") as daemon:
        yield daemon


@pytest.fixture
def rpc(daemon: Daemon) -> Iterator[Proxy]:
    with Proxy(daemon.rpc_url) as proxy:
        yield proxy


@pytest.fixture
def gateway(daemon: Daemon) -> Iterator[Proxy]:
    with Proxy(daemon.gateway_url) as proxy:
        yield proxy


WAYS: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "bearer": ({"auth": f"bearer:{TOKEN}"}, {}),
    "basic": ({"auth": BASIC}, {}),
    "pair": ({"auth": (USER, PASSWORD)}, {}),
    "headers": ({"headers": {"authorization": f"Bearer {TOKEN}", "X-Api-Key": KEY}}, {}),
    "both": ({"auth": f"bearer:{TOKEN}", "headers": {"X-Api-Key": KEY, "authorization": "other"}}, {}),
    "httpx": ({"auth": httpx.BasicAuth(USER, PASSWORD), "headers": {"X-Api-Key": KEY}}, {}),
    "url": ({"in_url": True}, {}),
    "environment": ({}, {AUTH_VARIABLE: BASIC}),
    "environment's headers": ({}, {HEADERS_VARIABLE: json.dumps({"Authorization": f"Bearer {TOKEN}"})}),
}


@pytest.fixture(params=WAYS)
def opened(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Callable[..., KuboCAS]:
    """Opens a store that has its credentials in one of all ways."""
    options, environment = WAYS[request.param]
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    def open(url: str, **more: Any) -> KuboCAS:
        own = dict(options)
        if own.pop("in_url", False):
            url = url.replace("://", f"://{USER}:{QUOTED}@")
        return KuboCAS(rpc_base_url=url, initial_delay=0.01, max_retries=1, **own, **more)

    return open


def refuse_secrets(text: str) -> None:
    found = [part for part in SECRET_PARTS if part in text]
    assert not found, f"{found} in {text}"


def chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        yield from chain(error.__cause__)
        error = error.__context__


def test_they_are_sent_with_the_first_request_and_never_shown(
    opened: Callable[..., KuboCAS], rpc: Proxy, caplog: pytest.LogCaptureFixture, capfd: Any
) -> None:
    caplog.set_level(logging.DEBUG)
    cas = opened(rpc.url)
    with cas.writer() as writer:
        cid = writer.save(b"value")
        writer.flush()
    assert cas.load_many([cid]) == [b"value"]
    assert {request.status for request in rpc.requests} == {200}
    assert all(request.authorization for request in rpc.requests)
    if rpc.requests[0].headers.get("x-api-key"):
        assert all(request.headers["x-api-key"] == KEY for request in rpc.requests)
    again = pickle.loads(pickle.dumps(cas))
    assert again.load_many([cid]) == [b"value"]
    assert tokenize(cas) == tokenize(again)
    for text in (
        pickle.dumps(cas).decode("latin-1"),
        repr(cas),
        str(cas),
        repr(cas._access),
        str(tokenize(cas)),
    ):
        refuse_secrets(text)
    cas.close()
    shown = capfd.readouterr()
    refuse_secrets(caplog.text + shown.out + shown.err)


def said(request: Request) -> str:
    """All that was sent, as it came and decoded."""
    values = (
        [*request.headers.values(), *PAIRS.values()]
        if request.authorization in PAIRS
        else request.headers.values()
    )
    return " ".join(values)


PAIRS = {header(BASIC): f"{USER}:{PASSWORD} {PASSWORD}"}


def echo(request: Request) -> Fault:
    """A server that repeats what it was sent, cut where an error quotes it."""
    return Status(502, {"Content-Type": "text/plain"}, b"x" * 270 + said(request).encode())


def as_json(request: Request) -> Fault:
    missing = f"could not find bafkqaaaaaaaaaaaaaaaaaaaaaaaaaa {said(request)}"
    body = json.dumps({"Message": missing, "Code": 0, "Type": "error"}).encode()
    return Status(500, {"Content-Type": "application/json"}, body)


@pytest.mark.parametrize(
    "fault", [echo, as_json, Drop(), Truncate(1), Status(403), Redirect("http://127.0.0.1:9/")]
)
def test_no_error_has_them_nor_what_caused_it(
    opened: Callable[..., KuboCAS], rpc: Proxy, fault: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    cas = opened(rpc.url)
    cid = b"\x01\x55\x1e\x20" + bytes(32)
    rpc.rule(fault)
    with cas.writer() as writer:
        writer.save(b"value")
        for call in (lambda: cas.load_many([cid]), lambda: cas.size_many([cid]), writer.flush):
            with pytest.raises(HamtError) as raised:
                call()
            for error in chain(raised.value):
                refuse_secrets(f"{error} {error!r} {vars(error)}")
            refuse_secrets(pickle.dumps(raised.value).decode("latin-1"))
            assert rpc.url in str(raised.value)
    refuse_secrets(caplog.text)
    cas.close()


@pytest.mark.parametrize("way", ["bearer", "httpx", "headers"])
def test_they_go_to_the_first_gateway_that_is_given_and_to_no_other(
    rpc: Proxy, gateway: Proxy, daemon: Daemon, way: str
) -> None:
    options = WAYS[way][0]
    cid = daemon.put(b"value")
    with Proxy(daemon.gateway_url) as other:
        for cas, trusted in (
            (KuboCAS(rpc_base_url=rpc.url, gateway_base_url=gateway.url, **options), [gateway]),
            (KuboCAS(rpc_base_url=rpc.url, gateway_base_urls=[gateway.url, other.url], **options), []),
            (GatewayCAS([gateway.url, other.url], **options), [gateway]),
        ):
            gateway.rule(Status(404), times=1)
            assert cas.load_many([cid]) == [b"value"]
            gateway.rule(Status(404), times=1)
            assert cas.size_many([cid]) == [5]
            for proxy in (gateway, other):
                for request in proxy.requests:
                    refuse_secrets(str(request)) if proxy not in trusted else None
                    assert bool(request.authorization) == (proxy in trusted)
            assert gateway.requests
            gateway.clear()
            cas.close()


def test_those_of_the_environment_are_for_the_daemons_host(
    rpc: Proxy, gateway: Proxy, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gateway without a daemon is anybody's."""
    monkeypatch.setenv(AUTH_VARIABLE, f"bearer:{TOKEN}")
    cid = daemon.put(b"value")
    by_name = rpc.url.replace("127.0.0.1", "localhost")
    for cas, trusted in (
        (GatewayCAS(gateway.url), False),
        (KuboCAS(rpc_base_url=by_name, gateway_base_url=gateway.url), False),
        (KuboCAS(rpc_base_url=by_name, gateway_base_urls=[gateway.url]), False),
        (KuboCAS(rpc_base_url=rpc.url, gateway_base_url=gateway.url), True),
    ):
        assert cas.load_many([cid]) == [b"value"]
        assert [bool(request.authorization) for request in gateway.requests] == [trusted]
        gateway.clear()
        if isinstance(cas, KuboCAS):
            with cas.writer() as writer:
                writer.save(b"value")
                writer.flush()
        cas.close()


@pytest.mark.parametrize("way", ["bearer", "httpx", "headers", "url"])
@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_they_do_not_follow_a_redirect(gateway: Proxy, daemon: Daemon, way: str, code: int) -> None:
    """Not even back: the other server would choose what is asked with them."""
    options, cid = dict(WAYS[way][0]), daemon.put(b"value")
    url = (
        gateway.url
        if not options.pop("in_url", False)
        else gateway.url.replace("://", f"://{USER}:{QUOTED}@")
    )
    with Proxy(daemon.gateway_url) as other:
        gateway.rule(lambda request: Redirect(other.url + request.path, code), times=1)
        other.rule(lambda request: Redirect(gateway.url + request.path, code), times=1)
        cas = GatewayCAS(url, **options)
        assert cas.load_many([cid]) == [b"value"]
        assert [bool(request.authorization) for request in gateway.requests] == [True, False]
        for request in [*other.requests, gateway.requests[1]]:
            refuse_secrets(str(request.headers))
            assert not request.authorization
        gateway.rule(lambda request: Redirect("/again" + request.path, code), times=1)
        with pytest.raises(HamtError, match=gateway.url):
            cas.load_many([b"\x01\x55\x1e\x20" + bytes(32)])
        cas.close()


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_what_is_posted_is_not_sent_to_another_server(
    opened: Callable[..., KuboCAS], rpc: Proxy, code: int
) -> None:
    with Proxy(rpc.url) as other:
        rpc.rule(lambda request: Redirect(other.url + request.path, code))
        cas = opened(rpc.url)
        with cas.writer() as writer:
            writer.save(b"value")
            with pytest.raises(CASError, match=f"{rpc.url}: redirects to {other.url}, which is not followed"):
                writer.flush()
        assert not other.requests and len(rpc.requests) == 1
        cas.close()
