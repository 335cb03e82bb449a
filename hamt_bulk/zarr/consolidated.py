"""The copy of all metadata that a group keeps, so that opening it takes one value."""

import json
import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import zarr
from zarr.errors import ZarrUserWarning

from hamt_bulk.block import Data
from hamt_bulk.errors import HamtError, InvalidInput
from hamt_bulk.hamt import HAMT
from hamt_bulk.keys import folder_start
from hamt_bulk.nodes import Tree
from hamt_bulk.zarr.folders import Folders
from hamt_bulk.zarr.recording import RecordingStore, named_in
from hamt_bulk.zarr.store import ZarrHAMTStore


def has_consolidated(tree: Tree, group: str) -> bool:
    """Whether the group at this path has a copy of the metadata below it."""
    return _named(tree, group) is not None


def consolidated(
    tree: Tree, group: str, sources: Sequence[Tree], documents: Iterable[str] = ()
) -> dict[str, Data]:
    """
    The documents of a group with a copy of the metadata that is now below it.

    tree       the tree as it is, but for that copy
    sources    trees in whose copies the groups and arrays are named that may be there now
    documents  keys of the metadata of others that may be there
    """
    start = folder_start(group)
    keys = {key for key in documents if key.startswith(start)}
    formats = set[int]()
    for source in sources:
        for name in _named(source, group) or ():
            formats.add(3 if name.endswith("zarr.json") else 2)
            keys.add(start + name)
    folders = Folders()
    for key in sorted(keys):
        if tree.pointer(key) is not None:
            folders.add(key)
    hamt = HAMT(tree.cas, tree.hash_fn, tree.root, read_only=True, values_are_bytes=True, cache=tree.cache)
    record = RecordingStore(ZarrHAMTStore(hamt, read_only=True), folders)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ZarrUserWarning)  # it is what the group had before
        try:
            zarr.consolidate_metadata(record, path=group or None, zarr_format=3 if 3 in formats else 2)
        except HamtError:
            raise
        except Exception as error:  # zarr's share no base
            raise InvalidInput(
                f"the group {group or '/'!r} has consolidated metadata, which cannot be made of what is below it now: "
                f"{type(error).__name__}: {str(error)[:300]}"
            ) from error
    return {key: value for key, value in record.metadata() if value is not None}


def _named(tree: Tree, group: str) -> list[str] | None:
    """The documents that a group has a copy of, by key from the group on; `None` when it has none."""
    for document in ("zarr.json", ".zmetadata"):
        pointer = tree.pointer(folder_start(group) + document)
        if pointer is not None and (names := named_in(document, tree.read(pointer))) is not None:
            return [*names, document]
    return None


def to_json(document: dict[str, Any]) -> bytes:
    """A document as zarr writes it."""
    return json.dumps(document, indent=zarr.config.get("json_indent")).encode()
