"""Looking after a store that is interrupted at any point, or has readers and writers meanwhile."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from packs_made import alter, blocks_in, contents, items_of, packs_in, readable, tree, write
from watching import Crash, Faults, failing

from hamt_bulk import build
from hamt_bulk.block import identify, text, to_bytes, to_cid
from hamt_bulk.cas import PackCAS
from hamt_bulk.errors import CASError
from hamt_bulk.packs import drop, merge, packs, rebuild, verify


@pytest.fixture
def faults(monkeypatch: pytest.MonkeyPatch) -> Faults:
    monkeypatch.setattr(os, "fsync", lambda file: None)
    return Faults(monkeypatch)


MIXED = [b"value %d" % n for n in range(40)]


def made(store: Path) -> bytes:
    """A store of several packs: live ones, dead ones, mixed ones, and one that was cut short. The root that is kept."""
    kept = items_of("kept", 20)
    write(store, MIXED)
    cas = PackCAS(store)
    root = tree(store, kept)
    mixed = {f"mixed/{n}": to_cid(identify(value)) for n, value in enumerate(MIXED[:20])}
    new = to_bytes(build(mixed, cas, base=root))
    for n in range(2):
        write(store, [b"dead %d %d" % (n, part) for part in range(3)])
    [cut] = write(store, [b"cut %d" % n for n in range(9)])
    os.truncate(cut, blocks_in(cut)[identify(b"cut 6")][0])
    PackCAS(store)._index.rewrite()
    return new


WORK: dict[str, Callable[[Path, bytes], object]] = {
    "drop": lambda store, root: drop(store, [root], older_than_hours=0),
    "rebuild": lambda store, root: rebuild(store),
    "merge": lambda store, root: merge(store),
}


@pytest.mark.parametrize("work", WORK)
@pytest.mark.parametrize("error", [Crash, failing(errno.ENOSPC)], ids=["crash", "full disk"])
def test_an_interruption_at_any_file_operation_costs_no_live_block(
    tmp_path: Path, faults: Faults, work: str, error: Callable[[], BaseException]
) -> None:
    """And the next call completes the work."""
    template = tmp_path / "template"
    root = made(template)
    before = contents(template, root)
    cids = [cid for path in packs_in(template) if is_sound(path) for cid in blocks_in(path)]
    alive = readable(template, [*cids, *(identify(b"cut %d" % n) for n in range(9))])
    for nth in range(400):
        store = tmp_path / str(nth)
        shutil.copytree(template, store)
        reader = PackCAS(store)
        assert reader.has_many([identify(MIXED[0])]) == [True]
        with faults.armed(nth, error, lasting=error is Crash), suppress(Crash, CASError):
            WORK[work](store, root)
        assert contents(store, root) == before, f"operation {nth}"
        assert reader.has_many([identify(value) for value in MIXED[:20]]) == [True] * 20
        assert reader.load_many([identify(value) for value in MIXED[:20]]) == MIXED[:20]
        if work != "drop":
            assert readable(store, alive) == alive
        if not faults.struck:
            break
        WORK[work](store, root)
        assert contents(store, root) == before
        if work == "drop":
            assert not readable(store, [identify(b"dead 0 0"), identify(b"value 30")])
    assert 8 < nth < 399
    assert not faults.struck


def is_sound(path: Path) -> bool:
    with suppress(ValueError):
        return bool(blocks_in(path))
    return False


READER = """
import sys
from pathlib import Path
from packs_made import pointers_of
from hamt_bulk.block import to_bytes
from hamt_bulk.cas import PackCAS
cas, root = PackCAS(sys.argv[1]), to_bytes(sys.argv[2])
expected = None
while True:
    pointers = pointers_of(cas, root)
    found = cas.load_many(list(pointers.values()))
    assert cas.has_many(list(pointers.values())) == [True] * len(pointers)
    assert expected in (None, found)
    expected = found
    print(len(found), flush=True)
    if sys.stdin.readline() != "again\\n":
        break
"""


def test_another_process_goes_on_reading_throughout(store_with_others: tuple[Path, bytes]) -> None:
    """It has the store open from before, and reads between any two steps of the work."""
    store, root = store_with_others
    count = len(contents(store, root))
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with subprocess.Popen(
        [sys.executable, "-c", READER, str(store), text(root)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    ) as reader:
        assert reader.stdin is not None and reader.stdout is not None
        assert reader.stdout.readline() == f"{count}\n"

        def look() -> None:
            reader.stdin.write("again\n")
            reader.stdin.flush()
            assert reader.stdout.readline() == f"{count}\n"

        looked = 0
        with pytest.MonkeyPatch.context() as patch:
            for name in ("replace", "rename", "unlink"):
                real = getattr(os, name)

                def call(*arguments, real=real, **named):
                    nonlocal looked
                    real(*arguments, **named)
                    look()
                    looked += 1

                patch.setattr(os, name, call)
            done = drop(store, [root], older_than_hours=0)
            merge(store)
            rebuild(store)
        assert done.blocks > 0
        assert looked > 10
        look()
        reader.stdin.write("enough\n")
        reader.stdin.flush()
    assert reader.returncode == 0


@pytest.fixture
def store_with_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, bytes]:
    monkeypatch.setattr(os, "fsync", lambda file: None)
    return tmp_path / "store", made(tmp_path / "store")


def test_a_writer_in_another_process_loses_nothing(store_with_others: tuple[Path, bytes]) -> None:
    """It began before the drop, saves during it, and is done afterwards."""
    store, root = store_with_others
    for path in packs_in(store):
        os.utime(path, (0, 0))
    code = """
import sys
from hamt_bulk.cas import PackCAS
with PackCAS(sys.argv[1]).writer() as writer:
    writer.save(b"dead 0 0")
    print("begun", flush=True)
    sys.stdin.readline()
    writer.flush()
    writer.save(b"value 30")
    writer.flush()
    for part in range(3):
        writer.save(b"dead 1 %d" % part)
    writer.flush()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code, str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as writer:
        assert writer.stdin is not None and writer.stdout is not None
        assert writer.stdout.readline() == "begun\n"
        real, steps = os.rename, 0

        def rename(*arguments, **named):
            nonlocal steps
            steps += 1
            if steps == 2:
                writer.stdin.write("\n")
                writer.stdin.flush()
                writer.wait()
            real(*arguments, **named)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "rename", rename)
            drop(store, [root])
    assert writer.returncode == 0
    assert steps >= 3
    saved = [b"dead 0 0", b"value 30", *(b"dead 1 %d" % part for part in range(3))]
    assert readable(store, map(identify, saved)) == set(map(identify, saved))
    drop(store, [root])
    assert readable(store, map(identify, saved)) == set(map(identify, saved))


def test_a_store_is_sound_after_all_of_it(store_with_others: tuple[Path, bytes]) -> None:
    store, root = store_with_others
    before = contents(store, root)
    [altered] = write(store, [b"altered", b"beside"])
    alter(altered, blocks_in(altered)[identify(b"altered")][0])
    assert verify(store).lost > 0
    rebuild(store)
    drop(store, [root], older_than_hours=0)
    merge(store)
    left = packs(store)
    assert [pack.damage for pack in left.packs] == [None] * len(left.packs)
    # The pack with the altered block has nothing that is needed, and its heads are sound.
    assert verify(store).ok
    assert contents(store, root) == before
    assert len(left.packs) == 2
