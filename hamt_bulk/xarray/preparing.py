"""What a build does before its tasks: metadata and what is in memory is saved, and the rest is planned."""

import warnings
from collections.abc import Container, Sequence
from dataclasses import dataclass, replace

from hamt_bulk.block import Data
from hamt_bulk.bulk import Base, Target, opened
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.cas.loop import run_sync
from hamt_bulk.crypto import Encryption
from hamt_bulk.crypto.edits import edit
from hamt_bulk.dask.runner import Stage
from hamt_bulk.dask.workers import versions
from hamt_bulk.journal import Resuming
from hamt_bulk.layout import HashMap, HashMapNodes
from hamt_bulk.manifest import TOMBSTONE, Manifest
from hamt_bulk.progress import Progress
from hamt_bulk.xarray.identity import encrypted_identity, identity, source_names
from hamt_bulk.xarray.plan import Source, XarrayObject, ZarrArray, ZarrOptions, plan
from hamt_bulk.xarray.write import WriteStage
from hamt_bulk.zarr import ZarrHAMTStore
from hamt_bulk.zarr.checked import (
    open_checked,
    refuse_other_chunks,
    refuse_other_encryption,
    refuse_other_names,
)
from hamt_bulk.zarr.recording import RecordingStore, named_in


@dataclass(frozen=True, slots=True)
class Prepared:
    """
    What is left to do after everything that is in memory was saved, durably.

    target   where it goes, with the layout of the base
    sources  the Dask arrays that are to be written
    write    the stage that does it
    edits    of what was saved, now or by calls before this one
    base     the tree that changes
    """

    target: Target
    sources: Sequence[Source]
    write: Stage
    edits: Sequence[Manifest]
    base: Base


def prepared(
    ds: XarrayObject,
    target: Target,
    root: bytes | None,
    options: ZarrOptions,
    encryption: Encryption | None,
    resuming: Resuming,
    workers: int,
    show: Progress,
) -> Prepared:
    """
    The plan of a build over the base `root`.

    workers  how many threads there are
    show     is told of what is looked for in a journal
    """
    target, base = opened(target, root)
    layout = target.layout.shape if isinstance(target.layout, HashMapNodes) else None
    store = None if root is None else _opened(root, target.cas, options, encryption, layout)
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
    finished = resuming.begin(
        build, versions(), names, count, saved, target.hash_fn, show, any_keys=target.layout.any_keys
    )
    write = WriteStage(target, sources, record, workers, finished.blocks, resuming.add, encryption)
    return Prepared(target, sources, write, [saved, *finished.manifests], base)


def _first_chunk(array: ZarrArray) -> str:
    """The key of the chunk at the origin."""
    chunk: str = array.metadata.encode_chunk_key((0,) * len(array.shape))
    return f"{array.path}/{chunk}".lstrip("/")


def _opened(
    root: bytes,
    cas: ContentAddressedStore,
    options: ZarrOptions,
    encryption: Encryption | None,
    layout: HashMap | None,
) -> ZarrHAMTStore:
    """The store of the base. Raises `WrongKey` or `NotAuthentic` where it is encrypted otherwise than the build."""
    store = open_checked(root, cas, encryption, layout)
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
    return replace(base, cleared=target.manifest(deleted))
