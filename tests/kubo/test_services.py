"""Roots are kept by pinning services: their API, which Kubo's own client speaks too."""

import json
import pickle
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from hamt_bulk.block import identify, text
from hamt_bulk.cas import KuboCAS
from hamt_bulk.errors import CASError, InvalidInput, NotPortable
from hamt_bulk.ipfs.remotepins import RemotePin, ServiceRefused
from hamt_bulk.ipfs.services import PinningService, addresses
from kubo.daemon import Daemon
from kubo.faults import Drop, Status
from kubo.pinning import PinningServer
from kubo.proxy import Proxy

TOKEN = "opaque-token-0815"
ROOT, OTHER, THIRD = (text(identify(data, 0x71)) for data in (b"\xa0", b"\x80", b"\x81\x80"))


@pytest.fixture
def server() -> Iterator[PinningServer]:
    with PinningServer(TOKEN) as running:
        yield running


@pytest.fixture
def proxy(server: PinningServer) -> Iterator[Proxy]:
    with Proxy(server.origin) as running:
        yield running


@pytest.fixture
def service(proxy: Proxy) -> Iterator[PinningService]:
    found = opened(proxy)
    yield found
    found.close()


def opened(proxy: Proxy, auth: str | None = f"bearer:{TOKEN}") -> PinningService:
    return PinningService(proxy.url + "/psa", auth=auth, initial_delay=0.01)


def test_a_root_is_queued_then_fetched_then_pinned(server: PinningServer, service: PinningService) -> None:
    pin = service.pin(ROOT, name="era5", origins=["/ip4/203.0.113.7/tcp/4001"], meta={"app": "tests"})
    assert (str(pin.cid), pin.name, pin.status) == (ROOT, "era5", "queued")
    assert pin.info == {"status_details": "Queue position: 1 of 1"} and pin.delegates
    [stored] = server.pins.values()
    assert stored["pin"] == {
        "cid": ROOT,
        "name": "era5",
        "origins": ["/ip4/203.0.113.7/tcp/4001"],
        "meta": {"app": "tests"},
    }
    seen: list[RemotePin] = []
    done = service.wait(pin, seconds=10, progress=seen.append)
    assert [one.status for one in seen] == ["pinning", "pinned"]
    assert done == seen[-1] == service.status(pin.request_id) and done.request_id == pin.request_id


def test_a_root_that_nobody_has_fails_with_the_services_reason(
    server: PinningServer, service: PinningService
) -> None:
    server.unavailable.add(ROOT)
    with pytest.raises(CASError, match=r"could not pin .*no providers found.*addresses"):
        service.wait(service.pin(ROOT).request_id, seconds=10)


def test_waiting_has_an_end_and_says_how_far_the_service_is(
    server: PinningServer, service: PinningService
) -> None:
    server.stuck = True
    pin = service.pin(ROOT)
    with pytest.raises(CASError, match=r"within 0\.6 s: queued"):
        service.wait(pin, seconds=0.6)
    server.stuck = False
    assert service.wait(pin).status == "pinned"


def test_requests_are_listed_by_name_root_and_state(service: PinningService) -> None:
    one, two = service.pin(ROOT, name="era5"), service.pin(OTHER, name="era5-land")
    service.wait(one)
    assert [pin.request_id for pin in service.ls()] == [two.request_id, one.request_id]
    assert [str(pin.cid) for pin in service.ls("era5")] == [ROOT]
    assert [pin.name for pin in service.ls(cid=OTHER)] == ["era5-land"]
    assert [pin.status for pin in service.ls(status=["pinned"])] == ["pinned"]
    assert service.ls("era") == [] == service.ls(cid=THIRD)
    with pytest.raises(InvalidInput, match="queued, pinning, pinned, failed"):
        service.ls(status=["done"])  # type: ignore[list-item]


def test_long_lists_come_in_pages(server: PinningServer, service: PinningService) -> None:
    made = [service.pin(ROOT, name=str(number)).request_id for number in range(10)]
    server.most = 3
    assert [pin.request_id for pin in service.ls()] == made[::-1]
    assert sum("limit" in path for _, path in server.asked) == 4


def test_a_service_that_ignores_pages_is_no_endless_loop(
    server: PinningServer, proxy: Proxy, service: PinningService
) -> None:
    for _ in range(3):
        service.pin(ROOT)
    pins = list(server.pins.values())
    proxy.rule(Status(200, body=json.dumps({"count": 3, "results": pins[:2]}).encode()))
    with pytest.raises(CASError, match="2 of 3 requests again and again"):
        service.ls()


