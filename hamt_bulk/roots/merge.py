"""Two roots that were made from one, as one root."""

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Literal, TypeAlias

from multiformats import CID

from hamt_bulk.block import AnyCID, to_bytes, to_cid
from hamt_bulk.bulk import Target, concluded, edited
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.errors import Conflict, InvalidInput
from hamt_bulk.foreign import from_json
from hamt_bulk.keys import is_metadata
from hamt_bulk.layout import BUCKET_SIZE
from hamt_bulk.manifest import TOMBSTONE, HashFn, blake3_hashfn
from hamt_bulk.nodes import Tree
from hamt_bulk.roots.clashes import Clash, Sides, array_clashes, folders_above, group_clashes
from hamt_bulk.roots.delete import brought_up_to_date
from hamt_bulk.roots.diff import changes
from hamt_bulk.roots.dimensions import Planned, size_clashes
from hamt_bulk.roots.documents import Member
from hamt_bulk.roots.hierarchy import Hierarchy

Answer: TypeAlias = "Literal['ours', 'theirs'] | CID | bytes | None"
"""Whose change counts; for a document or a key also its new value; `None`: this one stays a conflict."""

Resolve: TypeAlias = "Literal['ours', 'theirs'] | Callable[[Clash], Answer] | None"

SHOWN_CLASHES = 10
CONSOLIDATED_FIELD = "consolidated_metadata"
_ABSENT: Any = object()


def merge(
    base: AnyCID,
    ours: AnyCID,
    theirs: AnyCID,
    cas: ContentAddressedStore | str,
    *,
    resolve: Resolve = None,
    max_bucket_size: int = BUCKET_SIZE,
    hash_fn: HashFn = blake3_hashfn,
    pin: str | None = None,
) -> CID:
    """
    The root that has what `ours` and `theirs` changed, each from `base`.

    Zarr metadata is merged as metadata: two sides may add variables, append different variables, or change
    different attributes. Two appends to one array do not go together, unless they are the same; nor do arrays of one
    group that would have different sizes along one dimension, chunks that one side writes and the other would read
    as something else, nor two values of one key. Consolidated metadata is brought up to date.

    resolve  `None`: raises `Conflict`, which names all that does not go together; "ours" or "theirs": that
             side counts there; or a function that is given each `Clash` and returns one of these, a value, or `None`.
             Of an array or a group all that is under its path is then that side's; along a dimension the arrays
             that do not have that side's size
    pin      as in `build`, with ours as the base
    """
    if not (resolve is None or callable(resolve) or resolve in ("ours", "theirs")):
        raise InvalidInput(f"resolve={resolve!r}: expected 'ours', 'theirs' or a function of a Clash")
    opened = Target.of(cas, max_bucket_size, hash_fn, pin)
    roots = [to_bytes(root) for root in (base, ours, theirs)]

    def make() -> bytes:
        target = opened.for_base(roots[1])
        trees = (Tree(root, target.cas, target.layout, target.hash_fn) for root in roots)
        return _Merge(target, next(trees), next(trees), next(trees), resolve).root()

    return concluded(opened, roots[1], make)


