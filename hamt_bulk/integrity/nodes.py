"""
The nodes of a tree: whether each is there, every key where lookups go, every node as a build would write it.
"""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import libipld

from hamt_bulk.block import DAG_CBOR, parse, text
from hamt_bulk.errors import HamtError, MalformedNode
from hamt_bulk.integrity.answers import Answer, Checks, Whole, ask, fault_of_cid, remember
from hamt_bulk.integrity.report import Findings, Report, kind_of
from hamt_bulk.integrity.values import ValueWalk
from hamt_bulk.layout import PyHamt, Slot
from hamt_bulk.manifest import HashFn

NODES_AT_ONCE = 256

LARGEST_BUCKET = 255
"""Child nodes with more entries than this are not suspected of being too small for any bucket size."""


@dataclass(slots=True, eq=False)
class _Subtree:
    """
    A node and what is known of the entries below it.

    waiting  links of it that have not been looked at to their ends
    whole    whether all that is below could be read, so that `entries` is exact
    """

    cid: bytes
    path: bytes
    parent: "_Subtree | None"
    entries: int = 0
    waiting: int = 0
    whole: bool = True


@dataclass(slots=True)
class _Sizes:
    """How often each size occurs, and where it did first."""

    limit: int
    counts: Counter[int] = field(default_factory=Counter)
    places: dict[int, list[tuple[bytes, bytes]]] = field(default_factory=dict)

    def add(self, size: int, cid: bytes, path: bytes) -> None:
        self.counts[size] += 1
        places = self.places.setdefault(size, [])
        if len(places) < self.limit:
            places.append((cid, path))