def test_unpinning_a_root_removes_its_requests_and_no_others(
    server: PinningServer, proxy: Proxy, service: PinningService
) -> None:
    service.pin(ROOT, name="a"), service.pin(ROOT, name="b")
    kept = service.pin(OTHER)
    # One that does not know the filter gives all requests.
    everything = {"count": 3, "results": list(server.pins.values())}
    proxy.rule(Status(200, body=json.dumps(everything).encode()), lambda request: request.method == "GET")
    service.unpin(ROOT)
    assert list(server.pins) == [kept.request_id]
    service.unpin(kept.request_id)
    service.unpin(kept)
    assert server.pins == {}


def test_a_pin_moves_from_one_root_to_the_next(server: PinningServer, service: PinningService) -> None:
    first = service.pin(ROOT, name="era5")
    second = service.update(ROOT, OTHER)
    assert (str(second.cid), second.name) == (OTHER, "era5")
    assert second.request_id != first.request_id and list(server.pins) == [second.request_id]
    assert server.removed == [], "the service replaces, so that shared blocks stay"
    third = service.pin(THIRD, name="era6", replace=second)
    assert list(server.pins) == [third.request_id]
    with pytest.raises(CASError, match=f"no request for {ROOT}"):
        service.update(ROOT, OTHER)
    with pytest.raises(CASError, match="under the name 'era5'"):
        service.update(THIRD, OTHER, name="era5")


@pytest.mark.parametrize("replaces", [False, True])
@pytest.mark.parametrize("broken", [Drop(after=True), Status(504)])
def test_a_lost_answer_makes_no_second_request(
    server: PinningServer, proxy: Proxy, service: PinningService, broken: Drop | Status, replaces: bool
) -> None:
    old = service.pin(ROOT, name="old")
    replaced = old if replaces else None
    if isinstance(broken, Status):  # whoever is before the service gave up on it, and it went on
        PinningService(server.url, auth=f"bearer:{TOKEN}").pin(OTHER, name="new", replace=replaced)
    proxy.rule(broken, lambda request: request.method == "POST", times=1)
    pin = service.pin(OTHER, name="new", replace=replaced)
    assert str(pin.cid) == OTHER and [one.request_id for one in service.ls("new")] == [pin.request_id]
    assert len(service.ls()) == (1 if replaces else 2)


def test_a_request_that_did_not_arrive_is_an_error(proxy: Proxy, service: PinningService) -> None:
    service.ls()
    proxy.rule(Drop(), lambda request: request.method == "POST")
    with pytest.raises(CASError, match="the connection broke"):
        service.pin(ROOT)
    assert service.ls() == []
    proxy.clear()
    old, same = service.pin(ROOT), service.pin(OTHER)
    proxy.rule(Drop(), lambda request: request.method == "POST")
    with pytest.raises(CASError, match="the connection broke"):
        service.pin(OTHER, replace=old)
    assert [pin.request_id for pin in service.ls()] == [same.request_id, old.request_id]


def test_a_busy_service_is_asked_again_when_it_says(proxy: Proxy, service: PinningService) -> None:
    proxy.rule(Status(429, {"Retry-After": "0"}), times=1)
    proxy.rule(Status(503, {"Retry-After": "0"}), times=1)
    assert service.pin(ROOT).status == "queued"
    assert [request.status for request in proxy.requests] == [429, 503, 202]
    proxy.rule(Status(500), lambda request: request.method == "GET", times=2)
    assert len(service.ls()) == 1
    busy = {"error": {"reason": "TOO_MANY_REQUESTS"}}
    proxy.rule(Status(429, {"Retry-After": "0"}, json.dumps(busy).encode()))
    with pytest.raises(ServiceRefused, match="429 TOO_MANY_REQUESTS; it asks for fewer") as refused:
        service.pin(OTHER)
    assert (refused.value.status, refused.value.reason) == (429, "TOO_MANY_REQUESTS")


def test_refusals_say_who_refused_what_and_never_the_token(proxy: Proxy, service: PinningService) -> None:
    secret = "another-token-4711"
    stranger = opened(proxy, f"bearer:{secret}")
    with pytest.raises(ServiceRefused) as refused:
        stranger.ls()
    said = str(refused.value)
    assert proxy.url in said and "401 UNAUTHORIZED: Access token is missing" in said
    assert "HAMT_BULK_PINNING_AUTH" in said and secret not in said
    with pytest.raises(ServiceRefused, match="404 NOT_FOUND"):
        service.status("nothing")
    elsewhere = PinningService(proxy.url, auth=f"bearer:{TOKEN}", initial_delay=0.01)
    with pytest.raises(ServiceRefused, match="not that of its API"):
        elsewhere.pin(ROOT)
    proxy.rule(Status(200, body=b"<html>"))
    with pytest.raises(CASError, match="expected JSON: is this a pinning service"):
        service.ls()
    for one in (stranger, elsewhere):
        one.close()


