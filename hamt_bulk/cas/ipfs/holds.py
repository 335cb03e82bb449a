"""
What keeps the blocks of a build until its root is pinned.

Every import leaves a pinned link list. A task notes its lists in a file of their CIDs, pinned under a name that has
the build's token in it, so that whoever ends the build finds the lists of all workers, dead ones too.

    hamt_bulk hold TOKEN        the file's pin; its bytes are one CID a line
"""

import threading
from collections import defaultdict

from hamt_bulk.block import RAW, Block, identify, text, to_bytes
from hamt_bulk.cas.ipfs.imports import import_pinned
from hamt_bulk.cas.ipfs.pins import pins, unpin
from hamt_bulk.cas.ipfs.rpc import LONG_SECONDS, Rpc
from hamt_bulk.errors import InvalidInput

_PREFIX = "hamt_bulk hold "

_here: defaultdict[str, list[bytes]] = defaultdict(list)
"""Lists of this process, by token."""

_lock = threading.Lock()


def note(token: str, lists: list[bytes]) -> None:
    """Remembers lists in this process, for tokens that no other uses."""
    with _lock:
        _here[token] += lists


async def note_for_all(rpc: Rpc, token: str, lists: list[bytes], hasher: str) -> None:
    """Remembers lists on the daemon, for whoever ends the build."""
    data = "".join(f"{text(cid)}\n" for cid in lists).encode()
    note = Block(identify(data, RAW, hasher), data)
    # Not by `add`, which has a name for its pin, but leaves another without one where a collection waits for it.
    await import_pinned(rpc, note)
    options = [("arg", text(note.cid)), ("name", _PREFIX + token)]
    await rpc.command("pin/add", options, seconds=LONG_SECONDS)


async def release(rpc: Rpc, token: str, *, everywhere: bool) -> None:
    """Lets a garbage collection have what was held under `token`, unless something else pins it."""
    with _lock:
        held = _here.pop(token, [])
    notes: list[bytes] = []
    try:
        if everywhere:
            notes = list(await pins(rpc, _PREFIX + token))
            for name in notes:
                for line in (await rpc.block(name)).decode("ascii", "replace").split():
                    try:
                        held.append(to_bytes(line))
                    except InvalidInput:
                        continue  # not ours: its name was given by somebody else
        await unpin(rpc, list(dict.fromkeys(held)))
        await unpin(rpc, notes)
    except BaseException:
        with _lock:
            _here[token] += held
        raise
