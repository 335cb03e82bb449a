"""Packs when the outside fails: full disks, permissions, crashes at every point, killed writers, forks."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from watching import DISK_ERRORS, Crash, Faults, failing, interrupted, open_descriptors

from hamt_bulk.block import Block, identify
from hamt_bulk.cas import PackCAS
from hamt_bulk.cas.base import Receipt
from hamt_bulk.errors import BlockNotFound, CASError

OLD = [b"old %d" % i for i in range(5)]
NEW_NODES = [b"node %d" % i * 50 for i in range(30)]
NEW_VALUES = [b"new %d" % i * 50 for i in range(30)]
ABSENT = identify(b"nobody has this")


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    monkeypatch.setattr(os, "fsync", lambda file: None)
    return Faults(monkeypatch)


def cids(values: list[bytes], codec: int = 0x55) -> list[bytes]:
    return [identify(value, codec) for value in values]


def write_old(store: Path) -> None:
    """Two packs, so that `finish` has an index to write."""
    for value in (OLD[:2], OLD[2:]):
        with PackCAS(store).writer() as writer:
            for data in value:
                writer.save(data)
            writer.flush()


def write_new(store: Path) -> None:
    cas = PackCAS(store)
    nodes = [Block(identify(node, 0x71), node) for node in NEW_NODES]
    values = [Block(identify(value), value) for value in NEW_VALUES]
    with cas.writer() as writer:
        writer.save_many(nodes[:20] + values[:20])
        writer.save_many(nodes[20:] + values[20:])
        assert writer.flush().blocks == 60
    cas.finish()


def check(store: Path, old: bool) -> tuple[bool, bool]:
    """Whether the new nodes and values are there: each all or none, and the old ones all."""
    cas = PackCAS(store)
    if old:
        assert cas.load_many(cids(OLD)) == OLD
    nodes, values = cas.has_many(cids(NEW_NODES, 0x71)), cas.has_many(cids(NEW_VALUES))
    assert len({*nodes}) == len({*values}) == 1
    if nodes[0]:
        assert cas.load_many(cids(NEW_NODES, 0x71)) == NEW_NODES
    if values[0]:
        assert cas.load_many(cids(NEW_VALUES)) == NEW_VALUES
    assert cas._index.damaged() == []
    return nodes[0], values[0]


@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("old", [True, False], ids=["a store", "no store yet"])
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EACCES], ids=errno.errorcode.get)
def test_a_failure_at_any_point_leaves_the_old_state_or_the_new(
    tmp_path: Path, faults: Faults, number: int, old: bool, lasting: bool
) -> None:
    """And the next attempt succeeds."""
    states = []
    for nth in range(100):
        store = tmp_path / str(nth)
        if old:
            write_old(store)
        with faults.armed(nth, failing(number), lasting):
            try:
                write_new(store)
            except CASError as error:
                assert str(store) in str(error)
        states.append(check(store, old))
        if not faults.struck:
            break
        if not lasting and (store / "tmp").exists():
            assert list((store / "tmp").iterdir()) == []
        write_new(store)
        assert check(store, old) == (True, True)
    assert len(states) > 15
    assert states == sorted(states) or not lasting  # a clean-up that fails alone harms nobody
    assert {*states} == {(False, False), (True, False), (True, True)}


@pytest.mark.parametrize("old", [True, False], ids=["a store", "no store yet"])
def test_a_crash_at_any_point_leaves_the_old_state_or_the_new(
    tmp_path: Path, faults: Faults, old: bool
) -> None:
    """Half of what was being written may be there; the next process goes on as if nothing had been."""
    left = 0
    for nth in range(100):
        store = tmp_path / str(nth)
        if old:
            write_old(store)
        with faults.armed(nth, Crash, lasting=True), suppress(Crash):
            write_new(store)
        check(store, old)
        if not faults.struck:
            break
        left += (store / "tmp").exists() and len(list((store / "tmp").iterdir()))
        write_new(store)
        assert check(store, old) == (True, True)
    assert nth > 15
    assert left > 5


@pytest.mark.parametrize("number", DISK_ERRORS, ids=errno.errorcode.get)
@pytest.mark.parametrize("call", ["open", "writev", "fsync", "replace"])
def test_a_writer_that_failed_refuses_to_finish(
    store: Path, monkeypatch: pytest.MonkeyPatch, number: int, call: str
) -> None:
    """One error that says what to do; the store is usable, and so is another writer once there is space."""
    write_old(store)
    cas = PackCAS(store)
    with cas.writer() as writer:
        with monkeypatch.context() as patch:

            def fail(*args: object, **kwargs: object) -> None:
                raise failing(number)()

            patch.setattr(os, call, fail)
            with pytest.raises(CASError, match=r"full|quota|read-only|denied|failed") as raised:
                writer.save(b"lost")
                writer.flush()
            assert isinstance(raised.value.__cause__, OSError)
            patch.undo()
        assert cas.load_many(cids(OLD)) == OLD
        if call != "open":
            for again in (lambda: writer.save(b"more"), writer.flush, writer.flush):
                with pytest.raises(CASError, match="failed before"):
                    again()
    assert PackCAS(store).has_many(cids([b"lost", b"more"])) == [False, False]
    assert list((store / "tmp").iterdir()) == []
    for again in (writer, cas.writer()):
        with again:
            cid = again.save(b"kept")
            assert again.flush() == Receipt(1, 4)
        assert cas.load_many([cid]) == PackCAS(store).load_many([cid]) == [b"kept"]


def test_an_interrupt_at_any_line_breaks_no_pack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C in the middle of a save, and the user goes on with the same writer."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    blocks = [Block(identify(b"block %d" % i), b"block %d" % i) for i in range(9)]
    refused = 0
    for nth in range(1000):
        store = tmp_path / str(nth)
        with PackCAS(store).writer() as writer:
            writer.save_many(blocks[:3])
            with interrupted(nth) as interrupt:
                writer.save_many(blocks[3:6])
            try:
                writer.save_many(blocks[6:])
                writer.flush()
                sure = blocks[:3] + blocks[6:]
            except CASError:
                refused += 1
                sure = []
        cas = PackCAS(store)
        assert cas.load_many([cid for cid, _ in sure]) == [data for _, data in sure]
        there = [block for block in blocks if cas.has_many([block.cid]) == [True]]
        assert cas.load_many([cid for cid, _ in there]) == [data for _, data in there]
        assert cas._index.damaged() == []
        if not interrupt.struck:
            break
    assert nth > 50
    assert 0 < refused < nth // 2
    assert there == blocks


async def test_a_save_that_failed_is_not_forgotten(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was saved before is lost with it, and until `close` every flush says so."""
    cas = PackCAS(store)
    await cas.save(b"before", "raw")
    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", lambda *args: (_ for _ in ()).throw(failing(errno.ENOSPC)()))
        with pytest.raises(CASError, match="the disk is full"):
            await cas.save(b"lost", "raw")
    for _ in range(2):
        with pytest.raises(CASError, match=r"failed before.*the disk is full"):
            cas.flush()
        with pytest.raises(CASError, match=r"failed before.*the disk is full"):
            await cas.save(b"after", "raw")
    with pytest.raises(CASError, match="failed before"):
        cas.close()
    cid = await cas.save(b"anew", "raw")
    assert cas.flush() == Receipt(1, 4)
    assert PackCAS(store).load_many([cid]) == [b"anew"]
    assert PackCAS(store).has_many(cids([b"before", b"lost", b"after"])) == [False] * 3
    cas.close()


