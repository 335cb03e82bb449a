"""Comparing two trees: down both at once, wherever they differ."""

from collections.abc import Generator, Sequence
from typing import NamedTuple, TypeAlias

from hamt_bulk.block import Data, text
from hamt_bulk.errors import DepthExceeded, MalformedNode
from hamt_bulk.keys import any_key
from hamt_bulk.layout import Bucket, Layout, Slot
from hamt_bulk.manifest import HashFn, blake3_hashfn
from hamt_bulk.tree.guards import links_of, refuse_misplaced, refuse_other_root, sample
from hamt_bulk.tree.walk import together

Comparison: TypeAlias = Generator["list[bytes] | Changes", Sequence[Data] | None, None]
"""Asks for nodes by CID and is sent them; hands out `Changes` and is sent `None`."""


class Changes(list[tuple[str, bytes | None, bytes | None]]):
    """Keys in which two trees differ, with their pointers in the first and the second; `None`: no such key."""

    def compare(self, old: Bucket, new: Bucket) -> None:
        """Adds what differs between the entries of one path."""
        for key, pointer in old.items():
            if (other := new.get(key)) != pointer:
                self.append((key, pointer, other))
        self.extend((key, None, pointer) for key, pointer in new.items() if key not in old)


def differences(
    a: bytes | None, b: bytes | None, layout: Layout, hash_fn: HashFn = blake3_hashfn, batch: int = 256
) -> Comparison:
    """
    What differs between two trees, depth first. `None` is the empty tree.

    Yields lists of CIDs, none twice in a list and no more than `batch`, or two, and is sent the nodes; and
    `Changes`, for which it is sent `None`. Both nodes of a path come in one list. Where both trees have the
    same node it is not asked for, nor is anything below it. Trees of the same entries have no differences,
    whatever their bucket sizes. No more than `batch` nodes a level are held.
    """
    if a == b:
        return
    places, batch = _Places(layout, hash_fn), together(layout, batch)
    waiting = [_Pair(b"", {} if a is None else a, {} if b is None else b)]
    while waiting:
        pairs = _taken(waiting, batch)
        wanted = list(dict.fromkeys(cid for pair in pairs for cid in pair.cids))
        blocks = yield wanted
        assert blocks is not None
        nodes = dict(zip(wanted, blocks, strict=True))
        found = Changes()
        for path, old, new in pairs:
            before, after = places.slots(old, path, nodes), places.slots(new, path, nodes)
            for number, (one, other) in enumerate(zip(before, after, strict=True)):
                if one == other:
                    continue
                if isinstance(one, dict) and isinstance(other, dict):
                    found.compare(one, other)
                else:
                    waiting.append(_Pair(path + layout.path(number), one, other))
        if found:
            yield found


class _Pair(NamedTuple):
    """What two trees have at a path where they differ, in one of them a node at least."""

    path: bytes
    old: Slot
    new: Slot

    @property
    def cids(self) -> list[bytes]:
        """The nodes to read."""
        return [slot for slot in (self.old, self.new) if isinstance(slot, bytes)]


def _taken(waiting: list[_Pair], batch: int) -> list[_Pair]:
    """The last pairs that wait, taken away: one, and more as long as their nodes are no more than `batch`."""
    pairs = [waiting.pop()]
    room = batch - len(pairs[0].cids)
    while waiting and (room := room - len(waiting[-1].cids)) >= 0:
        pairs.append(waiting.pop())
    return pairs


class _Places:
    """
    What lies where in the trees, with a look at whether it belongs there.

    A foreign tree may link few nodes from very many places, and a walk through all of them would never end.
    Where a node has entries one of them tells its place. Where it has none the first place is its only one:
    unless nothing but empty nodes lie below, no other can be right.
    """

    def __init__(self, layout: Layout, hash_fn: HashFn) -> None:
        self._layout = layout
        self._hash_fn = hash_fn
        self._width = len(hash_fn(b""))
        self._of_bare: dict[bytes, bytes] = {}

    def slots(self, slot: Slot, path: bytes, nodes: dict[bytes, Data]) -> Sequence[Slot]:
        """The slots below `path`: those of a node, or the entries of a bucket sent down to theirs."""
        if len(path) == self._width:
            raise DepthExceeded(f"the tree goes on below the whole hash {path.hex()}")
        if isinstance(slot, dict):
            return self._spread(slot, path)
        slots = self._layout.decode(slot, nodes[slot], is_root=not path)
        links_of(slot, slots, self._layout)
        empty = self._layout.empty_nodes
        if not empty.isdisjoint(link for link in slots if isinstance(link, bytes)):
            slots = [{} if isinstance(link, bytes) and link in empty else link for link in slots]
        if path:
            self._refuse_elsewhere(slot, slots, path)
        else:
            refuse_other_root(slot, slots, self._layout, self._hash_fn)
        return slots

    def _spread(self, bucket: Bucket, path: bytes) -> Sequence[Slot]:
        slots: list[Bucket] = [{} for _ in range(self._layout.width)]
        for key, pointer in bucket.items():
            way = self._hash_fn(any_key(key))
            refuse_misplaced(any_key(key), path, way)
            slots[self._layout.number(way, len(path) // self._layout.step)][key] = pointer
        return slots

    def _refuse_elsewhere(self, cid: bytes, slots: Sequence[Slot], path: bytes) -> None:
        entries = sample(slots, 1)
        for number, key in entries:
            refuse_misplaced(key, path + self._layout.path(number), self._hash_fn(key))
        if not entries and any(slots) and (first := self._of_bare.setdefault(cid, path)) != path:
            raise MalformedNode(
                f"{text(cid)} lies below {first.hex()} and below {path.hex()}, where no key of the one can lie"
            )
