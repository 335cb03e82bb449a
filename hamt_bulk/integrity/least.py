"""The least of many things, whatever order they come in."""

from collections.abc import Sequence
from heapq import nsmallest
from typing import Any, Generic, TypeVar

T = TypeVar("T", bound=tuple[Any, ...])


class Least(Generic[T]):
    """The least of the tuples that were added, so many: the same ones in whatever order they came."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._items: list[T] = []
        self._bound: T | None = None

    def add(self, item: T) -> None:
        """Takes one more."""
        if self._bound is None or item < self._bound:
            self._items.append(item)
            if len(self._items) > 2 * self.limit:
                self._items = self.items
                self._bound = self._items[-1] if self._items else None

    @property
    def items(self) -> list[T]:
        """The least ones, in order."""
        return nsmallest(self.limit, self._items)

    @classmethod
    def together(cls, several: "Sequence[Least[T]]") -> "Least[T]":
        """The least of all."""
        total = cls(several[0].limit)
        for one in several:
            for item in one.items:
                total.add(item)
        return total

    def __len__(self) -> int:
        return len(self._items)
