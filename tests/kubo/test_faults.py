"""
Whatever happens to requests and answers, the outcome is the right bytes or a clear error: never others, never a hang.

Between a store and its daemon are proxies that drop, delay, cut, alter and refuse.
"""

import os
import random
from collections.abc import Callable, Iterator
from typing import TypeAlias

import pytest
from stored import in_tree

from hamt_bulk import GatewayCAS, InMemoryCAS, KuboCAS, build
from hamt_bulk.block import MAX_BLOCK_BYTES, identify, text, to_bytes, verify
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.errors import BlockMismatch, BlockNotFound, CASError, HamtError
from hamt_bulk.layout import PyHamt
from hamt_bulk.manifest import blake3_hashfn
from hamt_bulk.unixfs import split

from .daemon import Daemon
from .faults import Alter, CleanTruncate, Delay, Drop, Fault, Redirect, Request, Status, Truncate
from .proxy import Proxy

Open: TypeAlias = Callable[..., ContentAddressedStore]

ITEMS = {f"temperature/c/{number}": b"%d" % number * 20 for number in range(1500)}
LARGE = os.urandom(MAX_BLOCK_BYTES * 2 + 1000)
LARGE_CID, LARGE_BLOCKS = split(LARGE, "blake3")
ABSENT = identify(b"nobody has this either")
KEY = "temperature/c/700"
PATH = PyHamt().way(blake3_hashfn(KEY.encode())[:4])

FLEETING: list[Fault] = [
    Drop(),
    Drop(after=True),
    Delay(0.05),
    Delay(0.05, after=True),
    Truncate(2),
    *(Status(code, body=b"not now") for code in (408, 425, 429, 500, 502, 503, 504)),
    Status(429, {"Retry-After": "0"}, b"slowly"),
    Status(503, {"Retry-After": "Thu, 01 Jan 1970 00:00:00 GMT"}, b"soon"),
]
LASTING: list[Fault] = [fault for fault in FLEETING if not isinstance(fault, Delay)]
LASTING += [CleanTruncate(2), CleanTruncate(0), Alter(0), Status(200), Status(204), Status(403, body=b"no")]
LASTING += [
    Status(404, body=b"404 page not found\n"),
    Redirect("http://127.0.0.1:9/"),
    Status(200, body=b"{}\n" * 3),
]
LASTING += [
    Redirect("http://[bad"),
    Redirect("//a:b@c/"),
    Status(301, {"Location": "/x"}),
    Status(413, body=b"big"),
]

ANSWER = '{"Root":{"Cid":{"/":"%s"},"PinErrorMsg":""}}\n{"Stats":{"BlockCount":2'
COUNT_AT = len(ANSWER % text(ABSENT)) - 1
"""Where `dag/import` says how many blocks arrived."""


@pytest.fixture(scope="module")
def tree(kubo: Daemon) -> str:
    """A root of `ITEMS` on the daemon, which has `LARGE` too."""
    cas = KuboCAS(rpc_base_url=kubo.rpc_url)
    with cas.writer() as writer:
        writer.save(LARGE)
        writer.flush()
    root = str(build(ITEMS, cas))
    cas.close()
    return root


@pytest.fixture(params=["kubo", "rpc", "gateway"])
def reading(request: pytest.FixtureRequest, kubo: Daemon, tree: str) -> Iterator[tuple[Open, list[Proxy]]]:
    """How to open a store that reads from the daemon, and the proxies it goes through."""
    with Proxy(kubo.rpc_url) as rpc, Proxy(kubo.gateway_url) as gateway:

        def opened(max_retries: int = 3) -> ContentAddressedStore:
            policy = {"initial_delay": 0.01, "max_retries": max_retries}
            if request.param == "gateway":
                return GatewayCAS(gateway.url, **policy)
            also = gateway.url if request.param == "kubo" else None
            return KuboCAS(rpc_base_url=rpc.url, gateway_base_url=also, **policy)

        yield opened, {"kubo": [gateway, rpc], "rpc": [rpc], "gateway": [gateway]}[request.param]


def read_all(cas: ContentAddressedStore, root: str) -> None:
    """Reads in all ways, each of which gives the right bytes or raises."""
    leaf = LARGE_BLOCKS[1]
    assert cas.load_range(LARGE_CID, 5, MAX_BLOCK_BYTES + 5) == LARGE[5 : MAX_BLOCK_BYTES + 5]
    assert cas.load_many([LARGE_CID, leaf.cid, LARGE_CID]) == [LARGE, leaf.data, LARGE]
    blocks = cas.load_ipld_path(root, PATH)
    assert blocks[0].cid == to_bytes(root)
    for cid, data in blocks:
        verify(cid, data)
    assert cas.has_many([LARGE_CID, ABSENT]) == [True, False]


@pytest.mark.parametrize("fault", FLEETING, ids=repr)
async def test_what_happens_twice_is_not_noticed(
    reading: tuple[Open, list[Proxy]], tree: str, fault: Fault
) -> None:
    opened, proxies = reading
    cas = opened()
    for proxy in proxies:
        proxy.rule(fault, times=2)
    read_all(cas, tree)
    for proxy in proxies:
        proxy.rule(fault, times=2)
    assert await cas.load(LARGE_CID, suffix=9) == LARGE[-9:]
    cas.close()


