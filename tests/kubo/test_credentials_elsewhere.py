"""Credentials in other processes, wrong ones, and those that servers refuse."""

import gc
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from hamt_bulk import GatewayCAS, KuboCAS
from hamt_bulk.block import MAX_BLOCK_BYTES
from hamt_bulk.cas.ipfs.credentials import AUTH_VARIABLE, HEADERS_VARIABLE
from hamt_bulk.errors import CASError, InvalidInput, NotPortable

from .daemon import Daemon
from .proxy import Proxy

AUTH = "bearer:t0ken-with-s3cret"


@pytest.fixture(scope="module")
def daemon(ipfs_binary: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """One that asks for `AUTH`."""
    users = {"somebody": {"AuthSecret": AUTH, "AllowedPaths": ["/api/v0"]}}
    folder = tmp_path_factory.mktemp("kubo")
    with Daemon(ipfs_binary, folder, {"API.Authorizations": users}, AUTH) as daemon:
        yield daemon


IN_ANOTHER_PROCESS = """
import pickle, sys
cas = pickle.loads(bytes.fromhex(sys.argv[1]))
try:
    print(cas.load_many([sys.argv[2]]), repr(cas))
except Exception as error:
    print(type(error).__name__, error)
cas.close()
"""


def elsewhere(cas: object, cid: str, **environment: str) -> str:
    command = [sys.executable, "-c", IN_ANOTHER_PROCESS, pickle.dumps(cas).hex(), cid]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, timeout=60)
    assert not done.returncode and not done.stderr, done.stderr
    assert "s3cret" not in done.stdout
    return done.stdout


def test_another_process_takes_its_own_or_says_what_to_set(daemon: Daemon) -> None:
    cid = daemon.put(b"value")
    for cas in (
        KuboCAS(rpc_base_url=daemon.rpc_url, auth=AUTH),
        KuboCAS(rpc_base_url=daemon.rpc_url.replace("://", "://user:s3cret@")),
    ):
        assert elsewhere(cas, cid, **{AUTH_VARIABLE: AUTH}).startswith("[b'value']")
        by_header = {HEADERS_VARIABLE: '{"Authorization": "Bearer t0ken-with-s3cret"}'}
        assert elsewhere(cas, cid, **by_header).startswith("[b'value']")
        without = elsewhere(cas, cid)
        assert without.startswith("NotPortable") and AUTH_VARIABLE in without
    nothing = KuboCAS(rpc_base_url=daemon.rpc_url)
    assert elsewhere(nothing, cid).startswith("CommandFailed")


