"""Whether the metadata of a Zarr hierarchy is Zarr's, complete, and of one mind."""

import json
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from hamt_bulk.errors import HamtError
from hamt_bulk.integrity.accounts import stored_chunks
from hamt_bulk.integrity.report import Findings, StoredChunks
from hamt_bulk.integrity.tally import Tally
from hamt_bulk.integrity.validity import fault_of
from hamt_bulk.keys import folder_start
from hamt_bulk.nodes import Tree
from hamt_bulk.roots.documents import CONSOLIDATED, Document, Member, field_changes, member_of

NODE_NAMES = ("zarr.json", ".zarray", ".zgroup")
"""The documents that make a folder an array or a group."""

BLOCKS_AT_ONCE = 32
SHOWN_FIELDS = 3


class _Lost:
    """In the place of a document that could not be read, or is not valid."""


class Documents:
    """The metadata documents that a walk found, read and judged; what is wrong goes to `found`."""

    def __init__(self, tree: Tree, pointers: Mapping[str, bytes], found: Findings) -> None:
        self._tree = tree
        self._pointers = pointers
        self._found = found
        self._faults: dict[str, str] = {}
        self._values: dict[str, Document | _Lost] = {}
        keys = iter(sorted(pointers))
        while batch := list(islice(keys, BLOCKS_AT_ONCE)):
            for key, data in zip(batch, self._read(batch), strict=True):
                self._values[key] = self._parsed(key, data)
        self._folders: dict[str, Member | _Lost] = {}
        for key in self._values:
            folder, _, name = key.rpartition("/")
            if name in NODE_NAMES and folder not in self._folders:
                self._folders[folder] = self._member(folder)
        self._sorted = sorted(self._folders)

    @property
    def is_empty(self) -> bool:
        """Whether none of them describes an array or group."""
        return not any(isinstance(member, Member) for member in self._folders.values())

    def arrays(self, tally: Tally) -> list[StoredChunks]:
        """How many chunks each array has."""
        return [
            stored_chunks(path, member, tally.stored[path])
            for path, member in sorted(self._folders.items())
            if isinstance(member, Member)
            and member.kind == "array"
            and not any(map(self._is_array, _above(path)))
        ]

    def judge(self) -> None:
        """Compares the documents of a hierarchy with one another."""
        missing: set[str] = set()
        for key in self._values:
            folder, _, name = key.rpartition("/")
            outer = next(filter(self._is_array, _above(folder)), None)
            if outer is not None:
                self._add("unaccounted", key, f"it lies in the array {outer or '/'!r}")
            elif not self._has_reader(folder, name):
                self._add(
                    "unaccounted", key, "beside it is no document of an array or group that it belongs to"
                )
            elif key in self._faults:
                self._add("inconsistent", key, self._faults[key])
            elif name in NODE_NAMES:
                self._look_above(folder, name, missing)
            if (copies := self._copies(key)) is not None:
                self._compare(folder, name, copies, missing)

    def _copies(self, key: str) -> Document | None:
        """The consolidated metadata in a document."""
        document = self._values[key]
        holder: Document | None = None
        if key.endswith(".zmetadata") and not isinstance(document, _Lost):
            holder = document
        elif (
            key.endswith("zarr.json") and not isinstance(document, _Lost) and document["node_type"] == "group"
        ):
            holder = document.get("consolidated_metadata")
        copies: Document | None = None if holder is None else holder["metadata"]
        return copies

    def _read(self, keys: Sequence[str]) -> Sequence[bytes | None]:
        """The values of these keys; `None` for one that cannot be read, which is a problem of its own."""
        pointers = [self._pointers[key] for key in keys]
        try:
            stored: Sequence[bytes | None] = self._tree.blocks(pointers)
        except HamtError:
            stored = [self._read_alone(pointer) for pointer in pointers]
        return [
            None if data is None else self._opened(key, data) for key, data in zip(keys, stored, strict=True)
        ]

    def _read_alone(self, pointer: bytes) -> bytes | None:
        try:
            return self._tree.read(pointer)
        except HamtError:
            return None

    def _opened(self, key: str, stored: bytes) -> bytes | None:
        try:
            return self._tree.opened(key, stored)
        except HamtError as error:
            self._add("inconsistent", key, str(error))
            return None

    def _parsed(self, key: str, data: bytes | None) -> Document | _Lost:
        if data is None:
            return _Lost()
        try:
            document = json.loads(data)
        except (ValueError, RecursionError) as error:
            self._faults[key] = f"it is not JSON: {error}"
            return _Lost()
        if not isinstance(document, dict):
            self._faults[key] = f"it is {str(document)[:40]!r}, expected a JSON object"
        elif (fault := fault_of(key.rpartition("/")[2], document)) is not None:
            self._faults[key] = f"it is not valid metadata of Zarr: {fault[:200]}"
        else:
            return document
        return _Lost()

    def _member(self, folder: str) -> Member | _Lost:
        start = folder_start(folder)
        for name in NODE_NAMES:
            if isinstance(self._values.get(start + name), _Lost):
                return _Lost()

        def content(name: str) -> bytes | None:
            value = self._values.get(start + name)
            return None if value is None or isinstance(value, _Lost) else json.dumps(value).encode()

        return member_of(content) or _Lost()

    def _is_array(self, folder: str) -> bool:
        member = self._folders.get(folder)
        return isinstance(member, Member) and member.kind == "array"

    def _has_reader(self, folder: str, name: str) -> bool:
        """Whether a document counts for anything, with those beside it."""
        start = folder_start(folder)
        match name:
            case ".zattrs":
                return start + ".zarray" in self._values or start + ".zgroup" in self._values
            case ".zmetadata":
                return start + ".zgroup" in self._values
            case _:
                return True

    def _look_above(self, folder: str, name: str, missing: set[str]) -> None:
        """Whether all folders above an array or group are groups, which readers of its format find."""
        key, wanted = folder_start(folder) + name, "zarr.json" if name == "zarr.json" else ".zgroup"
        for above in _above(folder):
            expected = folder_start(above) + wanted
            if wanted == ".zgroup" and self._is_of_format_3(above) and not self._is_of_format_3(folder):
                self._add(
                    "inconsistent", key, f"the group {above or '/'!r} is of format 3, whose readers miss it"
                )
                return
            if expected in self._values or expected in missing:
                continue
            if above in self._folders:
                what = f"no such document above {key!r}, and the group there is of another format"
            elif self._is_absent(expected):
                what = f"no such document, though {key!r} lies below it: readers that list groups miss that"
            else:
                continue  # it may be in what cannot be read
            missing.add(expected)
            self._found.add("inconsistent", self._pointers[key], expected, what)

    def _is_absent(self, key: str) -> bool:
        """Whether the tree has no such key, and damage cannot be why."""
        try:
            return self._tree.pointer(key) is None
        except HamtError:
            return False

    def _is_of_format_3(self, folder: str) -> bool:
        return folder_start(folder) + "zarr.json" in self._values

    def _compare(self, group: str, name: str, copies: Mapping[str, Any], missing: set[str]) -> None:
        """
        Whether the copies in a group's consolidated metadata are those of the documents below it.

        missing  documents that were said not to be there; to which it adds
        """
        start, holder = folder_start(group), folder_start(group) + name
        named = {
            start + (path if name == ".zmetadata" else f"{path}/zarr.json"): copy
            for path, copy in copies.items()
        }
        for key, copy in named.items():
            document = self._values.get(key)
            if document is None:
                if key not in missing and self._is_absent(key):
                    missing.add(key)
                    what = f"the consolidated metadata in {holder!r} names it, and there is no such document"
                    self._found.add("inconsistent", self._pointers[holder], key, what)
            elif not isinstance(document, _Lost) and (differ := _differences(name, copy, document)):
                what = f"its copy in the consolidated metadata in {holder!r} differs: {differ}"
                self._add("inconsistent", key, what)
        for key in self._keys_below(group, name):
            if key not in named and key not in self._faults:
                what = f"the consolidated metadata in {holder!r} does not name it, so readers miss it"
                self._add("inconsistent", key, what)

    def _keys_below(self, group: str, holder: str) -> Iterator[str]:
        """The documents of one format below a group, and in format 2 also its own."""
        start = folder_start(group)
        at = bisect_left(self._sorted, start)
        folders = [group] if holder == ".zmetadata" else []
        while at < len(self._sorted) and self._sorted[at].startswith(start):
            folders += [self._sorted[at]] if self._sorted[at] != group else []
            at += 1
        names = (".zarray", ".zgroup", ".zattrs") if holder == ".zmetadata" else ("zarr.json",)
        for folder in folders:
            if not any(map(self._is_array, _above(folder))):
                yield from (key for key in (folder_start(folder) + n for n in names) if key in self._values)

    def _add(self, kind: Any, key: str, message: str) -> None:
        self._found.add(kind, self._pointers[key], key, message)


