"""What was saved in a store that is gone, and never flushed: written by the next call, never by a finalizer."""

import errno
import gc
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from watching import failing

from hamt_bulk.block import identify
from hamt_bulk.cas import PackCAS


async def forget_a_store(path: Path, value: bytes) -> None:
    """Leaves a store to the garbage collection, with a value that was not flushed."""
    cas = PackCAS(path)
    await cas.save(value, "raw")
    cas.itself = cas  # type: ignore[attr-defined]


@pytest.mark.parametrize("by", ["a read that misses", "flush", "writer"])
async def test_a_collection_in_a_thread_that_holds_a_lock_waits_for_none(
    store: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    lock, held, fsync = threading.Lock(), [], os.fsync

    def locking(file: int) -> None:
        # A flush from within a finalizer would wait here for its own thread.
        held.append(lock.locked())
        assert not lock.locked()
        with lock:
            fsync(file)

    gc.collect()
    await forget_a_store(store, b"value")
    monkeypatch.setattr(os, "fsync", locking)
    with lock:
        assert gc.collect() > 0
    assert held == []
    assert list(store.glob("packs/*/*")) == []
    other = PackCAS(store)
    match by:
        case "flush":
            other.flush()
        case "writer":
            other.writer().close()
    assert other.load_many([identify(b"value")]) == [b"value"]
    assert held and not any(held)
    assert list((store / "tmp").iterdir()) == []


async def test_what_could_not_be_written_is_told(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    await forget_a_store(store, b"value")
    gc.collect()
    monkeypatch.setattr(os, "fsync", lambda file: (_ for _ in ()).throw(failing(errno.ENOSPC)()))
    with pytest.warns(UserWarning, match=r"neither flushed nor closed.* is lost: .*the disk is full"):
        PackCAS(store).flush()
    PackCAS(store).flush()


ENDING = """
import asyncio, gc, os, sys
from hamt_bulk.cas import PackCAS
async def saved(value):
    cas = PackCAS(sys.argv[1])
    await cas.save(value, "raw")
    return cas
kept = asyncio.run(saved(b"kept"))
forgotten = asyncio.run(saved(b"forgotten"))
forgotten.itself = forgotten
del forgotten
gc.collect()
collected_at_the_end = asyncio.run(saved(b"collected at the end"))
collected_at_the_end.itself = collected_at_the_end
del collected_at_the_end
child = os.fork() if sys.argv[2] == "fork" else 1
if child == 0:
    sys.exit(0)
if child > 1:
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not any(names for _, _, names in os.walk(sys.argv[1] + "/packs"))
"""


@pytest.mark.parametrize("how", ["alone", "fork"])
def test_the_end_of_the_program_flushes_all(store: Path, how: str) -> None:
    """A forked child leaves what waits to its parent."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ENDING, str(store), how], capture_output=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    values = [b"kept", b"forgotten", b"collected at the end"]
    assert PackCAS(store).load_many(list(map(identify, values))) == values
    assert list((store / "tmp").iterdir()) == []
