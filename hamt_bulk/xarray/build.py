"""`to_hamt`: a dataset becomes a root."""

from collections.abc import Mapping
from typing import Any, Literal, overload

from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from multiformats import CID

from hamt_bulk.block import Data, to_cid
from hamt_bulk.bulk import Target
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.dask.runner import ClientRunner, Stage, Stages, client_here, run, run_async, runner_here
from hamt_bulk.dask.stages import tree_stages, whole_graph
from hamt_bulk.errors import InvalidInput
from hamt_bulk.layout import BUCKET_SIZE
from hamt_bulk.manifest import TOMBSTONE, Manifest, blake3_hashfn
from hamt_bulk.progress import ProgressOption, progress_of
from hamt_bulk.xarray.plan import XarrayObject, ZarrOptions, plan
from hamt_bulk.xarray.write import write_stage
from hamt_bulk.zarr.recording import RecordingStore


@overload
def to_hamt(
    ds: XarrayObject,
    cas: ContentAddressedStore | str,
    *,
    group: str | None = ...,
    encoding: Mapping[Any, Any] | None = ...,
    safe_chunks: bool = ...,
    align_chunks: bool = ...,
    write_empty_chunks: bool | None = ...,
    zarr_format: int | None = ...,
    consolidated: bool | None = ...,
    progress: ProgressOption = ...,
    max_bucket_size: int = ...,
    compute: Literal[True] = ...,
) -> CID: ...
@overload
def to_hamt(
    ds: XarrayObject,
    cas: ContentAddressedStore | str,
    *,
    group: str | None = ...,
    encoding: Mapping[Any, Any] | None = ...,
    safe_chunks: bool = ...,
    align_chunks: bool = ...,
    write_empty_chunks: bool | None = ...,
    zarr_format: int | None = ...,
    consolidated: bool | None = ...,
    progress: ProgressOption = ...,
    max_bucket_size: int = ...,
    compute: Literal[False],
) -> Delayed: ...
def to_hamt(
    ds: XarrayObject,
    cas: ContentAddressedStore | str,
    *,
    group: str | None = None,
    encoding: Mapping[Any, Any] | None = None,
    safe_chunks: bool = True,
    align_chunks: bool = False,
    write_empty_chunks: bool | None = None,
    zarr_format: int | None = None,
    consolidated: bool | None = None,
    progress: ProgressOption = None,
    max_bucket_size: int = BUCKET_SIZE,
    compute: bool = True,
) -> CID | Delayed:
    """
    The root of a tree that holds `ds` as a Zarr hierarchy, on the scheduler that Dask would use here.

    Keys and bytes are those of `ds.to_zarr` with the same arguments and the same versions of xarray and
    zarr; `group` to `consolidated` are its arguments, defaults included.

    progress         a bar on a terminal or in a notebook; `False`: none; or a function of `BuildProgress`
    max_bucket_size  entries of a tree's bucket; another one gives another root
    compute          `False`: metadata is written now, and a `Delayed` of the root returned, one graph

    Raises `InvalidInput` for what xarray or zarr refuse and for Dask chunks that share Zarr chunks,
    `VersionMismatch` or `CASError` when a worker is not fit for the build: all before any work. With an
    asynchronous Client call `to_hamt_async`.
    """
    target = Target.of(cas, max_bucket_size, blake3_hashfn)
    options = ZarrOptions(
        group, encoding, safe_chunks, align_chunks, write_empty_chunks, zarr_format, consolidated
    )
    runner = runner_here("call `await hamt_bulk.xarray.to_hamt_async(…)`")
    if compute:
        stages = _stages(ds, target, options, runner.workers)
        return to_cid(run(stages, runner, target.cas, progress_of(progress)))
    runner.check(target.cas)
    write, edits = _plan(ds, target, options, runner.workers)
    graph, root = whole_graph(target, write, edits)
    return Delayed(root, HighLevelGraph.from_collections(root, graph, dependencies=()))


async def to_hamt_async(
    ds: XarrayObject,
    cas: ContentAddressedStore | str,
    *,
    group: str | None = None,
    encoding: Mapping[Any, Any] | None = None,
    safe_chunks: bool = True,
    align_chunks: bool = False,
    write_empty_chunks: bool | None = None,
    zarr_format: int | None = None,
    consolidated: bool | None = None,
    progress: ProgressOption = None,
    max_bucket_size: int = BUCKET_SIZE,
) -> CID:
    """
    `to_hamt` with an asynchronous Client, such as `await Client(asynchronous=True)`.

    xarray and zarr run in a thread; only the cluster is awaited. Cancelling it cancels its tasks.
    """
    client = client_here()
    if client is None or not client.asynchronous:
        raise InvalidInput("to_hamt_async needs an active asynchronous Client: without one call to_hamt")
    target = Target.of(cas, max_bucket_size, blake3_hashfn)
    options = ZarrOptions(
        group, encoding, safe_chunks, align_chunks, write_empty_chunks, zarr_format, consolidated
    )
    stages = _stages(ds, target, options, ClientRunner(client).workers)
    return to_cid(await run_async(stages, client, target.cas, progress_of(progress)))


def _stages(ds: XarrayObject, target: Target, options: ZarrOptions, workers: int) -> Stages[bytes]:
    write, edits = _plan(ds, target, options, workers)
    return (yield from tree_stages(target, write, edits, None, workers))


def _plan(ds: XarrayObject, target: Target, options: ZarrOptions, workers: int) -> tuple[Stage, Manifest]:
    """What Dask has to do, after everything that is in memory was saved, durably."""
    record = RecordingStore()
    edits: list[tuple[str, bytes]] = []
    with target.cas.writer() as writer:

        def save(key: str, value: Data | None) -> None:
            edits.append((key, TOMBSTONE if value is None else writer.save(value)))

        sources = plan(ds, record, options, save)
        for key, value in record.metadata():
            save(key, value)
        writer.flush()
    return write_stage(target, sources, record, workers), Manifest.of(edits, target.hash_fn)
