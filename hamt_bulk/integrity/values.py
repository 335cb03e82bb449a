"""The values of a tree: whether each is there, with all blocks of its file."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from hamt_bulk import unixfs
from hamt_bulk.block import DAG_PB, parse
from hamt_bulk.errors import HamtError, MalformedNode
from hamt_bulk.integrity.answers import Answer, Checks, Whole, ask, remember
from hamt_bulk.integrity.report import Findings, kind_of
from hamt_bulk.integrity.seen import BLOCK, VALUE, Seen

VALUES_AT_ONCE = 32
"""Blocks of values in one request: 32 MiB of ours, 64 of the largest that are exchanged."""

KEYS_AT_ONCE = 4096
"""Keys whose values wait for a request: many keys may have few values."""


@dataclass(slots=True, eq=False)
class _Value:
    """
    A value and the keys that have it.

    walked  nodes of its file, and how long their parts of it are
    faulty  blocks that were reported
    """

    cid: bytes
    keys: list[str]
    walked: dict[bytes, int] = field(default_factory=dict)
    faulty: set[bytes] = field(default_factory=set)


class _Piece(NamedTuple):
    """A block of a value. `size`: what its parent says its part of the file has; a root has no parent."""

    cid: bytes
    value: _Value
    size: int | None
    level: int


class ValueWalk:
    """The walk over values as the tree's walk comes upon them."""

    def __init__(self, found: Findings, blocks: Seen) -> None:
        self._found = found
        self._blocks = blocks
        self._pending: dict[bytes, _Value] = {}
        self._keys = 0
        self._sound: dict[bytes, None] = {}
        self._leaves: dict[bytes, int] = {}

    @property
    def is_full(self) -> bool:
        """Whether enough values wait for a request."""
        return len(self._pending) >= VALUES_AT_ONCE or self._keys >= KEYS_AT_ONCE

    def add(self, pointer: bytes, key: str) -> None:
        """Takes the value of a key; one that was found sound is not looked at again."""
        if pointer not in self._sound:
            self._pending.setdefault(pointer, _Value(pointer, [])).keys.append(key)
            self._keys += 1

    def look(self) -> Checks[None]:
        """Looks at the values that wait, and the blocks below them."""
        values, self._pending, self._keys = list(self._pending.values()), {}, 0
        for value in values:
            self._blocks.add(value.cid, VALUE)
        waiting = [_Piece(value.cid, value, None, 0) for value in values]
        while waiting:
            batch = waiting[-VALUES_AT_ONCE:]
            del waiting[-VALUES_AT_ONCE:]
            known = {cid: size for cid, *_ in batch if (size := self._leaves.get(cid)) is not None}
            answers = yield from ask(piece.cid for piece in batch if piece.cid not in known)
            for piece in batch:
                waiting += self._piece(piece, known.get(piece.cid), answers.get(piece.cid))
        for value in values:
            if not value.faulty:
                remember(self._sound, value.cid, None)

    def _piece(self, piece: _Piece, size: int | None, answer: Answer | None) -> Iterator[_Piece]:
        """The blocks that `piece` links to. `size`: how long its part is, when it was looked at before."""
        if size is None:
            size = piece.value.walked.get(piece.cid, self._leaves.get(piece.cid))
        try:
            if size is None:
                assert answer is not None
                size, length, links = _file_node(piece.cid, answer)
                self._blocks.add(piece.cid, BLOCK | length)
                if links and piece.level >= unixfs.MAX_LEVELS:
                    raise MalformedNode(f"more than {unixfs.MAX_LEVELS} levels of nodes above a leaf")
                if links:
                    piece.value.walked[piece.cid] = size
                else:
                    remember(self._leaves, piece.cid, size)
                yield from (_Piece(cid, piece.value, own, piece.level + 1) for cid, own in links)
            if piece.size is not None and size != piece.size:
                raise MalformedNode(f"{size} bytes, expected the {piece.size} that its parent records")
        except HamtError as error:
            if piece.cid not in piece.value.faulty:
                piece.value.faulty.add(piece.cid)
                for key in piece.value.keys:
                    self._found.add(kind_of(error), piece.cid, key, str(error))


def _file_node(cid: bytes, answer: Answer) -> tuple[int, int, list[tuple[bytes, int]]]:
    """The length of a block's part of a value, its own, and its links with the lengths they should have."""
    match answer:
        case HamtError():
            raise answer
        case Whole(size):
            return size, size, []
    if parse(cid).codec != DAG_PB:
        return len(answer), len(answer), []
    node = unixfs.decode(cid, answer)
    return node.size, len(answer), list(zip(node.links, node.sizes, strict=True))
