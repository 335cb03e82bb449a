"""
Whether a tree is whole: every block present and hashed, every key where lookups go, every node as a build
would write it, and of a Zarr hierarchy every key accounted for.

Memory is that of the nodes that wait at one time, a few levels of a few hundred, of the problems that are listed,
and 16 bytes for each block, by which one that many keys have is counted once; values are read a few at a time.
"""

import sys
from contextlib import suppress
from dataclasses import replace

from hamt_bulk.block import AnyCID, to_bytes
from hamt_bulk.cas import ContentAddressedStore, open_cas
from hamt_bulk.cas.wrap import Reader
from hamt_bulk.crypto import Encryption, checked
from hamt_bulk.errors import BlockMismatch, BlockNotFound, InvalidInput, MalformedNode
from hamt_bulk.integrity.repair import finish, refuse_unrepairable
from hamt_bulk.integrity.report import Kind, Problem, Report, StoredChunks
from hamt_bulk.integrity.sealed import is_sealed
from hamt_bulk.integrity.seen import Seen
from hamt_bulk.integrity.tally import Tally
from hamt_bulk.integrity.walks import Job, concluded, whole
from hamt_bulk.keys import METADATA_NAMES
from hamt_bulk.layout import HashMapNodes, Layout, PyHamt
from hamt_bulk.manifest import HashFn, blake3_hashfn
from hamt_bulk.progress import BuildProgress, ProgressOption, progress_of
from hamt_bulk.shapes import layout_of

__all__ = ["Kind", "Problem", "Report", "StoredChunks", "check"]


def check(
    root: AnyCID,
    cas: ContentAddressedStore | str,
    *,
    values: bool = True,
    zarr: bool = True,
    encryption: Encryption | None = None,
    repair_from: ContentAddressedStore | str | None = None,
    max_bucket_size: int | None = None,
    hash_fn: HashFn = blake3_hashfn,
    max_problems: int = 1000,
    progress: ProgressOption = None,
) -> Report:
    """
    What is wrong with a tree and its values, if anything.

    values           `False`: nodes alone, and metadata
    zarr             whether keys are compared with Zarr's metadata, where there is some at the top of the tree
    encryption       what values are encrypted with: metadata is compared in clear. Values are hashed, and not decrypted.
                     Without it the metadata of an encrypted hierarchy is left alone, and the report says so
    repair_from      another store: what is missing or altered in `cas` is copied from it, verified. The report
                     has what was repaired, durably, and the problems that remain
    max_bucket_size  what the tree was built with; `None`: whatever explains it best
    max_problems     how many are listed; all are counted
    progress         as in `to_hamt`; the units are the subtrees of the root

    Runs on the active Dask Client; without one, or where a store cannot leave this process, here. The report is
    the same.

    Raises `CASError` when a store is out of reach, by when what was repaired stays; before any work `ReadOnly`
    when there is a store to repair that cannot be written to, and `InvalidInput` when `repair_from` is none, or the
    same; and nothing else about what it finds.
    """
    opened = open_cas(cas)
    other = None if repair_from is None else open_cas(repair_from)
    if other is not None:
        refuse_unrepairable(opened, other)
    layout, placing = _layout_of(to_bytes(root), opened, other, hash_fn)
    job = Job(to_bytes(root), opened, other, layout, placing, checked(encryption), values, zarr, max_problems)
    sealed = encryption is None and zarr and is_sealed(job.tree(), METADATA_NAMES)
    if sealed:
        job = replace(job, zarr=False)
    tally, complete = Tally(max_problems), False
    # Without distributed there is no Client, and it takes a second to import.
    if "distributed" in sys.modules:
        from hamt_bulk.integrity.parallel import on_client

        tally, complete = on_client(job, progress)
    if not complete:
        repaired, samples = tally.repaired, tally.samples
        with progress_of(progress) as show:
            tally = whole(job, lambda done, total: show(BuildProgress("check", done, total)))
        tally.repaired = Seen.together([repaired, tally.repaired])
        tally.samples += samples
    if len(tally.repaired):
        finish(opened, tally.samples)
    if isinstance(layout, HashMapNodes):
        max_bucket_size = layout.max_bucket_size
    report = concluded(job, tally, max_bucket_size)
    return replace(report, sealed=True) if sealed else report


def _layout_of(
    root: bytes, cas: ContentAddressedStore, other: ContentAddressedStore | None, hash_fn: HashFn
) -> tuple[Layout, HashFn]:
    """How the tree is laid out. Where its root cannot be read that is a problem to report, and makes no difference."""
    for place in (cas, other):
        if place is not None:
            with suppress(BlockNotFound, BlockMismatch, MalformedNode, InvalidInput):
                return layout_of(root, Reader(place), hash_fn)
    return PyHamt(), hash_fn
