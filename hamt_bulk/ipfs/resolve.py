"""What names point to: asked of a Kubo daemon, or read from the signed records that gateways give."""

from collections.abc import Sequence
from datetime import UTC, datetime

from multiformats import CID

from hamt_bulk.block import to_bytes, to_cid
from hamt_bulk.cas.base import ContentAddressedStore
from hamt_bulk.cas.ipfs.gateways import IPFSReader
from hamt_bulk.cas.ipfs.rpc import CommandFailed
from hamt_bulk.cas.ipfs.server import Server
from hamt_bulk.cas.ipfs.transport import Answer
from hamt_bulk.cas.loop import on_loop, run_sync
from hamt_bulk.cas.url import open_cas
from hamt_bulk.errors import CASError, InvalidInput
from hamt_bulk.ipfs.records import BadRecord, Record, key_of, name_of, read_record

LOOK_SECONDS = 120.0
"""A daemon on the network asks its peers for the newest record, for up to a minute."""

_MAX_NAMES = 8  # that point to one another
_PAGE_BYTES = 1 << 20  # what is longer than a record is said to be none
_RECORD = {"Accept": "application/vnd.ipfs.ipns-record"}


class NameNotFound(CASError):
    """Nothing is published under a name, or no longer."""


def resolve_name(name: str, cas: ContentAddressedStore | str) -> CID:
    """
    The root that a name points to: `k51…`, also as `ipns://k51…` or `/ipns/k51…`.

    A `KuboCAS` asks its daemon. A `GatewayCAS` asks its gateways for the record and checks the owner's signature, so
    that they cannot make one up; they can give an older one of the owner's while that is valid.

    Raises `NameNotFound`, `BadRecord` for a record that is not the owner's, or `CASError`.
    """
    return run_sync(resolved(_ipfs(cas), key_of(name)))


async def resolve_name_async(name: str, cas: ContentAddressedStore | str) -> CID:
    """As `resolve_name`, for callers on an event loop."""
    return await on_loop(resolved(_ipfs(cas), key_of(name)))


def _ipfs(given: ContentAddressedStore | str) -> IPFSReader:
    cas = open_cas(given)
    if not isinstance(cas, IPFSReader):
        raise InvalidInput(f"{cas!r} knows no names: give a KuboCAS or a GatewayCAS")
    return cas


async def resolved(cas: IPFSReader, key: bytes) -> CID:
    """The root that the name of `key` points to, perhaps by other names."""
    seen = key
    for _ in range(_MAX_NAMES):
        value = await _value(cas, seen)
        if not value.startswith("/ipns/"):
            break
        seen = key_of(value)
    root = root_in(value)
    if root is None:
        raise InvalidInput(f"{name_of(key)} points to {value!r:.200}, expected a root, /ipfs/bafyr4i…")
    return to_cid(root)


async def _value(cas: IPFSReader, key: bytes) -> str:
    rpc = cas.connection.rpc
    if rpc is None:
        return (await from_gateways(gateways_in(cas), key)).value
    try:
        options = [("arg", name_of(key)), ("nocache", "true"), ("recursive", "false")]
        lines = await rpc.lines("name/resolve", options, seconds=LOOK_SECONDS)
        with rpc.understood("name/resolve", lines):
            [said] = lines
            return str(said["Path"])
    except CommandFailed as error:
        if "could not resolve" not in error.said:
            raise
        raise NameNotFound(f"{error}: {name_of(key)} was never published, or has expired") from error


async def from_gateways(servers: Sequence[Server], key: bytes) -> Record:
    """The record that the first of the gateways gives which has a good one."""
    failures: list[CASError] = []
    for server in servers:
        try:
            return await _from_gateway(server, key)
        except CASError as error:
            failures.append(error)
    said = "; ".join(map(str, failures))
    if len({type(error) for error in failures}) == 1:
        raise type(failures[0])(said)
    raise BadRecord(said) if any(isinstance(error, BadRecord) for error in failures) else CASError(said)


async def _from_gateway(server: Server, key: bytes) -> Record:
    name = name_of(key)
    answer = await server.ask(
        "GET", f"/ipns/{name}?format=ipns-record", headers=_RECORD, repeats=_is_absent, limit=_PAGE_BYTES
    )
    if _is_absent(answer):
        raise NameNotFound(
            f"{server.address} has no record of {name} ({server.says(answer)}): it was never published, or has expired"
        )
    if answer.status != 200:
        raise server.failure(f"answered {server.says(answer)} for the record of {name}")
    try:
        return read_record(key, answer.body, now())
    except BadRecord as error:
        raise BadRecord(f"{server.address}: {error}") from error


def _is_absent(answer: Answer) -> bool:
    """Whether a gateway says that there is no record. Kubo's says so with status 500."""
    if answer.status in (404, 410):
        return True
    return answer.status == 500 and any(
        words in answer.body[:2000] for words in (b"not found", b"is expired")
    )


def gateways_in(cas: IPFSReader) -> list[Server]:
    """The gateways of a store, in order of preference."""
    return [gateway.server for gateway in cas.connection.gateways]


def root_in(value: str) -> bytes | None:
    """The root that a path is, if it is one and nothing below."""
    start, _, rest = value.partition("/ipfs/")
    rest = rest.removesuffix("/")
    if start or not rest or "/" in rest:
        return None
    try:
        return to_bytes(rest)
    except InvalidInput:
        return None


def now() -> datetime:
    """The time that ends of records are compared with."""
    return datetime.now(UTC)
