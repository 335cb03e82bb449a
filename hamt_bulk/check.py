"""
Whether a tree is whole: every block present and hashed, every key where lookups go, every node as a build
would write it.

The walk does no I/O: it yields the CIDs it needs, and since it never stops at the first problem, it is sent
for each its block, or the error that came of asking. Memory is that of the nodes that wait at one time, a
few levels of a few hundred, and of the problems that are listed; values are read a few at a time.
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, TypeAlias, TypeVar

import libipld

from hamt_bulk import unixfs
from hamt_bulk.block import DAG_CBOR, DAG_PB, AnyCID, Data, parse, text, to_bytes
from hamt_bulk.cas import ContentAddressedStore, LocalCAS, open_cas
from hamt_bulk.cas.wrap import translated, verified
from hamt_bulk.errors import BlockMismatch, BlockNotFound, CASError, HamtError, InvalidInput, MalformedNode
from hamt_bulk.layout import PyHamt, Slot
from hamt_bulk.manifest import HashFn, blake3_hashfn
from hamt_bulk.progress import BuildProgress, ProgressOption, progress_of

NODES_AT_ONCE = 256
VALUES_AT_ONCE = 32
"""Blocks of values in one request: 32 MiB of ours, 64 of the largest that are exchanged."""

LARGEST_BUCKET = 255
"""Child nodes with more entries than this are not suspected of being too small for any bucket size."""

REMEMBERED = 1 << 16
"""Values, and blocks of them, that are not read again when they come again; so many of the last ones."""

MAX_OUTAGES = 32
"""After so many `CASError`s in a row it is the store that is out of reach, not its blocks."""

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


class Whole(NamedTuple):
    """In place of a dag-pb block: the file below it was put together by the store and hashes to the CID."""

    size: int


T = TypeVar("T")

Answer: TypeAlias = Data | Whole | HamtError
"""What was found under a CID. A block was compared with it."""

Checks: TypeAlias = Generator[list[bytes], Sequence[Answer], T]
"""As `Reads`, but an answer may be an error, or a `Whole`."""


def check(
    root: AnyCID,
    cas: ContentAddressedStore | str,
    *,
    values: bool = True,
    max_bucket_size: int | None = None,
    hash_fn: HashFn = blake3_hashfn,
    max_problems: int = 1000,
    progress: ProgressOption = None,
) -> Report:
    """
    What is wrong with a tree and its values, if anything.

    values           `False`: nodes alone
    max_bucket_size  what the tree was built with; `None`: whatever explains it best
    max_problems     how many are listed; all are counted
    progress         as in `to_hamt`; the units are the subtrees of the root

    Raises `CASError` when the store is out of reach, and nothing else about what it finds.
    """
    load = _Loader(open_cas(cas)).load
    with progress_of(progress) as show:
        found = _Findings(max_problems)
        walk = _Walk(found, hash_fn, values, lambda done, total: show(BuildProgress("check", done, total)))
        steps = walk.tree(to_bytes(root))
        try:
            cids = next(steps)
            while True:
                cids = steps.send(load(cids))
        except StopIteration:
            pass
    return walk.report(to_bytes(root), max_bucket_size)


@dataclass(slots=True)
class _Findings:
    """Problems, of which the first are kept."""

    limit: int
    problems: list[Problem] = field(default_factory=list)
    count: int = 0

    def add(self, kind: Kind, cid: bytes, where: str, message: str) -> None:
        self.count += 1
        if len(self.problems) < self.limit:
            self.problems.append(Problem(kind, text(cid), where, message))


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


@dataclass(slots=True, eq=False)
class _Value:
    """
    A value and the keys that have it.

    walked  nodes of its file, and how long their parts of it are
    faulty  blocks that were reported
    fault   the first thing that is wrong
    """

    cid: bytes
    keys: list[str]
    walked: dict[bytes, int] = field(default_factory=dict)
    faulty: set[bytes] = field(default_factory=set)
    fault: "_Fault | None" = None


class _Fault(NamedTuple):
    """What is wrong with a block."""

    kind: Kind
    cid: bytes
    message: str


class _Piece(NamedTuple):
    """A block of a value. `size`: what its parent says its part of the file has; a root has no parent."""

    cid: bytes
    value: _Value
    size: int | None
    level: int


class _Walk:
    """The traversal, and what it has counted."""

    def __init__(
        self, found: _Findings, hash_fn: HashFn, values: bool, progress: Callable[[int, int], None]
    ) -> None:
        self._found = found
        self._hash_fn = hash_fn
        self._width = len(hash_fn(b""))
        self._check_values = values
        self._progress = progress
        self._layout = PyHamt()
        self.nodes = self.entries = self.values = self.blocks = self.bytes = self.depth = 0
        self._done = self._total = 0
        self._buckets = _Sizes(found.limit)
        self._children = _Sizes(found.limit)
        self._seen: dict[bytes, bytes] = {}
        self._pending: dict[bytes, _Value] = {}
        self._faults: dict[bytes, _Fault | None] = {}
        self._leaves: dict[bytes, int] = {}

    def tree(self, root: bytes) -> Checks[None]:
        """Looks at everything below `root`."""
        waiting = [_Subtree(root, b"", None)]
        while waiting:
            batch = waiting[-NODES_AT_ONCE:]
            del waiting[-NODES_AT_ONCE:]
            answers = yield from _ask(node.cid for node in batch)
            for node in batch:
                waiting += self._node(node, answers[node.cid])
                if len(self._pending) >= VALUES_AT_ONCE:
                    yield from self._values()
        yield from self._values()

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
        return Report(
            text(root), self.nodes, self.entries, self.values, self.blocks, self.bytes, self.depth, size,
            tuple(self._found.problems), self._found.count,
        )  # fmt: skip

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
            self._found.add(_kind(answer), node.cid, _shown(node.path), str(answer))
            return None
        assert not isinstance(answer, Whole)
        try:
            slots = self._layout.decode(node.cid, answer)
        except MalformedNode as error:
            node.whole = False
            self._found.add("unreadable", node.cid, _shown(node.path), str(error))
            return None
        self.nodes += 1
        self.blocks += 1
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
        _remember(self._seen, node.cid, node.path)
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
        if (fault := _fault_of_cid(cid)) is not None:
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
            if (fault := _fault_of_cid(pointer)) is not None:
                self._found.add("unreadable", pointer, key, fault)
            elif not self._check_values:
                continue
            elif pointer in self._faults:
                self._report_fault(self._faults[pointer], [key])
            else:
                self._pending.setdefault(pointer, _Value(pointer, [])).keys.append(key)

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

    def _values(self) -> Checks[None]:
        """Looks at the values that wait, and the blocks below them."""
        values, self._pending = list(self._pending.values()), {}
        self.values += len(values)
        waiting = [_Piece(value.cid, value, None, 0) for value in values]
        while waiting:
            batch = waiting[-VALUES_AT_ONCE:]
            del waiting[-VALUES_AT_ONCE:]
            known = {cid: size for cid, *_ in batch if (size := self._leaves.get(cid)) is not None}
            answers = yield from _ask(piece.cid for piece in batch if piece.cid not in known)
            for piece in batch:
                waiting += self._piece(piece, known.get(piece.cid), answers.get(piece.cid))
        for value in values:
            _remember(self._faults, value.cid, value.fault)

    def _piece(self, piece: _Piece, size: int | None, answer: Answer | None) -> Iterator[_Piece]:
        """The blocks that `piece` links to. `size`: how long its part is, when it was looked at before."""
        if size is None:
            size = piece.value.walked.get(piece.cid, self._leaves.get(piece.cid))
        try:
            if size is None:
                assert answer is not None
                size, length, links = _file_node(piece.cid, answer)
                self.blocks += 1
                self.bytes += length
                if links and piece.level >= unixfs.MAX_LEVELS:
                    raise MalformedNode(f"more than {unixfs.MAX_LEVELS} levels of nodes above a leaf")
                if links:
                    piece.value.walked[piece.cid] = size
                else:
                    _remember(self._leaves, piece.cid, size)
                yield from (_Piece(cid, piece.value, own, piece.level + 1) for cid, own in links)
            if piece.size is not None and size != piece.size:
                raise MalformedNode(f"{size} bytes, expected the {piece.size} that its parent records")
        except HamtError as error:
            if piece.cid not in piece.value.faulty:
                piece.value.faulty.add(piece.cid)
                fault = _Fault(_kind(error), piece.cid, str(error))
                piece.value.fault = piece.value.fault or fault
                self._report_fault(fault, piece.value.keys)

    def _report_fault(self, fault: _Fault | None, keys: Sequence[str]) -> None:
        if fault is not None:
            for key in keys:
                self._found.add(fault.kind, fault.cid, key, fault.message)


def _ask(cids: Iterator[bytes]) -> Checks[dict[bytes, Answer]]:
    """What is sent for each of `cids`, none asked for twice."""
    wanted = list(dict.fromkeys(cids))
    if not wanted:
        return {}
    answers = yield wanted
    return dict(zip(wanted, answers, strict=True))


def _file_node(cid: bytes, answer: Answer) -> tuple[int, int, list[tuple[bytes, int]]]:
    """The length of a block's part of a value, its own, and its links with the lengths they should have."""
    match answer:
        case HamtError():
            raise answer
        case Whole(size):
            return size, size, []
    if parse(cid).codec != DAG_PB:
        return len(answer), len(answer), []
    node = unixfs._decode(cid, answer)
    return node.size, len(answer), list(zip(node.links, node.sizes, strict=True))


