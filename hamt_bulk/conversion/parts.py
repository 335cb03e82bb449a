"""The tasks of a conversion: the entries below some nodes of the source become those of the result."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeAlias

from hamt_bulk.bulk import Target
from hamt_bulk.conversion.values import Entries, Values, plain
from hamt_bulk.dask.halt import Halt
from hamt_bulk.errors import Conflict
from hamt_bulk.formats.root import Root
from hamt_bulk.formats.sealed import SealedRoot
from hamt_bulk.formats.trees import PyHamt2Root, TreeRoot
from hamt_bulk.manifest import Manifest
from hamt_bulk.tree.guards import links_of

ENTRIES_AT_ONCE = 2048
"""How many entries are converted together: between two looks at whether anybody still waits."""

PARTS = 256
"""About how many parts a source is cut into: many enough that a worker that dies costs little."""

SMALL_PART = 512
"""About how many entries a part of a small tree has: each that writes values makes a pack."""

Part: TypeAlias = "Entries | tuple[bytes, ...]"
"""Entries of the source as they are, or nodes below which they lie."""


@dataclass(frozen=True, slots=True)
class Job:
    """
    A conversion; it travels to workers.

    left_out  keys that do not come along
    """

    values: Values
    target: Target
    left_out: frozenset[str]


def parts_of(source: Root) -> list[Part]:
    """The parts of a source, the same for each call. Loads its root, of an ipldstore all that this takes."""
    inner = source.inner if isinstance(source, SealedRoot) else source
    if not isinstance(inner, TreeRoot):
        entries = sorted(source.pointers())
        size = max(-(-len(entries) // PARTS), SMALL_PART)
        return [entries[start : start + size] for start in range(0, len(entries), size)]
    if isinstance(inner, PyHamt2Root):
        inner.load()  # once here, and not in each task
    slots = inner.tree.root_slots()
    own: Entries = [entry for slot in slots if isinstance(slot, dict) for entry in slot.items()]
    links = links_of(inner.root, slots, inner.tree.layout)
    together = max(-(-len(links) // PARTS), _leaves_together(inner, links))
    parts: list[Part] = [_named(source, own)] if own else []
    parts += [tuple(links[start : start + together]) for start in range(0, len(links), together)]
    return parts


def _leaves_together(source: TreeRoot, links: Sequence[bytes]) -> int:
    """How many nodes of those that a root links to make a part, as far as the first of them tells."""
    for link in links[:1]:
        [slots] = source.tree.nodes([link])
        if not any(isinstance(slot, bytes) for slot in slots):
            return -(-SMALL_PART // max(sum(map(len, slots)), 1))  # type: ignore[arg-type]  # buckets
    return 1


def _named(source: Root, entries: Entries) -> Entries:
    """Entries of the tree with their keys in clear."""
    if isinstance(source, SealedRoot):
        return [(source.encryption.key_of(name), pointer) for name, pointer in entries]
    return entries


def convert_part(job: Job, part: Part, halt: Halt) -> Manifest:
    """The edits that a part of the source becomes, durably saved."""
    values = job.values
    entries = entries_of(job, part)
    edits: Entries = []
    with values.cas.writer() as writer:
        while batch := list(islice(entries, ENTRIES_AT_ONCE)):
            halt.heed()
            edits += values.converted(batch, writer)
        writer.flush()
    values.refuse_lost([pointer for _, pointer in edits])
    _refuse_two_values(edits)
    return job.target.manifest(edits)


def entries_of(job: Job, part: Part) -> Iterator[tuple[str, bytes]]:
    """The entries of a part that come along, with their keys in clear."""
    entries = iter(part) if isinstance(part, list) else _below(job.values.source, part)
    return (entry for entry in entries if entry[0] not in job.left_out)


def _refuse_two_values(edits: Entries) -> None:
    """Raises `Conflict` for a key that comes twice, as where it lay in a wrong place and was set again."""
    known: dict[str, bytes] = {}
    for key, pointer in edits:
        if (other := known.setdefault(key, pointer)) != pointer:
            raise Conflict(
                f"{key!r} is in the source twice, as {plain(other)!r} and as {plain(pointer)!r}: lookups find the one "
                "that lies where its hash leads. Delete the key there, convert, and set it again"
            )


def _below(source: Root, nodes: Sequence[bytes]) -> Iterator[tuple[str, bytes]]:
    inner = source.inner if isinstance(source, SealedRoot) else source
    assert isinstance(inner, TreeRoot)
    entries = inner.tree.entries_below(nodes)
    return iter(entries if inner is source else ((_named(source, [entry])[0]) for entry in entries))
