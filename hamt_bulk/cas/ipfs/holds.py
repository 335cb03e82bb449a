"""
What keeps the blocks of a build until its root is pinned.

Every import leaves a pinned link list. A task notes its lists in a file of their CIDs, pinned under a name that has
the build's token in it, so that whoever ends the build finds the lists of all workers, dead ones too.

    hamt_bulk hold TOKEN        the file's pin; its bytes are one CID a line
"""

import secrets
import socket
import threading
import time
from collections import defaultdict
from dataclasses import dataclass

from hamt_bulk.block import RAW, Block, identify, text, to_bytes
from hamt_bulk.cas.ipfs.imports import import_pinned
from hamt_bulk.cas.ipfs.pins import pins, unpin
from hamt_bulk.cas.ipfs.rpc import LONG_SECONDS, Rpc

_PREFIX = "hamt_bulk hold "

_here: defaultdict[str, list[bytes]] = defaultdict(list)
"""Lists of this process, by token."""

_lock = threading.Lock()


@dataclass(frozen=True, slots=True)
class Hold:
    """
    What keeps the blocks of one writer, or of all writers of a build.

    token    in every list, so that no two holds share one
    for_all  whether writers in other processes hold under the same token
    for_ever whether nobody lets go of it
    """

    token: str
    hasher: str
    for_all: bool
    for_ever: bool

    @classmethod
    def new(cls, hasher: str, *, for_all: bool, for_ever: bool) -> "Hold":
        token = f"{socket.gethostname()} {time.strftime('%Y-%m-%d')} {secrets.token_hex(8)}"
        return cls(token, hasher, for_all, for_ever)

    async def keep(self, rpc: Rpc, lists: list[bytes]) -> None:
        """Takes note of lists."""
        if self.for_ever:
            return
        if not self.for_all:
            with _lock:
                _here[self.token] += lists
            return
        data = "".join(f"{text(cid)}\n" for cid in lists).encode()
        note = Block(identify(data, RAW, self.hasher), data)
        # Not by `add`, which has a name for its pin, but leaves another without one where a collection waits for it.
        await import_pinned(rpc, note)
        options = [("arg", text(note.cid)), ("name", _PREFIX + self.token)]
        await rpc.command("pin/add", options, seconds=LONG_SECONDS)

    async def release(self, rpc: Rpc) -> None:
        """Lets a garbage collection have what was held, unless something else pins it."""
        with _lock:
            held = _here.pop(self.token, [])
        try:
            notes = list(await pins(rpc, _PREFIX + self.token)) if self.for_all else []
            for note in notes:
                held += map(to_bytes, (await rpc.block(note)).decode("ascii").split())
            await unpin(rpc, list(dict.fromkeys(held)))
            await unpin(rpc, notes)
        except BaseException:
            with _lock:
                _here[self.token] += held
            raise
