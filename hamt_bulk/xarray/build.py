"""`to_hamt`: a dataset becomes a root."""

import asyncio
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import Any, Literal, overload

from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from multiformats import CID

from hamt_bulk.block import AnyCID, to_bytes, to_cid
from hamt_bulk.bulk import Target, abandon, conclude, concluded
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.crypto import Encryption, checked
from hamt_bulk.dask.keys import check_key, check_key_async
from hamt_bulk.dask.runner import ClientRunner, Stages, client_here, run, run_async, runner_here
from hamt_bulk.dask.stages import tree_stages, whole_graph
from hamt_bulk.errors import Conflict, InvalidInput
from hamt_bulk.journal import JournalOption, Resuming
from hamt_bulk.layout import BUCKET_SIZE
from hamt_bulk.manifest import blake3_hashfn
from hamt_bulk.progress import ProgressOption, progress_of
from hamt_bulk.xarray.plan import (
    Region,
    XarrayObject,
    ZarrMode,
    ZarrOptions,
    explained,
)
from hamt_bulk.xarray.preparing import Prepared, prepared


@overload
def to_hamt(
    ds: XarrayObject,
    cas: ContentAddressedStore | str,
    *,
    base: AnyCID | None = ...,
    group: str | None = ...,
    mode: ZarrMode | None = ...,
    append_dim: Hashable | None = ...,
    region: Region | None = ...,
    encoding: Mapping[Any, Any] | None = ...,
    safe_chunks: bool = ...,
    align_chunks: bool = ...,
    write_empty_chunks: bool | None = ...,
    zarr_format: int | None = ...,
    consolidated: bool | None = ...,
    pin: str | None = ...,
    journal: JournalOption = ...,
    resume: bool | None = ...,
    progress: ProgressOption = ...,
    encryption: Encryption | None = ...,
    max_bucket_size: int = ...,
    compute: Literal[True] = ...,
) -> CID: ...
@overload
def to_hamt(
    ds: XarrayObject,
    cas: ContentAddressedStore | str,
    *,
    base: AnyCID | None = ...,
    group: str | None = ...,
    mode: ZarrMode | None = ...,
    append_dim: Hashable | None = ...,
    region: Region | None = ...,
    encoding: Mapping[Any, Any] | None = ...,
    safe_chunks: bool = ...,
    align_chunks: bool = ...,
    write_empty_chunks: bool | None = ...,
    zarr_format: int | None = ...,
    consolidated: bool | None = ...,
    pin: str | None = ...,
    journal: JournalOption = ...,
    resume: bool | None = ...,
    progress: ProgressOption = ...,
    encryption: Encryption | None = ...,
    max_bucket_size: int = ...,
    compute: Literal[False],
) -> Delayed: ...
def to_hamt(
    ds: XarrayObject,
    cas: ContentAddressedStore | str,
    *,
    base: AnyCID | None = None,
    group: str | None = None,
    mode: ZarrMode | None = None,
    append_dim: Hashable | None = None,
    region: Region | None = None,
    encoding: Mapping[Any, Any] | None = None,
    safe_chunks: bool = True,
    align_chunks: bool = False,
    write_empty_chunks: bool | None = None,
    zarr_format: int | None = None,
    consolidated: bool | None = None,
    pin: str | None = None,
    journal: JournalOption = None,
    resume: bool | None = None,
    progress: ProgressOption = None,
    encryption: Encryption | None = None,
    max_bucket_size: int = BUCKET_SIZE,
    compute: bool = True,
) -> CID | Delayed:
    """
    The root of a tree that holds `ds` as a Zarr hierarchy, on the scheduler that Dask would use here.

        root = to_hamt(ds, cas)
        root = to_hamt(day, cas, base=root, append_dim="time")

    Keys and bytes are those of `ds.to_zarr` with the same arguments and the same versions of xarray and
    zarr; `group` to `consolidated` are its arguments, defaults included.

    base             the root of the hierarchy that is changed: appended to (`append_dim`), written into
                     (`region`), added to (`mode="a"`) or replaced (`mode="w"`). It stays as it was; only what
                     changes is read and written. Without it a new hierarchy. What it holds is taken from its
                     consolidated metadata, so write to a root that has some with `consolidated=True`. A type that
                     the base's cannot hold is refused, where `to_zarr` would cut it off
    pin              a name: the store pins the root under it, where it needs that (a KuboCAS does). When the base is
                     pinned under the same name, the pin moves
    journal          where finished batches are noted, so that the same call goes on where this one ended, whatever
                     ended it: `True` (among the store's own journals), or the path of a file. It is removed when
                     the root is there. It knows the build by metadata, codecs, coordinates, grid and base, not by
                     the data in Dask arrays: of those whose names have changed it warns. What is finished is looked for
                     in the store, and not read again: `check` does that. The store keeps it until the call is made again;
                     `hamt_bulk.journal` shows the builds that wait (`unfinished`), and forgets one (`give_up`)
    resume           `True`: there has to be a journal of this build; `False`: begin anew, whatever that of this build
                     says
    progress         a bar on a terminal or in a notebook; `False`: none; or a function of `BuildProgress`
    encryption       how values, and key names if they are to be hidden, are encrypted; `Encryption(key)`. That of the
                     base, if there is one
    max_bucket_size  entries of a tree's bucket; another one gives another root. That of the base, if there is one
    compute          `False`: metadata is written now, and a `Delayed` of the root returned, one graph

    Raises `InvalidInput` for what xarray or zarr refuse and for Dask chunks that share Zarr chunks, `WrongKey` or
    `NotAuthentic` for a base that is encrypted otherwise, `NotPortable` for a key that workers cannot have,
    `VersionMismatch` or `CASError` when a worker is not fit for the build, `JournalMismatch` for the journal of another
    build: all before any work. `InvalidInput` for a Dask block of another shape than its array says ends it, as does what
    a reader raises, with the variable and the chunk. `WorkersDied` names the chunks that kill every worker, after all
    others were finished. With an asynchronous Client call `to_hamt_async`.
    """
    target = Target.of(cas, max_bucket_size, blake3_hashfn, pin)
    options = ZarrOptions(
        group,
        mode,
        append_dim,
        region,
        encoding,
        safe_chunks,
        align_chunks,
        write_empty_chunks,
        zarr_format,
        consolidated,
    )
    root = _root_of(base, options)
    runner = runner_here("call `await hamt_bulk.xarray.to_hamt_async(…)`")
    check_key(runner, checked(encryption))
    with Resuming(journal, resume, target.cas) as resuming:
        show = progress_of(progress)
        plan = partial(prepared, ds, target, root, options, encryption, resuming, runner.workers, show)
        if compute:
            stages = _stages(plan, runner.workers, encryption)
            made = concluded(target, root, lambda: run(stages, runner, target.cas, show), resuming.abandon)
            resuming.complete()
            return made
        if journal is not None and journal is not False:
            raise InvalidInput(
                "a journal is for compute=True: with compute=False Dask runs the graph, and nobody notes it"
            )
        runner.check(target.cas)
        try:
            planned = plan()
        except BaseException as error:
            abandon(target.cas, error)
            raise
    graph, key = whole_graph(planned.target, planned.write, planned.edits, planned.base)
    return Delayed(key, HighLevelGraph.from_collections(key, graph, dependencies=()))


