"""
Names for roots: IPNS, with the keys of a Kubo daemon.

What Kubo 0.42 was seen to do, and what is done about it:

* A sequence number that is not above the current one is refused, however many ask at once: with the number that
  follows the record that was read, publishing is a compare-and-set.
* An offline daemon gives records at its gateway alone, an online one by `name/get` too.
* `name/resolve` may give what a name was before, from a cache: it is told not to.
* An online daemon waits for ever for the block that a name is to point to: it is not to look, and is asked before.
"""

import asyncio
from dataclasses import dataclass
from datetime import timedelta
from types import EllipsisType
from typing import Any

from multiformats import CID

from hamt_bulk.block import AnyCID, text, to_bytes, to_cid
from hamt_bulk.cas.ipfs.kubo import KuboCAS
from hamt_bulk.cas.ipfs.rpc import CommandFailed, Rpc
from hamt_bulk.cas.loop import on_loop, run_sync
from hamt_bulk.errors import BlockNotFound, CASError, Conflict, InvalidInput
from hamt_bulk.ipfs.records import Record, key_of, name_of, read_record
from hamt_bulk.ipfs.resolve import (
    LOOK_SECONDS,
    NameNotFound,
    from_gateways,
    gateways_in,
    now,
    resolved,
    root_in,
)
from hamt_bulk.wording import printable

LIFETIME_HOURS = 30 * 24.0
"""A month, since nobody signs again while a daemon is down or offline. Kubo's own default is two days."""

TTL_SECONDS = 300

_TAKEN = "sequence number must be greater"
_MAX_LIFETIME = timedelta(days=36_500)
MAX_KEY_BYTES = 200  # of a file's name on the daemon, in base32


@dataclass(frozen=True, slots=True)
class Published:
    """
    What is published.

    name      `k51…`
    sequence  the record's number; `None` where the daemon would not tell
    """

    name: str
    root: CID
    sequence: int | None


class KuboName:
    """
    A name whose key a Kubo daemon has, and which points to a root.

        name = KuboName(cas, "era5")
        name.publish(root, expected=name.resolve())
        open_hamt(resolve_name(name.id, cas), cas)

    key     the key's name on the daemon
    create  make the key when it is not there; else that raises `NameNotFound`
    """

    def __init__(self, cas: KuboCAS, key: str, *, create: bool = True) -> None:
        if not isinstance(key, str) or not 0 < len(key.encode()) <= MAX_KEY_BYTES:
            raise InvalidInput(f"key={key!r}: expected a key's name, of 1 to {MAX_KEY_BYTES} bytes")
        self._cas = cas
        self.key = key
        self.id = run_sync(_key_id(cas.rpc, key, create))
        """The name that all can resolve, `k51…`."""

    def publish(
        self,
        root: AnyCID,
        *,
        expected: AnyCID | EllipsisType | None = ...,
        lifetime_hours: float = LIFETIME_HOURS,
        ttl_seconds: int = TTL_SECONDS,
    ) -> Published:
        """
        Points the name to a root that the daemon has.

        expected        publish only if the name points there now: what `resolve` gave, of which `None` is nothing
                        yet. Of several on one daemon that expect the same, one succeeds. Left out: in any case
        lifetime_hours  how long the name lasts, unless an online daemon, which does so by itself, renews it
        ttl_seconds     how long others may keep what they resolved

        Raises `Conflict`, which says what is there, `BlockNotFound` when the daemon lacks the root, or `CASError`.
        """
        options = _options(lifetime_hours, ttl_seconds)
        self._cas.flush()
        return run_sync(self._publish(to_bytes(root), expected, options))

    async def publish_async(
        self,
        root: AnyCID,
        *,
        expected: AnyCID | EllipsisType | None = ...,
        lifetime_hours: float = LIFETIME_HOURS,
        ttl_seconds: int = TTL_SECONDS,
    ) -> Published:
        """As `publish`, for callers on an event loop."""
        options = _options(lifetime_hours, ttl_seconds)
        await asyncio.to_thread(self._cas.flush)
        return await on_loop(self._publish(to_bytes(root), expected, options))

    def resolve(self) -> CID | None:
        """The root that the name points to; `None` when nothing was ever published, or that has expired."""
        return run_sync(self._resolve())

    async def resolve_async(self) -> CID | None:
        """As `resolve`, for callers on an event loop."""
        return await on_loop(self._resolve())

    async def _resolve(self) -> CID | None:
        try:
            return await resolved(self._cas, key_of(self.id))
        except NameNotFound:
            return None

    async def _publish(
        self, root: bytes, expected: AnyCID | EllipsisType | None, options: list[tuple[str, str]]
    ) -> Published:
        try:
            await self._cas.rpc.size(root)
        except BlockNotFound as error:
            raise BlockNotFound(f"{self!r} cannot point there: {error}. Copy the root there first") from error
        if isinstance(expected, EllipsisType):
            await self._send(root, options)
            return Published(self.id, to_cid(root), await self._sequence_of(root))
        wanted = None if expected is None else to_bytes(expected)
        before = await self._record()
        if not (before is None if wanted is None else before is not None and root_in(before.value) == wanted):
            raise self._conflict(before, wanted)
        sequence = 0 if before is None else before.sequence + 1
        options = [*options, ("sequence", str(sequence))]
        try:
            await self._send(root, options, retries=0)
        except CASError as error:
            if isinstance(error, CommandFailed) and _TAKEN in error.said:
                raise self._conflict(await self._record(), wanted) from error
            await self._send_again(root, options, sequence, wanted)
        return Published(self.id, to_cid(root), sequence)

    async def _send_again(
        self, root: bytes, options: list[tuple[str, str]], sequence: int, wanted: bytes | None
    ) -> None:
        """As `_send`, after an answer was lost: what was sent may have arrived, and is refused then."""
        try:
            await self._send(root, options)
        except CommandFailed as error:
            if _TAKEN not in error.said:
                raise
            there = await self._record()
            if there is None or (there.sequence, root_in(there.value)) != (sequence, root):
                raise self._conflict(there, wanted) from error

    async def _send(self, root: bytes, options: list[tuple[str, str]], *, retries: int | None = None) -> None:
        arguments = [("arg", f"/ipfs/{text(root)}"), ("key", self.id), *options]
        rpc = self._cas.rpc
        lines = await rpc.lines("name/publish", arguments, seconds=LOOK_SECONDS, retries=retries)
        with rpc.understood("name/publish", lines):
            [said] = lines
        if said.get("Name") != self.id:
            raise rpc.server.failure(f"published under {said.get('Name')!r:.100}, expected {self.id}")

    async def _sequence_of(self, root: bytes) -> int | None:
        """The number of the record that was just published, if it can be seen."""
        try:
            there = await self._record()
        except CASError:
            return None
        return there.sequence if there is not None and root_in(there.value) == root else None

    def _conflict(self, there: Record | None, wanted: bytes | None) -> Conflict:
        found = "nothing, or an expired record" if there is None else printable(there.value)[:200]
        expected = "nothing" if wanted is None else f"/ipfs/{text(wanted)}"
        return Conflict(
            f"{self!r} has {found}, expected {expected}: merge with what is there and publish that, or publish "
            "without `expected`"
        )

    async def _record(self) -> Record | None:
        """The current record; `None` when there is none, or an expired one."""
        key = key_of(self.id)
        try:
            found = await self._cas.rpc.command("name/get", [("arg", self.id)], seconds=LOOK_SECONDS)
            return read_record(key, found, now())
        except CommandFailed as error:
            if "not found" in error.said and error.status == 500:
                return None
            gateways = gateways_in(self._cas)
            if not gateways:
                raise CASError(
                    f"{error}. An offline daemon gives records at its gateway alone: make the KuboCAS with "
                    "gateway_base_url too, or publish without `expected`"
                ) from error
        try:
            return await from_gateways(gateways, key)
        except NameNotFound:
            return None

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self._cas, self.key, self.id)

    def __repr__(self) -> str:
        return f"KuboName({self.key!r}, {self.id})"