def look_outside(tree: Tree, pointers: Mapping[str, bytes], found: Findings) -> None:
    """Of a tree without a document at its top: whether it looks like a hierarchy that has lost it."""
    for key in sorted(key for key in pointers if key.count("/") == 1 and key.endswith(NODE_NAMES)):
        if not Documents(tree, {key: pointers[key]}, Findings(0)).is_empty:
            what = f"no group at the top, though there is {key!r}: readers that open the top find nothing"
            found.add("inconsistent", pointers[key], "zarr.json", what)
            return


def _above(folder: str) -> list[str]:
    """The folders above one, the top first; none above the top."""
    if not folder:
        return []
    return ["", *(folder[:at] for at, char in enumerate(folder) if char == "/")]


def _differences(holder: str, copy: object, document: Document) -> str:
    """What differs between a document and its copy, in words; nothing when they say the same."""
    if not isinstance(copy, dict):
        return f"it is {str(copy)[:40]!r}, expected an object"
    if holder == ".zmetadata":
        # zarr writes a field into copies of groups that their documents do not have.
        fields = (copy.keys() | document.keys()) - {"consolidated_metadata"}
        return _listed(sorted(key for key in fields if _text(copy, key) != _text(document, key)))
    old, new = (_of_document(one) for one in (copy, document))
    return _listed([change.name for change in field_changes(old, new) if change.name != CONSOLIDATED])


def _of_document(document: Document) -> Member:
    member = member_of(lambda name: json.dumps(document).encode() if name == "zarr.json" else None)
    assert member is not None
    return member


def _text(document: Document, key: str) -> str | None:
    # Not by `==`: NaN is not equal to itself, and 1 is equal to True.
    return json.dumps(document[key], sort_keys=True) if key in document else None


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - SHOWN_FIELDS} more" if len(names) > SHOWN_FIELDS else ""
    return ", ".join(names[:SHOWN_FIELDS]) + more
