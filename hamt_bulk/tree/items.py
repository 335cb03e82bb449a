"""What subtrees that are being edited consist of."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from hamt_bulk.errors import MalformedNode
from hamt_bulk.layout import Bucket, Slot
from hamt_bulk.manifest import HashFn, Manifest, digests_of
from hamt_bulk.ragged import Bytes, Ints, Ragged, row_order


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """
    Entries, and links to nodes that stay as they are, in the order of hashes.

    digests   uint8 (n, width). Of what is carried along only the path of its slot is known, filled up
              with zeros; that is as much as its place in the tree depends on.
    keys      UTF-8; empty for a link
    pointers  the CID of a value or of a child node
    depths    int64: 0 for an entry, else the depth of the node that is linked
    """

    digests: Bytes
    keys: Ragged
    pointers: Ragged
    depths: Ints

    @classmethod
    def of(cls, entries: Manifest, carried: "Carried") -> "Items":
        """`entries`, none of them a tombstone, and what is carried along beside them."""
        own = cls(entries.digests, entries.keys, entries.pointers, np.zeros(len(entries), np.int64))
        return own.joined(carried.items(entries.digests.shape[1])) if carried.paths else own

    def joined(self, other: "Items") -> "Items":
        """The items of both."""
        digests = np.concatenate([self.digests, other.digests])
        return Items(
            digests,
            Ragged.concat([self.keys, other.keys]),
            Ragged.concat([self.pointers, other.pointers]),
            np.concatenate([self.depths, other.depths]),
        ).take(row_order(digests))

    def take(self, rows: Ints) -> "Items":
        return Items(self.digests[rows], self.keys.take(rows), self.pointers.take(rows), self.depths[rows])


@dataclass(slots=True)
class Carried:
    """Slots that no edit touches, of nodes that are written anew: buckets and links, row by row."""

    paths: list[bytes] = field(default_factory=list)
    keys: list[bytes] = field(default_factory=list)
    pointers: list[bytes] = field(default_factory=list)
    links: list[int] = field(default_factory=list)
    """The numbers of the rows that are links."""

    def add(self, slot: Slot, path: bytes) -> None:
        """A slot that is not empty, at `path`."""
        if isinstance(slot, bytes):
            self.links.append(len(self.paths))
            self.paths.append(path)
            self.keys.append(b"")
            self.pointers.append(slot)
        else:
            for key, pointer in slot.items():
                self.paths.append(path)
                self.keys.append(key.encode())
                self.pointers.append(pointer)

    def items(self, width: int) -> Items:
        """These rows, in no order."""
        digests = b"".join([path.ljust(width, b"\0") for path in self.paths])
        depths = np.zeros(len(self.paths), np.int64)
        depths[self.links] = [len(self.paths[row]) for row in self.links]
        rows = np.frombuffer(digests, np.uint8).reshape(-1, width)
        return Items(rows, Ragged.of(self.keys), Ragged.of(self.pointers), depths)


@dataclass(slots=True)
class Touched:
    """The entries of buckets that edits go to."""

    keys: list[bytes] = field(default_factory=list)
    pointers: list[bytes] = field(default_factory=list)
    paths: list[bytes] = field(default_factory=list)

    def add(self, bucket: Bucket, path: bytes) -> None:
        """The bucket at `path`."""
        self.keys += (key.encode() for key in bucket)
        self.pointers += bucket.values()
        self.paths += [path] * len(bucket)

    def manifest(self, hash_fn: HashFn, width: int) -> Manifest:
        """These entries. Raises `MalformedNode` when one is not where its hash says."""
        if not self.keys:
            return Manifest.empty(width)
        digests = digests_of(self.keys, hash_fn)
        for key, path, digest in zip(self.keys, self.paths, digests, strict=True):
            refuse_misplaced(key, path, digest[: len(path)].tobytes())
        return Manifest.from_columns(digests, self.keys, self.pointers)


def refuse_misplaced(key: bytes, path: bytes, digest: bytes) -> None:
    """Raises `MalformedNode` when `key`, found below `path`, does not hash to it."""
    if digest[: len(path)] != path:
        raise MalformedNode(
            f"{key.decode()!r} hashes to {digest[:4].hex()}… but lies below {path.hex()}: the "
            "tree was damaged by its writer, or was built with another hash_fn; rebuild it from its entries"
        )


def first_entry(slots: Sequence[Slot]) -> tuple[int, bytes] | None:
    """The number of the first slot that is a bucket with entries, and one of its keys."""
    for number, slot in enumerate(slots):
        if slot and isinstance(slot, dict):
            return number, next(iter(slot)).encode()
    return None
