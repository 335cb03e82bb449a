"""A HAMT in a forked child, whose parent had threads."""

import asyncio
import os
import time

import pytest

from hamt_bulk import HAMT, InMemoryCAS, build


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_child_that_was_forked_during_a_flush_flushes_by_itself(monkeypatch):
    """The parent's thread does not go on in the child, so its flush would never end there."""
    cas = InMemoryCAS()
    hamt = asyncio.run(HAMT.build(cas=cas, values_are_bytes=True))
    asyncio.run(hamt.set("key", b"value"))
    applied = hamt.draft._applied

    def slow(*arguments):
        time.sleep(1)
        return applied(*arguments)

    monkeypatch.setattr(hamt.draft, "_applied", slow)

    async def fork_while_it_flushes():
        flush = asyncio.create_task(hamt.flush())
        await asyncio.sleep(0.3)
        child = os.fork()
        if child:
            return child, await flush
        os._exit(0 if hamt.draft.waiting == 1 and hamt.draft.flush_here() else 1)

    child, root = asyncio.run(fork_while_it_flushes())
    for _ in range(200):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.05)
    else:
        os.kill(child, 9)
        os.waitpid(child, 0)
        raise AssertionError("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0
    assert root == build({"key": b"value"}, InMemoryCAS())
