"""What is looked at before a node is believed to be where it is."""

from collections.abc import Sequence
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from hamt_bulk.block import parse, text
from hamt_bulk.errors import InvalidInput, MalformedNode
from hamt_bulk.keys import any_key, key_text
from hamt_bulk.layout import Layout, Slot
from hamt_bulk.manifest import HashFn

ROOT_SAMPLE = 8
"""How many entries of a root are hashed to see that it is one."""

RECENT = 1 << 14
"""So many of the nodes that `Once` knows are in a set, at some 90 bytes each; the others at 16."""

_TAIL = 16  # of a digest: enough that no two of honest makers agree in it


class Once:
    """
    Nodes that may come only once, since a key has one place: those that link to others.

    Nodes that link to nothing need not be known: there are at most 256 of them for each that does. Of 10^8 keys
    fewer than 10^6 nodes link to others.
    """

    def __init__(self) -> None:
        self._recent: set[bytes] = set()
        self._runs: list[NDArray[np.bytes_]] = []

    def add(self, cid: bytes) -> None:
        """Takes a node. Raises `MalformedNode` when it came before."""
        tail = cid[-_TAIL:]
        if tail in self._recent or any(_holds(run, tail) for run in self._runs):
            raise MalformedNode(
                f"{text(cid)} is linked from more than one place: no two places can hold the same keys"
            )
        self._recent.add(tail)
        if len(self._recent) >= RECENT:
            self._settle()

    def _settle(self) -> None:
        """Moves what is recent into a run, and joins runs of like lengths, so that there are few."""
        self._runs.append(np.sort(np.array(list(self._recent), f"S{_TAIL}")))
        self._recent = set()
        while len(self._runs) > 1 and len(self._runs[-2]) <= 2 * len(self._runs[-1]):
            self._runs.append(np.sort(np.concatenate([self._runs.pop(), self._runs.pop()])))


def _holds(run: NDArray[np.bytes_], tail: bytes) -> bool:
    at = int(run.searchsorted(np.bytes_(tail)))
    return at < len(run) and bool(run[at] == tail.rstrip(b"\0"))


def links_of(cid: bytes, slots: Sequence[Slot], layout: Layout) -> list[bytes]:
    """The children of a node that may have entries. Raises `MalformedNode` for one that is no CID or comes twice."""
    links = [slot for slot in slots if type(slot) is bytes]
    if not links:
        return links
    empty = layout.empty_nodes
    links = [link for link in links if link not in empty]
    if len(set(links)) < len(links):
        raise MalformedNode(f"{text(cid)} links one child twice: no two slots can hold the same keys")
    for link in links:
        refuse_no_cid(link, cid, "a child")
    return links


def refuse_no_cid(cid: bytes, node: bytes, what: str) -> None:
    """Raises `MalformedNode` when `what` a node names by `cid` is not named by a CID."""
    try:
        parse(cid)
    except InvalidInput as error:
        raise MalformedNode(f"{text(node) if node else 'the root'}: {what} is {error}") from None


def refuse_misplaced(key: bytes, path: bytes, digest: bytes) -> None:
    """Raises `MalformedNode` when `key`, found below `path`, does not hash to it."""
    if digest[: len(path)] != path:
        raise MalformedNode(
            f"{key_text(key)!r} hashes to {digest[:4].hex()}… but lies below {path.hex()}: the "
            "tree was damaged by its writer, or was built with another hash_fn; rebuild it from its entries"
        )


def sample(slots: Sequence[Slot], count: int) -> list[tuple[int, bytes]]:
    """So many of a node's entries, fewer when it has fewer: the numbers of their slots, and their keys."""
    buckets = ((number, slot) for number, slot in enumerate(slots) if slot and isinstance(slot, dict))
    return [(number, any_key(next(iter(bucket)))) for number, bucket in islice(buckets, count)]


def refuse_other_root(root: bytes, slots: Sequence[Slot], layout: Layout, hash_fn: HashFn) -> None:
    """Raises when `slots` are those of a child node, or of the root of a tree of another hash."""
    if not refuse_child(root, slots, layout, hash_fn):
        raise MalformedNode(
            f"{text(root)}: its keys do not lie where hash_fn puts them: the tree was built with another hash_fn, or "
            "was damaged by its writer"
        )


def refuse_child(root: bytes, slots: Sequence[Slot], layout: Layout, hash_fn: HashFn) -> bool:
    """Whether some keys of a root lie where their hashes say. Raises `InvalidInput` when `slots` are those of a child node."""
    entries = [(number, hash_fn(key)) for number, key in sample(slots, ROOT_SAMPLE)]
    if all(layout.number(way, 0) == number for number, way in entries):
        return True
    for depth in range(1, len(entries[0][1]) // layout.step):
        if all(layout.number(way, depth) == number for number, way in entries):
            raise InvalidInput(
                f"{text(root)} is not the root of a tree but a child node at depth {depth} of one: pass its root"
            )
    return False