class TreeWalk:
    """The traversal, and what it has counted."""

    def __init__(
        self, found: Findings, hash_fn: HashFn, values: bool, progress: Callable[[int, int], None]
    ) -> None:
        self._found = found
        self._hash_fn = hash_fn
        self._width = len(hash_fn(b""))
        self._values = ValueWalk(found) if values else None
        self._progress = progress
        self._layout = PyHamt()
        self.nodes = self.entries = self.bytes = self.depth = 0
        self._done = self._total = 0
        self._buckets = _Sizes(found.limit)
        self._children = _Sizes(found.limit)
        self._seen: dict[bytes, bytes] = {}

    def tree(self, root: bytes) -> Checks[None]:
        """Looks at everything below `root`."""
        waiting = [_Subtree(root, b"", None)]
        while waiting:
            batch = waiting[-NODES_AT_ONCE:]
            del waiting[-NODES_AT_ONCE:]
            answers = yield from ask(node.cid for node in batch)
            for node in batch:
                waiting += self._node(node, answers[node.cid])
                if self._values is not None and self._values.is_full:
                    yield from self._values.look()
        if self._values is not None:
            yield from self._values.look()

    def report(self, root: bytes, bucket_size: int | None) -> Report:
        """What was found, with the problems that show only when all nodes are known."""
        size = self._likely_bucket_size() if bucket_size is None else bucket_size
        for entries, places in sorted(self._buckets.places.items()):
            if entries > size:
                self._found.count += self._buckets.counts[entries] - len(places)
                for cid, path in places:
                    what = f"a bucket of {entries} entries, expected at most {size}, so a child node"
                    self._found.add("not canonical", cid, _shown(path), what)
        for entries, places in sorted(self._children.places.items()):
            if 0 < entries <= size:
                self._found.count += self._children.counts[entries] - len(places)
                for cid, path in places:
                    what = f"a child node of {entries} entries, expected more than {size}, else a bucket"
                    self._found.add("not canonical", cid, _shown(path), what)
        values = self._values or ValueWalk(self._found)
        return Report(
            root=text(root),
            nodes=self.nodes,
            entries=self.entries,
            values=values.values,
            blocks=self.nodes + values.blocks,
            bytes=self.bytes + values.bytes,
            depth=self.depth,
            bucket_size=size,
            problems=tuple(self._found.problems),
            problem_count=self._found.count,
        )

    def _likely_bucket_size(self) -> int:
        """The least size of those for which the fewest buckets are too large and child nodes too small."""

        def strays(size: int) -> int:
            large = sum(count for entries, count in self._buckets.counts.items() if entries > size)
            small = sum(count for entries, count in self._children.counts.items() if 0 < entries <= size)
            return large + small

        return min(range(1, max(self._buckets.counts, default=1) + 1), key=strays)

    def _node(self, node: _Subtree, answer: Answer) -> list[_Subtree]:
        """The children that are to be looked at next."""
        slots = self._decoded(node, answer)
        children: list[_Subtree] = []
        if slots is not None:
            for number, slot in enumerate(slots):
                below = node.path + bytes((number,))
                if isinstance(slot, bytes):
                    children += self._child(node, slot, below)
                elif slot:
                    self._bucket(node, slot, below)
        node.waiting = len(children)
        if node.parent is None:
            self._total = len(children) + 1
        self._finish(node)
        return children

    def _decoded(self, node: _Subtree, answer: Answer) -> list[Slot] | None:
        """The slots of a node; `None` when there is nothing to see below it."""
        if isinstance(answer, HamtError):
            node.whole = False
            self._found.add(kind_of(answer), node.cid, _shown(node.path), str(answer))
            return None
        assert not isinstance(answer, Whole)
        try:
            slots = self._layout.decode(node.cid, answer)
        except MalformedNode as error:
            node.whole = False
            self._found.add("unreadable", node.cid, _shown(node.path), str(error))
            return None
        self.nodes += 1
        self.bytes += len(answer)
        self.depth = max(self.depth, len(node.path))
        if not any(slots):
            if node.parent is not None:
                self._found.add("not canonical", node.cid, _shown(node.path), "an empty child node")
            return None
        first = self._seen.get(node.cid)
        if first is not None and not self._belongs(slots, node.path):
            # What lies below both cannot belong to both, and following such links could take for ever.
            node.whole = False
            what = f"the same node lies at {_shown(first)}, and its keys cannot belong in both places"
            self._found.add("misplaced", node.cid, _shown(node.path), what)
            return None
        remember(self._seen, node.cid, node.path)
        if parse(node.cid).codec != DAG_CBOR:
            what = f"codec {parse(node.cid).codec:#x}, expected dag-cbor ({DAG_CBOR:#x})"
            self._found.add("not canonical", node.cid, _shown(node.path), what)
        if libipld.encode_dag_cbor([[slot] if isinstance(slot, bytes) else slot for slot in slots]) != answer:
            what = "its bytes are not dag-cbor as a build writes it: keys out of order, or numbers too long"
            self._found.add("not canonical", node.cid, _shown(node.path), what)
        return slots

    def _belongs(self, slots: list[Slot], path: bytes) -> bool:
        """Whether keys in this node say that it lies in its place."""
        keys = [key for slot in slots if isinstance(slot, dict) for key in slot]
        return bool(keys) and all(self._hash_fn(key.encode()).startswith(path) for key in keys)

    def _child(self, node: _Subtree, cid: bytes, path: bytes) -> Iterator[_Subtree]:
        if (fault := fault_of_cid(cid)) is not None:
            self._found.add("unreadable", cid, _shown(path), fault)
        elif len(path) >= self._width:
            what = f"a node below all {self._width} bytes of a hash, where nothing can tell keys apart"
            self._found.add("not canonical", cid, _shown(path), what)
        else:
            yield _Subtree(cid, path, node)
            return
        node.whole = False

    def _bucket(self, node: _Subtree, bucket: dict[str, bytes], path: bytes) -> None:
        self.entries += len(bucket)
        node.entries += len(bucket)
        self._buckets.add(len(bucket), node.cid, path)
        for key, pointer in bucket.items():
            digest = self._hash_fn(key.encode())
            if not digest.startswith(path):
                what = f"its hash leads to {_shown(digest[: len(path)])}, but it lies at {_shown(path)}"
                self._found.add("misplaced", node.cid, key, what)
            if (fault := fault_of_cid(pointer)) is not None:
                self._found.add("unreadable", pointer, key, fault)
            elif self._values is not None:
                self._values.add(pointer, key)

    def _finish(self, node: _Subtree) -> None:
        """Counts what is below `node`, and below those above it that had been waiting for it alone."""
        at: _Subtree | None = node
        while at is not None and at.waiting == 0:
            above = at.parent
            if above is not None:
                if at.whole and at.entries <= LARGEST_BUCKET:
                    self._children.add(at.entries, at.cid, at.path)
                above.entries += at.entries
                above.whole &= at.whole
                above.waiting -= 1
            if above is None or above.parent is None:
                self._done += 1
                self._progress(self._done, self._total)
            at = above


def _shown(path: bytes) -> str:
    return "/" + path.hex("/") if path else "/"
