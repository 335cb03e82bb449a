"""What servers answer: a daemon's RPC, a gateway, a pinning service."""

import json
from collections.abc import Callable, Coroutine
from random import Random
from types import SimpleNamespace
from typing import Any

from hamt_bulk.block import text
from hamt_bulk.cas.ipfs import imports, pins
from hamt_bulk.cas.ipfs.address import address_of
from hamt_bulk.cas.ipfs.credentials import Credentials
from hamt_bulk.cas.ipfs.gateway import Gateway
from hamt_bulk.cas.ipfs.holds import Hold
from hamt_bulk.cas.ipfs.retry import MAX_RETRY_AFTER_SECONDS, Retries, delay_after
from hamt_bulk.cas.ipfs.rpc import Rpc
from hamt_bulk.cas.ipfs.server import Server
from hamt_bulk.cas.ipfs.transport import Answer, Request, Transport
from hamt_bulk.errors import BlockMismatch, BlockNotFound, CASError, InvalidInput
from hamt_bulk.ipfs import names, remotepins, resolve
from hamt_bulk.ipfs.pinapi import PinningApi

from .archives import MIXED, version_1
from .names import KEY, RECORD
from .target import Meter, Target, Wrong

BLOCK = MIXED[2]
NAME = text(BLOCK.cid)
_FAILED = (CASError, BlockNotFound, BlockMismatch, InvalidInput)
_ADDRESS = address_of("http://127.0.0.1:5001", "address")[0]


class _Always(Transport):
    """Gives one answer, however often it is asked; more than a few times is too often."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._meter = Meter(64, "requests")

    async def _send(self, request: Request) -> Answer:
        self._meter.add(1)
        return self._answer

    async def close(self) -> None:
        """There is nothing to close."""


def server(status: int, headers: dict[str, str], body: bytes) -> Server:
    """A server that always answers the same."""
    transport = _Always(Answer(status, headers, body))
    return Server(_ADDRESS, transport, Credentials({}), Retries(0, 1.0, 1.0), 1, trusted=True)


def _run(*calls: Callable[[], Coroutine[Any, Any, object]]) -> None:
    """Runs them, none of which has anything to wait for, and raises the last error when none of them took the answer."""
    errors = []
    for call in calls:
        running = call()
        try:
            running.send(None)
        except StopIteration:
            continue
        except _FAILED as error:
            errors.append(error)
        else:
            running.close()
            raise Wrong("it waits")
        if not str(errors[-1]) or len(str(errors[-1])) > 5000:
            raise Wrong(f"an error of {len(str(errors[-1]))} characters")
    if len(errors) == len(calls):
        raise errors[-1]


def _rpc(data: bytes) -> None:
    rpc = Rpc(server(200, {"content-type": "application/json"}, data))
    _run(
        lambda: rpc.block(BLOCK.cid),
        lambda: _number(rpc.size(BLOCK.cid)),
        rpc.identity,
        lambda: pins.pins(rpc),
        lambda: pins.pin_name(rpc, BLOCK.cid),
        lambda: imports._import(rpc, BLOCK, {}),
        lambda: imports._put_some(rpc, [BLOCK]),
        lambda: names._key_id(rpc, "key", True),
    )


def _refused(data: bytes) -> None:
    for status, kind in ((500, "application/json"), (403, "text/plain"), (404, "")):
        rpc = Rpc(server(status, {"content-type": kind}, data))
        _run(
            lambda rpc=rpc: rpc.block(BLOCK.cid),
            lambda rpc=rpc: rpc.size(BLOCK.cid),
            lambda rpc=rpc: pins._add(rpc, BLOCK.cid, "name"),
            lambda rpc=rpc: pins.unpin(rpc, [BLOCK.cid]),
            lambda rpc=rpc: imports.import_held(rpc, BLOCK, {}),
        )


def _gateway(data: bytes) -> None:
    """The first line of the input is the status and three headers."""
    head, _, body = data.partition(b"\n")
    status, kind, length, target, *_ = [*head.decode("latin-1").split("|"), "", "", "", ""]
    headers = {"content-type": kind, "content-length": length, "location": target}
    code = int(status) if status in ("200", "302", "404", "410", "429", "500", "501") else 200
    gateway = Gateway(server(code, headers, body))
    _run(
        lambda: gateway.block(BLOCK.cid),
        lambda: _number(gateway.size(BLOCK.cid)),
        lambda: gateway.path(BLOCK.cid, ["13", "0"]),
    )


def _service(status: int) -> Callable[[bytes], None]:
    def answered(data: bytes) -> None:
        api = PinningApi(server(status, {}, data), Retries(0, 1.0, 1.0))
        calls = [lambda: api.request("1"), lambda: api.requests("name", None, remotepins.STATES)]
        _run(*calls, *([lambda: api.remove("1")] if status >= 400 else []))

    return answered


def _resolved(data: bytes) -> None:
    """What a name points to, by a gateway's record and by what a daemon says."""
    rpc = Rpc(server(200, {}, data))
    daemon = SimpleNamespace(connection=SimpleNamespace(rpc=rpc, gateways=[]))
    _run(
        lambda: resolve.from_gateways([server(200, {}, data), server(500, {}, data)], KEY),
        lambda: resolve.resolved(daemon, KEY),  # type: ignore[arg-type]
        lambda: Hold("token", "blake3", False).release(rpc),
    )