async def to_hamt_async(
    ds: XarrayObject,
    cas: ContentAddressedStore | str,
    *,
    base: AnyCID | None = None,
    group: str | None = None,
    mode: ZarrMode | None = None,
    append_dim: Hashable | None = None,
    region: Region | None = None,
    encoding: Mapping[Any, Any] | None = None,
    safe_chunks: bool = True,
    align_chunks: bool = False,
    write_empty_chunks: bool | None = None,
    zarr_format: int | None = None,
    consolidated: bool | None = None,
    pin: str | None = None,
    journal: JournalOption = None,
    resume: bool | None = None,
    progress: ProgressOption = None,
    encryption: Encryption | None = None,
    max_bucket_size: int = BUCKET_SIZE,
) -> CID:
    """
    `to_hamt` with an asynchronous Client, such as `await Client(asynchronous=True)`.

    xarray and zarr run in a thread; only the cluster is awaited. Cancelling it cancels its tasks.
    """
    client = client_here()
    if client is None or not client.asynchronous:
        raise InvalidInput("to_hamt_async needs an active asynchronous Client: without one call to_hamt")
    target = Target.of(cas, max_bucket_size, blake3_hashfn, pin)
    options = ZarrOptions(
        group,
        mode,
        append_dim,
        region,
        encoding,
        safe_chunks,
        align_chunks,
        write_empty_chunks,
        zarr_format,
        consolidated,
    )
    root = _root_of(base, options)
    await check_key_async(client, checked(encryption))
    workers = ClientRunner(client).workers
    with Resuming(journal, resume, target.cas) as resuming:
        show = progress_of(progress)
        plan = partial(prepared, ds, target, root, options, encryption, resuming, workers, show)
        stages = _stages(plan, workers, encryption)
        try:
            new = await run_async(stages, client, target.cas, show)
        except BaseException as error:
            await asyncio.shield(asyncio.to_thread(resuming.abandon, error))
            raise
        await asyncio.to_thread(conclude, target, new, root)
        await asyncio.to_thread(resuming.complete)
    return to_cid(new)


def _root_of(base: AnyCID | None, options: ZarrOptions) -> bytes | None:
    """The base's root. Raises `InvalidInput` for options that need one."""
    if base is not None:
        return to_bytes(base)
    needing = {"append_dim": options.append_dim, "region": options.region}
    if options.mode == "r+":
        needing["mode"] = "r+"
    for name, value in needing.items():
        if value is not None:
            raise InvalidInput(f"{name}={value!r} without a base: pass base=, the root to change")
    return None


def _stages(plan: Callable[[], Prepared], workers: int, encryption: Encryption | None) -> Stages[bytes]:
    planned = plan()
    try:
        return (yield from tree_stages(planned.target, planned.write, planned.edits, planned.base, workers))
    except Conflict as error:
        raise explained(_revealed(error, encryption), planned.sources) from error


def _revealed(conflict: Conflict, encryption: Encryption | None) -> Conflict:
    """`conflict` with the key in the place of its hidden name."""
    message = str(conflict)
    _, quote, rest = message.partition("'")
    name, end, _ = rest.partition("'")
    if encryption is None or not encryption.hide_names or not (quote and end):
        return conflict
    return Conflict(message.replace(repr(name), repr(encryption.key_of(name)), 1))
