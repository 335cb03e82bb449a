"""Several gateways: whoever has a block gives it, and who fails, is slow or sends CARs that are none is asked less."""

import os
import time
from collections.abc import Callable, Iterator

import pytest

from hamt_bulk import GatewayCAS, KuboCAS, build
from hamt_bulk.block import identify, text, to_bytes
from hamt_bulk.car import header_v1, section_head
from hamt_bulk.cas.ipfs import health
from hamt_bulk.errors import BlockMismatch, BlockNotFound, CASError
from hamt_bulk.layout import PyHamt
from hamt_bulk.manifest import blake3_hashfn

from .daemon import Daemon
from .faults import Alter, CleanTruncate, Delay, Drop, Fault, Request, Status, Truncate
from .proxy import Proxy

ITEMS = {f"wind/c/{number}": b"%d" % number for number in range(1500)}
PATH = PyHamt().way(blake3_hashfn(b"wind/c/700")[:4])


@pytest.fixture(scope="module")
def tree(kubo: Daemon) -> bytes:
    return to_bytes(build(ITEMS, KuboCAS(rpc_base_url=kubo.rpc_url)))


@pytest.fixture
def first(kubo: Daemon) -> Iterator[Proxy]:
    """The gateway that is preferred."""
    with Proxy(kubo.gateway_url) as proxy:
        yield proxy


@pytest.fixture
def second(kubo: Daemon) -> Iterator[Proxy]:
    with Proxy(kubo.gateway_url) as proxy:
        yield proxy


@pytest.fixture
def block(kubo: Daemon) -> Iterator[Callable[[], tuple[bytes, bytes]]]:
    """Puts a new block on the daemon: its CID and its bytes."""

    def put() -> tuple[bytes, bytes]:
        data = os.urandom(500)
        return to_bytes(kubo.put(data)), data

    return put


def healths(cas: GatewayCAS) -> list[health.Health]:
    return [source.health for source in cas.connection.sources._sources]


def is_car(request: Request) -> bool:
    return "format=car" in request.path


def is_block(request: Request) -> bool:
    return "format=raw" in request.path


@pytest.mark.parametrize(
    "fault", [Alter(7), Drop(), Truncate(9), CleanTruncate(9), Status(503), Status(404)], ids=repr
)
def test_what_one_gateway_spoils_another_gives(first, second, block, fault: Fault) -> None:
    cas = GatewayCAS([first.url, second.url], initial_delay=0.01)
    cid, data = block()
    first.rule(fault)
    assert cas.load_many([cid]) == [data]
    assert (healths(cas)[0].failures, healths(cas)[1].failures) == (0 if fault == Status(404) else 1, 0)
    second.rule(fault)
    with pytest.raises(BlockNotFound if fault == Status(404) else (BlockMismatch, CASError)) as raised:
        cas.load_many([cid])
    assert first.url in str(raised.value) and second.url in str(raised.value)
    cas.close()


def test_after_three_failures_a_gateway_is_asked_last_for_half_a_minute(
    first, second, block, monkeypatch: pytest.MonkeyPatch
) -> None:
    skipped = 0.0
    monotonic = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: monotonic() + skipped)
    cas = GatewayCAS([first.url, second.url], initial_delay=0.01)
    first.rule(Status(404, body=b"404 page not found\n"))
    for _ in range(5):
        cid, data = block()
        assert cas.load_many([cid]) == [data]
    assert (len(first.requests), len(second.requests)) == (3, 5)
    second.rule(Status(404), times=1)
    first.clear()
    cid, data = block()
    assert cas.load_many([cid]) == [data]  # last, and not never
    first.rule(Status(404, body=b"404 page not found\n"))
    for _ in range(3):
        cas.load_many([block()[0]])
    first.clear()
    second.clear()
    skipped = health.COOL_DOWN_SECONDS + 1
    assert cas.load_many([cid]) == [data]
    assert (len(first.requests), len(second.requests)) == (1, 0)
    cas.close()


def test_beside_a_slow_gateway_the_next_is_asked_and_the_slow_one_let_go(first, second, block) -> None:
    """It is the slow gateway's own fault, and three times in a row are enough."""
    cas = GatewayCAS([first.url, second.url])
    first.rule(Delay(20))
    started = time.monotonic()
    for number in range(4):
        cid, data = block()
        assert cas.load_many([cid]) == [data]
        assert len(first.requests) == min(number + 1, 3)
    assert time.monotonic() - started < 10
    assert first.requests[0].status is None
    cas.close()


def test_a_slow_gateway_that_alone_has_a_block_is_waited_for(first, second, block) -> None:
    cas = GatewayCAS([first.url, second.url])
    cid, data = block()
    first.rule(Delay(0.6))
    second.rule(Status(404))
    assert cas.load_many([cid]) == [data]
    cas.close()


