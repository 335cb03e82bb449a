"""What two sides of a merge changed so that it does not go together, by group and by array."""

from collections import defaultdict
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import permutations
from typing import Literal, TypeAlias

from multiformats import CID

from hamt_bulk.keys import is_metadata
from hamt_bulk.roots.documents import ATTRIBUTE, Member, field_changes
from hamt_bulk.roots.hierarchy import Hierarchy

Pointers: TypeAlias = Mapping[str, bytes | None]
"""What one side changed: each key's new pointer; `None` where it was removed."""

MEANING = (
    "units",
    "calendar",
    "scale_factor",
    "add_offset",
    "_FillValue",
    "missing_value",
    "dtype",
    "_Unsigned",
    "_Encoding",
)
"""The attributes that xarray decodes values with, so that they count like codecs. All others are harmless."""


@dataclass(frozen=True, slots=True)
class Clash:
    """
    One thing that two sides changed in ways that do not go together.

    kind     "array": all that is under `key`, the array's path; "group": the same of a group; "dimension": arrays of
             different sizes along `key`, the dimension's name after the path of the group; "document": a metadata
             document of which both changed one field; "key": any other key
    message  what each side did
    base, ours, theirs  for a "document" or a "key" the CIDs of its values; `None`: no such key
    """

    kind: Literal["array", "group", "dimension", "document", "key"]
    key: str
    message: str
    base: CID | None = None
    ours: CID | None = None
    theirs: CID | None = None


@dataclass(frozen=True)
class Sides:
    """
    What two sides made of one tree.

    mine, other  what ours and theirs changed
    """

    base: Hierarchy
    ours: Hierarchy
    theirs: Hierarchy
    mine: Pointers
    other: Pointers

    @cached_property
    def by_array(self) -> tuple[dict[str, dict[str, bytes | None]], dict[str, dict[str, bytes | None]]]:
        """What ours and theirs changed in arrays, by the array's path."""
        return self._by_array(self.mine), self._by_array(self.other)

    def keys(self, path: str) -> set[str]:
        """All keys of the array at `path` that a side changed."""
        return {key for side in self.by_array for key in side.get(path, ())}

    def _by_array(self, changes: Pointers) -> dict[str, dict[str, bytes | None]]:
        found: dict[str, dict[str, bytes | None]] = defaultdict(dict)
        trees = self.ours, self.theirs, self.base
        for key, pointer in changes.items():
            owner = next((owner for tree in trees if (owner := tree.owner(key))), None)
            if owner is not None:
                found[owner[0]][key] = pointer
        return dict(found)


def group_clashes(sides: Sides) -> Iterator[tuple[Clash, set[str]]]:
    """The groups that one side has no longer, or never had, and in which the other sets keys; with all keys there."""
    paths = {key.rpartition("/")[0] for key in (*sides.mine, *sides.other) if is_metadata(key)}
    done: set[str] = set()
    for path in sorted(paths):
        if done.isdisjoint([path, *folders_above(path)]) and (found := _group_clash(sides, path)):
            done.add(path)
            yield found


def array_clashes(sides: Sides, settled: Container[str]) -> Iterator[tuple[Clash, set[str]]]:
    """The arrays that both sides changed in ways that do not go together, but for `settled` keys; with all keys."""
    by_ours, by_theirs = sides.by_array
    for path in sorted(by_ours.keys() & by_theirs.keys()):
        keys = sides.keys(path)
        if by_ours[path] == by_theirs[path] or any(key in settled for key in keys):
            continue
        chunks = _has_chunks(by_ours[path]), _has_chunks(by_theirs[path])
        message = _why(sides.base.at(path), sides.ours.at(path), sides.theirs.at(path), chunks)
        if message is not None:
            yield Clash("array", path, f"{path!r}: {message}"), keys


def folders_above(path: str) -> list[str]:
    """The paths of all folders that `path` lies in, the top first."""
    return ["", *(path[:at] for at, char in enumerate(path) if char == "/")] if path else []


def _group_clash(sides: Sides, path: str) -> tuple[Clash, set[str]] | None:
    before, one, two = (tree.at(path) for tree in (sides.base, sides.ours, sides.theirs))
    start = f"{path}/" if path else ""
    for (name, lost, own), (other, kept, others) in permutations(
        (("ours", one, sides.mine), ("theirs", two, sides.other))
    ):
        if kept is not None and kept.kind == "group" and _is_lost(before, lost, kept):
            keys, new = _inside(start, own), _inside(start, others)
            if keys and any(others[key] is not None for key in new):
                gain = _gain(sides, path, sorted(key for key in new if others[key] is not None))
                message = f"{name} {_loss(path, before, lost)}, and {other} {gain}"
                return Clash("group", path, message), keys | new
    return None


