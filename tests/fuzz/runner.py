"""Many cases of a target, and what came of them."""

import resource
import sys
import time
from collections import Counter
from dataclasses import dataclass

from .mutate import cases
from .target import Target, outcome

MAX_GROWTH_BYTES = 64 << 20
"""What no hostile input may make a decoder hold."""


@dataclass(frozen=True)
class Tally:
    """
    What came of a run.

    outcomes  how many cases gave which error; "none" for those that gave none
    growth    by how many bytes the most memory that the process ever had rose, after the seeds
    """

    name: str
    cases: int
    seconds: float
    outcomes: Counter[str]
    growth: int

    def __str__(self) -> str:
        found = ", ".join(f"{name} {count}" for name, count in self.outcomes.most_common())
        return (
            f"{self.name:22} {self.cases:>9} cases {self.cases / self.seconds:>8.0f}/s "
            f"{self.growth / (1 << 20):>6.1f} MiB  {found}"
        )


def run(target: Target, count: int, seed: int) -> Tally:
    """Runs so many cases. Raises `Wrong` at the first that does what none may."""
    for data in target.seeds:
        outcome(target, data)
    before, start = _peak(), time.perf_counter()
    outcomes = Counter(outcome(target, data) for data in cases(target, count, seed))
    return Tally(target.name, outcomes.total(), time.perf_counter() - start, outcomes, _peak() - before)


def _peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
