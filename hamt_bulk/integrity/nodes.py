"""
The nodes of a tree: whether each is there, every key where lookups go, every node as a build would write it.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from hamt_bulk.block import DAG_CBOR, parse
from hamt_bulk.errors import HamtError, InvalidInput, MalformedNode
from hamt_bulk.integrity.accounts import Accounts
from hamt_bulk.integrity.answers import Answer, Checks, Whole, ask, fault_of_cid, remember
from hamt_bulk.integrity.report import kind_of
from hamt_bulk.integrity.tally import Tally, shown
from hamt_bulk.integrity.values import ValueWalk
from hamt_bulk.keys import any_key
from hamt_bulk.layout import Layout, Slot
from hamt_bulk.layout.cbor import links_of_pointer
from hamt_bulk.manifest import HashFn
from hamt_bulk.pointers import is_inline

NODES_AT_ONCE = 256

LARGEST_BUCKET = 255
"""Child nodes with more entries than this are not suspected of being too small for any bucket size."""


@dataclass(slots=True, eq=False)
class Subtree:
    """
    A node and what is known of the entries below it.

    waiting  links of it that have not been looked at to their ends
    whole    whether all that is below could be read, so that `entries` is exact
    """

    cid: bytes
    path: bytes
    parent: "Subtree | None"
    entries: int = 0
    waiting: int = 0
    whole: bool = True


def tops(nodes: Sequence[tuple[bytes, bytes]]) -> list[Subtree]:
    """The subtrees under a root that nobody looks at here, from their CIDs and paths."""
    root = Subtree(b"", b"", None, waiting=len(nodes) + 1)
    return [Subtree(cid, path, root) for cid, path in nodes]


class TreeWalk:
    """The traversal. It is `begun` at a root, or `below` nodes that others have found."""

    def __init__(
        self,
        tally: Tally,
        layout: Layout,
        hash_fn: HashFn,
        values: ValueWalk | None,
        accounts: Accounts,
        progress: Callable[[int, int], None],
    ) -> None:
        self._tally = tally
        self._found = tally.found
        self._hash_fn = hash_fn
        self._width = len(hash_fn(b""))
        self._values = values
        self._accounts = accounts
        self._progress = progress
        self._layout = layout
        self._done = self._total = 0
        self._seen: dict[bytes, bytes] = {}

    def begun(self, root: bytes) -> Checks[list[Subtree]]:
        """Looks at the root alone. The subtrees below it are returned."""
        node = Subtree(root, b"", None)
        answers = yield from ask(iter([root]))
        return self._node(node, answers[root])

    def below(self, subtrees: Sequence[Subtree]) -> Checks[None]:
        """Looks at everything in these subtrees."""
        waiting = list(subtrees)
        while waiting:
            batch = waiting[-NODES_AT_ONCE:]
            del waiting[-NODES_AT_ONCE:]
            answers = yield from ask(node.cid for node in batch)
            for node in batch:
                waiting += self._node(node, answers[node.cid])
                if self._values is not None and self._values.is_full:
                    yield from self._values.look()

    def ended(self) -> Checks[None]:
        """Looks at the values that still wait."""
        if self._values is not None:
            yield from self._values.look()

    def _node(self, node: Subtree, answer: Answer) -> list[Subtree]:
        """The children that are to be looked at next."""
        slots = self._decoded(node, answer)
        children: list[Subtree] = []
        if slots is not None:
            for number, slot in enumerate(slots):
                below = node.path + self._layout.path(number)
                if isinstance(slot, bytes):
                    children += self._child(node, slot, below)
                elif slot:
                    self._bucket(node, slot, below)
        node.waiting = len(children)
        if node.parent is None:
            self._total = len(children) + 1
        self._finish(node)
        return children

    def _decoded(self, node: Subtree, answer: Answer) -> list[Slot] | None:
        """The slots of a node; `None` when there is nothing to see below it."""
        if isinstance(answer, HamtError):
            node.whole = False
            self._found.add(kind_of(answer), node.cid, shown(node.path), str(answer))
            return None
        assert not isinstance(answer, Whole)
        try:
            slots = self._layout.decode(node.cid, answer, is_root=node.parent is None)
        except (MalformedNode, InvalidInput) as error:
            node.whole = False
            self._found.add("unreadable", node.cid, shown(node.path), str(error))
            return None
        self._tally.nodes += 1
        self._tally.bytes += len(answer)
        self._tally.depth = max(self._tally.depth, len(node.path) // self._layout.step)
        if not any(slots):
            if node.parent is not None:
                self._found.add("not canonical", node.cid, shown(node.path), "an empty child node")
            return None
        first = self._seen.get(node.cid)
        again = first is not None or self._tally.placed.had(node.cid)
        if again and not self._belongs(slots, node.path):
            # What lies below both cannot belong to both, and following such links could take for ever.
            node.whole = False
            where = "elsewhere too" if first is None else f"at {shown(first)}"
            what = f"the same node lies {where}, and its keys cannot belong in both places"
            self._found.add("misplaced", node.cid, shown(node.path), what)
            return None
        remember(self._seen, node.cid, node.path)
        self._tally.placed.add(node.cid)
        if parse(node.cid).codec != DAG_CBOR:
            what = f"codec {parse(node.cid).codec:#x}, expected dag-cbor ({DAG_CBOR:#x})"
            self._found.add("not canonical", node.cid, shown(node.path), what)
        if self._layout.encode_slots(slots, is_root=node.parent is None).data != answer:
            what = "its bytes are not dag-cbor as a build writes it: keys out of order, or numbers too long"
            self._found.add("not canonical", node.cid, shown(node.path), what)
        return slots

    def _belongs(self, slots: list[Slot], path: bytes) -> bool:
        """Whether keys in this node say that it lies in its place."""
        keys = [key for slot in slots if isinstance(slot, dict) for key in slot]
        return bool(keys) and all(self._hash_fn(any_key(key)).startswith(path) for key in keys)

    def _child(self, node: Subtree, cid: bytes, path: bytes) -> Iterator[Subtree]:
        if (fault := fault_of_cid(cid)) is not None:
            self._found.add("unreadable", cid, shown(path), fault)
        elif len(path) >= self._width:
            what = f"a node below all {self._width} bytes of a hash, where nothing can tell keys apart"
            self._found.add("not canonical", cid, shown(path), what)
        else:
            yield Subtree(cid, path, node)
            return
        node.whole = False

    def _bucket(self, node: Subtree, bucket: dict[str, bytes], path: bytes) -> None:
        self._tally.entries += len(bucket)
        node.entries += len(bucket)
        self._tally.buckets.add(len(bucket), node.cid, path)
        for key, pointer in bucket.items():
            digest = self._hash_fn(any_key(key))
            if not digest.startswith(path):
                what = f"its hash leads to {shown(digest[: len(path)])}, but it lies at {shown(path)}"
                self._found.add("misplaced", node.cid, key, what)
            else:
                self._accounts.add(key, pointer)
            if self._layout.keeps_values and is_inline(pointer):
                self._links(key, pointer)
            elif (fault := fault_of_cid(pointer)) is not None:
                self._found.add("unreadable", pointer, key, fault)
            elif self._values is not None:
                self._values.add(pointer, key)

    def _links(self, key: str, pointer: bytes) -> None:
        """Looks at what an inline value links to."""
        for link in links_of_pointer(pointer):
            if self._values is not None:
                self._values.add(link, key)

    def _finish(self, node: Subtree) -> None:
        """Counts what is below `node`, and below those above it that had been waiting for it alone."""
        at: Subtree | None = node
        while at is not None and at.waiting == 0:
            above = at.parent
            if above is not None:
                if at.whole and 0 < at.entries <= LARGEST_BUCKET:
                    self._tally.children.add(at.entries, at.cid, at.path)
                above.entries += at.entries
                above.whole &= at.whole
                above.waiting -= 1
            if above is None or above.parent is None:
                self._done += 1
                self._progress(self._done, self._total)
            at = above
