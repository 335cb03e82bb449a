"""`to_hamt`: a dataset becomes a root."""

import asyncio
import warnings
from collections.abc import Callable, Container, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, overload

from dask.delayed import Delayed
from dask.highlevelgraph import HighLevelGraph
from multiformats import CID

from hamt_bulk.block import AnyCID, Data, to_bytes, to_cid
from hamt_bulk.bulk import Base, Target, abandon, conclude, concluded
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.cas.loop import run_sync
from hamt_bulk.crypto import Encryption, checked
from hamt_bulk.crypto.edits import edit
from hamt_bulk.dask.runner import ClientRunner, Stage, Stages, client_here, run, run_async, runner_here
from hamt_bulk.dask.stages import tree_stages, whole_graph
from hamt_bulk.dask.workers import versions
from hamt_bulk.errors import Conflict, InvalidInput
from hamt_bulk.journal import JournalOption, Resuming
from hamt_bulk.layout import BUCKET_SIZE
from hamt_bulk.manifest import TOMBSTONE, Manifest, blake3_hashfn
from hamt_bulk.progress import Progress, ProgressOption, progress_of
from hamt_bulk.xarray.identity import encrypted_identity, identity, source_names
from hamt_bulk.xarray.keys import check_key, check_key_async
from hamt_bulk.xarray.plan import (
    Region,
    Source,
    XarrayObject,
    ZarrArray,
    ZarrMode,
    ZarrOptions,
    explained,
    plan,
)
from hamt_bulk.xarray.write import WriteStage
from hamt_bulk.zarr import ZarrHAMTStore
from hamt_bulk.zarr.checked import (
    open_checked,
    refuse_other_chunks,
    refuse_other_encryption,
    refuse_other_names,
)
from hamt_bulk.zarr.recording import RecordingStore, named_in


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
                     in the store, and not read again: `check` does that
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
    build: all before any work. `WorkersDied` names the chunks that kill every worker, after all others were finished.
    With an asynchronous Client call `to_hamt_async`.
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
        plan = partial(_plan, ds, target, root, options, encryption, resuming, runner.workers, show)
        if compute:
            stages = _stages(target, plan, runner.workers, encryption)
            made = concluded(target, root, lambda: run(stages, runner, target.cas, show))
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
    graph, key = whole_graph(target, planned.write, planned.edits, planned.base)
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
        plan = partial(_plan, ds, target, root, options, encryption, resuming, workers, show)
        stages = _stages(target, plan, workers, encryption)
        try:
            new = await run_async(stages, client, target.cas, show)
        except BaseException as error:
            await asyncio.shield(asyncio.to_thread(abandon, target.cas, error))
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


@dataclass(frozen=True, slots=True)
class _Plan:
    """
    What is left to do after everything that is in memory was saved, durably.

    sources  the Dask arrays that are to be written
    write    the stage that does it
    edits    of what was saved, now or by calls before this one
    base     the tree that changes
    """

    sources: Sequence[Source]
    write: Stage
    edits: Sequence[Manifest]
    base: Base


def _stages(
    target: Target, plan: Callable[[], _Plan], workers: int, encryption: Encryption | None
) -> Stages[bytes]:
    planned = plan()
    try:
        return (yield from tree_stages(target, planned.write, planned.edits, planned.base, workers))
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


def _plan(
    ds: XarrayObject,
    target: Target,
    root: bytes | None,
    options: ZarrOptions,
    encryption: Encryption | None,
    resuming: Resuming,
    workers: int,
    show: Progress,
) -> _Plan:
    base = Base.of(target, root)
    store = None if root is None else _opened(root, target.cas, options, encryption)
    record = RecordingStore(store)
    edits: list[tuple[str, bytes]] = []
    digests: dict[str, bytes] = {}
    with target.cas.writer() as writer:

        def save(key: str, value: Data | None) -> None:
            edits.append(edit(encryption, key, value, writer.save))
            if encryption is not None:
                digests[key] = encryption.digest(value or b"")

        sources = plan(ds, record, options, save)
        if store is not None and "" not in record.cleared:
            refuse_other_chunks(store, (_first_chunk(source.target) for source in sources))
        documents = dict(record.metadata())
        for key, value in documents.items():
            save(key, value)
        writer.flush()
    if store is not None:
        if documents and "" not in record.cleared:
            _warn_of_old_copy(store, documents)
        if record.cleared:
            base = _cleared(target, base, store, record)
    saved = Manifest.of(edits, target.hash_fn)
    if encryption is None:
        build = identity(target, root, documents, saved, sources)
    else:
        build = encrypted_identity(target, root, documents, digests, sources, encryption)
    count = sum(source.array.npartitions for source in sources)
    names = source_names(sources, encryption)
    finished = resuming.begin(build, versions(), names, count, saved, target.hash_fn, show)
    write = WriteStage(target, sources, record, workers, finished.blocks, resuming.add, encryption)
    return _Plan(sources, write, [saved, *finished.manifests], base)


def _first_chunk(array: ZarrArray) -> str:
    """The key of the chunk at the origin."""
    chunk: str = array.metadata.encode_chunk_key((0,) * len(array.shape))
    return f"{array.path}/{chunk}".lstrip("/")


def _opened(
    root: bytes, cas: ContentAddressedStore, options: ZarrOptions, encryption: Encryption | None
) -> ZarrHAMTStore:
    """The store of the base. Raises `WrongKey` or `NotAuthentic` where it is encrypted otherwise than the build."""
    store = open_checked(root, cas, encryption)
    if options.mode == "w" and not options.group:
        return store  # nothing of it stays
    if encryption is not None or options.group:
        refuse_other_encryption(store)
    else:
        refuse_other_names(
            store
        )  # its documents zarr reads, through a store that says when they are encrypted
    return store


def _warn_of_old_copy(base: ZarrHAMTStore, written: Container[str]) -> None:
    """Where the base's consolidated metadata stays and documents below it change, readers would miss that."""
    for document in ("zarr.json", ".zmetadata"):
        content = None if document in written else run_sync(base.get(document))
        if content is not None and named_in(document, content.to_bytes()) is not None:
            warnings.warn(
                "the base has consolidated metadata, and with consolidated=False it does not get to know of what is "
                "written now: readers and later appends would miss it. Leave the argument out",
                stacklevel=2,
            )


def _cleared(target: Target, base: Base, store: ZarrHAMTStore, record: RecordingStore) -> Base:
    """`base` without the folders that were replaced."""
    if "" in record.cleared:
        return Base.of(target, None)
    names = (name for name, _ in store.hamt.draft.tree.entries())  # its nodes are there already
    deleted = ((name, TOMBSTONE) for name in names if record.is_cleared(store.key_of(name)))
    return replace(base, cleared=Manifest.of(deleted, target.hash_fn))
