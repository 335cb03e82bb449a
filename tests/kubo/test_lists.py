"""Many nodes in one answer, and which of many blocks are there."""

from collections.abc import Iterator

import pytest

from hamt_bulk import GatewayCAS, InMemoryCAS, KuboCAS, build, diff, update
from hamt_bulk.block import DAG_CBOR, RAW, Block, identify, text, to_bytes, to_cid
from hamt_bulk.cas.ipfs import lists
from hamt_bulk.errors import BlockNotFound
from hamt_bulk.nodes import Tree
from kubo.daemon import Daemon
from kubo.faults import Alter, CleanTruncate, Drop, Status, Truncate
from kubo.proxy import Proxy

POINTER = identify(b"the value of all")
KEYS = {f"k/c/{number}" for number in range(40_000)}


@pytest.fixture(scope="module")
def root(kubo: Daemon) -> bytes:
    cas = KuboCAS(rpc_base_url=kubo.rpc_url)
    pointer = to_cid(POINTER)
    return to_bytes(build(((key, pointer) for key in KEYS), cas))


@pytest.fixture
def proxy(kubo: Daemon) -> Iterator[Proxy]:
    with Proxy(kubo.rpc_url) as proxy:
        yield proxy


def keys(root: bytes, cas: KuboCAS | GatewayCAS) -> set[str]:
    return {key for key, _ in Tree(root, cas).entries()}


def test_a_listing_takes_few_requests(root: bytes, kubo: Daemon, proxy: Proxy) -> None:
    assert keys(root, KuboCAS(rpc_base_url=proxy.url, gateway_base_url=kubo.gateway_url)) == KEYS
    assert len(proxy.requests) < 20, "for a root and the 256 nodes below it, and some below those"
    assert keys(root, GatewayCAS(kubo.gateway_url)) == KEYS, "as one by one"


@pytest.mark.parametrize(
    "fault", [Status(403, {}, b"no"), Drop(), Truncate(5000), CleanTruncate(20_000), Alter(30_000)], ids=repr
)
@pytest.mark.parametrize("command", ["dag/import", "dag/export"])
def test_what_a_list_does_not_give_is_asked_for_singly(
    root: bytes, kubo: Daemon, proxy: Proxy, fault: object, command: str
) -> None:
    proxy.rule(fault, when=lambda request: command in request.path)
    cas = KuboCAS(rpc_base_url=proxy.url, gateway_base_url=kubo.gateway_url, initial_delay=0.01)
    assert keys(root, cas) == KEYS


def test_a_daemon_that_takes_no_lists_is_not_asked_again(root: bytes, kubo: Daemon, proxy: Proxy) -> None:
    proxy.rule(Status(403, {}, b"no"), when=lambda request: "dag/import" in request.path)
    assert keys(root, KuboCAS(rpc_base_url=proxy.url, gateway_base_url=kubo.gateway_url)) == KEYS
    assert len(proxy.requests) == 1


def test_a_hole_is_found(kubo: Daemon) -> None:
    cas = KuboCAS(rpc_base_url=kubo.rpc_url, gateway_base_url=kubo.gateway_url)
    memory = InMemoryCAS()
    items = {f"hole {number}": b"%d" % number for number in range(20_000)}
    root = build(items, cas)
    assert root == build(items, memory)
    lost = [cid for cid in memory.blocks if cid[1] == 0x71 and cid != to_bytes(root)][100]
    kubo.rpc("block/rm", {"arg": text(lost)})
    with pytest.raises(BlockNotFound, match=text(lost)):
        keys(to_bytes(root), KuboCAS(rpc_base_url=kubo.rpc_url))


def test_a_diff_of_roots_on_a_daemon(root: bytes, kubo: Daemon) -> None:
    cas = KuboCAS(rpc_base_url=kubo.rpc_url, gateway_base_url=kubo.gateway_url)
    changed = update(root, {"k/c/7": None, "new": b"new"}, cas)
    assert {key for key, _, _ in diff(root, changed, cas)} == {"k/c/7", "new"}


@pytest.fixture(scope="module")
def values(kubo: Daemon) -> list[bytes]:
    """CIDs of values that the daemon has."""
    with KuboCAS(rpc_base_url=kubo.rpc_url).writer() as writer:
        saved = [writer.save(b"value %d" % number) for number in range(2 * lists.LEAST_LISTED)]
        writer.flush()
    return saved


ABSENT = [identify(b"absent %d" % number) for number in range(3)]


def test_which_of_many_blocks_are_there_is_asked_at_once(
    values: list[bytes], proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "MOST_OTHERS", 10_000)  # whatever other tests have left on the daemon
    cas = KuboCAS(rpc_base_url=proxy.url)
    assert cas.has_many([*values, *ABSENT, values[0]]) == [True] * len(values) + [False] * 3 + [True]
    assert len(proxy.requests) == 1 + len(ABSENT), "what is not in the list is asked for"


def test_blocks_are_the_same_under_either_codec(kubo: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lists, "MOST_OTHERS", 10_000)
    cas = KuboCAS("sha2-256", rpc_base_url=kubo.rpc_url)
    with cas.writer() as writer:
        data = [b"\x19" + number.to_bytes(2) for number in range(lists.LEAST_LISTED)]  # numbers in dag-cbor
        names = [identify(one, codec, "sha2-256") for one in data for codec in (RAW, DAG_CBOR)]
        writer.save_many(Block(identify(one, RAW, "sha2-256"), one) for one in data)
        writer.flush()
    assert cas.has_many(names) == [True] * len(names)


@pytest.mark.parametrize(
    "fault", [Status(403, {}, b"no"), Drop(), Truncate(5000), CleanTruncate(20_000), Alter(30_000)], ids=repr
)
def test_what_the_list_of_a_daemon_lacks_is_asked_for(
    values: list[bytes], proxy: Proxy, monkeypatch: pytest.MonkeyPatch, fault: object
) -> None:
    monkeypatch.setattr(lists, "MOST_OTHERS", 10_000)
    proxy.rule(fault, when=lambda request: "refs/local" in request.path)
    cas = KuboCAS(rpc_base_url=proxy.url, initial_delay=0.01)
    assert cas.has_many([*values, *ABSENT]) == [True] * len(values) + [False] * 3


def test_the_list_of_a_daemon_with_many_other_blocks_is_not_read_to_its_end(
    values: list[bytes], proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lists, "MOST_OTHERS", 0.5)
    cas = KuboCAS(rpc_base_url=proxy.url)
    assert cas.has_many([*values, *ABSENT]) == [True] * len(values) + [False] * 3
    assert len(proxy.requests) == 1 + len(values) + len(ABSENT)
