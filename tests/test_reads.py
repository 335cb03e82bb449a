"""The two loops that feed a traversal."""

import asyncio
from collections.abc import Generator, Sequence
from inspect import GEN_CLOSED, getgeneratorstate

import pytest

from hamt_bulk.block import Data
from hamt_bulk.reads import drive, drive_async


def lengths() -> Generator[Sequence[bytes], Sequence[Data], list[int]]:
    """Asks twice and answers with what it was sent."""
    first = yield [b"a", b"bb"]
    second = yield [b"ccc"]
    return [len(data) for data in (*first, *second)]


def load(cids: Sequence[bytes]) -> Sequence[Data]:
    return [cid * 2 for cid in cids]


async def load_async(cids: Sequence[bytes]) -> Sequence[Data]:
    return load(cids)


def test_both_loops_give_the_answer() -> None:
    assert drive(lengths(), load) == asyncio.run(drive_async(lengths(), load_async)) == [2, 4, 6]


@pytest.mark.parametrize("error", [OSError("gone"), StopIteration(), StopAsyncIteration()], ids=type)
def test_what_load_raises_reaches_the_caller_and_closes_the_traversal(error: Exception) -> None:
    def broken(cids: Sequence[bytes]) -> Sequence[Data]:
        raise error

    reads = lengths()
    with pytest.raises(type(error)) as raised:
        drive(reads, broken)
    assert raised.value is error
    assert getgeneratorstate(reads) == GEN_CLOSED
