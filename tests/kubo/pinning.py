"""
A pinning service without an IPFS node: it keeps requests, and whoever asks for one moves it on.

As the IPFS Pinning Service API 1.0 says, https://ipfs.github.io/pinning-services-api-spec/; Kubo's own client is
one of its users in the tests.
"""

import json
import threading
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

BASE = "/psa"
STATES = ("queued", "pinning", "pinned")
MAX_PAGE = 1000


class PinningServer:
    """A service on the loopback while its `with` block runs."""

    def __init__(self, token: str, most: int = MAX_PAGE) -> None:
        """
        token  what it wants to be shown
        most   how many requests it gives in one answer
        """
        self.token = token
        self.most = most
        self.pins: dict[str, dict[str, Any]] = {}
        """By request ID, the oldest first."""
        self.unavailable: set[str] = set()
        """The CIDs that nobody has."""
        self.stuck = False
        """Whether what is queued stays so."""
        self.removed: list[str] = []
        self.asked: list[tuple[str, str]] = []
        """Methods and paths with queries."""
        self._lock = threading.Lock()
        self._made = 0
        handler = type("Bound", (_Handler,), {"service": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(
            target=self._http.serve_forever, args=(0.01,), name="pinning", daemon=True
        )

    @property
    def origin(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def url(self) -> str:
        return self.origin + BASE

    def __enter__(self) -> "PinningServer":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def answer(self, method: str, path: str, authorization: str, body: bytes) -> tuple[int, Any]:
        """The status and the JSON of an answer."""
        with self._lock:
            self.asked.append((method, path))
            parts = urlsplit(path)
            if authorization != f"Bearer {self.token}":
                return failure(401, "UNAUTHORIZED", f"Access token is missing or invalid: {authorization}")
            if parts.path != f"{BASE}/pins" and not parts.path.startswith(f"{BASE}/pins/"):
                return failure(404, "NOT_FOUND", "no such path")
            request_id = unquote(parts.path.removeprefix(f"{BASE}/pins").removeprefix("/"))
            if request_id and request_id not in self.pins:
                return failure(404, "NOT_FOUND", "The specified resource was not found")
            match method:
                case "GET" if request_id:
                    return 200, self._moved_on(self.pins[request_id])
                case "GET":
                    return self._listed(parse_qs(parts.query))
                case "POST":
                    return self._made_from(body, request_id)
                case "DELETE" if request_id:
                    del self.pins[request_id]
                    self.removed.append(request_id)
                    return 202, None
            return failure(400, "BAD_REQUEST", method)

    def _made_from(self, body: bytes, replaced: str) -> tuple[int, Any]:
        pin = json.loads(body)
        if not isinstance(pin.get("cid"), str) or not set(pin) <= {"cid", "name", "origins", "meta"}:
            return failure(400, "BAD_REQUEST", f"not a pin: {sorted(pin)}")
        if replaced:
            del self.pins[replaced]
        self._made += 1
        request_id = f"request {self._made}/é"  # an opaque text
        created = f"2026-01-01T00:{self._made // 60:02}:{self._made % 60:02}.000Z"
        self.pins[request_id] = {
            "requestid": request_id,
            "status": "queued",
            "created": created,
            "pin": pin,
            "delegates": ["/dns4/node.example/tcp/4001/p2p/12D3KooWExample"],
            "info": {"status_details": "Queue position: 1 of 1"},
        }
        return 202, self.pins[request_id]

    def _moved_on(self, pin: dict[str, Any]) -> dict[str, Any]:
        if pin["status"] in STATES[:2] and not self.stuck:
            if pin["status"] == "pinning" and pin["pin"]["cid"] in self.unavailable:
                pin |= {"status": "failed", "info": {"status_details": "no providers found"}}
            else:
                pin |= {"status": STATES[STATES.index(pin["status"]) + 1], "info": {}}
        return pin

    def _listed(self, query: dict[str, list[str]]) -> tuple[int, Any]:
        status, cids = several(query, "status") or ["pinned"], several(query, "cid")
        name, limit = query.get("name", [None])[0], int(query.get("limit", ["10"])[0])
        before, after = (moment(query[key][0]) if key in query else None for key in ("before", "after"))
        if query.get("match", ["exact"]) != ["exact"] or not 1 <= limit <= MAX_PAGE:
            return failure(400, "BAD_REQUEST", f"match or limit: {query}")
        found = [
            pin
            for pin in reversed(self.pins.values())
            if pin["status"] in status
            and (not cids or pin["pin"]["cid"] in cids)
            and (name is None or pin["pin"].get("name", "") == name)
            and (before is None or moment(pin["created"]) < before)
            and (after is None or moment(pin["created"]) > after)
        ]
        return 200, {"count": len(found), "results": found[: min(limit, self.most)]}


def several(query: dict[str, list[str]], name: str) -> list[str]:
    """The values of a parameter, which version 1.0 separates by commas and older ones repeat."""
    return [value for values in query.get(name, []) for value in values.split(",")]


def moment(text: str) -> datetime:
    """A time, which has a fraction of a second or not."""
    return datetime.fromisoformat(text)


def failure(status: int, reason: str, details: str) -> tuple[int, Any]:
    """An answer that refuses."""
    return status, {"error": {"reason": reason, "details": details}}


class _Handler(BaseHTTPRequestHandler):
    service: PinningServer
    protocol_version = "HTTP/1.1"

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, said = self.service.answer(
            self.command, self.path, self.headers.get("Authorization", ""), body
        )
        data = b"" if said is None else json.dumps(said).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = do_DELETE = _answer

    def log_message(self, format: str, *args: Any) -> None:
        pass