def test_credentials_come_from_the_environment_and_stay_out_of_pickles(
    proxy: Proxy, service: PinningService, monkeypatch: pytest.MonkeyPatch
) -> None:
    pickled = pickle.dumps(service)
    assert TOKEN.encode() not in pickled and TOKEN not in repr(service)
    with pytest.raises(NotPortable, match="HAMT_BULK_PINNING_AUTH"):
        pickle.loads(pickled)
    monkeypatch.setenv("HAMT_BULK_KUBO_AUTH", f"bearer:{TOKEN}")  # a daemon's, and not for a service
    with pytest.raises(ServiceRefused, match="401"):
        opened(proxy, None).ls()
    monkeypatch.setenv("HAMT_BULK_PINNING_AUTH", f"bearer:{TOKEN}")
    assert opened(proxy, None).ls() == [] == pickle.loads(pickled).ls()
    assert PinningService(proxy.url + "/psa/pins/").url == proxy.url + "/psa"


def test_credentials_do_not_follow_redirects(proxy: Proxy, service: PinningService) -> None:
    with PinningServer(TOKEN) as other:
        proxy.rule(Status(307, {"Location": other.url + "/pins"}))
        with pytest.raises(CASError, match="401"):
            service.ls()
        with pytest.raises(CASError, match=r"redirects to .* which is not followed"):
            service.pin(ROOT)
        assert other.pins == {}


def test_what_the_api_does_not_carry_is_refused_at_once(service: PinningService) -> None:
    for wrong in (
        {"name": "n" * 256},
        {"origins": "/ip4/203.0.113.7/tcp/4001"},
        {"origins": ["/ip4/203.0.113.7/tcp/4001"] * 21},
        {"meta": {"n": 1}},
        {"replace": ""},
    ):
        with pytest.raises(InvalidInput):
            service.pin(ROOT, **wrong)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        service.pin("no CID")


def test_a_daemons_addresses_are_those_that_others_can_reach(kubo: Daemon) -> None:
    with closing(KuboCAS(rpc_base_url=kubo.rpc_url)) as cas:
        assert addresses(cas) == [], "an offline daemon has none"
    announced = [
        "/ip4/127.0.0.1/tcp/4001/p2p/Q",
        "/ip4/203.0.113.7/tcp/4001/p2p/Q",
        "/ip6/::1/tcp/4001/p2p/Q",
    ]
    with Proxy(kubo.rpc_url) as proxy, closing(KuboCAS(rpc_base_url=proxy.url)) as cas:
        proxy.rule(Status(200, body=json.dumps({"ID": "Q", "Addresses": announced}).encode()))
        assert addresses(cas) == announced[1:2]


def test_kubos_own_client_gets_on_with_the_service_of_these_tests(
    server: PinningServer, service: PinningService, new_kubo: Callable[..., Daemon]
) -> None:
    """What the tests above rely on is not only ours."""
    daemon = new_kubo()
    root = daemon.put(b"\xa0", "dag-cbor")
    remote = ("pin", "remote")
    daemon.ipfs(*remote, "service", "add", "here", server.url, TOKEN)
    assert b"0/0/0/0" in daemon.ipfs(*remote, "service", "ls", "--stat")
    daemon.ipfs(*remote, "add", "--service=here", "--name=theirs", root)
    [pin] = service.ls("theirs")
    assert (str(pin.cid), pin.status) == (root, "pinned")
    ours = service.wait(service.pin(OTHER, name="ours"))
    for number in range(12):  # more than the ten that it asks for at a time
        service.status(service.status(service.pin(THIRD, name=str(number))))
    listed = daemon.ipfs(*remote, "ls", "--service=here").decode()
    assert listed.count(THIRD) == 12 and root in listed and OTHER in listed, listed
    assert daemon.ipfs(*remote, "ls", "--service=here", "--name=ours").decode().split() == [
        OTHER,
        "pinned",
        "ours",
    ]
    daemon.ipfs(*remote, "rm", "--service=here", f"--cid={OTHER}")
    assert ours.request_id in server.removed and service.ls("ours") == []
    daemon.ipfs(*remote, "rm", "--service=here", "--name=theirs")
    assert service.ls(cid=root) == []
