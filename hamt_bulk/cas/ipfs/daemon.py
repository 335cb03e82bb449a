"""A Kubo daemon: which it is, and the roots that it keeps."""

import asyncio
from dataclasses import replace

from hamt_bulk.block import AnyCID, text, to_bytes
from hamt_bulk.cas.ipfs import pins
from hamt_bulk.cas.ipfs.address import address_of
from hamt_bulk.cas.ipfs.connection import connection_of
from hamt_bulk.cas.ipfs.gateways import IPFSReader, secrets_of
from hamt_bulk.cas.ipfs.rpc import Rpc
from hamt_bulk.cas.loop import on_loop


class KuboDaemon(IPFSReader):
    """A daemon with an RPC, by which roots are pinned."""

    @property
    def rpc_base_url(self) -> str:
        """Where the daemon's RPC is."""
        return str(self._access.rpc)

    @property
    def rpc(self) -> Rpc:
        """The daemon."""
        rpc = self.connection.rpc
        assert rpc is not None
        return rpc

    async def pin_cid(self, cid: AnyCID, target_rpc: str | None = None, *, name: str = "") -> None:
        """
        Pins a root with all that it reaches, under `name`. What is pinned under that name already stays.

        target_rpc  another daemon's RPC; credentials are for `rpc_base_url` alone

        Raises `BlockNotFound`, which names a block, when the daemon does not have all of it.
        """
        root = to_bytes(cid)
        await asyncio.to_thread(self.flush)
        await on_loop(pins.pin(self._rpc_at(target_rpc), root, name))

    async def unpin_cid(self, cid: AnyCID, target_rpc: str | None = None) -> None:
        """Removes the pin of a root, if there is one: the next garbage collection takes what else is not pinned."""
        await on_loop(pins.unpin(self._rpc_at(target_rpc), [to_bytes(cid)]))

    async def pin_update(self, old_id: AnyCID, new_id: AnyCID, target_rpc: str | None = None) -> None:
        """Moves a pin, with its name, from one root to another, and walks only what differs."""
        old, new = to_bytes(old_id), to_bytes(new_id)
        await asyncio.to_thread(self.flush)
        await on_loop(pins.update(self._rpc_at(target_rpc), old, new))

    async def pin_ls(
        self, target_rpc: str | None = None, *, name: str | None = None
    ) -> dict[str, dict[str, str]]:
        """
        The roots that are pinned, as {CID: {"Type": "recursive", "Name": name}}.

        name  those whose name has this text in it
        """
        found = await on_loop(pins.pins(self._rpc_at(target_rpc), name))
        return {text(cid): {"Type": "recursive", "Name": name} for cid, name in found.items()}

    def _rpc_at(self, url: str | None) -> Rpc:
        if url is None:
            return self.rpc
        rpc, secret = address_of(url, "target_rpc")
        access = replace(
            self._access, rpc=rpc, gateways=(), own_secrets=secrets_of([(rpc, secret)], for_daemon=False)
        )
        other = connection_of(access, self).rpc
        assert other is not None
        return other
