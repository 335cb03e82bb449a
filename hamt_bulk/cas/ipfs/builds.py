"""A Kubo daemon as one build has it: what the build writes is held there until the build has ended."""

import copy
import json
import socket
import warnings
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Self

from hamt_bulk.block import AnyCID, text
from hamt_bulk.cas.base import several
from hamt_bulk.cas.ipfs import pins
from hamt_bulk.cas.ipfs.daemon import KuboDaemon
from hamt_bulk.cas.ipfs.holds import Hold
from hamt_bulk.cas.ipfs.rpc import CommandFailed
from hamt_bulk.cas.ipfs.spool import remove, send_again
from hamt_bulk.cas.ipfs.uploads import KuboWriter
from hamt_bulk.cas.loop import run_sync
from hamt_bulk.cas.pack import PackCAS
from hamt_bulk.cas.writer import Writer
from hamt_bulk.errors import BlockNotFound, CASError, InvalidInput, NotPortable


class KuboBuilds(KuboDaemon):
    """What a `KuboCAS` does for a build."""

    leaf_bytes: int
    pin_on_add: bool
    _is_build: bool
    _hold: Hold
    _spool: Path | None

    @abstractmethod
    def _begin(self, hold: Hold | None) -> None:
        """Starts afresh, as a build with this hold has it; `None`: not for a build."""

    def begin(self) -> Self:
        self.flush()  # a build may link what was saved
        build = copy.copy(self)
        build._begin(Hold.new(self.hasher, for_ever=self.pin_on_add))
        return build

    # What is written, and what is there already.

    def writer(self) -> Writer:
        packs = self._packs()
        spool = None if packs is None else packs.writer()
        return KuboWriter(self._access, self.hasher, self.leaf_bytes, spool, self._hold)

    def claim_many(self, cids: Sequence[AnyCID]) -> list[bool]:
        names = several(cids)
        found = self.has_many(names)
        there = [cid for cid, has in zip(names, found, strict=True) if has]
        if self._is_build and there:
            try:
                run_sync(self._hold.keep(self.rpc, there))
            except CommandFailed:  # a collection has just taken some: whoever asks writes them again
                return [False] * len(names)
        return found

    @property
    def lease(self) -> str:
        return self._hold.token if self._is_build else ""

    def take_over(self, leases: Sequence[str], cids: Sequence[AnyCID]) -> list[bool]:
        self._hold.take_over(leases)
        if len(leases) > 0 and run_sync(self._hold.has(self.rpc, leases)):
            return self.has_many(cids)
        return self.claim_many(cids)  # somebody has let go of it, or another daemon was meant

    def _packs(self) -> PackCAS | None:
        """What this build has sent, if there is a spool: a folder of its own."""
        return next(self._spools(), None)

    def _spools(self) -> Iterator[PackCAS]:
        """The spool of this build and those of the builds that it goes on with, its own first."""
        if self._spool is not None and self._is_build:
            for token in self._hold.tokens:
                yield PackCAS(self._spool / token.rpartition(" ")[2], self.hasher)

    # The end.

    def secure(self, root: bytes, name: str | None, base: bytes | None) -> None:
        if name is None and self._spool is None:
            if base is not None and not run_sync(self._has(base)):
                warnings.warn(
                    f"the daemon at {self.rpc_base_url} does not have the base {text(base)}, so it has the new root "
                    f"{text(root)} only in part: copy the base there (hamt_bulk.copy), or keep both daemons within reach of "
                    "readers",
                    stacklevel=2,
                )
            return
        self.check_pin(name)
        try:
            run_sync(pins.secure(self.rpc, root, name, base))
        except BlockNotFound:
            if not self._sent_again():
                raise
            run_sync(pins.secure(self.rpc, root, name, base))

    def check_pin(self, name: str | None) -> None:
        if name is not None and not (isinstance(name, str) and 0 < len(name.encode()) <= pins.MAX_NAME_BYTES):
            raise InvalidInput(f"pin={name!r}: expected a name of 1 to {pins.MAX_NAME_BYTES} bytes")

    def _sent_again(self) -> bool:
        with KuboWriter(self._access, self.hasher, self.leaf_bytes, None, self._hold) as writer:
            return any([send_again(packs, writer) for packs in self._spools()])

    def finish(self) -> None:
        if self._is_build:  # what a HAMT or `save` wrote is held until `close`: others of them may wait
            self.abandon()

    def abandon(self) -> None:
        for packs in self._spools():
            remove(packs)
        run_sync(self._hold.release(self.rpc))

    # Workers.

    def refuse_other_processes(self) -> None:
        if self._access.client is not None:
            raise NotPortable(
                "a KuboCAS with a live `client` cannot go to other processes: give `client_factory`, a function that "
                "makes the client there"
            )

    def announce(self) -> str:
        token = {"peer": run_sync(self.rpc.identity(retries=0))}
        if (packs := self._packs()) is not None:
            token["spool"] = packs.announce()
        return json.dumps(token)

    def preflight(self, token: str) -> None:
        expected = json.loads(token)
        address = self._access.rpc
        assert address is not None
        try:
            found = run_sync(self.rpc.identity(retries=0))
        except CASError as error:
            here = socket.gethostname()
            own = address.origin[1] in ("127.0.0.1", "localhost", "::1")
            why = (
                f"{address.origin[1]} is each worker's own machine, and no daemon runs on {here}: give the address at "
                "which workers reach the driver's daemon (and let it listen there: Addresses.API), or run one each"
                if own
                else f"{here} does not reach it: look at firewalls, and at Addresses.API of the daemon"
            )
            raise CASError(f"{error}. {why}") from error
        if found != expected["peer"]:
            raise CASError(
                f"another daemon answers at {address} here, {found}, expected {expected['peer']}: "
                "blocks would be spread over both. Give an address that is the same daemon's everywhere"
            )
        if (packs := self._packs()) is not None:
            packs.preflight(expected["spool"])

    def retract(self, token: str) -> None:
        if (packs := self._packs()) is not None:
            packs.retract(json.loads(token)["spool"])
