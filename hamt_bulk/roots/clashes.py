"""What two sides of a merge changed so that it does not go together, array by array."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from multiformats import CID

from hamt_bulk.nodes import Tree
from hamt_bulk.roots.documents import ATTRIBUTE, DOCUMENTS, Member, field_changes
from hamt_bulk.roots.hierarchy import Hierarchy

Pointers: TypeAlias = Mapping[str, bytes | None]
"""What one side changed: each key's new pointer; `None` where it was removed."""

HARMLESS = ("shape", "dimension names")
"""What may change in an array's metadata while the other side changes its chunks, attributes besides."""


@dataclass(frozen=True, slots=True)
class Clash:
    """
    One thing that two sides changed in ways that do not go together.

    kind     "array": all that is under `key`, the array's path; "document": a metadata document of which both changed
             one field; "key": any other key
    message  what each side did
    base, ours, theirs  for a "document" or a "key" the CIDs of its values; `None`: no such key
    """

    kind: Literal["array", "document", "key"]
    key: str
    message: str
    base: CID | None = None
    ours: CID | None = None
    theirs: CID | None = None


def arrays_of(trees: tuple[Hierarchy, ...], changes: Pointers) -> dict[str, dict[str, bytes | None]]:
    """The changes in arrays, by the array's path."""
    found: dict[str, dict[str, bytes | None]] = defaultdict(dict)
    for key, pointer in changes.items():
        owner = next((owner for tree in trees if (owner := tree.owner(key))), None)
        if owner is not None:
            found[owner[0]][key] = pointer
    return found


def array_clashes(base: Tree, ours: Tree, theirs: Tree, mine: Pointers, other: Pointers) -> Iterator[Clash]:
    """The arrays that both sides changed in ways that do not go together."""
    hierarchies = Hierarchy(ours), Hierarchy(theirs), Hierarchy(base)
    by_ours, by_theirs = arrays_of(hierarchies, mine), arrays_of(hierarchies, other)
    for path in sorted(by_ours.keys() & by_theirs.keys()):
        if by_ours[path] == by_theirs[path]:
            continue
        one, two, before = (hierarchy.at(path) for hierarchy in hierarchies)
        chunks = _has_chunks(by_ours[path]), _has_chunks(by_theirs[path])
        message = _why(before, one, two, chunks)
        if message is not None:
            yield Clash("array", path, f"{path!r}: {message}")


def _has_chunks(changes: Pointers) -> bool:
    return any(not key.endswith(DOCUMENTS) for key in changes)


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
    if grown := [
        f"along {_dim(base, axis)} ({size} before, {one} by ours and {two} by theirs)"
        for axis, (size, one, two) in enumerate(zip(*map(_shape, (base, ours, theirs)), strict=False))
        if one > size and two > size
    ]:
        return f"ours and theirs both append to it {' and '.join(grown)}"
    sides = (("ours", ours, "theirs", chunks[1]), ("theirs", theirs, "ours", chunks[0]))
    for name, member, other, other_has_chunks in sides:
        changed = [
            change.name
            for change in field_changes(base, member)
            if change.name not in HARMLESS and not change.name.startswith(ATTRIBUTE)
        ]
        if any(new < old for new, old in zip(_shape(member), _shape(base), strict=False)):
            changed.append("shape, which became smaller")
        if changed and other_has_chunks:
            return f"{name} changes its {', '.join(changed)}, and {other} its chunks"
    return None


def _shape(member: Member) -> tuple[int, ...]:
    return member.shape or ()


def _dim(member: Member, axis: int) -> str:
    name = member.dims[axis] if member.dims is not None and axis < len(member.dims) else None
    return f"axis {axis}" if name is None else repr(name)