@pytest.mark.parametrize("fault", LASTING, ids=repr)
def test_what_lasts_is_an_error_that_names_the_server(
    reading: tuple[Open, list[Proxy]], tree: str, fault: Fault
) -> None:
    opened, proxies = reading
    cas = opened(max_retries=2)
    for proxy in proxies:
        proxy.rule(fault)
    leaf = LARGE_BLOCKS[1].cid
    for call in (
        lambda: cas.load_many([leaf]),
        lambda: cas.load_range(LARGE_CID, 5, MAX_BLOCK_BYTES + 5),
        lambda: cas.load_ipld_path(tree, PATH),
    ):
        with pytest.raises((CASError, BlockMismatch, BlockNotFound)) as raised:
            call()
        assert proxies[-1].url in str(raised.value)
        assert not isinstance(raised.value, BlockNotFound)
    cas.close()


@pytest.mark.parametrize("fault", LASTING, ids=repr)
def test_a_faulty_gateway_leaves_the_daemon(kubo: Daemon, tree: str, fault: Fault) -> None:
    with Proxy(kubo.gateway_url) as gateway:
        cas = KuboCAS(rpc_base_url=kubo.rpc_url, gateway_base_url=gateway.url, initial_delay=0.01)
        gateway.rule(fault)
        read_all(cas, tree)
        assert gateway.requests
        cas.close()


@pytest.mark.parametrize("fault", FLEETING, ids=repr)
async def test_what_happens_twice_loses_nothing_that_is_written(kubo: Daemon, fault: Fault) -> None:
    with Proxy(kubo.rpc_url) as rpc:
        cas = KuboCAS(rpc_base_url=rpc.url, initial_delay=0.01)
        rpc.rule(fault, times=2)
        values = [os.urandom(100), os.urandom(MAX_BLOCK_BYTES + 5)]
        with cas.writer() as writer:
            cids = [writer.save(values[0])]
            writer.flush()
        rpc.rule(fault, times=2)
        cids.append(to_bytes(await cas.save(values[1], "raw")))
        cas.flush()
        assert KuboCAS(rpc_base_url=kubo.rpc_url).load_many(cids) == values
        cas.close()


@pytest.mark.parametrize("fault", LASTING, ids=repr)
async def test_a_flush_says_what_did_not_arrive_and_can_be_called_again(kubo: Daemon, fault: Fault) -> None:
    """No answer that was altered is taken for a success."""
    with Proxy(kubo.rpc_url) as rpc:
        cas = KuboCAS(rpc_base_url=rpc.url, initial_delay=0.01, max_retries=1)
        rpc.rule(fault if fault != Alter(0) else Alter(COUNT_AT))
        values = [os.urandom(100), os.urandom(200)]
        writer = cas.writer()
        cids = [writer.save(values[0])]
        cids.append(to_bytes(await cas.save(values[1], "raw")))
        for flush in (writer.flush, cas.flush):
            with pytest.raises(HamtError, match=rpc.url):
                flush()
        assert await cas.load(cids[1]) == values[1]
        rpc.clear()
        assert (writer.flush().blocks, cas.flush().blocks) == (1, 1)
        writer.close()
        assert KuboCAS(rpc_base_url=kubo.rpc_url).load_many(cids) == values
        cas.close()


@pytest.mark.filterwarnings("ignore:the build is complete, but its store was not tidied up")
@pytest.mark.parametrize("seed", range(10))
def test_a_build_through_faults_at_random_gives_the_root_of_memory_or_an_error(
    kubo: Daemon, seed: int
) -> None:
    """And so does reading it back. One request in twenty fares badly."""
    chance = random.Random(seed)
    faults = [*FLEETING, Truncate(500), CleanTruncate(30), Alter(3), Alter(60), Status(500), Status(404)]

    def at_random(request: Request) -> Fault | None:
        return chance.choice(faults) if chance.random() < 0.05 else None

    items = {f"{seed}/{number}": os.urandom(30) for number in range(800)} | {
        f"{seed}/large": LARGE[: -seed - 1]
    }
    expected = build(items, InMemoryCAS())
    with Proxy(kubo.rpc_url) as rpc, Proxy(kubo.gateway_url) as gateway:
        cas = KuboCAS(rpc_base_url=rpc.url, gateway_base_url=gateway.url, initial_delay=0.001)
        rpc.rule(at_random)
        gateway.rule(at_random)
        try:
            root = build(items, cas, pin=f"seed {seed}")
        except HamtError as error:
            assert str(error)
        else:
            assert root == expected
            assert text(to_bytes(root)) in kubo.pins()
            assert kubo.stat(str(root)).blocks
        rpc.clear()
        gateway.clear()
        assert build(items, cas) == expected
        rpc.rule(at_random)
        gateway.rule(at_random)
        try:
            assert in_tree(expected, cas) == items
        except HamtError as error:
            assert str(error)
        cas.close()
