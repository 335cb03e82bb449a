"""The Zarr hierarchy under a root, looked up by key."""

from collections.abc import Iterator

from hamt_bulk.nodes import Tree
from hamt_bulk.roots.documents import Member, member_of


class Hierarchy:
    """The arrays and groups of a tree. Each is looked up when it is first asked for, and kept."""

    def __init__(self, tree: Tree) -> None:
        self._tree = tree
        self._members: dict[str, Member | None] = {}

    def at(self, path: str) -> Member | None:
        """The array or group at `path`; `None` when it has no document."""
        if path not in self._members:
            start = f"{path}/" if path else ""
            self._members[path] = member_of(lambda name: self._value(start + name))
        return self._members[path]

    def owner(self, key: str) -> tuple[str, Member] | None:
        """The array that `key` lies in, and its path."""
        absent = 0
        for path in _folders(key):
            member = self.at(path)
            if member is None:
                absent += 1
            elif member.kind == "array":
                return path, member
            # An array may lie in a folder that is no group; but to look into every folder would take a request
            # for every stray key.
            if absent == 2:
                break
        return None

    def _value(self, key: str) -> bytes | None:
        return self._tree.value(key)


def _folders(key: str) -> Iterator[str]:
    """
    The folders that may be an array with `key` for a chunk: the outermost first, last the one it lies in.

    What is left of a key is the name of a chunk when it is numbers with slashes between them, after a c or none.
    """
    cuts, end = [key.rfind("/")], len(key)
    while (part := key[cuts[-1] + 1 : end]).isascii() and part.isdecimal() and cuts[-1] >= 0:
        end = cuts[-1]
        before = key.rfind("/", 0, end)
        part = key[before + 1 : end]
        if part != "c" and not (part.isascii() and part.isdecimal()):
            break
        cuts.append(before)
    return (key[: max(cut, 0)] for cut in reversed(cuts))
