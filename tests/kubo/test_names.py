"""Names for roots: IPNS with the keys of a daemon."""

import asyncio
import pickle
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from uuid import uuid4

import pytest

from hamt_bulk.block import identify, text
from hamt_bulk.cas import GatewayCAS, KuboCAS
from hamt_bulk.errors import BlockNotFound, CASError, Conflict, InvalidInput
from hamt_bulk.ipfs.names import KuboName, Published
from hamt_bulk.ipfs.records import BadRecord
from hamt_bulk.ipfs.resolve import resolve_name, resolve_name_async
from kubo.daemon import Daemon
from kubo.faults import Drop, Request, Status
from kubo.naming import opened, record_of, shown
from kubo.proxy import Proxy

SECOND = 1 / 3600
"""Of a lifetime, in hours."""


@pytest.fixture
def cas(kubo: Daemon) -> Iterator[KuboCAS]:
    with closing(opened(kubo)) as found:
        yield found


@pytest.fixture
def name(cas: KuboCAS) -> KuboName:
    return KuboName(cas, f"name-{uuid4().hex}")


@pytest.fixture
def roots(kubo: Daemon) -> list[str]:
    return [kubo.put(bytes([0x80 + 1, number]), "dag-cbor") for number in range(4)]


def test_a_name_points_to_what_was_published_last(
    kubo: Daemon, cas: KuboCAS, name: KuboName, roots: list[str]
) -> None:
    assert name.resolve() is None and name.id.startswith("k51")
    published = name.publish(roots[0])
    assert (published.name, str(published.root), published.sequence) == (name.id, roots[0], 0)
    assert shown(name.resolve()) == roots[0]
    assert name.publish(roots[1]).sequence == 1
    assert name.publish(roots[1]).sequence == 1, "the same again is no change"
    for written in (name.id, f"ipns://{name.id}", f"/ipns/{name.id}/"):
        assert str(resolve_name(written, cas)) == roots[1]
        assert str(resolve_name(written, GatewayCAS(kubo.gateway_url))) == roots[1]
    assert KuboName(cas, name.key).id == name.id, "its key is there"


async def test_names_work_on_an_event_loop(kubo: Daemon, name: KuboName, roots: list[str]) -> None:
    assert await name.resolve_async() is None
    await name.publish_async(roots[0], expected=None)
    assert shown(await name.resolve_async()) == roots[0]
    assert str(await resolve_name_async(name.id, GatewayCAS(kubo.gateway_url))) == roots[0]


def test_what_was_saved_and_not_yet_sent_is_sent_before_it_is_published(name: KuboName, cas: KuboCAS) -> None:
    root = asyncio.run(cas.save(b"\xa1\x61x\x01", "dag-cbor"))
    name.publish(root)
    assert name.resolve() == root


def test_publishing_compares_what_is_there(name: KuboName, roots: list[str]) -> None:
    assert name.publish(roots[0], expected=None).sequence == 0
    with pytest.raises(Conflict, match=f"has /ipfs/{roots[0]}, expected nothing"):
        name.publish(roots[1], expected=None)
    with pytest.raises(Conflict, match=f"has /ipfs/{roots[0]}, expected /ipfs/{roots[1]}: merge"):
        name.publish(roots[2], expected=roots[1])
    assert name.publish(roots[1], expected=name.resolve()).sequence == 1
    assert name.publish(roots[1], expected=roots[1]).sequence == 2
    assert shown(name.resolve()) == roots[1]


def test_of_many_that_expect_the_same_one_publishes(kubo: Daemon, name: KuboName, roots: list[str]) -> None:
    """Counting to 12 with one object each: none of the steps is lost, and each is made once."""
    values = [kubo.put(bytes([0x82, 0x18, 0x63, number]), "dag-cbor") for number in range(13)]

    def step(number: int) -> int:
        own = KuboName(opened(kubo), name.key, create=False)
        for lost in range(1000):
            before = own.resolve()
            after = values[0 if before is None else values.index(str(before)) + 1]
            try:
                own.publish(after, expected=before)
            except Conflict:
                continue
            return lost
        raise AssertionError("never had a turn")

    with ThreadPoolExecutor(12) as pool:
        lost = list(pool.map(step, range(12)))
    assert shown(name.resolve()) == values[11] and sum(lost) > 0
    assert name.publish(values[12], expected=values[11]).sequence == 12


def test_an_answer_that_was_lost_is_no_conflict(kubo: Daemon, name: KuboName, roots: list[str]) -> None:
    with Proxy(kubo.rpc_url) as proxy, closing(opened(kubo, proxy.url)) as cas:
        own = KuboName(cas, name.key)
        proxy.rule(Drop(after=True), lambda request: "name/publish" in request.route, times=2)
        assert own.publish(roots[0], expected=None).sequence == 0
        assert sum("name/publish" in request.route for request in proxy.requests) == 3
        proxy.rule(Drop(after=True), lambda request: "key/gen" in request.route, times=1)
        made = KuboName(cas, f"name-{uuid4().hex}")
        assert made.id == KuboName(cas, made.key, create=False).id