@dataclass(slots=True)
class _Merge:
    """
    A merge under way.

    mine, other  what ours and theirs changed, and `before` what was there; `None`: no such key
    edits        what is to be done to ours, by key; `TOMBSTONE` deletes
    values       and that of which the values are new
    undecided    the paths of arrays and groups that conflicts are about
    """

    target: Target
    base: Tree
    ours: Tree
    theirs: Tree
    resolve: Resolve
    mine: dict[str, bytes | None] = field(default_factory=dict)
    other: dict[str, bytes | None] = field(default_factory=dict)
    before: dict[str, bytes | None] = field(default_factory=dict)
    edits: dict[str, bytes] = field(default_factory=dict)
    values: dict[str, bytes] = field(default_factory=dict)
    conflicts: list[Clash] = field(default_factory=list)
    undecided: set[str] = field(default_factory=set)

    def root(self) -> bytes:
        """The root. Raises `Conflict`."""
        for side, tree in ((self.mine, self.ours), (self.other, self.theirs)):
            found = changes(self.base.root, tree.root, self.base)
            for key, old, new in found:
                side[key], self.before[key] = new, old
        if not self.mine or not self.other or self.mine == self.other:
            return edited(self.target, (self.ours if self.mine else self.theirs).root, {})
        trees = Hierarchy(self.base), Hierarchy(self.ours), Hierarchy(self.theirs)
        sides = Sides(*trees, self.mine, self.other)
        settled: set[str] = set()
        for clash, keys in chain(group_clashes(sides), array_clashes(sides, settled)):
            settled |= keys
            self._take(self._answer(clash, keys), keys)
        for key, pointer in self.other.items():
            if key in settled or self.mine.get(key, _ABSENT) == pointer:
                continue
            if key not in self.mine:
                self.edits[key] = _edit(pointer)
            elif is_metadata(key):
                self._settle_document(key)
            else:
                self._settle(self._clash("key", key, "ours and theirs give it different values"))
        self._settle_sizes(sides)
        if self.conflicts:
            raise Conflict(_message(self.conflicts))
        groups, documents = self._groups(), self._documents()
        root = edited(self.target, self.ours.root, self.values, self.edits)
        return brought_up_to_date(self.target, root, groups, [self.base, self.ours, self.theirs], documents)

    def _take(self, answer: Answer, keys: Iterable[str]) -> None:
        """Makes `keys` what they are in ours or theirs."""
        for key in keys if answer in ("ours", "theirs") else ():
            self.values.pop(key, None)
            self.edits.pop(key, None)
            if answer == "theirs":
                self.edits[key] = _edit(self.other.get(key, self.before[key]))

    def _settle_sizes(self, sides: Sides) -> None:
        """Decides on dimensions that would have several sizes. What is decided on one may be about others as well."""
        answers: dict[str, Answer] = {}
        again: dict[str, Clash] = {}
        while True:
            found = list(size_clashes(sides, self._planned(), self.undecided))
            again = {each.clash.key: each.clash for each in found if answers.get(each.clash.key)}
            new = next((each for each in found if each.clash.key not in answers), None)
            if new is None:
                break
            answer = answers[new.clash.key] = self._answer(new.clash)
            paths = new.ours if answer == "ours" else new.theirs
            self._take(answer, {key for path in paths for key in sides.keys(path)})
        self.conflicts += again.values()

    def _planned(self) -> Planned:
        return Planned(self.ours, self.edits, self.values)

    def _settle_document(self, key: str) -> None:
        """Merges a document that both sides changed."""
        if key.endswith(".zmetadata"):
            return  # made anew
        pointers = self.before[key], self.mine[key], self.other[key]
        documents = [_parsed(self.ours, pointer) for pointer in pointers]
        if None in documents[1:]:
            what = "deletes" if self.mine[key] is None else "changes"
            against = "deletes" if self.other[key] is None else "changes"
            self._settle(self._clash("document", key, f"ours {what} it, and theirs {against} it"))
            return
        before, one, two = (dict(document or {}) for document in documents)
        for document in (before, one, two):
            document.pop(CONSOLIDATED_FIELD, None)  # made anew
        fields: list[str] = []
        merged = _merged(before, one, two, "", fields)
        if fields:
            clash = self._clash("document", key, f"ours and theirs change {', '.join(fields)}")
            answer = self._answer(clash, [key])
            if answer == "theirs":
                merged = _merged(before, two, one, "", [])
            elif answer != "ours":
                self._give(key, answer)
                return
        from hamt_bulk.zarr.consolidated import to_json  # here, as it takes half a second

        self.values[key] = to_json(merged)

    def _documents(self) -> list[str]:
        """The keys of metadata that a side changed, but for what zarr could not read."""
        planned = self._planned()
        keys = [key for key in self.mine.keys() | self.other.keys() if is_metadata(key)]
        members = ((key, planned.at(key.rpartition("/")[0])) for key in keys)
        return [key for key, member in members if member is not None and member.kind != "unreadable"]

    def _groups(self) -> list[str]:
        """The groups that keep a copy of metadata of which some changed."""
        planned = self._planned()
        folders = {key.rpartition("/")[0] for key in (*self.mine, *self.other) if is_metadata(key)}
        groups = {group for folder in folders for group in (*folders_above(folder), folder)}
        return [group for group in sorted(groups) if _is_group(planned.at(group)) and self._has_copy(group)]

    def _has_copy(self, group: str) -> bool:
        """Whether one who changed the document in which a group has its copy left it one, or nobody took it away."""
        from hamt_bulk.zarr.consolidated import has_consolidated  # here, as it takes half a second

        keys = {f"{group}/{name}".lstrip("/") for name in ("zarr.json", ".zmetadata")}
        sides = (self.ours, self.mine), (self.theirs, self.other)
        changed = [tree for tree, changes in sides if not keys.isdisjoint(changes)]
        return any(has_consolidated(tree, group) for tree in changed or [self.base])

    def _clash(self, kind: Literal["document", "key"], key: str, message: str) -> Clash:
        pointers = self.before[key], self.mine[key], self.other[key]
        base, ours, theirs = (None if pointer is None else to_cid(pointer) for pointer in pointers)
        return Clash(kind, key, f"{key!r}: {message}", base, ours, theirs)

    def _settle(self, clash: Clash) -> None:
        answer = self._answer(clash, [clash.key])
        if answer == "theirs":
            self.edits[clash.key] = _edit(self.other[clash.key])
        elif answer != "ours":
            self._give(clash.key, answer)

    def _give(self, key: str, answer: Answer) -> None:
        if isinstance(answer, CID):
            self.edits[key] = to_bytes(answer)
        elif isinstance(answer, (bytes, bytearray, memoryview)):
            self.values[key] = bytes(answer)

    def _answer(self, clash: Clash, keys: Iterable[str] = ()) -> Answer:
        """
        What is decided on a clash.

        keys  what it is about
        """
        answer = self.resolve(clash) if callable(self.resolve) else self.resolve
        if answer is None:
            self.conflicts.append(clash)
            self.undecided |= {key.rpartition("/")[0] for key in keys if is_metadata(key)}
            return None
        if answer in ("ours", "theirs"):
            return answer
        has_value = clash.kind in ("document", "key")
        if not has_value or not isinstance(answer, (CID, bytes, bytearray, memoryview)):
            expected = "'ours', 'theirs' or None" + (", a CID or bytes" if has_value else "")
            raise InvalidInput(f"resolve returned {answer!r} for {clash.key!r}, expected {expected}")
        return answer


