"""Trees to check, nodes of them that are put in another's place, and what a report says."""

from collections.abc import Callable

from hamt_bulk import InMemoryCAS
from hamt_bulk.integrity import Report
from hamt_bulk.layout import WIDTH, PyHamt, Slot
from hamt_bulk.manifest import blake3_hashfn
from hamt_bulk.reads import drive
from hamt_bulk.tree import lookup

MANY = {f"air/c/{n}": b"value %d" % n for n in range(3000)}
"""Enough for two levels below the root, and buckets of four."""

LONG = b"".join(n.to_bytes(4, "big") for n in range(900_000))
"""A value of four leaves and the node of its file."""


def found(report: Report) -> set[tuple[str, str, str]]:
    assert report.problem_count == len(report.problems)
    return {(problem.kind, problem.cid, problem.where) for problem in report.problems}


def place_of(cas: InMemoryCAS, root: bytes, key: str) -> list[bytes]:
    """The nodes on the way to `key`."""
    path: list[bytes] = []
    drive(lookup(root, key, PyHamt()), lambda cids: [path.extend(cids) or cas.blocks[cid] for cid in cids])
    return path


def path_of(key: str, depth: int) -> str:
    return "/" + blake3_hashfn(key.encode())[:depth].hex("/")


def with_changed_node(
    cas: InMemoryCAS, path: list[bytes], digest: bytes, change: Callable[[list[Slot]], None]
) -> list[bytes]:
    """The nodes of `path` after `change` of its last one, whatever a build would make of it."""
    layout, new = PyHamt(), []
    for depth in reversed(range(len(path))):
        slots = list(layout.decode(path[depth], cas.blocks[path[depth]]))
        if new:
            slots[digest[depth]] = new[-1]
        else:
            change(slots)
        new.append(put(cas, slots))
    return new[::-1]


def put(cas: InMemoryCAS, slots: list[Slot] | dict[int, Slot]) -> bytes:
    """A node with these slots."""
    if isinstance(slots, dict):
        slots = [slots.get(number, {}) for number in range(WIDTH)]
    block = PyHamt().encode_slots(slots)
    with cas.writer() as writer:
        writer.save_many([block])
        writer.flush()
    return block.cid
