"""What would be of several sizes along one dimension once two sides are merged, which xarray cannot open."""

from collections import defaultdict
from collections.abc import Container, Iterable, Iterator, Mapping
from itertools import chain
from typing import NamedTuple

from hamt_bulk.keys import is_metadata
from hamt_bulk.manifest import TOMBSTONE
from hamt_bulk.nodes import Tree
from hamt_bulk.roots.clashes import Clash, Sides, folders_above
from hamt_bulk.roots.documents import CONSOLIDATED
from hamt_bulk.roots.hierarchy import Hierarchy

SHOWN_ARRAYS = 5


class Planned(Hierarchy):
    """
    The hierarchy that a tree is going to be.

    edits   by key: the new pointer, or `TOMBSTONE`
    values  new values, which come after them
    """

    def __init__(self, tree: Tree, edits: Mapping[str, bytes], values: Mapping[str, bytes]) -> None:
        super().__init__(tree)
        self._edits, self._values = edits, values

    def _value(self, key: str) -> bytes | None:
        if key in self._values:
            return self._values[key]
        if key not in self._edits:
            return super()._value(key)
        pointer = self._edits[key]
        return None if pointer == TOMBSTONE else self._tree.read(pointer)


class SizeClash(NamedTuple):
    """
    One dimension of several sizes.

    ours, theirs  the arrays which that side has in another size, or not at all: when it counts they become its own
    """

    clash: Clash
    ours: list[str]
    theirs: list[str]


def size_clashes(sides: Sides, result: Hierarchy, undecided: Container[str]) -> Iterator[SizeClash]:
    """
    The dimensions which a group's arrays would have in several sizes, unless a side has them in all of these already.

    An array that no side changed has the size that both sides have, so arrays that were changed tell whether
    there is anything to look at.

    undecided  paths of what nobody knows yet what it will be
    """
    described = _described(chain(sides.mine, sides.other), undecided)
    touched = [{path.rpartition("/")[0] for path in side} for side in sides.by_array]
    for group in sorted(described.keys() & set.intersection(*touched)):
        changed = described[group]
        several = [dim for dim, sizes in _sizes(result, changed).items() if len(set(sizes.values())) > 1]
        if not several:
            continue
        paths = changed | set(_named(sides, group, undecided))
        views = [_sizes(tree, paths) for tree in (result, sides.base, sides.ours, sides.theirs)]
        for dim in sorted(several):
            after, before, one, two = (view.get(dim, {}) for view in views)
            if not _was_so(*(set(sizes.values()) for sizes in (after, before, one, two))):
                message = _message(group, dim, after, one, changed)
                yield SizeClash(
                    Clash("dimension", f"{group}/{dim}".lstrip("/"), message),
                    [path for path in after if after[path] != one.get(path)],
                    [path for path in after if after[path] != two.get(path)],
                )


def _was_so(after: set[int], before: set[int], ours: set[int], theirs: set[int]) -> bool:
    """Whether one side has all these sizes, or everybody had several: a pyramid, say, which is not xarray's."""
    return after <= ours or after <= theirs or min(map(len, (before, ours, theirs))) > 1


def _described(keys: Iterable[str], undecided: Container[str]) -> dict[str, set[str]]:
    """The paths of what has documents among `keys`, by the group that it lies in."""
    found: dict[str, set[str]] = defaultdict(set)
    for key in keys:
        path = key.rpartition("/")[0]
        if is_metadata(key) and path not in undecided:
            found[path.rpartition("/")[0]].add(path)
    return found


def _named(sides: Sides, group: str, undecided: Container[str]) -> Iterator[str]:
    """What lies in a group, as the consolidated metadata of the three trees has it."""
    for tree in (sides.base, sides.ours, sides.theirs):
        for folder in (*folders_above(group), group):
            member = tree.at(folder)
            for name in member.fields.get(CONSOLIDATED, ()) if member is not None else ():
                inner = name.rpartition("/")[0] if is_metadata(name) else name
                path = f"{folder}/{inner}".strip("/")
                if path.rpartition("/")[0] == group and path not in undecided:
                    yield path


def _sizes(tree: Hierarchy, paths: Iterable[str]) -> dict[str, dict[str, int]]:
    """The size of each named dimension in each of the arrays that have it."""
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for path in sorted(paths):
        member = tree.at(path)
        if member is not None and member.kind == "array":
            for dim, size in zip(member.dims or (), member.shape or (), strict=False):
                if dim is not None:
                    found[dim][path] = size
    return found


def _message(group: str, dim: str, after: dict[str, int], ours: dict[str, int], changed: set[str]) -> str:
    mine = {path: size for path, size in after.items() if path in changed and ours.get(path) == size}
    other = {path: size for path, size in after.items() if path in changed and path not in mine}
    where = f" of the group {group!r}" if group else ""
    return f"the dimension {dim!r}{where}: ours has it with {_shown(mine)}, and theirs with {_shown(other)}"


def _shown(sizes: dict[str, int]) -> str:
    by_size: dict[int, list[str]] = defaultdict(list)
    for path, size in sizes.items():
        by_size[size].append(path)
    return " and ".join(f"{size} in {_names(paths)}" for size, paths in sorted(by_size.items()))


def _names(paths: list[str]) -> str:
    more = f" and {len(paths) - SHOWN_ARRAYS} others" if len(paths) > SHOWN_ARRAYS else ""
    return ", ".join(map(repr, paths[:SHOWN_ARRAYS])) + more
