"""How often, and after how long, what failed outside is tried again: one policy for stores and for servers."""

import asyncio
import errno
import math
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from hamt_bulk.errors import BlockMismatch, CASError, InvalidInput

T = TypeVar("T")

MAX_BACKOFF_SECONDS = 300.0
"""What we wait unasked, however often something has failed."""

MISMATCH_RETRIES = 1
"""How often a block that is not what its CID says is read again: a network may have altered it on its way."""

LASTING = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EACCES,
        errno.EPERM,
        errno.EROFS,
        errno.EEXIST,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ENAMETOOLONG,
    }
)
"""Failures that stay until somebody does something about them: no space, no permission, a file in the way."""


@dataclass(frozen=True, slots=True)
class Retries:
    """
    How often, and after how many seconds, something is tried again that may fare better.

    max_retries     after the first attempt; 0 is to try once
    initial_delay   before the first retry
    backoff_factor  by which each delay is longer than the one before, up to five minutes
    jitter          the share by which a delay is longer or shorter at random
    """

    max_retries: int = 3
    initial_delay: float = 1.0
    backoff_factor: float = 2.0
    jitter: float = 0.25

    def __post_init__(self) -> None:
        is_count = isinstance(self.max_retries, int) and self.max_retries >= 0
        if not (is_count and _is_number(self.initial_delay, 0.0) and _is_number(self.backoff_factor, 1.0)):
            raise InvalidInput(
                f"max_retries={self.max_retries!r}, initial_delay={self.initial_delay!r}, "
                f"backoff_factor={self.backoff_factor!r}: expected 0 or more, above 0, and 1 or more"
            )
        if not (self.jitter == 0 or (_is_number(self.jitter, 0.0) and self.jitter < 1)):
            raise InvalidInput(f"jitter={self.jitter!r}: expected 0 or more, and below 1")

    def delay(self, number: int) -> float:
        """Seconds before retry `number`, from 0."""
        try:
            backoff = min(float(self.initial_delay * self.backoff_factor**number), MAX_BACKOFF_SECONDS)
        except OverflowError:
            backoff = MAX_BACKOFF_SECONDS
        # Workers that failed together do not come back together.
        return backoff * random.uniform(1 - self.jitter, 1 + self.jitter)


def may_pass(error: BaseException) -> bool:
    """Whether the same call may work later: not when the system said, anywhere in the chain, what stays so."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno in LASTING:
            return False
        cause = cause.__cause__
    return True


class Attempts:
    """The attempts at one call."""

    def __init__(self, retries: Retries) -> None:
        self._retries = retries
        self._failed = self._mismatched = 0

    def after(self, error: CASError | BlockMismatch) -> float:
        """Seconds to wait before the next attempt. Raises the error when none is worth it."""
        self._failed += 1
        self._mismatched += isinstance(error, BlockMismatch)
        ends = self._failed > self._retries.max_retries or self._mismatched > MISMATCH_RETRIES
        if not ends and may_pass(error):
            return self._retries.delay(self._failed - 1)
        if self._failed == 1:
            raise error
        kind = CASError if isinstance(error, CASError) else BlockMismatch
        raise kind(f"{error} (attempt {self._failed}, and the last)") from error


def retried(call: Callable[[], T], retries: Retries) -> T:
    """The result of `call`, made again after a `CASError` that may pass, or a `BlockMismatch`."""
    attempts = Attempts(retries)
    while True:
        try:
            return call()
        except (CASError, BlockMismatch) as error:
            seconds = attempts.after(error)
        time.sleep(seconds)


async def retried_async(call: Callable[[], Awaitable[T]], retries: Retries) -> T:
    """As `retried`."""
    attempts = Attempts(retries)
    while True:
        try:
            return await call()
        except (CASError, BlockMismatch) as error:
            seconds = attempts.after(error)
        await asyncio.sleep(seconds)


def _is_number(value: object, least: float) -> bool:
    """Whether it is a finite number above 0 and not below `least`."""
    return isinstance(value, (int, float)) and math.isfinite(value) and value > 0 and value >= least
