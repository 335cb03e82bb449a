"""What the walks over parts of a tree count: compact enough to travel, and so that parts can be added up."""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TypeAlias

from hamt_bulk.block import text
from hamt_bulk.integrity.least import Least
from hamt_bulk.integrity.report import Findings, Report, StoredChunks
from hamt_bulk.integrity.seen import Seen

Place: TypeAlias = tuple[int, bytes, bytes]
"""How odd a size is, the oddest first, and the path and CID of a node that has it."""


class Sizes:
    """
    How often buckets, or child nodes, of each size occur.

    sign  1: the smallest are the oddest; -1: the largest
    """

    def __init__(self, limit: int, sign: int) -> None:
        self.counts: Counter[int] = Counter()
        self._sign = sign
        self._places: Least[Place] = Least(limit)

    def add(self, size: int, cid: bytes, path: bytes) -> None:
        """Counts one."""
        self.counts[size] += 1
        self._places.add((self._sign * size, path, cid))

    def places(self) -> Iterator[tuple[int, bytes, bytes]]:
        """The size, CID and path of the oddest."""
        for size, path, cid in self._places.items:
            yield self._sign * size, cid, path

    @classmethod
    def together(cls, several: "Sequence[Sizes]") -> "Sizes":
        """All of them."""
        total = cls(0, several[0]._sign)
        total._places = Least.together([one._places for one in several])
        for one in several:
            total.counts.update(one.counts)
        return total

    def __len__(self) -> int:
        return len(self._places)


class Tally:
    """
    What was found in some subtrees.

    nodes, entries, bytes, depth  of the tree's nodes
    placed                        the nodes, but for empty ones
    blocks                        of values
    repaired, samples             blocks that were written, and the CIDs of some
    stored                        chunks by array
    documents                     Zarr's metadata: the pointer of each, by key
    strays                        keys that no metadata accounts for
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.nodes = self.entries = self.bytes = self.depth = 0
        self.found, self.strays = Findings(limit), Findings(limit)
        self.buckets, self.children = Sizes(limit, -1), Sizes(limit, 1)
        self.placed, self.blocks, self.repaired = Seen(), Seen(), Seen()
        self.samples: list[bytes] = []
        self.stored: Counter[str] = Counter()
        self.documents: dict[str, bytes] = {}

    @classmethod
    def together(cls, several: "Sequence[Tally]") -> "Tally":
        """What was found in all of them."""
        total = cls(several[0].limit)
        total.depth = max(one.depth for one in several)
        for name in ("nodes", "entries", "bytes"):
            setattr(total, name, sum(getattr(one, name) for one in several))
        for name in ("found", "strays", "buckets", "children", "placed", "blocks", "repaired"):
            parts = [getattr(one, name) for one in several]
            setattr(total, name, type(parts[0]).together(parts))
        for one in several:
            total.samples += one.samples
            total.stored.update(one.stored)
            total.documents.update(one.documents)
        return total

    def report(self, root: bytes, bucket_size: int | None, arrays: Sequence[StoredChunks]) -> Report:
        """What was found, with what shows only when all is known."""
        size = self._likely_bucket_size() if bucket_size is None else bucket_size
        found = Findings.together([self.found, self.strays, self._oversized(size), self._undersized(size)])
        there = self.blocks.there
        return Report(
            root=text(root),
            nodes=self.nodes,
            entries=self.entries,
            values=self.blocks.values,
            blocks=self.nodes + there.blocks,
            bytes=self.bytes + there.bytes,
            depth=self.depth,
            bucket_size=size,
            problems=found.problems,
            problem_count=found.count,
            arrays=tuple(arrays),
            repaired=self.repaired.there,
        )

    def _likely_bucket_size(self) -> int:
        """The least size of those for which the fewest buckets are too large and child nodes too small."""

        def strays(size: int) -> int:
            large = sum(count for entries, count in self.buckets.counts.items() if entries > size)
            small = sum(count for entries, count in self.children.counts.items() if 0 < entries <= size)
            return large + small

        return min(range(1, max(self.buckets.counts, default=1) + 1), key=strays)

    def _oversized(self, limit: int) -> Findings:
        found = Findings(self.limit)
        for size, cid, path in self.buckets.places():
            if size > limit:
                what = f"a bucket of {size} entries, expected at most {limit}, so a child node"
                found.add("not canonical", cid, shown(path), what)
        found.count = sum(count for size, count in self.buckets.counts.items() if size > limit)
        return found

    def _undersized(self, limit: int) -> Findings:
        found = Findings(self.limit)
        for size, cid, path in self.children.places():
            if size <= limit:
                what = f"a child node of {size} entries, expected more than {limit}, else a bucket"
                found.add("not canonical", cid, shown(path), what)
        found.count = sum(count for size, count in self.children.counts.items() if size <= limit)
        return found

    def __sizeof__(self) -> int:
        # Dask asks, to know what moving it costs.
        listed = len(self.found.least) + len(self.strays.least) + len(self.buckets) + len(self.children)
        seen = sum(one.__sizeof__() for one in (self.placed, self.blocks, self.repaired))
        return seen + 300 * listed + 200 * (len(self.stored) + len(self.documents))


def shown(path: bytes) -> str:
    """The path to a node, for people."""
    return "/" + path.hex("/") if path else "/"
