"""`convert`: a root of any kind becomes one of another, with the same keys and values."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from os import PathLike
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, TypeAlias

from dask.base import tokenize
from multiformats import CID

from hamt_bulk.block import AnyCID
from hamt_bulk.bulk import Base, Target, concluded
from hamt_bulk.cas import ContentAddressedStore, open_cas
from hamt_bulk.cas.wrap import configuration
from hamt_bulk.conversion.parts import Job, Part, parts_of
from hamt_bulk.conversion.stages import ConvertStage, verify_stages
from hamt_bulk.conversion.values import Values
from hamt_bulk.conversion.verifying import digest_of, expected_entries, refuse_other_entries
from hamt_bulk.dask.keys import check_key
from hamt_bulk.dask.runner import run as run_stages
from hamt_bulk.dask.runner import runner_here
from hamt_bulk.dask.stage import Stages
from hamt_bulk.dask.stages import tree_stages
from hamt_bulk.dask.workers import versions
from hamt_bulk.errors import Conflict, InvalidInput
from hamt_bulk.formats.ipldstore import IpldstoreRoot, write_ipldstore
from hamt_bulk.formats.recognise import open_root
from hamt_bulk.formats.root import Root
from hamt_bulk.formats.trees import Transformer
from hamt_bulk.formats.zarr3 import zarr3_documents
from hamt_bulk.hashers import blake3_hashfn
from hamt_bulk.journal import Build, JournalOption, Resuming
from hamt_bulk.keys import METADATA_NAMES, key_text
from hamt_bulk.layout import BUCKET_SIZE, HashMap
from hamt_bulk.manifest import Manifest
from hamt_bulk.pointers import is_inline
from hamt_bulk.progress import Progress, ProgressOption, progress_of

if TYPE_CHECKING:
    from hamt_bulk.crypto import Encryption

To: TypeAlias = "Literal['pyhamt', 'ipldstore'] | HashMap"

__all__ = ["convert"]


def convert(
    root: AnyCID | PathLike[str],
    cas: ContentAddressedStore | str,
    to: To = "pyhamt",
    target: ContentAddressedStore | str | None = None,
    *,
    encryption: "Encryption | None" = None,
    decryption: "Encryption | None" = None,
    transformer_decode: Transformer | None = None,
    zarr_format: Literal[3] | None = None,
    max_bucket_size: int = BUCKET_SIZE,
    pin: str | None = None,
    journal: JournalOption = None,
    resume: bool | None = None,
    progress: ProgressOption = None,
) -> CID:
    """
    A new root with all keys and values of another, of whichever kind `open_root` knows.

        root = convert(old, cas)                                         # to what this package and py-hamt 3 write
        root = convert(old, cas, to=HashMap(bit_width=5, bucket_size=3, hasher="sha2-256"))
        root = convert(old, cas, to="ipldstore", target="other")

    to                  `"pyhamt"`, the `HashMap` to build, or `"ipldstore"`, whose root has to fit into one block
    target              the store of the result; without it `cas`
    encryption          what the values of the result are encrypted with
    decryption          what those of the source were
    transformer_decode  as in `open_root`
    zarr_format         3: documents of Zarr v2 become those of v3. Chunks and their keys stay
    max_bucket_size     of `to="pyhamt"`
    pin, journal, resume, progress    as in `to_hamt`; what is noted are parts of the source

    Values are neither decoded nor written again where their bytes allow it: in one store only the nodes of the tree are
    new. In the end source and result are walked once more and compared key by key: places, pointers, and of what was
    written anew the values. A value that is missing in the source and kept as it is stays missing: `check` finds it.

    Runs on the scheduler that Dask would use here. The result is that of a build of these keys and values: a source that
    its writer left with keys in wrong places, or with nodes that are too small, is mended by it. Raises `InvalidInput` for
    what the kind cannot hold, `BlockMismatch` when the new root is not what it should be.
    """
    _refuse_contradictions(to, encryption, zarr_format, max_bucket_size)
    opened = open_cas(cas)
    written = opened if target is None else open_cas(target)
    source = open_root(root, opened, encryption=decryption, transformer_decode=transformer_decode)
    runner = runner_here("convert in a thread (asyncio.to_thread) with a synchronous Client")
    for key in (encryption, decryption):
        check_key(runner, key)
    layout = None if to == "ipldstore" else to
    made = Target.of(written, max_bucket_size, blake3_hashfn, pin, layout)
    is_copy = configuration(written) != configuration(opened)
    with Resuming(journal, resume, made.cas, "parts of the source") as resuming:
        show = progress_of(progress)
        decoding = _decoding(decryption, transformer_decode)
        plan = _Plan(source, decoding, made, to, Values(source, made.cas, made.layout, encryption, is_copy))
        stages = partial(_stages, plan, zarr_format, resuming, runner.workers, show)

        def make() -> bytes:
            made.cas.started(None if is_copy else source.root)
            return run_stages(stages(), runner, made.cas, show)

        new = concluded(made, None, make, resuming.abandon)
        resuming.complete()
    return new


@dataclass(frozen=True, slots=True)
class _Plan:
    """
    What is converted, and to what.

    decoding  how values of the source are decoded, for a journal
    """

    source: Root
    decoding: str
    target: Target
    to: To
    values: Values


def _stages(
    plan: _Plan, zarr_format: int | None, resuming: Resuming, workers: int, show: Progress
) -> Stages[bytes]:
    documents: Mapping[str, bytes | None] = (
        MappingProxyType({}) if zarr_format is None else zarr3_documents(plan.source)
    )
    saved = _saved(plan, documents)
    parts = parts_of(plan.source)
    job = Job(plan.values, plan.target, frozenset(documents))
    build = _identity(plan, documents, len(parts))
    any_keys = plan.target.layout.any_keys
    finished = resuming.begin(
        build, versions(), {}, len(parts), saved, plan.target.hash_fn, show, any_keys=any_keys
    )
    write = ConvertStage(job, parts, finished.blocks, resuming.add)
    before = [saved, *finished.manifests]
    if plan.to == "ipldstore":
        manifests = yield write
        return _ipldstore(plan, job, parts, [*before, *manifests])
    try:
        root = yield from tree_stages(plan.target, write, before, Base.of(plan.target, None), workers)
    except Conflict as error:
        raise _twice(error) from error
    yield from verify_stages(job, parts, root, _new_entries(plan, documents, saved))
    return root


def _twice(conflict: Conflict) -> Conflict:
    """What is wrong when two parts of a source have one key."""
    given = str(conflict).partition(" by tasks")[0]
    return Conflict(
        f"{given} by the source, which has it in two places: lookups find the one that lies where its hash leads. Delete "
        "the key there, convert, and set it again"
    )


def _new_entries(
    plan: _Plan, documents: Mapping[str, bytes | None], saved: Manifest
) -> list[tuple[str, bytes]]:
    """The names of documents that are new, and what verification expects under them."""
    encryption = plan.values.encryption
    if encryption is None:
        return [(key_text(key), pointer) for key, pointer in zip(saved.keys, saved.pointers, strict=True)]
    return [
        (encryption.name(key), digest_of(document))
        for key, document in documents.items()
        if document is not None
    ]


def _saved(plan: _Plan, documents: Mapping[str, bytes | None]) -> Manifest:
    """The edits of documents that are new."""
    encryption = plan.values.encryption
    edits: list[tuple[str, bytes]] = []
    with plan.target.cas.writer() as writer:
        for key, document in documents.items():
            if document is not None:
                name, data = key, document
                if encryption is not None:
                    name, data = encryption.name(key), bytes(encryption.seal(key, document))
                edits.append((name, writer.save(data)))
        writer.flush()
    return plan.target.manifest(edits)


def _decoding(decryption: "Encryption | None", transformer_decode: Transformer | None) -> str:
    """What tells one way to decode values from another; of a function that cannot be told again, always another one."""
    if decryption is not None:
        return decryption.fingerprint
    return "" if transformer_decode is None else str(tokenize(transformer_decode))


def _identity(plan: _Plan, documents: Mapping[str, bytes | None], parts: int) -> Build:
    """Which conversion it is, for a journal."""
    layout = plan.target.layout
    encryption = plan.values.encryption
    about = {
        "to": plan.to if isinstance(plan.to, str) else str(plan.to),
        "nodes": f"{layout.max_bucket_size} {layout.hasher}",
        "encryption": "" if encryption is None else encryption.fingerprint,
        "decryption": plan.decoding,
        "parts": str(parts),
        "documents": str(sorted(documents)),
    }
    return Build(
        {
            "source": {plan.source.kind: plan.source.root},
            "conversion": {k: v.encode() for k, v in about.items()},
        }
    )


def _ipldstore(plan: _Plan, job: Job, parts: Iterable[Part], edits: Iterable[Manifest]) -> bytes:
    """The root of an ipldstore, which holds documents itself."""
    entries = [
        (key_text(key), pointer)
        for manifest in edits
        for key, pointer in zip(manifest.keys, manifest.pointers, strict=True)
    ]
    documents = [entry for entry in entries if entry[0].rpartition("/")[2] in METADATA_NAMES[1:]]
    reader = IpldstoreRoot(plan.source.root, plan.target.cas)
    contents = dict(zip((key for key, _ in documents), reader.values(documents), strict=True))
    given = [(key, contents.get(key, pointer)) for key, pointer in entries]
    root = write_ipldstore(given, plan.target.cas)  # type: ignore[arg-type]  # values of stored pointers are bytes
    made = IpldstoreRoot(root, plan.target.cas)
    found = dict(made.pointers())
    expected = dict(entry for part in parts for entry in expected_entries(job, part))
    held = [(key, pointer) for key, pointer in found.items() if is_inline(pointer)]
    for (key, _), document in zip(held, made.values(held), strict=True):
        if json.loads(document) == json.loads(plan.source.get(key)):  # type: ignore[arg-type]  # bytes
            found[key] = expected[key]
    refuse_other_entries(root, expected, found)
    return root


def _refuse_contradictions(
    to: To, encryption: "Encryption | None", zarr_format: int | None, max_bucket_size: int
) -> None:
    if not (to in ("pyhamt", "ipldstore") or isinstance(to, HashMap)):
        raise InvalidInput(
            f'to={to!r}, expected "pyhamt", "ipldstore" or a HashMap(…); trees of py-hamt 2 are only read'
        )
    if zarr_format not in (None, 3):
        raise InvalidInput(f"zarr_format={zarr_format!r}, expected 3, or None to leave documents as they are")
    if to == "ipldstore" and zarr_format == 3:
        raise InvalidInput('zarr_format=3 and to="ipldstore": ipldstore holds Zarr v2')
    if encryption is not None:
        from hamt_bulk.crypto import checked

        checked(encryption)
    if to == "ipldstore" and encryption is not None:
        raise InvalidInput(
            'encryption= and to="ipldstore": it holds metadata itself, as JSON. Convert to "pyhamt" or a HashMap'
        )
    if to != "pyhamt" and max_bucket_size != BUCKET_SIZE:
        raise InvalidInput(f'max_bucket_size={max_bucket_size} is for to="pyhamt", found to={to}')
