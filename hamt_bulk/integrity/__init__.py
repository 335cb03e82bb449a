"""
Whether a tree is whole: every block present and hashed, every key where lookups go, every node as a build
would write it.

Memory is that of the nodes that wait at one time, a few levels of a few hundred, and of the problems that
are listed; values are read a few at a time.
"""

from hamt_bulk.block import AnyCID, to_bytes
from hamt_bulk.cas import ContentAddressedStore, open_cas
from hamt_bulk.integrity.answers import Loader
from hamt_bulk.integrity.nodes import TreeWalk
from hamt_bulk.integrity.report import Findings, Kind, Problem, Report
from hamt_bulk.manifest import HashFn, blake3_hashfn
from hamt_bulk.progress import BuildProgress, ProgressOption, progress_of

__all__ = ["Kind", "Problem", "Report", "check"]


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
    load = Loader(open_cas(cas)).load
    with progress_of(progress) as show:
        found = Findings(max_problems)
        walk = TreeWalk(found, hash_fn, values, lambda done, total: show(BuildProgress("check", done, total)))
        steps = walk.tree(to_bytes(root))
        try:
            cids = next(steps)
            while True:
                cids = steps.send(load(cids))
        except StopIteration:
            pass
    return walk.report(to_bytes(root), max_bucket_size)
