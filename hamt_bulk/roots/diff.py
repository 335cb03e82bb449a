"""What differs between two roots."""

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import NamedTuple, TypeAlias

from multiformats import CID

from hamt_bulk.block import AnyCID, text, to_bytes, to_cid
from hamt_bulk.cas import ContentAddressedStore, open_cas
from hamt_bulk.cas.wrap import Reader
from hamt_bulk.errors import BlockNotFound, InvalidInput, MalformedNode
from hamt_bulk.layout import HashMapNodes, Layout, OtherLayout, PyHamt
from hamt_bulk.manifest import HashFn, blake3_hashfn
from hamt_bulk.nodes import Tree
from hamt_bulk.pointers import is_inline
from hamt_bulk.shapes import layout_of
from hamt_bulk.tree import Changes, differences

Difference: TypeAlias = tuple[str, bytes | None, bytes | None]
"""A key, and its pointer in the first tree and in the second; `None`: no such key."""


class Change(NamedTuple):
    """A key whose value differs. `old` is `None` when it was added, `new` when it was removed."""

    key: str
    old: CID | None
    new: CID | None


def diff(
    a: AnyCID, b: AnyCID, cas: ContentAddressedStore | str, *, hash_fn: HashFn = blake3_hashfn
) -> Iterator[Change]:
    """
    The keys whose values are not the same under `a` and `b`, in no promised order.

    Loads the nodes that differ and no value: nothing at all for equal roots. Memory is that of a few hundred
    nodes a level, however much differs. Trees of different bucket sizes are compared by their entries.
    """
    found = changes(to_bytes(a), to_bytes(b), Reader(open_cas(cas)), hash_fn)
    return (Change(key, _public(key, old), _public(key, new)) for key, old, new in found)


def changes(
    a: bytes | None, b: bytes | None, reader: Reader, hash_fn: HashFn = blake3_hashfn
) -> Iterator[Difference]:
    """As `diff`, with the pointers as they are in the trees. `None` is the empty tree."""
    if isinstance(reader, Tree):
        yield from _changes(a, b, reader, reader.layout, reader.hash_fn)
        return
    found = _changes(a, b, reader, PyHamt(), hash_fn)
    try:
        first = next(found, None)
    except OtherLayout:
        found = _changes(a, b, reader, *_layout(a, b, reader, hash_fn))
        first = next(found, None)
    if first is not None:
        yield first
        yield from found


def _changes(
    a: bytes | None, b: bytes | None, reader: Reader, layout: Layout, hash_fn: HashFn
) -> Iterator[Difference]:
    with closing(differences(a, b, layout, hash_fn)) as steps:
        nodes: list[bytes] | None = None
        while True:
            try:
                step = steps.send(nodes)
            except StopIteration:
                return
            if isinstance(step, Changes):
                nodes = None
                yield from step
            else:
                nodes = _nodes(step, reader, (a, b))


def _layout(a: bytes | None, b: bytes | None, reader: Reader, hash_fn: HashFn) -> tuple[Layout, HashFn]:
    """That of both trees. Raises `InvalidInput` when they have two."""
    found = [layout_of(root, reader, hash_fn) for root in (a, b) if root is not None]
    kinds = {layout.shape if isinstance(layout, HashMapNodes) else None for layout, _ in found}
    if len(kinds) > 1:
        what = " and ".join("a tree of py-hamt" if kind is None else str(kind) for kind in kinds)
        raise InvalidInput(
            f"one root is {what.replace(' and ', ', the other is ')}: convert one of them with hamt_bulk.convert"
        )
    return found[0]


def _nodes(cids: Sequence[bytes], reader: Reader, roots: tuple[bytes | None, bytes | None]) -> list[bytes]:
    """The nodes of these names. When one of `roots` is not there the error says so."""
    try:
        return reader.blocks(cids)
    except BlockNotFound as error:
        for root in roots:
            if root is not None and root in cids and not _is_there(root, reader):
                raise BlockNotFound(
                    f"the root {text(root)} is not in this store, {reader.cas!r}: {error}"
                ) from error
        raise


def _is_there(cid: bytes, reader: Reader) -> bool:
    try:
        reader.blocks([cid])
    except BlockNotFound:
        return False
    return True


def _public(key: str, pointer: bytes | None) -> CID | None:
    if pointer is not None and is_inline(pointer):
        raise InvalidInput(
            f"{key!r} differs, and its value is held by the tree itself, so it has no CID: compare what hamt_bulk.open_root gives"
        )
    try:
        return None if pointer is None else to_cid(pointer)
    except (ValueError, KeyError) as error:
        raise MalformedNode(f"the pointer of {key!r} is not a CID: {pointer!r:.100} ({error})") from error
