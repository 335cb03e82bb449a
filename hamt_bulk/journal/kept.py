"""Whether a store still has what a journal says was finished."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from hamt_bulk import unixfs
from hamt_bulk.block import DAG_PB, Data, parse
from hamt_bulk.cas import BlockCAS, ContentAddressedStore
from hamt_bulk.cas.wrap import translated
from hamt_bulk.cas.wrapping import innermost
from hamt_bulk.errors import BlockMismatch, BlockNotFound, MalformedNode

NODES_AT_ONCE = 256
"""Nodes of files that are read together. They have 174 links, as a rule, and some 9 kB."""

_Parts: TypeAlias = dict[bytes, list[bytes]]
"""Blocks of files, and the values that they are parts of."""


def gone(cas: ContentAddressedStore, leases: Sequence[str], cids: Iterable[bytes]) -> set[bytes]:
    """
    Those of many values of which something is not there. Blocks are not read, but for the nodes of files.

    leases  of the builds that wrote them: what they kept is kept by this one now
    """
    values = list(dict.fromkeys(cids))
    lost = set(_absent(cas, leases, values))
    files: _Parts = {cid: [cid] for cid in values if cid not in lost and parse(cid).codec == DAG_PB}
    for _ in range(unixfs.MAX_LEVELS + 1):
        parts = _below(cas, files, lost)
        absent = set(_absent(cas, leases, list(parts)))
        for part in absent:
            lost.update(parts[part])
        files = {
            part: of
            for part, of in parts.items()
            if part not in absent and parse(part).codec == DAG_PB and not lost.issuperset(of)
        }
    for of in files.values():  # deeper than a file can be
        lost.update(of)
    return lost


def _absent(cas: ContentAddressedStore, leases: Sequence[str], cids: Sequence[bytes]) -> Iterable[bytes]:
    if not cids:
        return ()
    with translated(cas, cids):
        there = cas.take_over(leases, cids)
    return (cid for cid, has in zip(cids, there, strict=True) if not has)


def _below(cas: ContentAddressedStore, files: Mapping[bytes, list[bytes]], lost: set[bytes]) -> _Parts:
    """
    What the nodes of files link to. Of a file that a store gives as a whole, it has said that it has it.

    A value of which a node cannot be read is lost.
    """
    parts: _Parts = {}
    store = innermost(cas)
    if not isinstance(store, BlockCAS):
        return parts
    nodes = list(files)
    for start in range(0, len(nodes), NODES_AT_ONCE):
        some = nodes[start : start + NODES_AT_ONCE]
        for cid, block in zip(some, _read(store, some), strict=True):
            try:
                links = None if block is None else unixfs.decode(cid, block).links
            except MalformedNode:
                links = None
            if links is None:
                lost.update(files[cid])
                continue
            for link in links:
                parts.setdefault(link, []).extend(files[cid])
    return parts


def _read(store: BlockCAS, cids: Sequence[bytes]) -> list[Data | None]:
    """Blocks, and `None` for what is not there or altered."""
    try:
        with translated(store, cids):
            return list(store.load_blocks(cids))
    except (BlockNotFound, BlockMismatch):
        if len(cids) == 1:
            return [None]
        return [block for cid in cids for block in _read(store, [cid])]
