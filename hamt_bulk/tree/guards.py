"""What is looked at before a node is believed to be where it is."""

from collections.abc import Sequence
from itertools import islice

from hamt_bulk.block import text
from hamt_bulk.errors import InvalidInput, MalformedNode
from hamt_bulk.layout import Slot
from hamt_bulk.manifest import HashFn

ROOT_SAMPLE = 8
"""How many entries of a root are hashed to see that it is one."""


def refuse_misplaced(key: bytes, path: bytes, digest: bytes) -> None:
    """Raises `MalformedNode` when `key`, found below `path`, does not hash to it."""
    if digest[: len(path)] != path:
        raise MalformedNode(
            f"{key.decode()!r} hashes to {digest[:4].hex()}… but lies below {path.hex()}: the "
            "tree was damaged by its writer, or was built with another hash_fn; rebuild it from its entries"
        )


def sample(slots: Sequence[Slot], count: int) -> list[tuple[int, bytes]]:
    """So many of a node's entries, fewer when it has fewer: the numbers of their slots, and their keys."""
    buckets = ((number, slot) for number, slot in enumerate(slots) if slot and isinstance(slot, dict))
    return [(number, next(iter(bucket)).encode()) for number, bucket in islice(buckets, count)]


def refuse_other_root(root: bytes, slots: Sequence[Slot], hash_fn: HashFn) -> None:
    """Raises when `slots` are those of a child node, or of the root of a tree of another hash."""
    entries = [(number, hash_fn(key)) for number, key in sample(slots, ROOT_SAMPLE)]
    if all(digest[0] == number for number, digest in entries):
        return
    for depth in range(1, len(entries[0][1])):
        if all(digest[depth] == number for number, digest in entries):
            raise InvalidInput(
                f"{text(root)} is not the root of a tree but a child node at depth {depth} of one: pass its root"
            )
    raise MalformedNode(
        f"{text(root)}: its keys do not lie where hash_fn puts them: the tree was built with another hash_fn, or "
        "was damaged by its writer"
    )
