"""What a Zarr v2 hierarchy is called in v3: other documents, the same chunks."""

import warnings
from collections.abc import Iterable, Mapping

import zarr
from zarr.core.buffer import Buffer, cpu
from zarr.storage import MemoryStore

from hamt_bulk.errors import InvalidInput
from hamt_bulk.foreign import from_json
from hamt_bulk.formats.root import VALUES_AT_ONCE, Root
from hamt_bulk.formats.trees import cut_bytes
from hamt_bulk.formats.zarr3_arrays import DIMENSIONS, array_of_format_3
from hamt_bulk.integrity.validity import fault_of
from hamt_bulk.keys import folder_start, is_metadata
from hamt_bulk.roots.documents import Document

NODES = (".zarray", ".zgroup")
"""The documents that make a folder an array or a group of Zarr v2."""

IN_OTHER_WORDS = {DIMENSIONS, "_FillValue"}
"""Attributes of v2 that need not be there in v3."""

OLD_NAMES = (*NODES, ".zattrs", ".zmetadata")


def zarr3_documents(root: Root) -> dict[str, bytes | None]:
    """
    What changes when the Zarr v2 hierarchy of `root` becomes one of v3: `zarr.json` documents by key, `None` for keys that
    go (.zarray, .zgroup, .zattrs, .zmetadata).

    Chunks keep their keys and bytes: the arrays say chunk_key_encoding "v2". What xarray makes of an array stays too, its
    dimensions and its missing values. Groups with consolidated metadata have it made anew. A `zarr.json` that is there
    stays, also beside documents of v2, which go.

    Raises `InvalidInput`, which names the array and what it is, for a codec or type that v3 has no form for; and for
    documents that are damaged or contradict each other. Loads all documents and no chunk.
    """
    values = _documents(root)
    folders: dict[str, dict[str, Document]] = {}
    for key, value in values.items():
        folder, _, name = key.rpartition("/")
        folders.setdefault(folder, {})[name] = _parsed(key, value)
    old = {path: found for path, found in sorted(folders.items()) if any(name in found for name in OLD_NAMES)}
    if not old:
        raise InvalidInput(f"nothing here is Zarr v2: {root.cid} has no .zarray and no .zgroup")
    for path, found in old.items():
        _check(path, found, values)
    with warnings.catch_warnings():
        # What v3 does not specify yet zarr says again when it is read.
        warnings.simplefilter("ignore")
        new = {
            folder_start(path) + "zarr.json": _of_format_3(path, found)
            for path, found in old.items()
            if "zarr.json" not in found
        }
        there = {key: value for key, value in values.items() if key.endswith("zarr.json")}
        groups = [path for path, found in old.items() if ".zmetadata" in found and "zarr.json" not in found]
        new |= _consolidated(groups, there | new)
    gone = (folder_start(path) + name for path, found in old.items() for name in found if name in OLD_NAMES)
    return {**new, **dict.fromkeys(gone)}


def _documents(root: Root) -> dict[str, bytes]:
    """All metadata documents of a root by key."""
    entries = sorted((key, pointer) for key, pointer in root.pointers() if is_metadata(key))
    found = {}
    for at in range(0, len(entries), VALUES_AT_ONCE):
        some = entries[at : at + VALUES_AT_ONCE]
        for (key, _), value in zip(some, root.values(some), strict=True):
            found[key] = cut_bytes(key, value, 0, None, None)
    return found


def _parsed(key: str, value: bytes) -> Document:
    try:
        document = from_json(value)
    except ValueError as error:
        raise InvalidInput(f"{key!r} is not JSON: {error}") from None
    if not isinstance(document, dict):
        raise InvalidInput(f"{key!r} is {str(document)[:40]!r}, expected a JSON object")
    if key.endswith((".zgroup", ".zmetadata")) and (fault := fault_of(key.rpartition("/")[2], document)):
        raise InvalidInput(f"{key!r} is not valid metadata of Zarr: {fault:.300}")
    return document


def _check(path: str, found: Mapping[str, Document], keys: Iterable[str]) -> None:
    """Raises `InvalidInput` when the documents of one folder do not go together."""
    start = folder_start(path)
    nodes = [name for name in NODES if name in found]
    if len(nodes) == 2:
        raise InvalidInput(
            f"{start + '.zarray'!r} and {start + '.zgroup'!r} are both there: an array and a group cannot have one path; "
            "delete the one that is wrong"
        )
    for name in nodes:
        kind = "array" if name == ".zarray" else "group"
        if "zarr.json" in found and found["zarr.json"].get("node_type") != kind:
            raise InvalidInput(
                f"{start + name!r} says that this is a Zarr v2 {kind}, and {start + 'zarr.json'!r} beside it that the "
                f"node_type is {found['zarr.json'].get('node_type')!r:.80}: delete the one that is wrong"
            )
    if "zarr.json" in found:
        there = found["zarr.json"].get("attributes")
        lost = found.get(".zattrs", {}).keys() - (there if isinstance(there, dict) else ()) - IN_OTHER_WORDS
        if lost:
            raise InvalidInput(
                f"{start + '.zattrs'!r} has {min(lost)!r:.80}, which {start + 'zarr.json'!r} beside it has not: delete the one that "
                "is wrong"
            )
    for name, owners in ((".zattrs", NODES), (".zmetadata", (".zgroup",))):
        if name in found and "zarr.json" not in found and not any(owner in found for owner in owners):
            raise InvalidInput(
                f"{start + name!r} belongs to nothing, there is no {' or '.join(owners)} beside it: delete it"
            )
    for name in found.get(".zmetadata", {}).get("metadata", ()):
        if name.endswith(NODES) and start + name not in keys:
            raise InvalidInput(
                f"{start + '.zmetadata'!r} names {start + name!r}, which is not there: delete that copy, or make it anew with "
                "zarr.consolidate_metadata"
            )


def _of_format_3(path: str, found: Mapping[str, Document]) -> bytes:
    attributes = found.get(".zattrs", {})
    if ".zarray" in found:
        return array_of_format_3(folder_start(path) + ".zarray", found[".zarray"], attributes)
    made: dict[str, Buffer] = {}
    zarr.create_group(MemoryStore(made), zarr_format=3, attributes=attributes)
    return made["zarr.json"].to_bytes()


def _consolidated(groups: Iterable[str], documents: Mapping[str, bytes]) -> dict[str, bytes]:
    """The documents of these groups with copies of all below them."""
    held: dict[str, Buffer] = {key: cpu.Buffer.from_bytes(value) for key, value in documents.items()}
    keys = []
    for group in sorted(groups):  # from the top down: the copy of a group has no copies in it
        keys.append(folder_start(group) + "zarr.json")
        try:
            zarr.consolidate_metadata(MemoryStore(held), path=group or None, zarr_format=3)
        except Exception as error:  # zarr's share no base
            raise InvalidInput(
                f"{folder_start(group) + '.zmetadata'!r} cannot become consolidated metadata of Zarr v3: {str(error)[:300]}"
            ) from error
    return {key: held[key].to_bytes() for key in keys}