def test_a_process_that_only_passes_a_store_on_loses_nothing(
    daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here it comes back from one without credentials, and is used where it was made."""
    cid = daemon.put(b"value")
    passing = "import pickle, sys; print(pickle.dumps(pickle.loads(bytes.fromhex(sys.argv[1]))).hex())"
    cas = KuboCAS(rpc_base_url=daemon.rpc_url, auth=AUTH)
    command = [sys.executable, "-c", passing, pickle.dumps(cas).hex()]
    back = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    assert pickle.loads(bytes.fromhex(back)).load_many([cid]) == [b"value"]


def test_a_pickle_outlives_what_it_was_made_of(daemon: Daemon) -> None:
    cid = daemon.put(b"value")
    pickled = pickle.dumps(KuboCAS(rpc_base_url=daemon.rpc_url, auth=AUTH))
    gc.collect()
    assert pickle.loads(pickled).load_many([cid]) == [b"value"]


def test_credentials_that_come_later_are_taken(daemon: Daemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker whose environment was incomplete need not be started again."""
    made = "import pickle, hamt_bulk, sys; print(pickle.dumps(hamt_bulk.KuboCAS(rpc_base_url=sys.argv[1], auth='bearer:x')).hex())"
    command = [sys.executable, "-c", made, daemon.rpc_url]
    pickled = bytes.fromhex(
        subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout
    )
    cid = daemon.put(b"value")
    with pytest.raises(NotPortable, match=AUTH_VARIABLE):
        pickle.loads(pickled).load_many([cid])
    monkeypatch.setenv(AUTH_VARIABLE, AUTH)
    assert pickle.loads(pickled).load_many([cid]) == [b"value"]


@pytest.mark.parametrize("kind", ["url", "auth", "behind a daemon"])
def test_a_daemons_credentials_are_not_for_gateways_elsewhere_either(daemon: Daemon, kind: str) -> None:
    """A worker's environment has the daemon's, and a gateway's own do not travel."""
    cid = daemon.put(b"value")
    with Proxy(daemon.gateway_url) as gateway:
        with_user = gateway.url.replace("://", "://user:s3cret@")
        cas = {
            "url": lambda: GatewayCAS(with_user),
            "auth": lambda: GatewayCAS(gateway.url, auth="bearer:other"),
            "behind a daemon": lambda: KuboCAS(
                rpc_base_url=daemon.rpc_url, auth=AUTH, gateway_base_urls=[with_user]
            ),
        }[kind]()
        shown = elsewhere(cas, cid, **{AUTH_VARIABLE: AUTH})
        assert not any(request.authorization for request in gateway.requests)
        assert shown.startswith(("NotPortable", "[b'value']"))


def test_headers_go_along_with_a_password_in_the_url(daemon: Daemon) -> None:
    cid = daemon.put(b"value")
    with Proxy(daemon.rpc_url) as rpc:
        url = rpc.url.replace("://", "://user:password@")
        cas = KuboCAS(rpc_base_url=url, headers={"X-Api-Key": "key"})
        with pytest.raises(CASError):
            cas.load_many([cid])
        assert [request.headers.get("x-api-key") for request in rpc.requests] == ["key"]


@pytest.mark.parametrize(
    "auth", [None, "bearer:other", ("user", "password"), httpx.BasicAuth("a", "b")], ids=str
)
@pytest.mark.parametrize("proxied", [False, True])
def test_a_large_upload_that_is_refused_says_what_is_missing(
    daemon: Daemon, auth: Any, proxied: bool
) -> None:
    """The daemon answers before it has read, and lets go of the connection: once, and not once for each retry."""
    with Proxy(daemon.rpc_url) as rpc:
        url = rpc.url if proxied else daemon.rpc_url
        cas = KuboCAS(rpc_base_url=url, auth=auth, initial_delay=0.01)
        refused = pytest.raises(CASError, match=f"{url}: dag/import failed: 403 .*Access Denied.*credentials")
        # What was sent in the meantime is refused by the next call, whichever that is.
        with cas.writer() as writer, refused:
            for number in range(17):
                writer.save(bytes([number]) * MAX_BLOCK_BYTES)
            writer.flush()
        with pytest.raises(CASError, match=f"{url}: block/get failed: 403 .*credentials"):
            cas.load_many([daemon.put(b"value")])
        cas.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"auth": "t0ken-with-s3cret"},
        {"auth": "bearer:"},
        {"auth": "Bearer t0ken-with-s3cret"},
        {"auth": "basic:s3cret"},
        {"auth": ("user:name", "s3cret")},
        {"auth": "bearer:s3cret\n"},
        {"auth": "bearer:s3crét"},
        {"auth": ("user", "s3cret", "more")},
        {"auth": b"bearer:s3cret"},
        {"headers": {"X-Key": "s3cret\r\nX-Other: value"}},
        {"headers": {"X-Key": b"s3cret"}},
        {"headers": {"X-Key:": "s3cret"}},
        {"headers": {"": "s3cret"}},
    ],
    ids=str,
)
def test_what_cannot_be_sent_is_refused_at_once_and_not_shown(wrong: dict[str, Any]) -> None:
    for kind in (KuboCAS, GatewayCAS):
        with pytest.raises(InvalidInput, match=r"auth|header") as raised:
            kind(**wrong) if kind is KuboCAS else kind("http://127.0.0.1:9", **wrong)
        assert "s3c" not in str(raised.value)


@pytest.mark.parametrize("name", [AUTH_VARIABLE, HEADERS_VARIABLE])
@pytest.mark.parametrize("value", ["s3cret", '["s3cret"]', '{"X-Key": 5}', "bearer:"])
def test_a_variable_that_is_none_is_named(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(InvalidInput, match=name) as raised:
        KuboCAS()
    assert "s3c" not in str(raised.value)
