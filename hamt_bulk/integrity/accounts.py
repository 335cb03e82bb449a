"""Which keys of a Zarr hierarchy its metadata accounts for, as a walk comes upon them."""

import math
import re
from collections.abc import Mapping
from dataclasses import replace
from operator import lt
from typing import NamedTuple, Self

from hamt_bulk.crypto import Encryption
from hamt_bulk.errors import HamtError
from hamt_bulk.integrity.answers import REMEMBERED
from hamt_bulk.integrity.report import StoredChunks
from hamt_bulk.integrity.tally import Tally
from hamt_bulk.keys import METADATA_NAMES, array_of
from hamt_bulk.nodes import Tree
from hamt_bulk.roots.documents import Member
from hamt_bulk.roots.hierarchy import Hierarchy

UNKNOWN = Member("array", {})
"""In the place of a document that cannot be read: whatever lies below it may belong to it."""


class Members(Hierarchy):
    """The arrays and groups of a tree that may be damaged. `known`: those that were looked up before."""

    def __init__(self, tree: Tree, known: Mapping[str, Member | None] | None = None) -> None:
        super().__init__(tree)
        self._members.update(known or {})

    def at(self, path: str) -> Member | None:
        if path not in self._members:
            try:
                member = super().at(path)
            except HamtError:
                member = UNKNOWN
            if member is not None and not _is_clear(member):
                member = UNKNOWN
            # Of a document the walk needs the grid alone.
            self._members[path] = None if member is None else replace(member, fields={})
            if len(self._members) > REMEMBERED:
                del self._members[next(iter(self._members))]
        return self._members[path]

    @property
    def known(self) -> dict[str, Member | None]:
        """All that were looked up."""
        return dict(self._members)


def _is_clear(member: Member) -> bool:
    return member.kind == "group" or (member.kind == "array" and member.shape is not None)


class _Array(NamedTuple):
    """How the chunks of an array may be called. `grid`: how many there are in each dimension."""

    example: str
    pattern: re.Pattern[str] | None
    grid: tuple[int, ...] | None

    @classmethod
    def of(cls, member: Member) -> Self:
        grid = grid_of(member)
        if member.encoding is None or member.shape is None:
            return cls("", None, grid)
        start, separator = member.encoding
        if not member.shape:
            return cls(start or "0", re.compile(start or "0"), grid)
        # A number in any other form is a key that nobody asks for.
        parts = [start] * bool(start) + ["(0|[1-9][0-9]{0,17})"] * len(member.shape)
        example = [start] * bool(start) + ["0"] * len(member.shape)
        return cls(separator.join(example), re.compile(re.escape(separator).join(parts)), grid)

    def has(self, name: str) -> bool:
        """Whether the array may have a chunk called `name`."""
        if self.pattern is None:
            return True
        found = self.pattern.fullmatch(name)
        return found is not None and (self.grid is None or all(map(lt, map(int, found.groups()), self.grid)))

    def fault(self, name: str) -> str | None:
        """Why the array has no chunk called `name`, or `None`."""
        if self.has(name):
            return None
        if self.pattern is None or self.pattern.fullmatch(name) is None or self.grid is None:
            return f"its chunks are called {self.example!r} and so on"
        return f"its grid has {' × '.join(map(str, self.grid))} chunks"


def grid_of(member: Member) -> tuple[int, ...] | None:
    """How many chunks, or with sharding shards, an array has in each dimension; `None` if not regular."""
    if not member.is_regular or member.shape is None or member.chunks is None:
        return None
    return tuple(-(-size // max(chunk, 1)) for size, chunk in zip(member.shape, member.chunks, strict=True))


def stored_chunks(path: str, member: Member, stored: int) -> StoredChunks:
    """The count of an array as the report has it."""
    grid = grid_of(member)
    return StoredChunks(path, stored, None if grid is None else math.prod(grid), member.sharded)


class Accounts:
    """
    Puts each key where it belongs: to the documents, to the chunks of its array, or to the strays.

    members     `None`: the tree is no hierarchy, so only documents are noted
    encryption  that of the key names, where these are hidden
    """

    def __init__(self, tally: Tally, members: Members | None, encryption: Encryption | None = None) -> None:
        self._tally = tally
        self._members = members
        self._stored = tally.stored
        self._arrays: dict[str, _Array] = {}
        self._hidden = encryption if encryption is not None and encryption.hide_names else None

    def add(self, key: str, pointer: bytes) -> None:
        """Takes a key that lies where lookups go."""
        if self._hidden is not None:
            try:
                key = self._hidden.key_of(key)
            except HamtError as error:
                self._tally.strays.add("unaccounted", pointer, key, str(error))
                return
        if key.endswith(METADATA_NAMES) and key.rpartition("/")[2] in METADATA_NAMES:
            self._tally.documents[key] = pointer
        elif self._members is not None:
            # As almost all keys: of an array that was seen before.
            start = key.find("/c/")
            if start < 0:
                start = len(array_of(key) or "")
            path = key[:start]
            array = self._arrays.get(path)
            if array is not None and array.has(key[start + 1 :] if start else key):
                self._stored[path] += 1
            else:
                self._look_up(key, pointer, self._members)

    def _look_up(self, key: str, pointer: bytes, members: Members) -> None:
        owner = members.owner(key)
        if owner is None:
            self._tally.strays.add("unaccounted", pointer, key, "it is no metadata, and a chunk of no array")
            return
        path, member = owner
        if member.shape is None:
            return  # of a document that cannot be read, which is a problem of its own
        array = self._arrays.get(path)
        if array is None:
            array = self._arrays[path] = _Array.of(member)
        fault = array.fault(key[len(path) + 1 :] if path else key)
        if fault is None:
            self._stored[path] += 1
        else:
            self._tally.strays.add(
                "unaccounted", pointer, key, f"it is no chunk of the array {path or '/'!r}: {fault}"
            )
