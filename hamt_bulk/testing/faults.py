"""
What may go wrong with a store.

A fault says of which calls it is (`on`) and which of these it strikes: the `nth`, counted from 1, and with `lasting`
all after it; or a share of them, `rate`, at random; or, without either, all.
"""

import copy
import errno
import os
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from hamt_bulk.cas.files import failure
from hamt_bulk.errors import CASError, InvalidInput

LOADS = ("load", "load_many", "load_range", "load_blocks", "load_ipld_path")
"""Calls that give bytes."""

SAVES = ("save", "flush", "writer", "writer.save_many", "writer.flush")
"""Calls that take bytes. `save_value` counts as `save`, and a writer's `save` as its `save_many`."""

CALLS = (*LOADS, *SAVES, "has_many", "size_many", "has_blocks", "size_blocks")
"""Calls that faults strike unless they say otherwise. `claim_many` counts as `has_many`."""

OTHER_CALLS = ("begin", "secure", "finish", "abandon", "announce", "preflight", "retract", "close")
"""
Calls of a build, and the end of a store, which may flush what waits: faults strike them when they are named.

Whatever else a store has (`check_pin`, `journals`, a writer's `close`) no fault strikes.
"""

_EVERY = (*CALLS, *OTHER_CALLS)
_FILLING = tuple(name for name in SAVES if name != "writer")
_BLOCKS = ("save", "writer.save_many")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault; the base of those that do something."""

    _possible: ClassVar[tuple[str, ...]] = _EVERY

    on: str | tuple[str, ...] = CALLS
    nth: int | None = None
    lasting: bool = False
    rate: float | None = None

    def __post_init__(self) -> None:
        if unknown := [name for name in self.calls if name not in _EVERY]:
            raise InvalidInput(f"on={unknown[0]!r}: expected some of {', '.join(_EVERY)}")
        # With a fault that never comes every test passes.
        if never := [name for name in self.calls if name not in self._possible]:
            raise InvalidInput(f"on={never[0]!r}: {type(self).__name__} is of {', '.join(self._possible)}")
        if not self.calls:
            raise InvalidInput("on=(): name the calls that it strikes")
        if self.nth is not None and not (isinstance(self.nth, int) and self.nth >= 1):
            raise InvalidInput(f"nth={self.nth!r}: expected a number from 1")
        if self.rate is not None and not 0 <= self.rate <= 1:
            raise InvalidInput(f"rate={self.rate!r}: expected a share, 0 to 1")
        if self.nth is not None and self.rate is not None:
            raise InvalidInput(f"nth={self.nth} and rate={self.rate}: give one of them")

    @property
    def calls(self) -> tuple[str, ...]:
        """The calls that it is of."""
        return (self.on,) if isinstance(self.on, str) else self.on

    def strikes(self, count: int, draw: float) -> bool:
        """
        Whether it strikes.

        count  how many of its calls there were, this one included
        draw   a random number from 0 to 1 (exclusive)
        """
        if self.nth is not None:
            return count == self.nth or (self.lasting and count > self.nth)
        return self.rate is None or draw < self.rate


@dataclass(frozen=True, slots=True, kw_only=True)
class Fail(Fault):
    """
    The call raises an error, and the store does not hear of it.

    error  the error, or the number of an `OSError`, such as `errno.EACCES`, which is told as a `CASError`
    """

    error: Exception | int = errno.EIO

    def raised(self, call: str, store: str) -> Exception:
        """The error, as a new object."""
        if not isinstance(self.error, int):
            return copy.copy(self.error)
        return of_system(self.error, call, store)


@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnect(Fault):
    """
    The connection is lost: the call raises `CASError`.

    after  once the store has done what it was asked for; else before it hears of it
    """

    after: bool = False

    def raised(self, call: str, store: str) -> Exception:
        """The error, as a new object."""
        return of_system(errno.ECONNRESET, call, store)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delay(Fault):
    """The store hears of the call later."""

    seconds: float = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Alter(Fault):
    """
    One bit of what is read is another.

    A store that verifies says so, with `BlockMismatch`; from others the altered bytes are given.
    """

    _possible: ClassVar[tuple[str, ...]] = LOADS

    on: str | tuple[str, ...] = LOADS


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop(Fault):
    """A block, or a value given to `save`, is taken, acknowledged and not kept: what it counts are these."""

    _possible: ClassVar[tuple[str, ...]] = _BLOCKS

    on: str | tuple[str, ...] = _BLOCKS


@dataclass(frozen=True, slots=True, kw_only=True)
class DiskFull(Fault):
    """
    No space is left once `after_bytes` were taken: `CASError`, caused by the error of the system.

    From then on all of its calls fail.
    """

    _possible: ClassVar[tuple[str, ...]] = _FILLING

    on: str | tuple[str, ...] = _FILLING
    after_bytes: int = 0

    def __post_init__(self) -> None:
        Fault.__post_init__(self)
        if self.lasting or (self.nth, self.rate) != (None, None):
            raise InvalidInput(
                "DiskFull is of the calls after `after_bytes` were taken: leave nth, lasting, rate out"
            )

    def raised(self, call: str, store: str) -> Exception:
        """The error, as a new object."""
        return of_system(errno.ENOSPC, call, store)


def of_system(number: int, call: str, store: str) -> CASError:
    """What a store raises for an `OSError` of this number."""
    try:
        cause = OSError(number, os.strerror(number))
        raise failure(f"cannot {call}", Path(store), cause) from cause
    except CASError as error:
        return error