def test_a_gateway_that_is_down_costs_one_refused_connection(first, second, block) -> None:
    cas = GatewayCAS([first.url, second.url], initial_delay=5.0)
    first.down()
    started = time.monotonic()
    for cid, data in [block() for _ in range(5)]:
        assert cas.load_many([cid]) == [data]
    assert time.monotonic() - started < 4
    cas.close()


def test_a_path_comes_in_one_answer(first: Proxy, tree: bytes) -> None:
    cas = GatewayCAS(first.url)
    blocks = cas.load_ipld_path(tree, PATH)
    assert len(blocks) > 1 and blocks[0].cid == tree
    assert len(first.requests) == 1
    cas.close()


FOREIGN = b"nobody asked for this"


def car(*blocks: tuple[bytes, bytes]) -> Status:
    body = b"".join(section_head(cid, len(data)) + data for cid, data in blocks)
    return Status(200, {"Content-Type": "application/vnd.ipld.car; version=1"}, header_v1([]) + body)


@pytest.mark.parametrize(
    "fault",
    [
        CleanTruncate(0),
        CleanTruncate(20),
        CleanTruncate(70),
        CleanTruncate(300),
        Truncate(300),
        Alter(0),
        Alter(70),
        Alter(200),
        Drop(),
        Status(503),
        Status(404, body=b"no link named"),
        car(),
        car((identify(FOREIGN), FOREIGN)),
        car((identify(FOREIGN), b"other bytes")),
        car((b"\x01\x55\x00\x00", b"")),
    ],
    ids=repr,
)
def test_a_car_that_is_cut_or_altered_costs_no_more_than_its_blocks(
    first: Proxy, tree: bytes, fault: Fault
) -> None:
    """Its gateway is asked for the next one again."""
    cas = GatewayCAS(first.url, initial_delay=0.01)
    expected = dict(cas.load_ipld_path(tree, PATH))
    first.clear()
    first.rule(fault, is_car)
    blocks = cas.load_ipld_path(tree, PATH)
    assert blocks[0].cid == tree
    assert dict(blocks).items() <= expected.items()
    first.clear()
    assert dict(cas.load_ipld_path(tree, PATH)) == expected
    assert [is_car(request) for request in first.requests] == [True]
    cas.close()


@pytest.mark.parametrize(
    "answer",
    [
        *(Status(code, body=b"not supported") for code in (400, 405, 406, 415, 501)),
        Status(200, {"Content-Type": "text/html"}, b"<html>a page</html>"),
        Status(200, {}, b"{}"),
    ],
    ids=repr,
)
def test_a_gateway_without_cars_is_asked_level_by_level_and_that_is_remembered(
    first: Proxy, tree: bytes, answer: Status
) -> None:
    cas = GatewayCAS(first.url, initial_delay=0.01)
    first.rule(answer, is_car)
    for _ in range(3):
        [root] = cas.load_ipld_path(tree, PATH)
        assert root.cid == tree
    assert list(map(is_car, first.requests)) == [True, False, False, False]
    cas.close()


def test_a_path_comes_from_whichever_gateway_has_it(first: Proxy, second: Proxy, tree: bytes) -> None:
    first.rule(Status(404, body=b"no link named"), is_car)
    cas = GatewayCAS([first.url, second.url])
    assert len(cas.load_ipld_path(tree, PATH)) > 1
    assert (len(first.requests), len(second.requests)) == (1, 1)
    cas.close()


def test_a_gateway_that_fails_at_cars_alone_is_noted_for_it(first: Proxy, second: Proxy, tree: bytes) -> None:
    """A path that it does not give is no success, after which nobody would count."""
    first.rule(Status(503))
    cas = GatewayCAS([first.url, second.url], initial_delay=0.01, max_retries=0)
    for _ in range(3):
        assert len(cas.load_ipld_path(tree, PATH)) > 1
    assert healths(cas)[0].is_cooling(time.monotonic())
    cas.close()


@pytest.mark.parametrize("length", ["7", "0", "-1", "x"])
def test_a_size_that_a_gateway_makes_up_is_not_taken_from_a_page(first: Proxy, block, length: str) -> None:
    """What is not called a block is loaded and measured."""
    cid, data = block()
    page = Status(200, {"Content-Type": "text/html", "Content-Length": length})
    first.rule(page if length.isdigit() else Status(200), lambda request: request.method == "HEAD")
    cas = GatewayCAS(first.url)
    assert cas.size_many([cid]) == [len(data)]
    assert not is_car(first.requests[-1]) and text(cid) in first.requests[-1].path
    cas.close()
