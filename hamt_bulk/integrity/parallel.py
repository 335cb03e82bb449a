"""A check on a Dask cluster: subtrees of the root are parts, and what was found in them is added up."""

from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from distributed import get_worker
from distributed.protocol import pickle

from hamt_bulk.block import text
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.cas.wrap import Reader, VerifyingCAS
from hamt_bulk.dask.parcel import Parcel, SealedParcel
from hamt_bulk.dask.runner import ClientRunner, Stage, Window, run, runner_here
from hamt_bulk.dask.stages import fresh, task
from hamt_bulk.errors import BlockMismatch, BlockNotFound, CASError, HamtError, NotPortable
from hamt_bulk.integrity.accounts import Members
from hamt_bulk.integrity.tally import Tally
from hamt_bulk.integrity.walks import Job, Nodes, begun, part
from hamt_bulk.keys import is_metadata
from hamt_bulk.progress import ProgressOption, progress_of
from hamt_bulk.roots.documents import CONSOLIDATED, Member
from hamt_bulk.roots.hierarchy import Hierarchy

PARTS = 64
PARTS_PER_WORKER = 4
"""So many parts, or so many for each worker thread: a worker that dies costs the parts that it was at."""

Known: TypeAlias = dict[str, Member | None]
_Work: TypeAlias = "Parcel[tuple[Job, Known | None]]"


def on_client(job: Job, option: ProgressOption) -> tuple[Tally, bool]:
    """
    What was found, and whether that is all of the tree.

    It is not where there is no Client, in a task of one, or where the stores cannot leave this process; nor when
    one node lies in two parts, of which only a walk that sees both can say which is in its place. What was repaired
    by then stays.
    """
    alternative = (
        'check in this process, within dask.config.set(scheduler="threads"), or in a thread '
        "(asyncio.to_thread) with a synchronous Client"
    )
    tally = Tally(job.limit)
    # Before anything asks for a Client: a worker would make one for its tasks.
    if _is_task():
        return tally, False
    runner = runner_here(alternative)
    if not isinstance(runner, ClientRunner) or not _travels(job):
        return tally, False
    nodes = begun(job, tally)
    if not nodes:
        return tally, True
    parts = _cut(nodes, max(PARTS, PARTS_PER_WORKER * runner.workers))
    try:
        tallies = [tally, *run(_stages(job, parts), runner, _Reach(job), progress_of(option))]
    except NotPortable:
        return tally, False
    finally:
        _kept.clear()  # of workers in this process
    total = Tally.together(tallies)
    return total, len(total.placed) == sum(len(one.placed) for one in tallies)


def _is_task() -> bool:
    """Whether this runs in a task, which waits for no others: they might need its thread."""
    try:
        get_worker()
    except ValueError:
        return False
    return True


def _travels(job: Job) -> bool:
    try:
        pickle.dumps(job)
    except Exception:  # whatever a store raises that cannot travel
        return False
    return True


def _cut(nodes: Nodes, count: int) -> list[Nodes]:
    return [nodes[start::count] for start in range(min(count, len(nodes)))]


def _stages(job: Job, parts: Sequence[Nodes]) -> Any:
    results: list[Tally] = yield Stage("check", sum(map(len, parts)) + 1, _windows(job, parts))
    return results


def _windows(job: Job, parts: Sequence[Nodes]) -> Iterator[Window]:
    name = fresh("hamt-check")
    parcel = Parcel((job, _known(job)))
    graph = {
        (name, number): task((name, number), _part, parcel, name, nodes) for number, nodes in enumerate(parts)
    }
    units = {(name, number): len(nodes) for number, nodes in enumerate(parts)}
    units[(name, 0)] += 1  # the root, which was looked at here
    yield Window(graph, units)


def _part(parcel: "_Work | SealedParcel", token: str, nodes: Nodes) -> Tally:
    job, known = parcel.open() if isinstance(parcel, Parcel) else _opened(token, parcel)
    return part(job, nodes, known)


_kept: dict[str, tuple[Job, Known | None]] = {}


def _opened(token: str, parcel: SealedParcel) -> tuple[Job, Known | None]:
    """What is in a parcel. A process keeps the last one: its stores have looked at their indexes."""
    if (kept := _kept.get(token)) is None:
        kept = parcel.open()
        _kept.clear()
        _kept[token] = kept
    return kept


def _known(job: Job) -> Known | None:
    """The arrays and groups that the consolidated metadata names, looked up once for all parts."""
    if not job.zarr or not job.is_hierarchy():
        return None
    members = Members(job.tree())
    try:
        top = Hierarchy(job.tree()).at("")
    except HamtError:
        top = None
    for name in top.fields.get(CONSOLIDATED, ()) if top is not None else ():
        members.at(name.rpartition("/")[0] if is_metadata(name) else name)
    return members.known


class _Reach(VerifyingCAS):
    """
    What workers have to reach, in the place of a store: what is read, and where repairs go what is written.

    A folder that a worker sees is taken for another one when it lacks the root.
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job.cas)
        self._job = job
        self._stores = [cas for cas in (job.cas, job.other) if cas is not None and _has(cas, job.root)]

    def refuse_other_processes(self) -> None:
        self.inner.refuse_other_processes()
        if self._job.other is not None:
            self._job.other.refuse_other_processes()

    def announce(self) -> str:
        return "" if self._job.other is None else self.inner.announce()

    def preflight(self, token: str) -> None:
        if self._job.other is not None:
            self.inner.preflight(token)
        for cas in self._stores:
            if not _has(cas, self._job.root):
                raise CASError(
                    f"{cas!r} has not the root {text(self._job.root)} that the driver sees in it: put the store "
                    "where all workers reach it"
                )

    def retract(self, token: str) -> None:
        if self._job.other is not None:
            self.inner.retract(token)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Reach._of, (self._job, self._stores)

    @staticmethod
    def _of(job: Job, stores: list[ContentAddressedStore]) -> "_Reach":
        reach = _Reach.__new__(_Reach)
        VerifyingCAS.__init__(reach, job.cas)
        reach._job, reach._stores = job, stores
        return reach


def _has(cas: ContentAddressedStore, root: bytes) -> bool:
    try:
        Reader(cas).blocks([root])
    except (BlockNotFound, BlockMismatch):
        return False
    return True
