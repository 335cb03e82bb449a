"""Which of several servers to ask first. Pure: the clock is an argument."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

MAX_FAILURES = 3
"""After so many failures in a row a server is asked last."""

COOL_DOWN_SECONDS = 30.0
"""How long. After that it is tried again, and one more failure makes it wait again."""

LEAST_HEDGE_SECONDS = 0.25
HEDGE_FACTOR = 5.0
"""A server that takes this many times longer than it used to has a second one asked beside it."""

MOST_HEDGE_SECONDS = 10.0
"""One that always takes long, such as for what it does not find, is not waited for longer than that."""

_WEIGHT = 0.1


@dataclass(slots=True)
class Health:
    """How one server did: failures in a row, when it may be asked again, and its usual answer time."""

    failures: int = 0
    cooled_at: float = 0.0
    seconds: float | None = None

    def succeeded(self, seconds: float) -> None:
        """Notes an answer that took `seconds`."""
        self.failures, self.cooled_at = 0, 0.0
        self.seconds = seconds if self.seconds is None else self.seconds + _WEIGHT * (seconds - self.seconds)

    def failed(self, now: float) -> None:
        """Notes a failure of the server, as opposed to an answer that it lacks a block."""
        self.failures += 1
        if self.failures >= MAX_FAILURES:
            self.cooled_at = now + COOL_DOWN_SECONDS

    def is_cooling(self, now: float) -> bool:
        """Whether it is to be asked after the others."""
        return now < self.cooled_at

    def hedge_after(self) -> float:
        """Seconds to wait for it before another is asked beside it."""
        return min(max(LEAST_HEDGE_SECONDS, HEDGE_FACTOR * (self.seconds or 0.0)), MOST_HEDGE_SECONDS)


T = TypeVar("T")


def in_order(servers: Sequence[tuple[T, Health]], now: float) -> list[tuple[T, Health]]:
    """In the order given, those that cool down last."""
    return sorted(servers, key=lambda server: server[1].is_cooling(now))
