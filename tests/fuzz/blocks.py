"""Blocks of dag-cbor of any kind, and CAR files that are taken in."""

from random import Random

import dag_cbor

from hamt_bulk.block import identify
from hamt_bulk.errors import BlockMismatch, BlockNotFound, InvalidInput, MalformedNode
from hamt_bulk.formats.kinds import links_of_block
from hamt_bulk.formats.trees import from_value
from hamt_bulk.ipldstore import IPLDStore, MappingCAStore
from hamt_bulk.ipldstore.cars import links_of
from hamt_bulk.layout.cbor import links_of_pointer
from hamt_bulk.pointers import INLINE, inline_value

from . import archives, layouts, nodes
from .target import Target, Wrong

CID = identify(b"block", 0x71)


def _links(data: bytes) -> None:
    """Two ways to read the links of a block, of which one takes what is not dag-cbor in the strict sense."""
    found = links_of_block(CID, data)
    if any(type(link) is not bytes or not link for link in found):
        raise Wrong("links that are none")
    try:
        strict = links_of(CID, data)
    except MalformedNode:
        return
    if sorted(strict) != sorted(found):
        raise Wrong(f"{len(strict)} links, and {len(found)} in another order")


def _value(data: bytes) -> None:
    """What an inline value, or a value of py-hamt 2, may be."""
    errors = []
    for read in (lambda: inline_value(INLINE + data), lambda: links_of_pointer(INLINE + data)):
        try:
            read()
        except (InvalidInput, ValueError) as error:
            errors.append(InvalidInput(str(error)[:100] or "none"))
    try:
        from_value(data)
    except ValueError as error:
        errors.append(InvalidInput(str(error)[:100] or "none"))
    if len(errors) == 3:
        raise errors[0]


def _store(data: bytes) -> None:
    """A block under its own name, as the value of a store like ipldstore's."""
    cas = MappingCAStore()
    cas.get(cas.put_raw(data, "dag-cbor"))


def _taken(data: bytes) -> None:
    store = IPLDStore.from_car(data)
    for key in list(store)[:10]:
        if not isinstance(store[key], bytes):
            raise Wrong(f"{key!r} has no bytes")


def _made(random: Random) -> bytes:
    return dag_cbor.encode(layouts._value(random))


def _car() -> bytes:
    store = IPLDStore()
    for key, value in layouts._HIERARCHY.items():
        store[key] = value
    return store.to_car()


_BLOCKS = [layouts.IPLDSTORE, layouts.OURS[0], nodes._EMPTY, *layouts.TREE_2[:1]]

TARGETS = [
    Target("dag-cbor links", _links, _BLOCKS, (MalformedNode,), layouts._made_any, layouts._TOKENS),
    Target(
        "dag-cbor value",
        _value,
        [b"\x43abc", b"\xa1\x61a\x01", *_BLOCKS],
        (InvalidInput,),
        _made,
        nodes.TOKENS,
    ),
    Target(
        "ipldstore value",
        _store,
        _BLOCKS,
        (MalformedNode, InvalidInput),
        layouts._made_ipldstore,
        layouts._TOKENS,
    ),
    Target(
        "ipldstore car",
        _taken,
        [_car(), archives._WHOLE],
        (InvalidInput, BlockMismatch, BlockNotFound, MalformedNode),
        None,
        archives.TOKENS,
    ),
]
