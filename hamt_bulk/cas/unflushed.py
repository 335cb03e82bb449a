"""
What was saved in stores that are gone, and never flushed.

Whatever thread lets go of the last reference to a store runs its finalizer, perhaps in the middle of a garbage
collection, and perhaps while it holds a lock. So a finalizer writes nothing: it leaves the writer here. The next call
that goes to the disk anyway flushes it, or the end of the program does.
"""

import os
import warnings
from collections import deque

from hamt_bulk.cas.writer import Writer
from hamt_bulk.errors import HamtError

_left: "deque[Writer]" = deque()

leave = _left.append
"""Takes the writer of a store that is gone. Neither waits nor writes."""


def flush_left() -> None:
    """Flushes what stores that are gone have left, and tells what was lost."""
    while True:
        try:
            writer = _left.popleft()
        except IndexError:
            return
        try:
            writer.flush()
        except HamtError as error:
            lost = "a PackCAS was neither flushed nor closed, and what it had been given is lost"
            warnings.warn(f"{lost}: {error}", stacklevel=2)


os.register_at_fork(after_in_child=_left.clear)
