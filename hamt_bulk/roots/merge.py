"""Two roots that were made from one, as one root."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from multiformats import CID

from hamt_bulk.block import AnyCID, to_bytes, to_cid
from hamt_bulk.bulk import Target, edited
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.errors import Conflict, InvalidInput
from hamt_bulk.layout import BUCKET_SIZE
from hamt_bulk.manifest import TOMBSTONE, HashFn, blake3_hashfn
from hamt_bulk.nodes import Tree
from hamt_bulk.roots.clashes import Clash, array_clashes, arrays_of
from hamt_bulk.roots.delete import brought_up_to_date
from hamt_bulk.roots.diff import changes
from hamt_bulk.roots.documents import DOCUMENTS
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
) -> CID:
    """
    The root that has what `ours` and `theirs` changed, each from `base`.

    Zarr metadata is merged as metadata: two sides may add variables, append different variables, or change
    different attributes. Two appends along one dimension of an array do not go together, unless they are the same;
    nor do two values of one key.

    resolve  `None`: raises `Conflict`, which names all that does not go together; "ours" or "theirs": that
             side counts there; or a function that is given each `Clash` and returns one of these, a value, or `None`
    """
    if not (resolve is None or callable(resolve) or resolve in ("ours", "theirs")):
        raise InvalidInput(f"resolve={resolve!r}: expected 'ours', 'theirs' or a function of a Clash")
    target = Target.of(cas, max_bucket_size, hash_fn)
    trees = (Tree(to_bytes(root), target.cas, target.layout, hash_fn) for root in (base, ours, theirs))
    return to_cid(_Merge(target, next(trees), next(trees), next(trees), resolve).root())


@dataclass(slots=True)
class _Merge:
    """
    A merge under way.

    mine, other  what ours and theirs changed, and `before` what was there; `None`: no such key
    edits        what is to be done to ours, by key; `TOMBSTONE` deletes
    values       and that of which the values are new
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

    def root(self) -> bytes:
        """The root. Raises `Conflict`."""
        for side, tree in ((self.mine, self.ours), (self.other, self.theirs)):
            found = changes(self.base.root, tree.root, self.base, self.target.hash_fn)
            for key, old, new in found:
                side[key], self.before[key] = new, old
        settled = self._settle_arrays()
        for key, pointer in self.other.items():
            if key in settled or self.mine.get(key, _ABSENT) == pointer:
                continue
            if key not in self.mine:
                self.edits[key] = _edit(pointer)
            elif key.endswith(DOCUMENTS):
                self._settle_document(key)
            else:
                self._settle(self._clash("key", key, "ours and theirs give it different values"))
        if self.conflicts:
            raise Conflict(_message(self.conflicts))
        root = edited(self.target, self.ours.root, self.values, self.edits)
        return brought_up_to_date(self.target, root, self._groups(), [self.ours, self.theirs])

    def _settle_arrays(self) -> set[str]:
        """Decides on arrays that do not go together. The keys in them, which are dealt with."""
        clashes = list(array_clashes(self.base, self.ours, self.theirs, self.mine, self.other))
        if not clashes:
            return set()
        hierarchies = Hierarchy(self.ours), Hierarchy(self.theirs), Hierarchy(self.base)
        by_ours, by_theirs = (arrays_of(hierarchies, side) for side in (self.mine, self.other))
        settled: set[str] = set()
        for clash in clashes:
            keys = by_ours[clash.key].keys() | by_theirs[clash.key].keys()
            settled |= keys
            if self._answer(clash) == "theirs":
                for key in keys:
                    self.edits[key] = _edit(self.other.get(key, self.before[key]))
        return settled

    def _settle_document(self, key: str) -> None:
        """Merges a document that both sides changed."""
        pointers = self.before[key], self.mine[key], self.other[key]
        documents = [_parsed(self.ours, pointer) for pointer in pointers]
        if key.endswith(".zmetadata"):
            return  # made anew
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
            answer = self._answer(clash)
            if answer == "theirs":
                merged = _merged(before, two, one, "", [])
            elif answer != "ours":
                self._give(key, answer)
                return
        from hamt_bulk.zarr.consolidated import to_json  # here, as it takes half a second

        self.values[key] = to_json(merged)

    def _groups(self) -> Iterator[str]:
        """The groups whose documents both sides changed, and with them the copies of what is below."""
        for key in sorted(self.mine.keys() & self.other.keys()):
            path, _, name = key.rpartition("/")
            if name in ("zarr.json", ".zmetadata"):
                yield path

    def _clash(self, kind: Literal["document", "key"], key: str, message: str) -> Clash:
        pointers = self.before[key], self.mine[key], self.other[key]
        base, ours, theirs = (None if pointer is None else to_cid(pointer) for pointer in pointers)
        return Clash(kind, key, f"{key!r}: {message}", base, ours, theirs)

    def _settle(self, clash: Clash) -> None:
        answer = self._answer(clash)
        if answer == "theirs":
            self.edits[clash.key] = _edit(self.other[clash.key])
        elif answer != "ours":
            self._give(clash.key, answer)

    def _give(self, key: str, answer: Answer) -> None:
        if isinstance(answer, CID):
            self.edits[key] = to_bytes(answer)
        elif isinstance(answer, (bytes, bytearray, memoryview)):
            self.values[key] = bytes(answer)

    def _answer(self, clash: Clash) -> Answer:
        answer = self.resolve(clash) if callable(self.resolve) else self.resolve
        if answer is None:
            self.conflicts.append(clash)
            return None
        if answer in ("ours", "theirs"):
            return answer
        if clash.kind == "array" or not isinstance(answer, (CID, bytes, bytearray, memoryview)):
            expected = "'ours', 'theirs' or None" + ("" if clash.kind == "array" else ", a CID or bytes")
            raise InvalidInput(f"resolve returned {answer!r} for {clash.key!r}, expected {expected}")
        return answer


def _edit(pointer: bytes | None) -> bytes:
    return TOMBSTONE if pointer is None else pointer


def _parsed(tree: Tree, pointer: bytes | None) -> dict[str, Any] | None:
    """The JSON object that a pointer leads to; `None` when it leads to something else."""
    try:
        document = None if pointer is None else json.loads(tree.read(pointer))
    except ValueError as error:
        if type(error).__module__ != "json.decoder" and not isinstance(error, UnicodeError):
            raise  # of a store
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
