"""A real Kubo daemon, with a repository and ports of its own."""

import base64
import json
import os
import signal
import socket
import subprocess
import time
import weakref
from collections.abc import Mapping
from contextlib import suppress
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from random import SystemRandom
from typing import Any, NamedTuple
from urllib.parse import urlencode

START_TIMEOUT_SECONDS = 60
STOP_TIMEOUT_SECONDS = 15
CALL_TIMEOUT_SECONDS = 120
START_ATTEMPTS = 5
"""When other processes take the ports first."""

PORTS = range(20_000, 32_000)
"""Below those that systems give to clients, who could take one while the daemon is down."""

DEFAULTS = {"Import.BatchMaxNodes": 16384, "Provide.Enabled": False, "Gateway.NoFetch": True}
"""The settings of every daemon, on top of Kubo's profile `test`."""

EMPTY_FOLDER = "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"
"""Kubo pins this one itself."""


class KuboError(Exception):
    """The daemon or its command line refused. `status` is the HTTP answer's; the command line has none."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


class DagStat(NamedTuple):
    """What is under a root, each block counted once."""

    blocks: int
    size: int
    """In bytes."""


def free_port() -> int:
    """A port of the loopback that nobody has at this moment."""
    while True:
        port = SystemRandom().choice(PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Daemon:
    """
    A Kubo daemon on the loopback, without a network. Use it as a context manager, which starts and stops it.

    The first start chooses its ports; later ones keep them.
    """

    def __init__(
        self,
        binary: Path,
        folder: Path,
        config: Mapping[str, Any] | None = None,
        authorization: str | None = None,
    ) -> None:
        """
        folder         where the repository is made, as `repo`, and the log
        config         by dotted path: {"Gateway.NoFetch": False}
        authorization  what `rpc` and `ipfs` show, as Kubo writes it: "bearer:…" or "basic:user:…"
        """
        self.binary = binary
        self.repo = folder / "repo"
        self.log = folder / "daemon.log"
        self.authorization = authorization
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("IPFS_")}
        self._env |= {"IPFS_PATH": str(self.repo), "IPFS_TELEMETRY": "off"}
        self._ports = (0, 0)
        self._process: subprocess.Popen[bytes] | None = None
        self._end_at_exit: weakref.finalize[..., Any] | None = None
        folder.mkdir(parents=True, exist_ok=True)
        self.ipfs("init", "--profile=test")
        self.configure({**DEFAULTS, **(config or {})})

    @property
    def rpc_url(self) -> str:
        """Without `/api/v0`."""
        return f"http://127.0.0.1:{self._ports[0]}"

    @property
    def gateway_url(self) -> str:
        """Without `/ipfs`."""
        return f"http://127.0.0.1:{self._ports[1]}"

    @property
    def pid(self) -> int | None:
        """Of the running daemon."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def configure(self, config: Mapping[str, Any]) -> None:
        """Change settings, by dotted path. The next start has them."""
        path = self.repo / "config"
        settings = json.loads(path.read_bytes())
        for name, value in config.items():
            *sections, last = name.split(".")
            place = settings
            for section in sections:
                place = place.setdefault(section, {})
            place[last] = value
        path.write_text(json.dumps(settings))

    def start(self) -> None:
        """Start, and wait until the RPC and the gateway answer. Raises `KuboError` with the log."""
        assert self.pid is None, "the daemon is running"
        is_first = self._ports == (0, 0)
        for attempt in range(1, START_ATTEMPTS + 1):
            if is_first:
                self._ports = (free_port(), free_port())
                rpc, gateway = (f"/ip4/127.0.0.1/tcp/{port}" for port in self._ports)
                self.configure({"Addresses.API": rpc, "Addresses.Gateway": gateway})
            try:
                return self._start()
            except KuboError as error:
                self.kill()
                if attempt == START_ATTEMPTS or "address already in use" not in str(error):
                    raise
            time.sleep(0 if is_first else 1)

    def _start(self) -> None:
        addresses = [self.repo / "api", self.repo / "gateway"]
        for path in addresses:
            path.unlink(missing_ok=True)  # Killed daemons leave theirs.
        command = [str(self.binary), "daemon", "--offline"]
        with self.log.open("wb") as log:
            # A session of its own: Ctrl-C would end the daemon before the tests have.
            process = subprocess.Popen(
                command,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._process = process
        self._end_at_exit = weakref.finalize(self, _kill, process, _guard(process.pid))
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        while not (all(path.exists() for path in addresses) and self._answers()):
            if process.poll() is not None or time.monotonic() > deadline:
                said = self.log.read_text(errors="replace")
                raise KuboError(f"the daemon does not start (exit status {process.poll()}):\n{said}")
            time.sleep(0.01)

    def _answers(self) -> bool:
        try:
            self.rpc("version")
        except KuboError as error:
            return error.status is not None  # One that wants other credentials is up.
        except OSError:
            return False
        return True

    def stop(self) -> None:
        """End the daemon as Ctrl-C does. It can be stopped twice."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_TIMEOUT_SECONDS)
        self.kill()

    def kill(self) -> None:
        """End the daemon as a crash does."""
        if self._end_at_exit is not None:
            self._end_at_exit()
        self._process = self._end_at_exit = None

    def restart(self) -> None:
        """Stop, and start on the same ports."""
        self.stop()
        self.start()

    def __enter__(self) -> "Daemon":
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def ipfs(self, *args: str | Path, input: bytes | None = None) -> bytes:
        """What the command line prints. It asks the daemon; without a running one it opens the repository."""
        shown = [] if self.authorization is None else [f"--api-auth={self.authorization}"]
        done = subprocess.run(
            [self.binary, *shown, *args],
            env=self._env,
            input=input,
            capture_output=True,
            timeout=CALL_TIMEOUT_SECONDS,
        )
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip()
            raise KuboError(f"ipfs {' '.join(map(str, args))} failed: {said}")
        return done.stdout

    def rpc(self, path: str, params: Mapping[str, Any] | None = None, file: bytes | None = None) -> bytes:
        """The body of the answer to `POST /api/v0/{path}`. A list among `params` repeats its name."""
        words = {name: str(v).lower() if isinstance(v, bool) else v for name, v in (params or {}).items()}
        headers = {} if self.authorization is None else {"Authorization": header(self.authorization)}
        body = b""
        if file is not None:
            boundary = os.urandom(16).hex()
            headers["Content-Type"] = f"multipart/form-data; boundary={boundary}"
            head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="file"\r\n\r\n'
            body = b"%b%b\r\n--%b--\r\n" % (head.encode(), file, boundary.encode())
        connection = HTTPConnection("127.0.0.1", self._ports[0], timeout=CALL_TIMEOUT_SECONDS)
        try:
            connection.request("POST", f"/api/v0/{path}?{urlencode(words, doseq=True)}", body, headers)
            answer = connection.getresponse()
            said = answer.read()
        except HTTPException as error:
            raise KuboError(f"{path}: {error!r}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise KuboError(f"{path}: {answer.status} {said.decode(errors='replace').strip()}", answer.status)
        return said

    def add(self, data: bytes, *, hasher: str = "blake3", pin: bool = False) -> str:
        """The CID of `data` as a file with chunks of 1 MiB."""
        params = {"chunker": "size-1048576", "raw-leaves": True, "cid-version": 1, "hash": hasher, "pin": pin}
        return str(json.loads(self.rpc("add", params, data))["Hash"])

    def put(self, data: bytes, codec: str = "raw", *, hasher: str = "blake3", pin: bool = False) -> str:
        """The CID of the block `data`."""
        params = {"cid-codec": codec, "mhtype": hasher, "pin": pin}
        return str(json.loads(self.rpc("block/put", params, data))["Key"])

    def get(self, cid: str) -> bytes:
        """The block."""
        return self.rpc("block/get", {"arg": cid, "offline": True})

    def has(self, cid: str) -> bool:
        """Whether the block is here. Kubo keeps blocks by multihash: the codec does not count."""
        try:
            self.rpc("block/stat", {"arg": cid, "offline": True})
        except KuboError as error:
            if "not found" in str(error):
                return False
            raise
        return True

    def pins(self) -> dict[str, str]:
        """The recursive pins, with their names; "" is a pin without one. Kubo's own is left out."""
        found = json.loads(self.rpc("pin/ls", {"type": "recursive", "names": True})).get("Keys", {})
        return {cid: pin.get("Name", "") for cid, pin in found.items() if cid != EMPTY_FOLDER}

    def stat(self, root: str) -> DagStat:
        """What is under `root`; raises `KuboError` if a block is missing."""
        said = json.loads(self.rpc("dag/stat", {"arg": root, "progress": False, "offline": True}))
        return DagStat(said["UniqueBlocks"], said["TotalSize"])

    def gc(self) -> set[str]:
        """Remove what no pin holds. The CIDs of what was removed all say `raw`."""
        lines = [json.loads(line) for line in self.rpc("repo/gc").splitlines()]
        if failed := [line["Error"] for line in lines if line.get("Error")]:
            raise KuboError(f"repo/gc: {failed}")
        return {line["Key"]["/"] for line in lines}


def header(authorization: str) -> str:
    """The value of the header `Authorization` for a secret as Kubo's settings write it."""
    scheme, _, secret = authorization.partition(":")
    if scheme == "basic":
        return f"Basic {base64.b64encode(secret.encode()).decode()}"
    return f"Bearer {secret}"


def _guard(pid: int) -> subprocess.Popen[bytes]:
    """A process that kills `pid` once this one is gone, however it went."""
    command = ["sh", "-c", 'read -r line || kill -9 "$0"', str(pid)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)


def _kill(process: subprocess.Popen[bytes], guard: subprocess.Popen[bytes]) -> None:
    # First: afterwards the pid may be another's.
    guard.communicate(b"released\n")
    process.kill()
    process.wait()