def test_another_who_comes_first_while_an_answer_is_lost_is_a_conflict(
    kubo: Daemon, name: KuboName, roots: list[str]
) -> None:
    def other_first(request: Request) -> Drop | None:
        if "name/publish" not in request.route:
            return None
        kubo.rpc("name/publish", {"arg": roots[1], "key": name.id, "allow-offline": True})
        return Drop()

    with Proxy(kubo.rpc_url) as proxy, closing(opened(kubo, proxy.url)) as cas:
        own = KuboName(cas, name.key)
        proxy.rule(other_first, times=1)
        with pytest.raises(Conflict, match=f"has /ipfs/{roots[1]}, expected nothing"):
            own.publish(roots[0], expected=None)


def test_a_root_that_the_daemon_lacks_is_not_published(name: KuboName) -> None:
    absent = text(identify(uuid4().bytes, 0x71))
    with pytest.raises(BlockNotFound, match=f"{absent}.*Copy the root there first"):
        name.publish(absent)
    assert name.resolve() is None


def test_names_and_their_numbers_outlive_the_daemon(new_kubo: Callable[..., Daemon]) -> None:
    daemon = new_kubo()
    roots = [daemon.put(bytes([0x81, number]), "dag-cbor") for number in range(2)]
    with closing(opened(daemon)) as cas:
        name = KuboName(cas, "era5")
        name.publish(roots[0]), name.publish(roots[1])
        daemon.kill()
        daemon.start()
        assert shown(name.resolve()) == roots[1]
        assert name.publish(roots[0], expected=roots[1]).sequence == 2


def test_without_a_gateway_an_offline_daemon_does_not_tell_its_records(
    kubo: Daemon, name: KuboName, roots: list[str]
) -> None:
    with closing(KuboCAS(rpc_base_url=kubo.rpc_url)) as cas:
        own = KuboName(cas, name.key)
        assert own.publish(roots[0]) == Published(name.id, own.resolve(), None)  # type: ignore[arg-type]
        with pytest.raises(CASError, match="make the KuboCAS with gateway_base_url too"):
            own.publish(roots[1], expected=roots[0])
        assert shown(own.resolve()) == roots[0]


def test_a_daemon_on_the_network_tells_its_records_itself(
    kubo: Daemon, name: KuboName, roots: list[str]
) -> None:
    """Its `name/get`, which these daemons are too offline for."""
    name.publish(roots[0])
    record = record_of(kubo, name.id)
    with Proxy(kubo.rpc_url) as proxy, closing(KuboCAS(rpc_base_url=proxy.url)) as cas:
        own = KuboName(cas, name.key)
        proxy.rule(Status(200, body=record), lambda request: "name/get" in request.route)
        assert own.publish(roots[1], expected=roots[0]).sequence == 1
        with pytest.raises(Conflict):  # the record is an old one now, and the daemon does not take its number
            own.publish(roots[2], expected=roots[0])
        assert shown(own.resolve()) == roots[1]


def test_names_end(kubo: Daemon, cas: KuboCAS, name: KuboName, roots: list[str]) -> None:
    name.publish(roots[0], lifetime_hours=SECOND)
    record = record_of(kubo, name.id)
    time.sleep(1.1)
    assert name.resolve() is None
    with pytest.raises(Conflict, match="has nothing, or an expired record, expected"):
        name.publish(roots[1], expected=roots[0])
    with pytest.raises(Conflict, match="expected nothing"):
        name.publish(roots[1], expected=None)
    with Proxy(kubo.gateway_url) as proxy:
        proxy.rule(Status(200, body=record))
        with pytest.raises(BadRecord, match=f"{proxy.url}: .*it expired at 20"):
            resolve_name(name.id, GatewayCAS(proxy.url))
    assert name.publish(roots[1]).sequence == 1
    assert shown(name.resolve()) == roots[1]


def test_options_are_checked_before_anything_is_sent(cas: KuboCAS, name: KuboName, roots: list[str]) -> None:
    for wrong in ({"lifetime_hours": 0}, {"lifetime_hours": float("nan")}, {"ttl_seconds": -1}):
        with pytest.raises(InvalidInput, match=next(iter(wrong))):
            name.publish(roots[0], **wrong)  # type: ignore[arg-type]
    for key in ("", "k" * 201, 5):
        with pytest.raises(InvalidInput, match="key="):
            KuboName(cas, key)  # type: ignore[arg-type]
    for root in ("nonsense", f"{roots[0]}x"):
        with pytest.raises(InvalidInput, match="not a CID"):
            name.publish(root)
    assert name.resolve() is None


def test_a_name_travels(name: KuboName, roots: list[str], tmp_path: Path) -> None:
    name.publish(roots[0])
    copy = pickle.loads(pickle.dumps(name))
    assert (copy.id, copy.key, shown(copy.resolve())) == (name.id, name.key, roots[0])
    assert name.id in repr(copy)
