"""
What pinning services are asked, and what they say.

    Pin        {cid, name?, origins?: [multiaddr], meta?: {text: text}}
    PinStatus  {requestid, status, created, pin: Pin, delegates: [multiaddr], info?: {text: text}}
    Failure    {error: {reason, details?}}

Source: https://ipfs.github.io/pinning-services-api-spec/
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from multiformats import CID

from hamt_bulk.block import DAG_PB, SHA2_256, AnyCID, cid_head, text, to_bytes, to_cid
from hamt_bulk.cas.ipfs.server import Server
from hamt_bulk.cas.ipfs.transport import Answer
from hamt_bulk.errors import CASError, InvalidInput
from hamt_bulk.foreign import from_json

AUTH_VARIABLE = "HAMT_BULK_PINNING_AUTH"

PinState: TypeAlias = Literal["queued", "pinning", "pinned", "failed"]
"""How far a service is."""

STATES: tuple[PinState, ...] = ("queued", "pinning", "pinned", "failed")
ALIVE: tuple[PinState, ...] = STATES[:3]

MAX_NAME_LENGTH = 255
MAX_ORIGINS = 20

_HINTS = {
    401: f"; give it a token that it knows (auth='bearer:…' or {AUTH_VARIABLE})",
    403: "; the token does not allow this",
    404: "; it has no such request, or the URL is not that of its API",
    409: "; look at the account there",
    429: "; it asks for fewer requests: call again later",
}


class ServiceRefused(CASError):
    """What a pinning service refused; `reason` is its own word for that, `status` the HTTP answer's."""

    status: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class RemotePin:
    """
    A request to keep a root, and how far the service is with it.

    created    when, as the service writes it
    delegates  addresses of the service, to which whoever has the blocks may connect
    info       what else the service says, such as `status_details`
    """

    request_id: str
    cid: CID
    name: str
    status: PinState
    created: str
    delegates: tuple[str, ...]
    info: Mapping[str, str]

    @property
    def details(self) -> str:
        """What else the service says, as one text."""
        return "; ".join(f"{name}: {value}" for name, value in self.info.items()) or "no details"


def id_of(pin: RemotePin | str) -> str:
    """The ID of a request."""
    found = pin.request_id if isinstance(pin, RemotePin) else pin
    if not isinstance(found, str) or not found:
        raise InvalidInput(f"{pin!r}: expected a RemotePin, or the ID of a request")
    return found


def wanted(root: bytes, name: str, origins: Sequence[str], meta: Mapping[str, str] | None) -> dict[str, Any]:
    """The Pin to send. Raises `InvalidInput` for what the API does not carry."""
    if not isinstance(name, str) or len(name) > MAX_NAME_LENGTH:
        raise InvalidInput(f"name={name!r}: expected text of at most {MAX_NAME_LENGTH} characters")
    if isinstance(origins, str) or len(origins) > MAX_ORIGINS:
        raise InvalidInput(f"origins={origins!r}: expected a list of at most {MAX_ORIGINS} multiaddresses")
    if not all(isinstance(part, str) for pair in (meta or {}).items() for part in pair):
        raise InvalidInput(f"meta={meta!r}: expected text by text")
    more = {"name": name, "origins": list(dict.fromkeys(origins)), "meta": dict(meta or {})}
    return {"cid": text(root), **{key: value for key, value in more.items() if value}}


def read_pin(said: Any) -> RemotePin:
    """The request that a PinStatus describes. Raises `ValueError` when it describes none."""
    try:
        pin, state = said["pin"], said["status"]
        if state not in STATES:
            raise ValueError(f"status {state!r}")
        info = {str(name): str(value) for name, value in (said.get("info") or {}).items()}
        return RemotePin(
            str(said["requestid"]),
            to_cid(to_bytes(pin["cid"])),
            str(pin.get("name") or ""),
            state,
            str(said.get("created") or ""),
            tuple(map(str, said.get("delegates") or ())),
            info,
        )
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"no PinStatus: {error!r}") from None


def v1(cid: AnyCID) -> bytes:
    """The binary form of a CID, also of one of version 0, which is then written as the same of version 1."""
    binary = to_bytes(cid)
    return cid_head(DAG_PB, SHA2_256) + binary[2:] if len(binary) == 34 else binary


def is_for(pin: RemotePin, cid: bytes) -> bool:
    """Whether a request is for this root, however the service writes it."""
    return v1(pin.cid) == cid


def read_answer(server: Server, answer: Answer) -> Any:
    """The JSON that a service answered. Raises `ServiceRefused`, or `CASError` when that is none."""
    check(server, answer)
    try:
        return from_json(answer.body)
    except ValueError as error:
        said = server.says(answer)
        raise server.failure(f"answered {said!r}, expected JSON: is this a pinning service?") from error


def check(server: Server, answer: Answer) -> None:
    """Raises `ServiceRefused` with what the service says is wrong, unless nothing is."""
    if answer.status in (200, 201, 202, 204):
        return
    try:
        error = from_json(answer.body)["error"]
        reason = str(error["reason"])
        said = ": ".join(filter(None, [reason, str(error.get("details") or "")]))
    except (ValueError, LookupError, TypeError, AttributeError):
        reason, said = "", " ".join(answer.body[:300].decode(errors="replace").split())
    shown = f"answered {answer.status} {said[:600]}".strip()
    refused = ServiceRefused(str(server.failure(shown + _HINTS.get(answer.status, ""))))
    refused.status, refused.reason = answer.status, reason
    raise refused
