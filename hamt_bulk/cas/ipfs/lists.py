"""
Many small blocks in one answer, and which of many there are.

The daemon is given a link list of what is wanted, and asked for a CAR of it: 8 µs of CPU a block here, against 120
for a request each. The list is not pinned, so the next garbage collection takes it. Large blocks come faster one by
one, so this is for nodes.
"""

import re
from collections.abc import Sequence
from functools import partial
from itertools import islice

from hamt_bulk.block import text
from hamt_bulk.car import header_v1, section_head
from hamt_bulk.cas.ipfs.archives import blocks_in
from hamt_bulk.cas.ipfs.connection import Connection
from hamt_bulk.cas.ipfs.imports import link_list, raw_name
from hamt_bulk.cas.ipfs.rpc import CommandFailed, Rpc
from hamt_bulk.cas.ipfs.server import MAX_ANSWER_BYTES
from hamt_bulk.cas.loop import gather
from hamt_bulk.errors import HamtError

LEAST_BLOCKS = 48
"""Fewer come as fast one by one."""

BLOCKS_IN_LIST = 512
LISTS_AT_ONCE = 4

LEAST_LISTED = 1000
"""Of fewer it is quicker to ask for each."""

MOST_OTHERS = 20
"""The daemon's list of its blocks is read up to so many times what is looked for: an entry costs it 12 µs, a question 350."""

_LINE_BYTES = 80
_LISTED = re.compile(rb'"Ref": ?"(\w+)"')


async def by_lists(
    connection: Connection, rpc: Rpc, cids: Sequence[bytes], hasher: str
) -> dict[bytes, bytes]:
    """What came of blocks that are asked for together, each compared with its CID: all, some or none."""
    if len(cids) < LEAST_BLOCKS or connection.refuses_lists:
        return {}
    lists = [cids[at : at + BLOCKS_IN_LIST] for at in range(0, len(cids), BLOCKS_IN_LIST)]
    answers = await gather(
        (partial(_by_list, connection, rpc, some, hasher) for some in lists), LISTS_AT_ONCE
    )
    found = {cid: data for answer in answers for cid, data in answer.items()}
    named = ((cid, found.get(raw_name(cid))) for cid in cids)
    return {cid: data for cid, data in named if data is not None}


async def listed(rpc: Rpc, cids: Sequence[bytes]) -> set[bytes]:
    """Which of many blocks are in the daemon's list of all that it has; none where that would take longer than asking."""
    if len(cids) < LEAST_LISTED:
        return set()
    try:
        body = await rpc.command("refs/local", retries=0, limit=int(len(cids) * MOST_OTHERS) * _LINE_BYTES)
    except HamtError:
        return set()  # each is asked for, and that tells what is wrong
    names = {cid: text(raw_name(cid)).encode() for cid in cids}  # the list has all blocks under codec raw
    there = set(names.values()).intersection(line[1] for line in _LISTED.finditer(body))
    return {cid for cid, name in names.items() if name in there}


async def _by_list(
    connection: Connection, rpc: Rpc, cids: Sequence[bytes], hasher: str
) -> dict[bytes, bytes]:
    """By their names under codec raw."""
    wanted = link_list(cids, hasher)
    car = [header_v1(), section_head(wanted.cid, len(wanted.data)), wanted.data]
    options = [("pin-roots", "false"), ("fast-provide-root", "false")]
    try:
        await rpc.command("dag/import", options, files=[car], retries=0)
        options = [("arg", text(wanted.cid)), ("progress", "false"), ("offline", "true")]
        body = await rpc.command("dag/export", options, retries=0, limit=MAX_ANSWER_BYTES)
        # What was asked for and the list itself; what else a server sends is not kept.
        return {cid: bytes(data) for cid, data in islice(blocks_in(body), len(cids) + 1)}
    except HamtError as error:
        # Each is asked for again, singly, and that tells what is wrong.
        if isinstance(error, CommandFailed) and error.status in (401, 403, 404, 405):
            connection.refuses_lists = True
        return {}
