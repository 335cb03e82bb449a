"""What a check finds."""

from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from hamt_bulk.block import text
from hamt_bulk.errors import BlockMismatch, BlockNotFound, HamtError

Kind: TypeAlias = Literal["missing", "altered", "unreadable", "misplaced", "not canonical"]
"""
missing        no store has the block
altered        its bytes are not what its CID says
unreadable     it could not be read, or is not what belongs in its place
misplaced      a key lies where lookups do not go
not canonical  it can be read, but a build of the same entries would write something else
"""


@dataclass(frozen=True, slots=True)
class Problem:
    """
    What is wrong with one node, or with the value of one key.

    cid    of the block that is concerned
    where  the value's key; or the path to the node, the hash bytes that lead there in hex, as in `/07/3a`
    """

    kind: Kind
    cid: str
    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.where!r}: {self.message} ({self.cid})"


@dataclass(frozen=True, slots=True)
class Report:
    """
    What `check` found.

    nodes, entries  as far as they could be read
    values          those that were looked at, each once however many keys have it
    blocks, bytes   of nodes and values, that were there and hashed to their CIDs
    depth           of the deepest node; the root's is 0
    bucket_size     what the tree was built with; where not given, the smallest that explains it best
    problems        the first of them
    problem_count   how many there are in all
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

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return self.problem_count == 0

    def __str__(self) -> str:
        problems = "1 problem" if self.problem_count == 1 else f"{self.problem_count:,} problems"
        nodes = "1 node" if self.nodes == 1 else f"{self.nodes:,} nodes, the deepest at depth {self.depth}"
        lines = [
            self.root,
            f"{self.entries:,} entries in {nodes}; buckets of at most {self.bucket_size}",
            f"{self.values:,} values; {self.blocks:,} blocks of {self.bytes:,} bytes in all",
            "sound" if self.ok else problems,
        ]
        lines += (f"  {problem}" for problem in self.problems)
        if self.problem_count > len(self.problems):
            lines.append(f"  and {self.problem_count - len(self.problems):,} more")
        misplaced = sum(problem.kind == "misplaced" for problem in self.problems)
        if misplaced and misplaced == min(self.entries, len(self.problems)):
            lines.append("nothing lies where its hash says: was the tree built with another hash_fn?")
        return "\n".join(lines)


@dataclass(slots=True)
class Findings:
    """Problems, of which the first are kept."""

    limit: int
    problems: list[Problem] = field(default_factory=list)
    count: int = 0

    def add(self, kind: Kind, cid: bytes, where: str, message: str) -> None:
        self.count += 1
        if len(self.problems) < self.limit:
            self.problems.append(Problem(kind, text(cid), where, message))


def kind_of(error: HamtError) -> Kind:
    """What is wrong with a block that gave `error`."""
    match error:
        case BlockNotFound():
            return "missing"
        case BlockMismatch():
            return "altered"
        case _:
            return "unreadable"
