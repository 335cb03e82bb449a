"""
Traversals that do no I/O, and the two loops that feed them.

A traversal is a generator: it yields the CIDs it needs, a level at a time, and is sent their bytes
in the same order. So it is written once and runs on a sync store, an async one, or a dict in a test.
"""

from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import closing
from functools import partial
from typing import TypeAlias, TypeVar

from hamt_bulk.block import Data

T = TypeVar("T")

Reads: TypeAlias = Generator[Sequence[bytes], Sequence[Data], T]
"""
A traversal whose answer is a `T`.

It never asks for nothing, nor for one CID twice in a request. What it is sent has been verified
against the CIDs, and is as many blocks as it asked for. In the place of a node's bytes it may be sent the
node as a cache decoded it, since `layout.decode` lets that pass.
"""


def drive(reads: Reads[T], load: Callable[[Sequence[bytes]], Sequence[Data]]) -> T:
    """The answer of `reads`, fed by `load`. What `load` raises closes it and goes to the caller."""
    with closing(reads):
        advance: Callable[[], Sequence[bytes]] = partial(next, reads)
        while True:
            try:
                cids = advance()
            except StopIteration as done:
                answer: T = done.value
                return answer
            advance = partial(reads.send, load(cids))


async def drive_async(reads: Reads[T], load: Callable[[Sequence[bytes]], Awaitable[Sequence[Data]]]) -> T:
    """As `drive`, with a `load` to await."""
    with closing(reads):
        advance: Callable[[], Sequence[bytes]] = partial(next, reads)
        while True:
            try:
                cids = advance()
            except StopIteration as done:
                answer: T = done.value
                return answer
            advance = partial(reads.send, await load(cids))


def side_by_side(traversals: Sequence[Reads[T]]) -> Reads[list[T]]:
    """The answers of all `traversals`, which go on together: one request for what they ask for at a time."""
    answers: dict[int, T] = {}
    asking: dict[int, Sequence[bytes]] = {}

    def advance(number: int, call: Callable[[], Sequence[bytes]]) -> None:
        try:
            asking[number] = call()
        except StopIteration as done:
            asking.pop(number, None)
            answers[number] = done.value

    for number, reads in enumerate(traversals):
        advance(number, partial(next, reads))
    while asking:
        cids = list(dict.fromkeys(cid for wanted in asking.values() for cid in wanted))
        blocks = dict(zip(cids, (yield cids), strict=True))
        for number, wanted in list(asking.items()):
            advance(number, partial(traversals[number].send, [blocks[cid] for cid in wanted]))
    return [answers[number] for number in range(len(traversals))]
