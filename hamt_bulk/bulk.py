"""
The stages of a build: plain functions over arguments that can be pickled.

    values   ->  save each value, note its key and CID         (one task a batch)
    index    ->  the nodes below a range of slots              (one task a part)
    root     ->  the root node from its slots

`build` runs them one after the other in this process. It is the reference: every parallel build
returns its root.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from types import MappingProxyType
from typing import Any, TypeAlias, TypeVar

from dag_cbor.ipld import IPLDKind
from multiformats import CID

from hamt_bulk.block import AnyCID, text, to_bytes, to_cid
from hamt_bulk.cas import ContentAddressedStore, Writer, open_cas
from hamt_bulk.cas.wrap import Reader
from hamt_bulk.errors import BlockNotFound, CASError, HamtError, InvalidInput
from hamt_bulk.keys import key_text
from hamt_bulk.layout import BUCKET_SIZE, Layout, LayoutOption, OtherLayout, PyHamt, Slot, chosen
from hamt_bulk.manifest import TOMBSTONE, HashFn, Manifest, blake3_hashfn, encode_key, merge, override
from hamt_bulk.pointers import Inline, inline_pointer, link_pointer
from hamt_bulk.reads import drive
from hamt_bulk.shapes import layout_of
from hamt_bulk.tree import assemble, root_slots, update_slots

K = TypeVar("K")
T = TypeVar("T")

Value: TypeAlias = "bytes | bytearray | memoryview | CID | Inline | IPLDKind | None"
"""
Bytes to save, the CID of a value that is saved already, or `None` to delete the key. In an IPLD HashMap also any other
IPLD value, which the tree itself then holds, and `Inline` for those whose type would be taken for something else.
"""

Key: TypeAlias = str | bytes
"""Text; in an IPLD HashMap any bytes."""

Items: TypeAlias = "Mapping[str, Value] | Mapping[Key, Value] | Iterable[tuple[Key, Value]]"


@dataclass(frozen=True, slots=True)
class Target:
    """
    Where a build goes and how its tree is made; it travels to workers.

    cas  as this build has it, until it is concluded
    pin  the name under which the root is pinned, where the store needs that
    """

    cas: ContentAddressedStore
    layout: Layout
    hash_fn: HashFn
    pin: str | None
    is_chosen: bool = False

    @classmethod
    def of(
        cls,
        cas: ContentAddressedStore | str,
        max_bucket_size: int,
        hash_fn: HashFn,
        pin: str | None,
        layout: LayoutOption = None,
    ) -> "Target":
        opened = open_cas(cas)
        opened.check_pin(pin)
        nodes, placing = chosen(layout, max_bucket_size, hash_fn, opened.hasher)
        return cls(opened.begin(), nodes, placing, pin, layout is not None)

    def manifest(self, edits: Iterable[tuple[str, bytes]]) -> Manifest:
        """The manifest of keys and pointers for this tree."""
        return Manifest.of(edits, self.hash_fn, any_keys=self.layout.any_keys)

    def for_base(self, root: bytes | None) -> "Target":
        """The same with the layout of the tree `root`, where the caller named none."""
        if root is None or self.is_chosen:
            return self
        assert isinstance(self.layout, PyHamt)
        with _naming_base(self.cas):
            layout, hash_fn = layout_of(root, Reader(self.cas), self.hash_fn, self.layout)
        return replace(self, layout=layout, hash_fn=hash_fn)


def build(
    items: Items,
    cas: ContentAddressedStore | str,
    *,
    base: AnyCID | None = None,
    layout: LayoutOption = None,
    max_bucket_size: int = BUCKET_SIZE,
    hash_fn: HashFn = blake3_hashfn,
    pin: str | None = None,
) -> CID:
    """
    The root of the tree that holds `items`, built in this process.

    items  a mapping, or (key, value) pairs, of which the last counts when a key comes twice
    base   a root to change; without it a new tree
    layout `"pyhamt"`, or the `HashMap` to build; by default that of the base, `"pyhamt"` without one
    pin    a name: the store pins the root under it, where it needs that. When the base is pinned under the same
           name, the pin moves

    Memory is that of the keys: values go to the store as they come. When something fails, nothing that
    a root reaches was written.
    """
    root = None if base is None else to_bytes(base)
    target = Target.of(cas, max_bucket_size, hash_fn, pin, layout)
    return concluded(target, root, lambda: edited(target, root, items))


def concluded(
    target: Target,
    base: bytes | None,
    make: Callable[[], bytes],
    failed: Callable[[BaseException], None] | None = None,
) -> CID:
    """
    The root that `make` gives, pinned where that is wanted, its store told that the build is over.

    failed  called instead when `make` raises; by default the store forgets the build
    """
    try:
        root = make()
    except BaseException as error:
        (failed or partial(abandon, target.cas))(error)
        raise
    conclude(target, root, base)
    return to_cid(root)


def conclude(target: Target, root: bytes, base: bytes | None) -> None:
    """Pins the root of a complete build where that is wanted, and lets the store tidy up."""
    try:
        target.cas.secure(root, target.pin, base)
    except (BlockNotFound, CASError) as error:
        wanted = "checked" if target.pin is None else f"pinned as {target.pin!r}"
        raise type(error)(
            f"the build is complete and its root is {text(root)}, but it could not be {wanted}: {error}"
        ) from error
    tidy(target.cas)


def abandon(cas: ContentAddressedStore, error: BaseException) -> None:
    """Lets the store forget a build that failed with `error`, which is what the caller has to hear of."""
    try:
        cas.abandon()
    except HamtError as other:
        error.add_note(f"and the store could not let go of what was written: {other}")


def edited(
    target: Target, root: bytes | None, items: Items, pointers: Mapping[str, bytes] = MappingProxyType({})
) -> bytes:
    """
    `build`, where everything is opened and checked, without its conclusion.

    pointers  edits whose values are saved already, by key; `items` come after them
    """
    target, base = opened(target, root)
    with target.cas.writer() as writer:
        edits = target.manifest(chain(pointers.items(), save_values(items, writer, target.layout)))
        reads = update_slots(base.slots, edits, target.layout, writer.save_many, target.hash_fn)
        changed = drive(reads, Reader(target.cas).blocks)
        new = assemble(base.root, base.slots, changed, target.layout, writer.save_many)
        writer.flush()
    return new


def update(
    root: AnyCID,
    items: Items,
    cas: ContentAddressedStore | str,
    *,
    layout: LayoutOption = None,
    max_bucket_size: int = BUCKET_SIZE,
    hash_fn: HashFn = blake3_hashfn,
    pin: str | None = None,
) -> CID:
    """The root after `items` were set, or deleted where the value is `None`: `build` with `root` as its base."""
    return build(
        items, cas, base=root, layout=layout, max_bucket_size=max_bucket_size, hash_fn=hash_fn, pin=pin
    )


def tidy(cas: ContentAddressedStore) -> None:
    """Lets the store tidy up after a build. All is durable by then, so a failure costs no root."""
    try:
        cas.finish()
    except HamtError as error:
        warnings.warn(f"the build is complete, but its store was not tidied up: {error}", stacklevel=2)


def pairs_of(items: Mapping[K, T] | Iterable[tuple[K, T]]) -> Iterator[tuple[K, T]]:
    """The (key, value) pairs of a mapping or an iterable. Raises `InvalidInput` for other things."""
    for pair in items.items() if isinstance(items, Mapping) else items:
        try:
            key, value = pair
        except (TypeError, ValueError):
            raise InvalidInput(f"items must be (key, value) pairs, found {_shown(pair)}") from None
        yield key, value


def save_values(items: Items, writer: Writer, layout: Layout) -> Iterable[tuple[str, bytes]]:
    """The key and the pointer of each item, its value saved."""
    pairs: Iterator[tuple[Any, Any]] = pairs_of(items)
    for key, value in pairs:
        if layout.any_keys:
            key = key_text(key)
        else:
            encode_key(key)
        if isinstance(value, (bytes, bytearray, memoryview)):
            yield key, writer.save(value)
        elif isinstance(value, CID):
            yield key, link_pointer(value)
        elif value is None:
            yield key, TOMBSTONE
        elif layout.keeps_values:
            yield key, inline_pointer(value.value if isinstance(value, Inline) else value)
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
        manifest = target.manifest(save_values(items, writer, target.layout))
        writer.flush()
    return manifest


@dataclass(frozen=True, slots=True)
class Base:
    """
    The tree that a build changes.

    root     `None`: the empty tree
    slots    those of its root
    cleared  deletions that come before all edits of the build
    """

    root: bytes | None
    slots: Sequence[Slot]
    cleared: Manifest

    @classmethod
    def of(cls, target: Target, root: bytes | None) -> "Base":
        """The tree `root`. Raises when it is not the root of a tree, or has other buckets than the target's."""
        reads = root_slots(root, target.layout, target.hash_fn)
        with _naming_base(target.cas):
            slots = drive(reads, Reader(target.cas).blocks)
        return cls(root, slots, Manifest.empty())

    def part(self, first: int, last: int, layout: Layout) -> "Base":
        """What concerns the range of first hash bytes `first` to `last` (inclusive)."""
        first_byte = layout.first_byte
        slots = [
            slot if first <= first_byte(number) <= last else {} for number, slot in enumerate(self.slots)
        ]
        return Base(self.root, slots, self.cleared.part(first, last))


