"""The daemon of the tests does what they count on."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from peers.py_hamt import PeerUnavailable

from .daemon import Daemon, KuboError, header
from .program import find_ipfs

NewKubo = Callable[..., Daemon]
ABSENT = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"


def test_the_daemon_stores_and_shows_blocks_files_and_pins(kubo: Daemon) -> None:
    data = os.urandom(3 << 20)
    root = kubo.add(data, pin=True)
    assert root.startswith("bafyb4i"), "a CIDv1 of dag-pb and blake3"
    assert kubo.pins()[root] == ""
    assert kubo.stat(root).blocks == 4
    assert kubo.ipfs("cat", root) == data
    leaf = kubo.put(data[: 1 << 20])
    assert kubo.get(leaf) == data[: 1 << 20]
    assert kubo.has(leaf) and not kubo.has(ABSENT)
    with pytest.raises(KuboError, match="could not find"):
        kubo.stat(ABSENT)
    kubo.rpc("pin/add", {"arg": leaf, "name": "a leaf"})
    assert kubo.pins()[leaf] == "a leaf"
    kubo.rpc("pin/rm", {"arg": [root, leaf]})
    assert not {root, leaf} & kubo.pins().keys()


def test_what_was_stored_survives_a_crash_on_the_same_ports(new_kubo: NewKubo) -> None:
    kubo = new_kubo()
    urls = kubo.rpc_url, kubo.gateway_url
    root = kubo.add(b"a", pin=True)
    kubo.kill()
    assert kubo.pid is None
    with pytest.raises(ConnectionRefusedError):
        kubo.rpc("version")
    assert kubo.ipfs("cat", root) == b"a", "without a daemon the command line opens the repository"
    kubo.start()
    kubo.restart()
    assert (kubo.rpc_url, kubo.gateway_url) == urls
    assert kubo.get(root) == b"a" and root in kubo.pins()


def test_gc_removes_what_no_pin_holds(new_kubo: NewKubo) -> None:
    kubo = new_kubo()
    kept, gone = kubo.put(b"kept", pin=True), kubo.put(b"\xa0", "dag-cbor")
    assert kubo.has(gone)
    removed = kubo.gc()
    assert gone[-50:] in {cid[-50:] for cid in removed}, "of another codec, with the same digest"
    assert kept not in removed
    assert kubo.has(kept) and not kubo.has(gone)


def test_a_daemon_with_credentials_refuses_those_without(new_kubo: NewKubo) -> None:
    grant = {"AuthSecret": "basic:us:pa:ss", "AllowedPaths": ["/api/v0"]}
    kubo = new_kubo({"API.Authorizations": {"us": grant}}, authorization="basic:us:pa:ss")
    assert kubo.ipfs("cat", kubo.add(b"a")) == b"a"
    kubo.authorization = None
    with pytest.raises(KuboError, match="403") as raised:
        kubo.rpc("version")
    assert raised.value.status == 403
    assert header("bearer:x") == "Bearer x"


def test_ports_that_are_taken_are_left_to_others_and_the_log_says_why_a_start_fails(
    kubo: Daemon, new_kubo: NewKubo, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = int(kubo.rpc_url.rpartition(":")[2])
    ports = iter([taken, taken, *range(12_000, 12_100)])
    monkeypatch.setattr("kubo.daemon.free_port", lambda: next(ports))
    second = new_kubo()
    assert second.rpc_url != kubo.rpc_url and second.pid != kubo.pid
    second.stop()
    second.configure({"Addresses.API": "nowhere"})
    with pytest.raises(KuboError, match="does not start"):
        second.start()
    assert second.pid is None


def test_a_daemon_ends_with_the_process_that_started_it(ipfs_binary: Path, tmp_path: Path) -> None:
    """Even when that is killed."""
    script = (
        "import pathlib, sys, time; from kubo.daemon import Daemon; "
        "daemon = Daemon(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])); daemon.start(); "
        "print(daemon.pid, flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", script, str(ipfs_binary), str(tmp_path)]
    tests = Path(__file__).parent.parent
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=tests) as process:
        assert process.stdout is not None
        daemon = psutil.Process(int(process.stdout.readline()))
        assert daemon.is_running()
        process.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + 10
    with suppress(psutil.NoSuchProcess):
        while daemon.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
            time.sleep(0.01)
        assert daemon.status() == psutil.STATUS_ZOMBIE


def test_without_ipfs_and_go_the_reason_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An ipfs that is too old is none."""
    old = tmp_path / "ipfs"
    old.write_text("#!/bin/sh\necho 0.39.0\n")
    old.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PeerUnavailable, match=r"no ipfs of version 0\.40 or newer, and no go"):
        find_ipfs()
