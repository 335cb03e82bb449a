"""What differs between two roots, told by array and region."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from heapq import nsmallest
from typing import Literal, TypeAlias

from hamt_bulk.block import AnyCID, to_bytes
from hamt_bulk.cas import ContentAddressedStore, open_cas
from hamt_bulk.keys import METADATA_NAMES
from hamt_bulk.manifest import HashFn, blake3_hashfn
from hamt_bulk.nodes import Tree
from hamt_bulk.roots.diff import changes
from hamt_bulk.roots.documents import FieldChange, Kind, Member, field_changes
from hamt_bulk.roots.hierarchy import Hierarchy

Region: TypeAlias = tuple[slice, ...]
"""A box in an array, in elements; of a scalar it is empty."""

Status: TypeAlias = Literal["added", "removed", "changed"]

EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class VariableChange:
    """
    What differs in one array, in one group, or in the keys that belong to no array.

    path     as zarr has it: without a slash at its ends, "" for the top
    kind     also `"unreadable"`, a document that is not Zarr's, and `"keys"`, those of no array
    status   of the array or group itself, whatever became of its chunks
    fields   what differs in its metadata; nothing for what was added or removed
    shape    of an array, the new one; the old one where it was removed
    dims     the names of its dimensions
    added    how many chunks were added, with sharding shards; for `"keys"` keys
    region   the box around all those chunks: each inside the array that has it, so a removed one inside the
             old array. `None` when there are none, or when their places are unknown
    keys     of `"keys"`: some of them
    """

    path: str
    kind: Kind | Literal["keys"]
    status: Status
    fields: tuple[FieldChange, ...] = ()
    shape: tuple[int, ...] | None = None
    dims: tuple[str | None, ...] | None = None
    added: int = 0
    changed: int = 0
    removed: int = 0
    region: Region | None = None
    sharded: bool = False
    keys: tuple[str, ...] = ()


def variable_changes(
    a: AnyCID, b: AnyCID, cas: ContentAddressedStore | str, *, hash_fn: HashFn = blake3_hashfn
) -> list[VariableChange]:
    """
    What differs between two roots in each array and group, by path; last, if any, the keys of no array.

    Loads what `diff` does and the metadata of what changed. Memory does not depend on how many chunks did.
    """
    old, new = to_bytes(a), to_bytes(b)
    tree = Tree(old, open_cas(cas), hash_fn=hash_fn)
    report = _Report(Hierarchy(tree), Hierarchy(tree.at(new)))
    for key, before, after in changes(old, new, tree, hash_fn):
        status: Status = "added" if before is None else "removed" if after is None else "changed"
        report.add(key, status)
    return list(report.changes())


class _Span:
    """The least box of a chunk grid that has all chunks of one root that differ."""

    def __init__(self) -> None:
        self._low: tuple[int, ...] | None = None
        self._high: tuple[int, ...] = ()

    def add(self, index: tuple[int, ...]) -> None:
        if self._low is None:
            self._low = self._high = index
        self._low = tuple(map(min, self._low, index))
        self._high = tuple(map(max, self._high, index))

    def region(self, member: Member | None) -> Region | None:
        """The box in elements, inside the array."""
        if self._low is None or member is None or member.shape is None or member.chunks is None:
            return None
        starts = [low * size for low, size in zip(self._low, member.chunks, strict=True)]
        ends = [(high + 1) * size for high, size in zip(self._high, member.chunks, strict=True)]
        region = tuple(map(slice, starts, map(min, ends, member.shape)))
        # A chunk may be left over from before the array was made smaller.
        return None if any(part.start >= part.stop for part in region) else region


class _Tally:
    """The chunks of one array that differ."""

    def __init__(self) -> None:
        self.counts: Counter[Status] = Counter()
        self._old, self._new = _Span(), _Span()
        self._is_known = True

    def add(self, status: Status, member: Member, name: str) -> None:
        """Counts the chunk called `name` of the array `member`, the old one when it was removed."""
        self.counts[status] += 1
        index = member.index(name) if member.is_regular else None
        if index is None:
            self._is_known = False
        else:
            (self._old if status == "removed" else self._new).add(index)

    def region(self, old: Member | None, new: Member | None) -> Region | None:
        """The box around all of them."""
        if not self._is_known:
            return None
        removed, present = self._old.region(old), self._new.region(new)
        if removed is not None and new is not None and len(removed) != len(new.shape or ()):
            removed = None  # of an array with other dimensions, in which no box can be
        if removed is None or present is None:
            return present if removed is None else removed
        return tuple(
            slice(min(one.start, other.start), max(one.stop, other.stop))
            for one, other in zip(removed, present, strict=True)
        )


class _Report:
    """What has been seen of a diff, by array."""

    def __init__(self, old: Hierarchy, new: Hierarchy) -> None:
        self._old, self._new = old, new
        self._described: set[str] = set()
        self._tallies: dict[str, _Tally] = {}
        self._stray: Counter[Status] = Counter()
        self._examples: list[str] = []

    def add(self, key: str, status: Status) -> None:
        """Puts a key where it belongs."""
        folder, _, name = key.rpartition("/")
        if name in METADATA_NAMES and (self._old.at(folder) or self._new.at(folder)):
            self._described.add(folder)
            return
        owner = (self._old if status == "removed" else self._new).owner(key)
        if owner is not None:
            path, member = owner
            chunk = key[len(path) + 1 :] if path else key
            if member.may_have(chunk):
                self._tallies.setdefault(path, _Tally()).add(status, member, chunk)
                return
        self._stray[status] += 1
        self._examples = nsmallest(EXAMPLES, [*self._examples, key])

    def changes(self) -> Iterator[VariableChange]:
        """The report."""
        for path in sorted(self._described | self._tallies.keys()):
            old, new = self._old.at(path), self._new.at(path)
            tally = self._tallies.get(path, _Tally())
            if old is not None and new is not None and old.kind == new.kind:
                yield _change(path, "changed", new, tally, field_changes(old, new), tally.region(old, new))
                continue
            if old is not None:
                yield _change(path, "removed", old, tally, (), tally.region(old, None))
            if new is not None:
                yield _change(path, "added", new, tally, (), tally.region(None, new))
        if self._stray:
            yield _with_counts(VariableChange("", "keys", "changed", keys=tuple(self._examples)), self._stray)


def _change(
    path: str,
    status: Status,
    member: Member,
    tally: _Tally,
    fields: tuple[FieldChange, ...],
    region: Region | None,
) -> VariableChange:
    change = VariableChange(path, member.kind, status, fields)
    if member.kind != "array":
        return change
    change = replace(change, shape=member.shape, dims=member.dims, region=region, sharded=member.sharded)
    return _with_counts(change, tally.counts)


def _with_counts(change: VariableChange, counts: Mapping[Status, int]) -> VariableChange:
    added, changed, removed = (counts.get(status, 0) for status in ("added", "changed", "removed"))
    return replace(change, added=added, changed=changed, removed=removed)