def _again(cas: KuboCAS, key: str, id: str) -> KuboName:
    name = KuboName.__new__(KuboName)
    name._cas, name.key, name.id = cas, key, id
    return name


async def _key_id(rpc: Rpc, key: str, create: bool) -> str:
    """The name that belongs to a key, which is made when it is not there."""
    for _ in range(2):
        lines = await rpc.lines("key/list")
        with rpc.understood("key/list", lines):
            [listed] = lines
            for found in listed.get("Keys") or []:
                if found.get("Name") == key:
                    return name_of(key_of(found["Id"]))
        if not create:
            raise NameNotFound(f"{rpc.server.address} has no key {key!r}: make it with create=True")
        try:
            lines = await rpc.lines("key/gen", [("arg", key), ("type", "ed25519")])
            with rpc.understood("key/gen", lines):
                [made] = lines
                return name_of(key_of(made["Id"]))
        except CommandFailed as error:
            if "already exists" not in error.said:  # as when another made it meanwhile
                raise
    raise rpc.server.failure(f"says that there is a key {key!r}, and does not list it")


def _options(lifetime_hours: float, ttl_seconds: int) -> list[tuple[str, str]]:
    seconds = lifetime_hours * 3600
    if not 1 <= seconds <= _MAX_LIFETIME.total_seconds():
        raise InvalidInput(
            f"lifetime_hours={lifetime_hours!r}: expected a second to a hundred years, in hours"
        )
    if not 0 <= ttl_seconds <= _MAX_LIFETIME.total_seconds():
        raise InvalidInput(f"ttl_seconds={ttl_seconds!r}: expected 0 to a hundred years, in seconds")
    # Without `resolve=false` an online daemon looks for the root on the network, for ever.
    options = {"resolve": "false", "allow-offline": "true", "lifetime": f"{seconds:.0f}s"}
    return [*options.items(), ("ttl", f"{ttl_seconds:.0f}s")]
