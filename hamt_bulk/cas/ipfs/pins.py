"""
Roots kept on a Kubo daemon.

A name is like a branch: when the base of a build is pinned under the name that its root gets, the pin moves.

What Kubo 0.42 was seen to do, and what is done about it:

* `pin/add` of what is pinned already removes the pin before it walks, and leaves none when the walk fails: it is
  asked first, and a root that gets another name is held by a second pin meanwhile.
* `pin/add` and `pin/update` wait for ever for a block that a daemon on the network cannot find, even "offline":
  `dag/stat` looks first, or a time is given.
"""

import warnings
from collections.abc import Sequence
from contextlib import suppress

from hamt_bulk.block import DAG_CBOR, Block, identify, text, to_bytes
from hamt_bulk.car import cbor_links
from hamt_bulk.cas.ipfs.imports import import_held
from hamt_bulk.cas.ipfs.rpc import CommandFailed, Rpc, absent, missing_in
from hamt_bulk.errors import CASError

WALK_SECONDS = 6 * 3600.0
"""For commands that walk a whole tree: 17 µs a block, without a byte of an answer before the end."""

UPDATE_SECONDS = 60
"""What `pin/update` may take, which walks only what differs, before a missing block is looked for."""

MAX_NAME_BYTES = 255
_REMOVED_AT_ONCE = 1000  # some 0.8 ms each


async def pin_name(rpc: Rpc, root: bytes) -> str | None:
    """The name under which a root is pinned, perhaps empty; `None` when it is not pinned."""
    options = [("arg", text(root)), ("type", "recursive"), ("names", "true")]
    try:
        found = await rpc.lines("pin/ls", options)
    except CommandFailed as error:
        if "not pinned" in error.said:
            return None
        raise
    with rpc.understood("pin/ls", found):
        [one] = found
        return next((str(pin["Name"]) for pin in (one.get("Keys") or {}).values()), None)


async def pins(rpc: Rpc, name: str | None = None, *, retries: int | None = None) -> dict[bytes, str]:
    """All recursive pins and their names; with `name` those whose name has that text in it."""
    options = [("type", "recursive"), ("names", "true"), *([("name", name)] if name is not None else [])]
    found = await rpc.lines("pin/ls", options, limit=1 << 30, retries=retries)
    with rpc.understood("pin/ls", found):
        [one] = found
        return {to_bytes(cid): str(pin["Name"]) for cid, pin in (one.get("Keys") or {}).items()}


async def unpin(rpc: Rpc, cids: Sequence[bytes]) -> None:
    """Removes recursive pins; those that are gone already are no error."""
    for at in range(0, len(cids), _REMOVED_AT_ONCE):
        some = cids[at : at + _REMOVED_AT_ONCE]
        try:
            await _remove(rpc, some)
        except CommandFailed as error:
            if "not pinned" not in error.said:
                raise
            # It stops at the first that is not there, and does not say which that is. Others may remove them too.
            there = await pins(rpc)
            for cid in some:
                if cid in there:
                    with suppress(CommandFailed):
                        await _remove(rpc, [cid])


async def _remove(rpc: Rpc, cids: Sequence[bytes]) -> None:
    if cids:
        # In the body: Go refuses an address with more than 10,000 arguments.
        lines = "\n".join(map(text, cids)).encode() + b"\n"
        await rpc.command("pin/rm", files=[[lines]], seconds=WALK_SECONDS)


async def pin(rpc: Rpc, root: bytes, name: str) -> None:
    """Pins a root, of which every block is there, under `name`. Raises `BlockNotFound` when one is not."""
    found = await pin_name(rpc, root)
    if found == name:
        return
    await complete(rpc, root)
    if found is None:
        await _add(rpc, root, name)
        return
    data = cbor_links([root])
    hold = Block(identify(data, DAG_CBOR), data)
    await import_held(rpc, hold, {})
    try:
        await _add(rpc, root, name)
    except CASError as error:
        raise rpc.server.failure(
            f"{text(root)} lost its pin {found!r}, and is kept by that of {text(hold.cid)}: {error}"
        ) from error
    await unpin(rpc, [hold.cid])


async def _add(rpc: Rpc, root: bytes, name: str) -> None:
    options = [("arg", text(root)), *([("name", name)] if name else []), ("timeout", f"{WALK_SECONDS:.0f}s")]
    try:
        await rpc.command("pin/add", options, seconds=WALK_SECONDS, retries=0)
    except CommandFailed as error:
        if missing_in(error) is not None:
            raise absent(error, f"{text(root)} cannot be pinned") from error
        raise


async def update(rpc: Rpc, old: bytes, new: bytes) -> None:
    """Moves a pin, with its name, from `old` to `new`, and walks only what differs."""
    options = [
        ("arg", text(old)),
        ("arg", text(new)),
        ("unpin", "true"),
        ("timeout", f"{UPDATE_SECONDS}s"),
    ]
    try:
        await rpc.command("pin/update", options, seconds=UPDATE_SECONDS + 60, retries=0)
    except CommandFailed as error:
        if missing_in(error) is not None:
            raise absent(error, f"{text(new)} cannot be pinned") from error
        if "deadline" in error.said:
            await complete(rpc, new)  # names what is missing, if that is why
        raise


async def complete(rpc: Rpc, root: bytes) -> None:
    """Raises `BlockNotFound`, which names a block that the daemon lacks, unless it has all that `root` reaches."""
    options = [("arg", text(root)), ("offline", "true"), ("progress", "false")]
    try:
        await rpc.command("dag/stat", options, seconds=WALK_SECONDS)
    except CommandFailed as error:
        if missing_in(error) is not None:
            raise absent(error, f"{text(root)} is not complete") from error
        raise


async def secure(rpc: Rpc, root: bytes, name: str | None, base: bytes | None) -> None:
    """
    Makes sure that a root is complete, and pins it where it has a `name`.

    base  the root that it was made from; when that is pinned under `name` the pin moves

    A root that somebody has pinned under another name keeps that pin, which is not ours to move later.
    """
    if name is None:
        await complete(rpc, root)
        return
    found = await pin_name(rpc, root)
    if found not in (None, name):
        await complete(rpc, root)
        warnings.warn(
            f"{text(root)} is pinned already, as {found!r}, and keeps that name instead of {name!r}",
            stacklevel=2,
        )
        return
    moves = base is not None and base != root and await pin_name(rpc, base) == name
    if base is None or not moves:
        if found is None:
            await complete(rpc, root)
            await _add(rpc, root, name)
    elif found is None:
        await update(rpc, base, root)
    else:
        await unpin(rpc, [base])