def _fault_of_cid(cid: bytes) -> str | None:
    try:
        parse(cid)
    except InvalidInput as error:
        return str(error)
    return None


def _kind(error: HamtError) -> Kind:
    match error:
        case BlockNotFound():
            return "missing"
        case BlockMismatch():
            return "altered"
        case _:
            return "unreadable"


def _shown(path: bytes) -> str:
    return "/" + path.hex("/") if path else "/"


V = TypeVar("V")


def _remember(memory: dict[bytes, V], cid: bytes, value: V) -> None:
    if len(memory) >= REMEMBERED:
        del memory[next(iter(memory))]
    memory[cid] = value


class _Loader:
    """What a store has, block by block."""

    def __init__(self, cas: ContentAddressedStore) -> None:
        self._cas = verified(cas)
        self._outages = 0

    def load(self, cids: Sequence[bytes]) -> Sequence[Answer]:
        try:
            return self._together(cids)
        except HamtError:
            return [self._alone(cid) for cid in cids]

    def _together(self, cids: Sequence[bytes]) -> list[Answer]:
        with translated(self._cas, cids):
            if isinstance(self._cas, LocalCAS):
                return list(self._cas.load_blocks(cids))
            # Other stores give values, and a file comes as one.
            values = self._cas.load_many(cids)
        pairs = zip(cids, values, strict=True)
        return [Whole(len(value)) if parse(cid).codec == DAG_PB else value for cid, value in pairs]

    def _alone(self, cid: bytes) -> Answer:
        try:
            [answer] = self._together([cid])
        except CASError as error:
            self._outages += 1
            if self._outages == MAX_OUTAGES:
                raise
            return error
        except HamtError as error:
            answer = error
        self._outages = 0
        return answer