def opened(target: Target, root: bytes | None) -> tuple[Target, Base]:
    """
    The base of a build, and its target with the base's layout, where the caller named none.

    The build begins: what lies below the base is kept until it has ended.
    """
    target.cas.started(root)
    try:
        return target, Base.of(target, root)
    except OtherLayout:
        if target.is_chosen:
            raise
        target = target.for_base(root)
        return target, Base.of(target, root)


@contextmanager
def _naming_base(cas: ContentAddressedStore) -> Iterator[None]:
    try:
        yield
    except BlockNotFound as error:
        raise BlockNotFound(f"the base is not in this store, {cas!r}: {error}") from error


def index_part(target: Target, base: Base, edits: Sequence[Manifest]) -> dict[int, Slot]:
    """The index stage: the slots of the base that `edits` touch, their nodes durable when this returns."""
    together = override(base.cleared, merge(edits)) if len(base.cleared) else merge(edits)
    with target.cas.writer() as writer:
        reads = update_slots(base.slots, together, target.layout, writer.save_many, target.hash_fn)
        changed = drive(reads, Reader(target.cas).blocks)
        writer.flush()
    return changed


def write_root(target: Target, base: Base, changed: Sequence[dict[int, Slot]]) -> bytes:
    """The root stage: the root after what the index stage `changed`."""
    together = {number: slot for part in changed for number, slot in part.items()}
    with target.cas.writer() as writer:
        root = assemble(base.root, base.slots, together, target.layout, writer.save_many)
        writer.flush()
    return root
