"""Whether a store still has what a journal says was finished."""

from collections.abc import Iterable

from hamt_bulk import unixfs
from hamt_bulk.block import DAG_PB, parse
from hamt_bulk.cas import BlockCAS, ContentAddressedStore
from hamt_bulk.cas.wrap import translated
from hamt_bulk.cas.wrapping import innermost
from hamt_bulk.errors import BlockMismatch, BlockNotFound, MalformedNode

AT_ONCE = 4096
"""Blocks that are asked for together."""


def is_kept(cas: ContentAddressedStore, cids: Iterable[bytes]) -> bool:
    """Whether every value is there, with all blocks of its file. Blocks are not read, but for the nodes of files."""
    waiting = list(dict.fromkeys(cids))
    for _ in range(unixfs.MAX_LEVELS + 2):
        if not waiting:
            return True
        for start in range(0, len(waiting), AT_ONCE):
            asked = waiting[start : start + AT_ONCE]
            with translated(cas, asked):
                if not all(cas.claim_many(asked)):
                    return False
        try:
            waiting = _below(cas, [cid for cid in waiting if parse(cid).codec == DAG_PB])
        except (BlockNotFound, BlockMismatch, MalformedNode):
            return False
    return False


def _below(cas: ContentAddressedStore, nodes: list[bytes]) -> list[bytes]:
    """What the nodes of files link to. Of a file that a store gives as a whole, it has said that it has it."""
    store = innermost(cas)
    if not nodes or not isinstance(store, BlockCAS):
        return []
    with translated(cas, nodes):
        blocks = store.load_blocks(nodes)
    links: dict[bytes, None] = {}
    for cid, block in zip(nodes, blocks, strict=True):
        links.update(dict.fromkeys(unixfs.decode(cid, block).links))
    return list(links)
