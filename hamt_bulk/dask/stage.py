"""What a build hands to a scheduler: stages, in windows of tasks."""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from hamt_bulk.dask.layers import Key

T = TypeVar("T")

Tick: TypeAlias = Callable[[int], None]
"""Called with the units of progress of each task that is finished."""


@dataclass(frozen=True, slots=True)
class Window:
    """
    Tasks that are handed to the scheduler together.

    graph    tasks by key
    results  the keys of the tasks whose results are wanted, and how many units of progress each is
    """

    graph: dict[Key, Any]
    results: dict[Key, int]


class Stage:
    """
    One stage of a build.

    name     as `BuildProgress` has it
    total    in units of progress
    windows  made when they are needed
    done     units that were finished before
    """

    def __init__(self, name: str, total: int, windows: Iterator[Window], done: int = 0) -> None:
        self.name = name
        self.total = total
        self.windows = windows
        self.done = done

    def finished(self, key: Key, result: Any) -> None:
        """Called once with each result, as it comes, by one thread at a time."""

    def again(self, key: Key, spot: str | None) -> Window | None:
        """
        The task `key` once more, under another key; `None` where that cannot be.

        spot  the name of a distributed `Variable` in which the task notes what it works on, as numbers
        """
        return None

    def without(self, key: Key, number: int, spot: str) -> tuple[str, Window | None]:
        """What `number` in the task `key` is, for people, and a task for the others, if there are some."""
        return self.describe(key), None

    def describe(self, key: Key) -> str:
        """What the task `key` works on, for people."""
        return f"a task of the stage {self.name!r}"

    def halt(self) -> None:
        """Called when nobody waits for the tasks any more: those that still run should end."""


Stages: TypeAlias = Generator[Stage, list[Any], T]
"""
A build: yields stages, is sent the results of each in any order, and returns.

What a task raised is thrown into it, so that it may say more.
"""
