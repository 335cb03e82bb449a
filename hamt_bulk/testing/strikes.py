"""Which calls of this process faults strike."""

import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import TypeVar

from hamt_bulk.testing.faults import Alter, Delay, Disconnect, DiskFull, Drop, Fail, Fault

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Strike:
    """
    What happens to one call.

    delay   seconds before it
    first   the error instead of it, or `None`
    last    the error once it is done, or `None`
    alters  a random number from 0 to 1 when a bit of the answer is to be another, else `None`
    """

    delay: float = 0.0
    first: Exception | None = None
    last: Exception | None = None
    alters: float | None = None

    def before(self) -> None:
        """To be called before it."""
        if self.first is not None:
            raise self.first

    def after(self) -> None:
        """To be called once it is done."""
        if self.last is not None:
            raise self.last

    def around(self, call: Callable[[], T]) -> T:
        """What `call` gives, unless there is an error."""
        self.before()
        result = call()
        self.after()
        return result


class Tally:
    """The calls of one store in this process, and which faults struck them."""

    def __init__(self, faults: Sequence[Fault], seed: str) -> None:
        self._seed = seed
        self._lock = Lock()
        self.arm(faults)

    def arm(self, faults: Sequence[Fault]) -> None:
        """Begins anew, with these faults."""
        with self._lock:
            self.calls: Counter[str] = Counter()
            self.struck = 0
            self._faults = faults
            self._counts = [0] * len(faults)
            self._random = [random.Random(f"{self._seed} {number}") for number in range(len(faults))]
            self._taken = 0
            self._is_full = False

    def strike(self, call: str, store: str) -> Strike:
        """What happens to this call of a store of the kind `store`."""
        delay, first, last, alters = 0.0, None, None, None
        with self._lock:
            self.calls[call] += 1
            for number, fault in enumerate(self._faults):
                if isinstance(fault, (Drop, DiskFull)) or not self._strikes(number, fault, call):
                    continue
                match fault:
                    case Delay():
                        delay += fault.seconds
                    case Alter():
                        alters = self._random[number].random()
                    case Disconnect(after=True):
                        last = last or fault.raised(call, store)
                    case Fail() | Disconnect():
                        first = first or fault.raised(call, store)
        return Strike(delay, first, last, alters)

    def drops(self, call: str) -> bool:
        """Whether a block that this call was given is not kept."""
        with self._lock:
            found = [
                self._strikes(number, fault, call)
                for number, fault in enumerate(self._faults)
                if isinstance(fault, Drop)
            ]
        return any(found)

    def take(self, call: str, size: int) -> None:
        """Raises `CASError` when there is no space for so many bytes more."""
        with self._lock:
            for fault in self._faults:
                if isinstance(fault, DiskFull) and call in fault.calls:
                    if self._taken + size > fault.after_bytes or self._is_full:
                        self._is_full = True
                        self.struck += 1
                        raise fault.raised(call, "FaultyCAS")
                    self._taken += size

    def _strikes(self, number: int, fault: Fault, call: str) -> bool:
        if call not in fault.calls:
            return False
        self._counts[number] += 1
        strikes = fault.strikes(self._counts[number], self._random[number].random())
        self.struck += strikes
        return strikes


_tallies: dict[tuple[str, int], Tally] = {}


def tally_of(token: str, faults: Sequence[Fault], seed: int) -> Tally:
    """The tally of this process for the store with this token, which begins with the process that made it."""
    process = os.getpid()
    tally = _tallies.get((token, process))
    if tally is None:
        here = "" if token.partition(" ")[0] == str(process) else f" {process}"
        tally = _tallies.setdefault((token, process), Tally(faults, f"{seed}{here}"))
    return tally
