"""When a request is sent again: what HTTP adds to `Retries`."""

import email.utils
from collections.abc import Mapping
from datetime import UTC

from hamt_bulk.cas.retries import Retries

TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Statuses that may be others in a moment. Kubo's own errors are 500 too, and repeat: its RPC client knows them."""

MAX_RETRY_AFTER_SECONDS = 300.0
"""What a server may ask us to wait. A broken one would have us wait for ever."""


def delay_after(retries: Retries, number: int, headers: Mapping[str, str], now: float) -> float:
    """
    Seconds before retry `number`, from 0, after an answer with these headers: what it asks for, or our own delay.

    now  seconds since the epoch, for `Retry-After` dates
    """
    asked = retry_after(headers, now)
    return retries.delay(number) if asked is None else min(asked, MAX_RETRY_AFTER_SECONDS)


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
