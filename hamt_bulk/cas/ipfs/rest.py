"""
What a store that is gone leaves to be done on its daemon.

Whatever thread lets go of the last reference runs its finalizer: perhaps one that holds a lock, or the loop that the
daemon's answer would come by. So a finalizer only leaves a note, and a thread, or the end of the program, does it.
"""

import asyncio
import os
import threading
import warnings
from collections import deque
from contextlib import suppress

from hamt_bulk.cas.ipfs.connection import Access, connection_of
from hamt_bulk.cas.ipfs.holds import Hold
from hamt_bulk.cas.ipfs.uploads import SharedWriter
from hamt_bulk.cas.loop import run_sync
from hamt_bulk.errors import HamtError

SETTLE_SECONDS = 10.0
"""How long a daemon may take to let go of what one store held. The hold is known by its name if it takes longer."""


class Rest:
    """
    What is to be done for one store object, of no build.

    writer  behind `save`, if there is one: what it has was never flushed
    """

    def __init__(self, access: Access, hold: Hold) -> None:
        self._access = access
        self._hold = hold
        self.writer: SharedWriter | None = None

    def settle(self) -> None:
        """
        Sends what was never flushed, and lets go of what is held.

        Raises what the sending raises; a hold that stays is known by its name.
        """
        if self.writer is not None and self.writer.is_used:
            self.writer.flush()
        if self._hold.is_used:
            with suppress(HamtError, TimeoutError):
                run_sync(asyncio.wait_for(self._release(), SETTLE_SECONDS))

    async def _release(self) -> None:
        rpc = connection_of(self._access, self).rpc
        assert rpc is not None
        await self._hold.release(rpc, retries=0)
        self._hold.is_used = False


_left: "deque[Rest]" = deque()

leave = _left.append


def settle_left() -> None:
    """Does what is left of stores that are gone, and tells what was lost."""
    while _left:
        rest = _left.popleft()
        try:
            rest.settle()
        except HamtError as error:
            lost = "a KuboCAS was neither flushed nor closed, and what it had been given did not arrive"
            warnings.warn(f"{lost}: {error}", stacklevel=2)


def settle_beside() -> None:
    """As `settle_left`, in a thread of its own where there is something to do."""
    if _left:
        threading.Thread(target=settle_left, name="hamt-bulk-rest").start()


os.register_at_fork(after_in_child=_left.clear)