def test_a_pack_is_durable_before_it_has_its_name(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes, then the name, then the folder that holds the name; the same for `format` and indexes."""
    log: list[tuple[str, str]] = []
    real = {name: getattr(os, name) for name in ("writev", "fsync", "replace")}

    def logged(name: str) -> None:
        def call(first: object, *args: object) -> object:
            path = os.readlink(f"/proc/self/fd/{first}") if isinstance(first, int) else str(first)
            log.append((name, path))
            answer = real[name](first, *args)
            if name == "replace":
                log.append(("named", str(args[0])))
            return answer

        monkeypatch.setattr(os, name, call)

    for name in real:
        logged(name)
    write_new(store)
    replaced = [at for at, (name, _) in enumerate(log) if name == "replace"]
    assert [Path(log[at + 1][1]).suffix for at in replaced] == ["", ".car", ".car", ".mpi"]
    for at in replaced:
        temporary, final = log[at][1], Path(log[at + 1][1])
        synced = max(i for i, entry in enumerate(log[:at]) if entry == ("fsync", temporary))
        assert ("writev", temporary) not in log[synced:at]
        assert log[at + 2] == ("fsync", str(final.parent))
    folders = {path for name, path in log if name == "fsync"}
    assert folders >= {str(store.parent), str(store), str(store / "packs")}


def test_a_file_system_that_cannot_sync_folders_will_do(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsync = os.fsync

    def only_files(file: int) -> None:
        if os.path.isdir(f"/proc/self/fd/{file}"):
            raise failing(errno.EINVAL)()
        fsync(file)

    monkeypatch.setattr(os, "fsync", only_files)
    write_new(store)
    assert check(store, old=False) == (True, True)


def test_a_read_that_fails_is_said_to_be_the_outsides(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_old(store)
    cas, before = PackCAS(store), open_descriptors()
    cas.load_many(cids(OLD))
    with monkeypatch.context() as patch:
        patch.setattr(os, "pread", lambda *args: (_ for _ in ()).throw(failing(errno.EIO)()))
        for call in (cas.load_many, cas.has_many, PackCAS(store).load_many):
            with pytest.raises(CASError, match="the disk or the network failed"):
                call(cids(OLD))
    with monkeypatch.context() as patch:
        patch.setattr(os, "scandir", lambda *args: (_ for _ in ()).throw(failing(errno.EACCES)()))
        with pytest.raises(CASError, match="permission denied"):
            PackCAS(store).load_many(cids(OLD))
    assert cas.load_many(cids(OLD)) == OLD
    assert open_descriptors() <= before + 2


# Other processes

WRITING = """
import sys
from hamt_bulk.cas import PackCAS
with PackCAS(sys.argv[1]).writer() as writer:
    writer.save(b"flushed")
    writer.flush()
    for i in range(10**9):
        writer.save(b"%d" % i * 1000)
        writer.save(b"node %d" % i, "dag-cbor")
        if i == 5000:
            print("halfway", flush=True)
"""


def test_what_a_killed_writer_leaves_is_not_believed(store: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", WRITING, str(store)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdout.readline() == b"halfway\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    left = list((store / "tmp").iterdir())
    assert len(left) == 2
    assert min(path.stat().st_size for path in left) > 100_000
    cas = PackCAS(store)
    assert cas.load_many(cids([b"flushed"])) == [b"flushed"]
    assert cas.has_many(cids([b"0" * 1000, b"17" * 1000])) == [False, False]
    with pytest.raises(BlockNotFound):
        cas.load_many(cids([b"0" * 1000]))
    write_new(store)
    assert check(store, old=False) == (True, True)
    assert PackCAS(store).has_many(cids([b"0" * 1000])) == [False]


FORKING = """
import asyncio, os, sys, threading, time, warnings
from hamt_bulk.block import Block, identify
from hamt_bulk.cas import PackCAS, ContentAddressedStore
from hamt_bulk.cas import archive, loop
from hamt_bulk.cas.loop import run_sync
from hamt_bulk.errors import NotPortable

async def answer(): return 42

cas = PackCAS(sys.argv[1])
assert run_sync(answer()) == 42
explicit = cas.writer()
explicit.save(b"explicit")
held = asyncio.run(cas.save(b"parent's", "raw"))

held_at_fork = threading.Event()
def hold():  # as a thread that is in the middle of something
    with loop._lock, cas._lock, cas._index._lock, archive._descriptors._lock:
        held_at_fork.set()
        time.sleep(1)
threading.Thread(target=hold).start()
held_at_fork.wait()

warnings.simplefilter("ignore")
child = os.fork()
if child == 0:
    assert run_sync(answer()) == 42
    try:
        explicit.flush()
        os._exit(3)
    except NotPortable:
        pass
    asyncio.run(cas.save(b"child's", "raw"))
    assert cas.flush().blocks == 1
    assert cas.has_many([held]) == [False]
    del cas, explicit
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
assert run_sync(answer()) == 42
asyncio.run(cas.save(b"more", "raw"))
assert cas.flush().blocks == 2
assert explicit.flush().blocks == 1
print(sum(cas.has_many([identify(b) for b in (b"parent's", b"more", b"child's", b"explicit")])))
"""


def test_a_forked_child_neither_hangs_nor_disturbs_its_parent(store: Path) -> None:
    """Not even when a thread of the parent holds every lock, nor with blocks of the parent that wait."""
    done = subprocess.run(
        [sys.executable, "-c", FORKING, str(store)], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "4\n", "")
    assert PackCAS(store).has_many(cids([b"parent's", b"more", b"child's", b"explicit"])) == [True] * 4
    assert list((store / "tmp").iterdir()) == []


def test_the_private_loop_ends_with_the_process_without_a_word() -> None:
    code = "from hamt_bulk.cas.loop import run_sync\nasync def f(): return 1\nassert run_sync(f()) == 1"
    done = subprocess.run([sys.executable, "-X", "dev", "-W", "error", "-c", code], capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")


async def test_saves_of_several_loops_go_into_one_pack(store: Path) -> None:
    cas = PackCAS(store)

    def save(number: int) -> list[bytes]:
        async def many() -> list[bytes]:
            saved = await asyncio.gather(*(cas.save(b"%d %d" % (number, i), "raw") for i in range(20)))
            return [bytes(cid) for cid in saved]

        return asyncio.run(many())

    saved = await asyncio.gather(*(asyncio.to_thread(save, number) for number in range(4)))
    assert cas.flush().blocks == 80
    assert len(list(store.glob("packs/*/*"))) == 1
    assert PackCAS(store).has_many([cid for some in saved for cid in some]) == [True] * 80
