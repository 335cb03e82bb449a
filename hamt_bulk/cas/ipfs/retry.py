"""When a request is sent again."""

import email.utils
import math
import random
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC

from hamt_bulk.errors import InvalidInput

TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that may be others in a moment. Kubo's own errors are 500 too, and repeat: its RPC client knows them."""

MAX_RETRY_AFTER_SECONDS = 300.0
"""What a server may ask us to wait. A broken one would have us wait for ever."""

MAX_BACKOFF_SECONDS = 300.0
"""What we wait unasked, however often a request has failed."""


@dataclass(frozen=True, slots=True)
class Retries:
    """How often, and after how long, a request is sent again that may fare better."""

    max_retries: int
    initial_delay: float
    backoff_factor: float

    def __post_init__(self) -> None:
        is_count = isinstance(self.max_retries, int) and self.max_retries >= 0
        if not (is_count and _is_number(self.initial_delay, 0.0) and _is_number(self.backoff_factor, 1.0)):
            raise InvalidInput(
                f"max_retries={self.max_retries!r}, initial_delay={self.initial_delay!r}, "
                f"backoff_factor={self.backoff_factor!r}: expected 0 or more, above 0, and 1 or more"
            )

    def delay(self, number: int, headers: Mapping[str, str], now: float) -> float:
        """Seconds before retry `number`, from 0. `now` is seconds since the epoch, for `Retry-After` dates."""
        asked = retry_after(headers, now)
        if asked is not None:
            return min(asked, MAX_RETRY_AFTER_SECONDS)
        # Workers that failed together do not come back together.
        try:
            backoff = min(float(self.initial_delay * self.backoff_factor**number), MAX_BACKOFF_SECONDS)
        except OverflowError:
            backoff = MAX_BACKOFF_SECONDS
        return backoff * random.uniform(0.75, 1.25)


def retry_after(headers: Mapping[str, str], now: float) -> float | None:
    """The seconds that a `Retry-After` header asks for, if it can be read."""
    value = headers.get("retry-after", "").strip()
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        date = email.utils.parsedate_to_datetime(value)
        # "-0000" gives a date without a zone, which means UTC.
        return max((date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - now, 0.0)
    except (TypeError, ValueError, OverflowError, IndexError):
        return None


def _is_number(value: object, least: float) -> bool:
    """Whether it is a finite number above 0 and not below `least`."""
    return isinstance(value, (int, float)) and math.isfinite(value) and value > 0 and value >= least