def _later(data: bytes) -> None:
    """How long a server has us wait."""
    delay = delay_after(Retries(3, 1.0, 2.0), 1, {"retry-after": data.decode("latin-1")}, 1.9e9)
    if not 0 <= delay <= MAX_RETRY_AFTER_SECONDS:
        raise Wrong(f"a wait of {delay} seconds")


async def _number(size: Coroutine[Any, Any, int]) -> None:
    found = await size
    if not isinstance(found, int) or found < 0:
        raise Wrong(f"a size of {found!r}")


def _made(random: Random) -> bytes:
    """A few lines of JSON with the names that answers have."""
    return b"\n".join(json.dumps(_value(random)).encode() for _ in range(random.randint(1, 3)))


def _value(random: Random, depth: int = 0) -> object:
    if depth < 4 and random.random() < (0.95 if depth == 0 else 0.4):
        if depth and random.random() < 0.2:
            return [_value(random, depth + 1) for _ in range(random.randint(0, 3))]
        return {random.choice(_WORDS): _value(random, depth + 1) for _ in range(random.randint(0, 4))}
    values = [
        NAME,
        "",
        "baf" + "a" * 30,
        f"not found {NAME}",
        "pinned",
        None,
        True,
        -1,
        7,
        1 << 70,
        float("inf"),
        0.5,
    ]
    return random.choice(values)


_WORDS = [
    "Key",
    "Keys",
    "Name",
    "Id",
    "ID",
    "Size",
    "Stats",
    "Root",
    "Cid",
    "/",
    "PinErrorMsg",
    "Message",
    "BlockCount",
    "results",
    "count",
    "pin",
    "cid",
    "status",
    "error",
]
_WORDS += [*["reason", "details", "requestid", "created", "delegates", "info", "meta", "Path"], NAME, "key"]
_PIN = {
    "requestid": "1",
    "status": "pinned",
    "created": "2030-01-01T00:00:00Z",
    "pin": {"cid": NAME, "name": "name"},
}
_PIN |= {"delegates": ["/ip4/1.2.3.4/tcp/4001"], "info": {"status_details": "done"}}
_RPC_SEEDS: list[object] = [
    {"Key": NAME, "Size": 9},
    {"ID": "12D3KooW"},
    {"Keys": {NAME: {"Type": "recursive", "Name": "a"}}},
    {"Keys": [{"Name": "key", "Id": names.name_of(KEY)}]},
    {"Id": names.name_of(KEY), "Name": "key"},
    {"Path": f"/ipfs/{NAME}"},
]
_SEEDS = [*(json.dumps(seed).encode() for seed in _RPC_SEEDS), bytes(BLOCK.data)]
_SEEDS.append(
    json.dumps({"Root": {"Cid": {"/": NAME}, "PinErrorMsg": ""}}).encode()
    + b"\n"
    + json.dumps({"Stats": {"BlockCount": 1, "BlockBytesCount": 9}}).encode()
)
_REFUSALS = [
    json.dumps({"Message": message, "Code": 0, "Type": "error"}).encode()
    for message in (
        f"block was not found locally (offline): ipld: could not find {NAME}",
        "not pinned",
        "EOF",
    )
]
_SERVICE = [
    b'{"results": [], "count": Infinity}',
    json.dumps(_PIN).encode(),
    json.dumps({"count": 1, "results": [_PIN]}).encode(),
    json.dumps({"error": {"reason": "NOT_FOUND", "details": "no such request"}}).encode(),
]
_HEAD = b"200|application/vnd.ipld.raw|9|\n"
_GATEWAY = [
    _HEAD + bytes(BLOCK.data),
    b"200|application/vnd.ipld.car|" + b"9" * 5000 + b"|\n" + version_1(MIXED, [BLOCK.cid]),
    b"200|text/html||\n<html>",
    b"404|text/plain|19|\n404 page not found\n",
    b"302|||/elsewhere\n",
    b"500|||\nipfs resolve: could not find\n",
]
_TOKENS = [
    b"[" * 3000,
    b'{"Size": Infinity}',
    b'{"Size": 1e999}',
    b'{"Size": -5}',
    b'"Size": 1.5',
    b"9" * 5000,
    b"null",
    b"[]",
    b"NaN",
    b'"\\ud800"',
    b"\xff\xfe",
    b"baf" + b"y" * 40,
    b"Qm" + b"1" * 44,
    NAME.encode(),
    b"\n",
    b"|",
    b"http://[::1",
    b"//a:b@c",
]

_LATER = [b"9" * 5000, b"-0000", b"+9999", b"Feb", b"99999999", b"\xb2", b"-1", b"1e9", b":"]

TARGETS = [
    Target("rpc answer", _rpc, _SEEDS, _FAILED, _made, _TOKENS),
    Target("rpc refusal", _refused, _REFUSALS, _FAILED, _made, _TOKENS),
    Target("gateway answer", _gateway, _GATEWAY, _FAILED, None, _TOKENS),
    Target("pinning service", _service(200), _SERVICE, _FAILED, _made, _TOKENS),
    Target("pinning refusal", _service(400), _SERVICE, _FAILED, _made, _TOKENS),
    Target("resolved name", _resolved, [RECORD, *_SEEDS], _FAILED, _made, _TOKENS),
    Target("retry-after", _later, [b"7", b"Wed, 21 Oct 2060 07:28:00 GMT"], (), None, _LATER),
]