def _inside(start: str, changes: Pointers) -> set[str]:
    return {key for key in changes if key.startswith(start)}


def _is_lost(before: Member | None, lost: Member | None, kept: Member) -> bool:
    """Whether what is `kept` as a group on one side is none on the other, or one of another format."""
    if lost is None:
        return before is not None
    if lost.kind == "group":
        return _format(lost) != _format(kept) and (before is None or _format(before) != _format(lost))
    return lost.kind == "array"


def _loss(path: str, before: Member | None, lost: Member | None) -> str:
    if lost is None:
        return f"deletes the {before.kind if before is not None else 'group'} {path!r}"
    return f"makes {path!r} {'an array' if lost.kind == 'array' else f'a group of format {_format(lost)}'}"


def _gain(sides: Sides, path: str, keys: list[str]) -> str:
    before = sides.base.at(path)
    if before is None or before.kind != "group":
        return "makes it a group"
    inside = [folder for key in keys if (folder := key.rpartition("/")[0]) != path and is_metadata(key)]
    if added := [folder for folder in inside if sides.base.at(folder) is None]:
        return f"adds {min(added)!r} in it"
    arrays = [
        array for changes in sides.by_array for array in changes if not sides.keys(array).isdisjoint(keys)
    ]
    return f"changes {min([*inside, *arrays])!r} in it" if inside or arrays else "changes it"


def _format(member: Member) -> object:
    return member.fields.get("format")


def _has_chunks(changes: Pointers) -> bool:
    return any(not is_metadata(key) for key in changes)


def _why(
    base: Member | None, ours: Member | None, theirs: Member | None, chunks: tuple[bool, bool]
) -> str | None:
    """Why the changes of an array do not go together, if they do not."""
    if base is None:
        return "ours and theirs both add it"
    if ours is None or theirs is None:
        return (
            "ours deletes it, and theirs changes it"
            if ours is None
            else "theirs deletes it, and ours changes it"
        )
    if appends := _appends(base, ours, theirs):
        return appends
    sides = (("ours", ours, "theirs", theirs, chunks[1]), ("theirs", theirs, "ours", ours, chunks[0]))
    for name, member, other, against, other_has_chunks in sides:
        # A new size may hold fill values, which are no chunks.
        has_size = against.shape not in (base.shape, member.shape)
        if (other_has_chunks or has_size) and (changed := _harmful(base, member, against)):
            return f"{name} changes its {', '.join(changed)}, and {other} its {'chunks' if other_has_chunks else 'shape'}"
    return None


def _appends(base: Member, ours: Member, theirs: Member) -> str | None:
    """What to say of two appends to an array: neither has what the other's part is along its own."""
    sizes = list(enumerate(zip(*map(_shape, (base, ours, theirs)), strict=False)))
    one, two = (
        " and ".join(
            f"along {_dim(base, axis)} ({size} before, {new[side]} after)"
            for axis, (size, *new) in sizes
            if new[side] > size
        )
        for side in (0, 1)
    )
    if both := [
        f"along {_dim(base, axis)} ({size} before, {new} by ours and {other} by theirs)"
        for axis, (size, new, other) in sizes
        if new > size and other > size
    ]:
        return f"ours and theirs both append to it {' and '.join(both)}"
    if one and two:
        return f"ours appends to it {one}, and theirs {two}"
    return None


def _harmful(base: Member, member: Member, against: Member) -> list[str]:
    """What changed in an array so that chunks which the other side writes would be read as something else."""
    names = [change.name for change in field_changes(base, member)]
    changed = [
        name
        for name in names
        if name != "shape" and (not name.startswith(ATTRIBUTE) or name.removeprefix(ATTRIBUTE) in MEANING)
    ]
    if member.shape != against.shape and any(
        new < old for new, old in zip(_shape(member), _shape(base), strict=False)
    ):
        changed.append("shape, which became smaller")
    return changed


def _shape(member: Member) -> tuple[int, ...]:
    return member.shape or ()


def _dim(member: Member, axis: int) -> str:
    name = member.dims[axis] if member.dims is not None and axis < len(member.dims) else None
    return f"axis {axis}" if name is None else repr(name)
