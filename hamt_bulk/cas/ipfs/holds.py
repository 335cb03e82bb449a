"""
What keeps blocks from garbage collections until their root is pinned.

Every import leaves a pinned link list. Before it is sent its CID is noted on the daemon, in a file that is pinned under
a name with the hold's token in it: so whoever ends a build finds the lists of all workers, dead ones too, and what a
crash left behind can be told by its name.

    hamt_bulk hold HOST DATE TOKEN        the file's pin; its bytes are the CID of a list
"""

import re
import secrets
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass

from hamt_bulk.block import RAW, Block, identify, text, to_bytes
from hamt_bulk.cas.ipfs.imports import import_held, link_list, pin_list
from hamt_bulk.cas.ipfs.pins import pins, unpin
from hamt_bulk.cas.ipfs.rpc import LONG_SECONDS, Rpc
from hamt_bulk.errors import BlockNotFound, InvalidInput

HOLD_PREFIX = "hamt_bulk hold "

_TOKEN = re.compile(r"\S+ \d{4}-\d\d-\d\d [0-9a-f]{16}")


@dataclass(slots=True)
class Hold:
    """
    What keeps the blocks of one store object, or of all writers of a build.

    token     in every list, so that no two holds share one
    for_ever  whether nobody lets go of it
    is_used   whether this process has noted something
    others    tokens of builds that this one goes on with: they are let go of with it
    """

    token: str
    hasher: str
    for_ever: bool
    is_used: bool = False
    others: tuple[str, ...] = ()

    @property
    def tokens(self) -> tuple[str, ...]:
        """Its own and the others'."""
        return (self.token, *self.others)

    @classmethod
    def new(cls, hasher: str, *, for_ever: bool) -> "Hold":
        """A hold that no other process has."""
        token = f"{socket.gethostname()} {time.strftime('%Y-%m-%d')} {secrets.token_hex(8)}"
        return cls(token, hasher, for_ever)

    def take_over(self, tokens: Sequence[str]) -> None:
        """What builds with these tokens held is this one's. Others are none of ours: pins are found by a part of their name."""
        ours = (token for token in tokens if _TOKEN.fullmatch(token) and token != self.token)
        self.others = tuple(dict.fromkeys([*self.others, *ours]))

    async def has(self, rpc: Rpc, tokens: Sequence[str]) -> bool:
        """Whether it has taken over all of these, and this daemon still holds something for each."""
        for token in dict.fromkeys(tokens):
            if token not in self.others or not await pins(rpc, HOLD_PREFIX + token):
                return False
        return True

    async def note(self, rpc: Rpc, link_list: bytes) -> None:
        """Takes note of a list, which is about to be pinned."""
        if self.for_ever:
            return
        self.is_used = True
        data = text(link_list).encode()
        file = Block(identify(data, RAW, self.hasher), data)
        # Not by `add`, which has a name for its pin, but leaves another without one where a collection waits for it.
        await import_held(rpc, file, {})
        options = [("arg", text(file.cid)), ("name", HOLD_PREFIX + self.token)]
        await rpc.command("pin/add", options, seconds=LONG_SECONDS)

    async def keep(self, rpc: Rpc, cids: Sequence[bytes]) -> None:
        """Holds blocks that are there. Raises `CommandFailed` when some are not, or it is not allowed."""
        held = link_list(cids, self.hasher, self.token)
        await self.note(rpc, held.cid)
        await pin_list(rpc, held)

    async def release(self, rpc: Rpc, *, retries: int | None = None) -> None:
        """Lets a garbage collection have what was held, unless something else pins it."""
        if self.for_ever:
            return
        for token in self.tokens:
            notes = list(await pins(rpc, HOLD_PREFIX + token, retries=retries))
            lists: list[bytes] = []
            for note in notes:
                try:
                    lists.append(to_bytes((await rpc.block(note)).decode(errors="replace").strip()))
                except (BlockNotFound, InvalidInput):
                    continue  # somebody else gave a pin of his own this name
            await unpin(rpc, lists)
            await unpin(rpc, notes)