def _is_group(member: Member | None) -> bool:
    return member is not None and member.kind == "group"


def _edit(pointer: bytes | None) -> bytes:
    return TOMBSTONE if pointer is None else pointer


def _parsed(tree: Tree, pointer: bytes | None) -> dict[str, Any] | None:
    """The JSON object that a pointer leads to; `None` when it leads to something else."""
    content = b"null" if pointer is None else tree.read(pointer)
    try:
        document = from_json(content)
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _merged(base: Any, ours: Any, theirs: Any, path: str, clashes: list[str]) -> Any:
    """One value from three. Where two were changed differently it is that of ours, and noted in `clashes`."""
    if _same(ours, theirs) or _same(base, theirs):
        return ours
    if _same(base, ours):
        return theirs
    if not isinstance(ours, dict) or not isinstance(theirs, dict):
        clashes.append(path)
        return ours
    merged = {}
    known = base if isinstance(base, dict) else {}
    for name in dict.fromkeys([*ours, *theirs]):
        one, two = ours.get(name, _ABSENT), theirs.get(name, _ABSENT)
        value = _merged(known.get(name, _ABSENT), one, two, f"{path}.{name}".lstrip("."), clashes)
        if value is not _ABSENT:
            merged[name] = value
    return merged


def _same(one: Any, other: Any) -> bool:
    # Not by `==`: NaN is not equal to itself, and 1 is equal to True.
    return one is other or (_ABSENT not in (one, other) and json.dumps(one) == json.dumps(other))


def _message(clashes: list[Clash]) -> str:
    shown = "\n".join(f"  {clash.message}" for clash in clashes[:SHOWN_CLASHES])
    more = f"\n  and {len(clashes) - SHOWN_CLASHES} more" if len(clashes) > SHOWN_CLASHES else ""
    return (
        f"ours and theirs do not go together:\n{shown}{more}\n"
        'Pass resolve="ours" or "theirs" to let that side count there, or a function that decides on each'
    )
