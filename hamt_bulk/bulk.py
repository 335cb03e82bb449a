"""
The stages of a build: plain functions over arguments that can be pickled.

    values   ->  save each value, note its key and CID         (one task a batch)
    index    ->  the nodes below a range of slots              (one task a part)
    root     ->  the root node from its 256 slots

`build` runs them one after the other in this process. It is the reference: every parallel build
returns its root.
"""

import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from multiformats import CID

from hamt_bulk.block import AnyCID, to_bytes, to_cid
from hamt_bulk.cas import ContentAddressedStore, Writer, open_cas
from hamt_bulk.cas.wrap import Reader
from hamt_bulk.errors import CASError, InvalidInput
from hamt_bulk.layout import BUCKET_SIZE, PyHamt, Slot
from hamt_bulk.manifest import TOMBSTONE, HashFn, Manifest, blake3_hashfn, encode_key, merge
from hamt_bulk.reads import drive
from hamt_bulk.tree import assemble, root_slots, update, update_slots

T = TypeVar("T")

Value: TypeAlias = "bytes | bytearray | memoryview | CID | None"
"""Bytes to save, the CID of a value that is saved already, or `None` to delete the key."""

Items: TypeAlias = "Mapping[str, Value] | Iterable[tuple[str, Value]]"


@dataclass(frozen=True, slots=True)
class Target:
    """Where a build goes and how its tree is made; it travels to workers."""

    cas: ContentAddressedStore
    layout: PyHamt
    hash_fn: HashFn

    @classmethod
    def of(cls, cas: ContentAddressedStore | str, max_bucket_size: int, hash_fn: HashFn) -> "Target":
        opened = open_cas(cas)
        return cls(opened, PyHamt(max_bucket_size, opened.hasher), hash_fn)


def build(
    items: Items,
    cas: ContentAddressedStore | str,
    *,
    base: AnyCID | None = None,
    max_bucket_size: int = BUCKET_SIZE,
    hash_fn: HashFn = blake3_hashfn,
) -> CID:
    """
    The root of the tree that holds `items`, built in this process.

    items  a mapping, or (key, value) pairs, of which the last counts when a key comes twice
    base   a root to change; without it a new tree

    Memory is that of the keys: values go to the store as they come. When something fails, nothing that
    a root reaches was written.
    """
    target = Target.of(cas, max_bucket_size, hash_fn)
    root = None if base is None else to_bytes(base)
    with target.cas.writer() as writer:
        edits = Manifest.of(save_values(items, writer), hash_fn)
        reads = update(root, edits, target.layout, writer.save_many, hash_fn)
        new = drive(reads, Reader(target.cas).blocks)
        writer.flush()
    tidy(target.cas)
    return to_cid(new)


def tidy(cas: ContentAddressedStore) -> None:
    """Lets the store tidy up after a build. All is durable by then, so a failure costs no root."""
    try:
        cas.finish()
    except CASError as error:
        warnings.warn(f"the build is complete, but its store was not tidied up: {error}", stacklevel=2)


def pairs_of(items: Mapping[str, T] | Iterable[tuple[str, T]]) -> Iterator[tuple[str, T]]:
    """The (key, value) pairs of a mapping or an iterable. Raises `InvalidInput` for other things."""
    for pair in items.items() if isinstance(items, Mapping) else items:
        try:
            key, value = pair
        except (TypeError, ValueError):
            raise InvalidInput(f"items must be (key, value) pairs, found {_shown(pair)}") from None
        yield key, value


def save_values(items: Items, writer: Writer) -> Iterable[tuple[str, bytes]]:
    """The key and the CID of each item, its value saved."""
    for key, value in pairs_of(items):
        encode_key(key)
        if isinstance(value, (bytes, bytearray, memoryview)):
            yield key, writer.save(value)
        elif isinstance(value, CID):
            yield key, bytes(value)
        elif value is None:
            yield key, TOMBSTONE
        else:
            raise InvalidInput(
                f"the value of {key!r} is a {type(value).__name__}, {_shown(value)}; expected bytes to save, "
                "a CID that is saved already, or None to delete the key"
            )


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def write_piece(target: Target, items: Items) -> Manifest:
    """The values stage for any keys: a piece of the items, durable when this returns."""
    with target.cas.writer() as writer:
        manifest = Manifest.of(save_values(items, writer), target.hash_fn)
        writer.flush()
    return manifest


def index_part(target: Target, slots: Sequence[Slot], edits: Sequence[Manifest]) -> dict[int, Slot]:
    """The index stage: the slots of the root that `edits` touch, their nodes durable when this returns."""
    with target.cas.writer() as writer:
        reads = update_slots(slots, merge(edits), target.layout, writer.save_many, target.hash_fn)
        changed = drive(reads, Reader(target.cas).blocks)
        writer.flush()
    return changed


def base_slots(target: Target, base: bytes | None) -> list[Slot]:
    """The 256 slots of the root that is to be changed."""
    return drive(root_slots(base, target.layout, target.hash_fn), Reader(target.cas).blocks)


def write_root(
    target: Target, base: bytes | None, slots: Sequence[Slot], changed: Sequence[dict[int, Slot]]
) -> bytes:
    """The root stage: `base`, which has `slots`, after what the index stage `changed`."""
    together = {number: slot for part in changed for number, slot in part.items()}
    with target.cas.writer() as writer:
        root = assemble(base, slots, together, target.layout, writer.save_many)
        writer.flush()
    return root
