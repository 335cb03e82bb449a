"""What a check finds."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

from hamt_bulk.block import text
from hamt_bulk.cas import Receipt
from hamt_bulk.errors import BlockMismatch, BlockNotFound, HamtError
from hamt_bulk.integrity.least import Least
from hamt_bulk.pointers import is_inline
from hamt_bulk.wording import printable

Kind: TypeAlias = Literal[
    "missing", "altered", "unreadable", "misplaced", "not canonical", "unaccounted", "inconsistent"
]
"""
missing        no store has the block
altered        its bytes are not what its CID says
unreadable     it could not be read, or is not what belongs in its place
misplaced      a key lies where lookups do not go
not canonical  it can be read, but a build of the same entries would write something else
unaccounted    a key of a Zarr hierarchy that its metadata does not account for, so that nobody reads it
inconsistent   metadata that is not Zarr's, is not there, or contradicts other metadata
"""

ADVICE: dict[str, str] = {
    "misplaced": "misplaced, not canonical: no copy repairs these. Build the tree again from its entries, "
    "hamt_bulk.build({key: CID, …}, cas)",
    "unaccounted": "unaccounted: hamt_bulk.delete(root, cas, keys=[…]) gives a root without them",
    "inconsistent": "inconsistent: write the metadata again, as with zarr.consolidate_metadata on a ZarrHAMTStore",
}
ADVICE["not canonical"] = ADVICE["misplaced"]

SHOWN_ARRAYS = 20

MAX_MESSAGE = 1000
"""Characters of a message, which may quote what a document says."""

NOTHING = Receipt()


@dataclass(frozen=True, slots=True)
class Problem:
    """
    What is wrong with one node, with the value of one key, or with one key of a Zarr hierarchy.

    cid    of the block that is concerned; empty for a value that its node holds
    where  the key; or the path to the node, the hash bytes that lead there in hex, as in `/07/3a`
    """

    kind: Kind
    cid: str
    where: str
    message: str

    def __str__(self) -> str:
        return printable(f"{self.kind}: {self.where!r}: {self.message} ({self.cid})")


@dataclass(frozen=True, slots=True)
class StoredChunks:
    """
    How many chunks of an array are stored. The others are its fill value, and that is no damage.

    path     as zarr has it: without a slash at its ends, "" for the top
    stored   chunks, or with sharding shards, that the tree has a key for
    total    how many there can be; `None` when the chunks are not regular
    """

    path: str
    stored: int
    total: int | None
    sharded: bool = False

    def __str__(self) -> str:
        what = "shards" if self.sharded else "chunks"
        of = "" if self.total is None else f" of {self.total:,}"
        return f"{printable(self.path) or '/'}: {self.stored:,}{of} {what} stored"


@dataclass(frozen=True, slots=True)
class Report:
    """
    What `check` found.

    nodes, entries  as far as they could be read
    values          those that were looked at, each once however many keys have it
    blocks, bytes   of nodes and values, that were there and hashed to their CIDs
    depth           of the deepest node; the root's is 0
    bucket_size     what the tree was built with; where not given, the smallest that explains it best
    problems        the first of them, by place
    problem_count   how many there are in all
    arrays          of a Zarr hierarchy, by path
    repaired        blocks that were written, and their bytes; they are durable, and problems no longer
    sealed          whether metadata is encrypted, and was left alone
    """

    root: str
    nodes: int
    entries: int
    values: int
    blocks: int
    bytes: int
    depth: int
    bucket_size: int
    problems: tuple[Problem, ...]
    problem_count: int
    arrays: tuple[StoredChunks, ...] = ()
    repaired: Receipt = NOTHING
    sealed: bool = False

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong, or nothing any more."""
        return self.problem_count == 0

    def __str__(self) -> str:
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        nodes = "1 node" if self.nodes == 1 else f"{self.nodes:,} nodes, the deepest at depth {self.depth}"
        yield self.root
        yield f"{self.entries:,} entries in {nodes}; buckets of at most {self.bucket_size}"
        yield f"{self.values:,} values; {self.blocks:,} blocks of {self.bytes:,} bytes in all"
        yield from (f"  {array}" for array in self.arrays[:SHOWN_ARRAYS])
        if len(self.arrays) > SHOWN_ARRAYS:
            yield f"  and {len(self.arrays) - SHOWN_ARRAYS:,} more arrays"
        if self.repaired.blocks:
            blocks = "1 block" if self.repaired.blocks == 1 else f"{self.repaired.blocks:,} blocks"
            yield f"repaired: {blocks} of {self.repaired.bytes:,} bytes"
        problems = "1 problem" if self.problem_count == 1 else f"{self.problem_count:,} problems"
        if self.sealed:
            yield "encrypted: the metadata was not looked at, for which encryption= is needed"
        yield "sound" if self.ok else problems
        yield from (f"  {problem}" for problem in self.problems)
        if self.problem_count > len(self.problems):
            yield f"  and {self.problem_count - len(self.problems):,} more"
        yield from dict.fromkeys(ADVICE[kind] for kind in self._kinds() if kind in ADVICE)
        misplaced = sum(problem.kind == "misplaced" for problem in self.problems)
        if misplaced and misplaced == min(self.entries, len(self.problems)):
            yield "nothing lies where its hash says: was the tree built with another hash_fn?"

    def _kinds(self) -> set[str]:
        return {problem.kind for problem in self.problems}


class Findings:
    """Problems: all are counted, and the first ones by place are kept."""

    def __init__(self, limit: int) -> None:
        self.count = 0
        self.least: Least[tuple[str, Kind, str, str]] = Least(limit)

    def add(self, kind: Kind, cid: bytes, where: str, message: str) -> None:
        """Counts a problem."""
        self.count += 1
        self.least.add((where, kind, "" if is_inline(cid) else text(cid), message[:MAX_MESSAGE]))

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Those that were kept."""
        return tuple(Problem(kind, cid, where, message) for where, kind, cid, message in self.least.items)

    @classmethod
    def together(cls, several: "Sequence[Findings]") -> "Findings":
        """All of them."""
        total = cls(several[0].least.limit)
        total.count = sum(one.count for one in several)
        total.least = Least.together([one.least for one in several])
        return total


def kind_of(error: HamtError) -> Kind:
    """What is wrong with a block that gave `error`."""
    match error:
        case BlockNotFound():
            return "missing"
        case BlockMismatch():
            return "altered"
        case _:
            return "unreadable"
