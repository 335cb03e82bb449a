"""What names point to: asked of a daemon, or in signed records from gateways that nobody trusts."""

import json
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from hamt_bulk.block import identify, text
from hamt_bulk.cas import GatewayCAS, InMemoryCAS, KuboCAS
from hamt_bulk.errors import CASError, Conflict, HamtError, InvalidInput
from hamt_bulk.ipfs.names import KuboName
from hamt_bulk.ipfs.records import BadRecord, key_of, name_of, read_record
from hamt_bulk.ipfs.resolve import NameNotFound, resolve_name
from kubo.daemon import Daemon
from kubo.faults import Alter, Status
from kubo.naming import opened, record_of
from kubo.proxy import Proxy

NOBODYS = "k51qzi5uqu5dgutdk6i1ynyzgkqngpha5xpgia3a5qqp4jsh0u4csozksxel2r"


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


def test_a_name_that_was_never_published_is_not_found(kubo: Daemon, cas: KuboCAS, name: KuboName) -> None:
    start = time.monotonic()
    for store in (cas, GatewayCAS(kubo.gateway_url)):
        for absent in (name.id, NOBODYS):
            with pytest.raises(NameNotFound, match="never published, or has expired"):
                resolve_name(absent, store)
    assert time.monotonic() - start < 5, "which is not asked for again and again"
    with pytest.raises(NameNotFound, match="has no key 'nothing'"):
        KuboName(cas, "nothing", create=False)


def test_no_bit_of_a_record_changes_what_it_says(kubo: Daemon, name: KuboName, roots: list[str]) -> None:
    """But for those that nobody looks at, such as the signature for old readers, each makes it a bad one."""
    name.publish(roots[0]), name.publish(roots[1])
    record, key, now = record_of(kubo, name.id), key_of(name.id), datetime.now(UTC)
    said, same = read_record(key, record, now), []
    assert (said.value, said.sequence) == (f"/ipfs/{roots[1]}", 1)
    for at in range(8 * len(record)):
        altered = bytearray(record)
        altered[at // 8] ^= 1 << at % 8
        try:
            assert read_record(key, bytes(altered), now) == said
            same.append(at // 8)
        except BadRecord:
            pass
    old_signature = record.index(b"\x12\x40")  # field 2 of 64 bytes
    assert set(range(old_signature + 2, old_signature + 66)) <= set(same)
    assert len(set(same)) < 80
    for size in range(len(record)):
        with pytest.raises(BadRecord):
            read_record(key, record[:size], now)


def test_gateways_cannot_make_records_up(
    kubo: Daemon, cas: KuboCAS, name: KuboName, roots: list[str]
) -> None:
    name.publish(roots[0])
    other = KuboName(cas, f"name-{uuid4().hex}")
    other.publish(roots[1])
    with Proxy(kubo.gateway_url) as proxy:
        gateway = GatewayCAS(proxy.url, initial_delay=0.01)
        assert str(resolve_name(name.id, gateway)) == roots[0]
        proxy.rule(Alter(20), times=1)
        with pytest.raises(BadRecord, match=f"{proxy.url}: the record of {name.id}"):
            resolve_name(name.id, gateway)
        for body in (record_of(kubo, other.id), b"", b"<html>", bytes(11 << 10)):
            proxy.rule(Status(200, body=body), times=1)
            with pytest.raises(BadRecord):
                resolve_name(name.id, gateway)
        proxy.rule(Alter(20), times=1)
        both = GatewayCAS([proxy.url, kubo.gateway_url], initial_delay=0.01)
        assert str(resolve_name(name.id, both)) == roots[0], "another gateway has a good one"
        proxy.rule(Status(500, body=b"boom"), times=2)
        assert str(resolve_name(name.id, gateway)) == roots[0], "a gateway that stumbles is asked again"
        proxy.rule(Status(403, body=b"no"))
        with pytest.raises(CASError, match="answered 403 no for the record"):
            resolve_name(name.id, gateway)


def test_names_of_rsa_keys_are_only_hashes_and_their_records_bring_the_key(
    kubo: Daemon, cas: KuboCAS, roots: list[str]
) -> None:
    key = f"rsa-{uuid4().hex}"
    kubo.rpc("key/gen", {"arg": key, "type": "rsa"})
    name = KuboName(cas, key)
    name.publish(roots[0], expected=None)
    assert str(resolve_name(name.id, GatewayCAS(kubo.gateway_url))) == roots[0]
    record, now = record_of(kubo, name.id), datetime.now(UTC)
    said = read_record(key_of(name.id), record, now)
    for at in range(len(record)):
        altered = bytearray(record)
        altered[at] ^= 4
        with suppress(BadRecord):
            assert read_record(key_of(name.id), bytes(altered), now) == said
    with pytest.raises(BadRecord, match="it brings another key"):
        read_record(b"\x12\x20" + bytes(32), record, now)
    with pytest.raises(BadRecord, match="it expired at"):
        read_record(key_of(name.id), record, now + timedelta(days=31))


def test_a_name_may_point_to_a_name_and_not_below_a_root(
    kubo: Daemon, cas: KuboCAS, name: KuboName, roots: list[str]
) -> None:
    other = KuboName(cas, f"name-{uuid4().hex}")
    name.publish(roots[0])

    def point(value: str) -> None:
        kubo.rpc("name/publish", {"arg": value, "key": other.id, "allow-offline": True, "resolve": False})

    point(f"/ipns/{name.id}")
    for store in (cas, GatewayCAS(kubo.gateway_url)):
        assert str(resolve_name(other.id, store)) == roots[0]
    for value in (f"/ipfs/{roots[0]}/a/b", f"/ipns/{other.id}"):
        point(value)
        for store in (cas, GatewayCAS(kubo.gateway_url)):
            with pytest.raises(HamtError, match=r"expected a root|could not resolve"):
                resolve_name(other.id, store)
    with pytest.raises(Conflict):
        other.publish(roots[1], expected=None)


def test_names_are_written_in_several_ways(kubo: Daemon, name: KuboName) -> None:
    listed = json.loads(kubo.rpc("key/list", {"ipns-base": "b58mh"}))["Keys"]
    [peer_id] = [key["Id"] for key in listed if key["Name"] == name.key]
    assert peer_id.startswith("12D3") and key_of(peer_id) == key_of(f"/ipns/{name.id}")
    assert name_of(key_of(peer_id)) == name.id


@pytest.mark.parametrize(
    "wrong",
    ["", "era5", "example.org", "k51", "k51!", text(identify(b"")), "QmUNLLs", "12D3", "zzz", "/ipfs/k51", 5],
)
def test_what_is_no_name_is_refused(kubo: Daemon, wrong: str) -> None:
    for store in (KuboCAS(rpc_base_url=kubo.rpc_url), GatewayCAS(kubo.gateway_url)):
        with pytest.raises(InvalidInput, match="not a name"):
            resolve_name(wrong, store)
    with pytest.raises(InvalidInput, match="knows no names"):
        resolve_name(NOBODYS, InMemoryCAS())
