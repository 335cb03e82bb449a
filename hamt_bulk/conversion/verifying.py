"""
Whether the new tree has what the source has: both are walked once more, by tasks that know nothing of the first ones.

What is compared are sums over all keys, modulo 2**256, of blake3(length of the name ‖ name ‖ what): equal sums of honest trees
are equal trees. `what` is the pointer that the key has to have, which for a value that was written anew is the CID of the
source's value; of an encrypted tree, whose pointers nobody can know, it is the digest of the value in clear.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Literal, Self

from blake3 import blake3

from hamt_bulk.block import text
from hamt_bulk.cas.wrap import Reader
from hamt_bulk.cas.writer import blocks_of
from hamt_bulk.conversion.parts import ENTRIES_AT_ONCE, Job, Part, entries_of
from hamt_bulk.conversion.values import plain, refuse_absent
from hamt_bulk.dask.halt import Halt
from hamt_bulk.errors import BlockMismatch
from hamt_bulk.formats.root import batches
from hamt_bulk.keys import any_key
from hamt_bulk.layout import Slot
from hamt_bulk.nodes import Tree
from hamt_bulk.pointers import inline_pointer, is_inline

MASK = (1 << 256) - 1

LOOKED_UP = 16
"""Of how many keys of a range it is seen that lookups find them."""

Side = Literal["source", "result"]


@dataclass(frozen=True, slots=True)
class Total:
    """So many keys, and the sum over them."""

    side: Side
    count: int = 0
    total: int = 0

    def with_entries(self, entries: Sequence[tuple[str, bytes]]) -> Self:
        """The same with some keys more."""
        total = self.total
        for name, what in entries:
            key = any_key(name)
            digest = blake3(b"%d:%b%b" % (len(key), key, what)).digest()
            total = (total + int.from_bytes(digest, "little")) & MASK
        return type(self)(self.side, self.count + len(entries), total)


def digest_of(value: bytes) -> bytes:
    """What stands for a value in clear."""
    return b"value" + blake3(value).digest()


def source_total(job: Job, part: Part, halt: Halt) -> Total:
    """What a part of the source should have become."""
    total = Total("source")
    entries = expected_entries(job, part)
    while batch := list(islice(entries, ENTRIES_AT_ONCE)):
        halt.heed()
        total = total.with_entries(batch)
    return total


def expected_entries(job: Job, part: Part) -> Iterator[tuple[str, bytes]]:
    """The names of a part's keys, and what they should have. Raises `BlockNotFound` for a value that was not kept."""
    values = job.values
    with values.cas.writer() as writer:
        leaf_bytes = writer.leaf_bytes
    entries = entries_of(job, part)
    known: dict[str, bytes] = {}
    while batch := list(islice(entries, ENTRIES_AT_ONCE)):
        kept, others = values.apart(batch)
        known.update(kept)
        for some in batches(others, lambda entry: entry[1]):
            contents = values.source.values(some)
            for (key, _), value in zip(some, contents, strict=True):
                if values.encryption is not None:
                    assert isinstance(value, bytes)
                    known[values.encryption.name(key)] = digest_of(value)
                elif isinstance(value, bytes):
                    known[key] = blocks_of(value, "raw", values.cas.hasher, leaf_bytes)[0]
                else:
                    known[key] = inline_pointer(value)
            if values.encryption is None:
                written = [(key, known[key]) for key, _ in some if not is_inline(known[key])]
                refuse_absent(
                    values.cas, [(f"the value of {key!r}, {text(cid)},", cid) for key, cid in written]
                )
    # A key may be in the source twice, with one value.
    return iter(known.items())


def result_total(job: Job, root: bytes, slots: Sequence[Slot], halt: Halt) -> Total:
    """What lies in some slots of the new root. Raises `BlockMismatch` where lookups do not find it."""
    total = Total("result")
    target = job.target
    tree = Tree(root, target.cas, target.layout, target.hash_fn)
    entries = found_entries(job, tree, slots)
    looked_up = False
    while batch := list(islice(entries, ENTRIES_AT_ONCE)):
        halt.heed()
        total = total.with_entries([(name, what) for name, _, what in batch])
        for name, pointer, _ in () if looked_up else batch[:LOOKED_UP]:
            if tree.pointer(name) != pointer:
                raise BlockMismatch(f"{text(root)} has {name!r} where lookups do not find it")
        looked_up = True
    return total


def found_entries(job: Job, tree: Tree, slots: Sequence[Slot]) -> Iterator[tuple[str, bytes, bytes]]:
    """The names in some slots, their pointers, and what they have."""
    own = (entry for slot in slots if isinstance(slot, dict) for entry in slot.items())
    below = tree.entries_below([slot for slot in slots if isinstance(slot, bytes)])
    encryption = job.values.encryption
    if encryption is None:
        for name, pointer in chain(own, below):
            yield name, pointer, pointer
        return
    reader = Reader(job.target.cas)
    for some in batches(chain(own, below), lambda entry: entry[1]):
        stored = reader.blocks([pointer for _, pointer in some])
        for (name, pointer), data in zip(some, stored, strict=True):
            yield name, pointer, digest_of(encryption.open(encryption.key_of(name), data))


def refuse_other_entries(root: bytes, wanted: dict[str, bytes], found: dict[str, bytes]) -> None:
    """Raises `BlockMismatch`, which names keys, when they differ: sums also do when a key is in the source twice."""
    lacking = sorted(wanted.keys() - found.keys())
    more = sorted(found.keys() - wanted.keys())
    other = sorted(name for name in wanted.keys() & found.keys() if wanted[name] != found[name])
    for names, what in (
        (lacking, "lacks"),
        (more, "has, and the source has not,"),
        (other, "has other values of"),
    ):
        if names:
            raise BlockMismatch(
                f"{text(root)} {what} {len(names)} keys, such as {names[0]!r}"
                + (
                    f": {_shown(found[names[0]])}, expected {_shown(wanted[names[0]])}"
                    if names is other
                    else ""
                )
            )


def _shown(what: bytes) -> str:
    return f"a value of digest {what[5:13].hex()}…" if what[:5] == b"value" else repr(plain(what))
