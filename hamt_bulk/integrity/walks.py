"""The walk over a tree, in one process: of all of it, or of some subtrees."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.crypto import Encryption
from hamt_bulk.errors import HamtError
from hamt_bulk.integrity.accounts import Accounts, Members
from hamt_bulk.integrity.answers import Answer, Checks, Loader
from hamt_bulk.integrity.either import Either
from hamt_bulk.integrity.metadata import Documents, look_outside
from hamt_bulk.integrity.nodes import TreeWalk, tops
from hamt_bulk.integrity.repair import Repairer
from hamt_bulk.integrity.report import Report, StoredChunks
from hamt_bulk.integrity.sealed import SealedTree
from hamt_bulk.integrity.tally import Tally
from hamt_bulk.integrity.values import ValueWalk
from hamt_bulk.keys import METADATA_NAMES
from hamt_bulk.layout import Layout
from hamt_bulk.manifest import HashFn
from hamt_bulk.nodes import Tree
from hamt_bulk.roots.documents import Member

T = TypeVar("T")

Show: TypeAlias = Callable[[int, int], None]
"""Called with how many subtrees are done, and how many there are."""

Nodes: TypeAlias = list[tuple[bytes, bytes]]
"""CIDs of nodes, and their paths."""


@dataclass(frozen=True, slots=True)
class Job:
    """
    What is checked, and how. It travels to workers.

    other  where sound copies are, or `None`
    zarr   whether keys are compared with metadata, if the tree has some at its top
    limit  how many problems are listed
    """

    root: bytes
    cas: ContentAddressedStore
    other: ContentAddressedStore | None
    layout: Layout
    hash_fn: HashFn
    encryption: Encryption | None
    values: bool
    zarr: bool
    limit: int

    def tree(self) -> Tree:
        """The tree, for looking up and reading single keys."""
        cas = self.cas if self.other is None else Either(self.cas, self.other)
        if self.encryption is not None:
            return SealedTree(self.root, cas, self.layout, self.hash_fn, self.encryption)
        return Tree(self.root, cas, self.layout, self.hash_fn)

    def is_hierarchy(self) -> bool | None:
        """Whether the tree has a document of Zarr's at its top; `None` when damage keeps that from being known."""
        tree, unsure = self.tree(), False
        for name in METADATA_NAMES:
            try:
                if tree.pointer(name) is not None:
                    return True
            except HamtError:
                unsure = True
        return None if unsure else False


def begun(job: Job, tally: Tally) -> Nodes:
    """Looks at the root and the values in its buckets. Gives the subtrees that are left."""
    with _loading(job, tally) as load:
        walk = _walk(job, tally, Members(job.tree()) if job.zarr and job.is_hierarchy() else None)
        subtrees = _driven(walk.begun(job.root), load)
        _driven(walk.ended(), load)
    return [(subtree.cid, subtree.path) for subtree in subtrees]


def part(job: Job, nodes: Nodes, known: Mapping[str, Member | None] | None) -> Tally:
    """
    What is found in these subtrees.

    known  arrays and groups of the hierarchy, as far as they were looked up; `None`: it is none
    """
    tally = Tally(job.limit)
    with _loading(job, tally) as load:
        walk = _walk(job, tally, None if known is None else Members(job.tree(), known))
        _driven(walk.below(tops(nodes)), load)
        _driven(walk.ended(), load)
    return tally


def whole(job: Job, show: Show) -> Tally:
    """What is found in the whole tree."""
    tally = Tally(job.limit)
    with _loading(job, tally) as load:
        members = Members(job.tree()) if job.zarr and job.is_hierarchy() else None
        walk = _walk(job, tally, members, show)
        _driven(walk.below(_driven(walk.begun(job.root), load)), load)
        _driven(walk.ended(), load)
    return tally


def concluded(job: Job, tally: Tally, bucket_size: int | None) -> Report:
    """The report on a tree of which all was seen."""
    arrays: Sequence[StoredChunks] = ()
    if job.zarr and tally.documents:
        match job.is_hierarchy():
            case True:
                documents = Documents(job.tree(), tally.documents, tally.strays)
                documents.judge()
                arrays = documents.arrays(tally)
            case False:
                look_outside(job.tree(), tally.documents, tally.strays)
    return tally.report(job.root, bucket_size, arrays)


@contextmanager
def _loading(job: Job, tally: Tally) -> Iterator[Callable[[Sequence[bytes]], Sequence[Answer]]]:
    if job.other is None:
        yield Loader(job.cas).load
    else:
        with Repairer(job.cas, job.other, tally) as repairer:
            yield repairer.load


def _walk(job: Job, tally: Tally, members: Members | None, show: Show = lambda done, total: None) -> TreeWalk:
    values = ValueWalk(tally.found, tally.blocks) if job.values else None
    return TreeWalk(tally, job.layout, job.hash_fn, values, Accounts(tally, members, job.encryption), show)


def _driven(steps: Checks[T], load: Callable[[Sequence[bytes]], Sequence[Answer]]) -> T:
    try:
        cids = next(steps)
        while True:
            cids = steps.send(load(cids))
    except StopIteration as stop:
        result: T = stop.value
        return result
