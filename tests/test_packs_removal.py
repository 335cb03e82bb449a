"""Packs that go while another process gives their names again: what it counts on stays, whatever dies when."""

import errno
import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from packs_made import age, alter, blocks_in, packs_in, readable, tree, write
from watching import Crash

import hamt_bulk.cas.packremoval as packremoval
from hamt_bulk.block import identify
from hamt_bulk.cas import PackCAS, packmerge
from hamt_bulk.cas.packfile import PackWriter
from hamt_bulk.cas.packremoval import remove, stamp_of
from hamt_bulk.packs import drop, merge, packs, rebuild, verify

VALUES = [b"one", b"two", b"three"]
CIDS = [identify(value) for value in VALUES]


pytestmark = pytest.mark.usefixtures("no_fsync")


def once(monkeypatch: pytest.MonkeyPatch, owner: object, name: str, before: Callable[[], object]) -> None:
    """Calls `before` ahead of the first call of `name` that is made from now on."""
    real, called = getattr(owner, name), []

    def call(*arguments: object, **named: object) -> object:
        if not called:
            called.append(name)
            before()
        return real(*arguments, **named)

    monkeypatch.setattr(owner, name, call)


def test_the_file_that_was_read_goes_and_no_other(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another one is not so much as moved."""
    [pack] = write(store, VALUES)
    read = stamp_of(pack)
    write(store, VALUES)
    assert stamp_of(pack) != read
    with monkeypatch.context() as patch:
        patch.delattr(os, "rename")
        assert not remove(pack, read)
    assert readable(store, CIDS) == set(CIDS)
    assert remove(pack, stamp_of(pack))
    assert not remove(pack, read)
    assert list((store / "packs/values").iterdir()) == []


@pytest.mark.parametrize("links", [True, False])
def test_a_pack_that_comes_at_the_last_moment_gets_its_name_back(
    store: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    [pack] = write(store, VALUES)
    read = stamp_of(pack)

    def no_links(*arguments: object) -> None:
        raise OSError(errno.ENOTSUP, "Operation not supported")

    if not links:
        monkeypatch.setattr(os, "link", no_links)
    once(monkeypatch, os, "rename", lambda: write(store, VALUES))
    assert not remove(pack, read)
    assert packs_in(store) == [pack]
    assert readable(store, CIDS) == set(CIDS)


def test_two_that_come_at_the_last_moment_both_stay(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [pack] = write(store, VALUES)
    read = stamp_of(pack)
    once(monkeypatch, os, "rename", lambda: write(store, VALUES))
    once(monkeypatch, os, "link", lambda: write(store, VALUES))
    assert not remove(pack, read)
    assert len(packs_in(store)) == 2
    assert verify(store).ok
    merge(store)
    assert packs_in(store) == [pack]


@pytest.mark.parametrize("work", ["drop", "merge", "rebuild"])
@pytest.mark.parametrize("call", ["rename", "stat", "link", "unlink"])
def test_who_dies_while_he_removes_a_pack_takes_nothing_with_him(
    store: Path, monkeypatch: pytest.MonkeyPatch, work: str, call: str
) -> None:
    """A writer has saved the pack's blocks again between the first look at it and the last."""
    kept = tree(store, {"a": b"1"})
    [pack] = write(store, VALUES)
    if work == "rebuild":
        alter(pack, blocks_in(pack)[CIDS[2]][0] - 30)
        os.truncate(pack, pack.stat().st_size - 5)
    age(store, 48)
    moved = []
    rename = os.rename

    def renamed(source: os.PathLike[str], target: os.PathLike[str]) -> None:
        if source == pack and not moved:
            moved.append(target)
            write(store, VALUES)
        if call == "rename" and source == pack:
            rename(source, target)
            raise Crash
        rename(source, target)

    def dies(real: Callable[..., object]) -> Callable[..., object]:
        def died(path: object, *arguments: object, **named: object) -> object:
            if moved and path == moved[0]:
                if call == "link":
                    real(path, *arguments, **named)
                raise Crash
            return real(path, *arguments, **named)

        return died

    with monkeypatch.context() as patch:
        patch.setattr(os, "rename", renamed)
        if call != "rename":
            patch.setattr(packremoval.os, call, dies(getattr(os, call)))
        with pytest.raises(Crash):
            {
                "drop": lambda: drop(store, [kept]),
                "merge": lambda: merge(store),
                "rebuild": lambda: rebuild(store),
            }[work]()
    assert moved
    assert readable(store, CIDS) == set(CIDS)
    drop(store, [kept])
    rebuild(store)
    assert readable(store, CIDS) == set(CIDS)
    assert pack.exists()
    merge(store)
    rebuild(store)
    assert readable(store, CIDS) == set(CIDS)
    assert verify(store).ok
    assert not [one.name for one in packs(store).packs if "leaving" in one.name]


def test_a_pack_that_is_leaving_cannot_be_claimed_and_may_be_read(store: Path) -> None:
    [pack] = write(store, VALUES)
    leaving = pack.with_name(f"{pack.stem}-leaving-{0:016x}.car")
    os.rename(pack, leaving)
    cas = PackCAS(store)
    assert cas.load_many(CIDS) == VALUES
    assert cas.has_many(CIDS) == [True] * 3
    assert cas.claim_many(CIDS) == [False] * 3
    assert verify(store).damaged == ()
    assert packs(store).packs[0].damage is None
    assert rebuild(store).rebuilt == ()
    assert packs_in(store) == [pack]
    assert cas.claim_many(CIDS) == [True] * 3


def test_the_names_of_packs_that_leave_do_not_grow(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [pack] = write(store, VALUES)
    long = pack.with_name("n" * 251 + ".car")
    os.rename(pack, long)
    names = []
    rename = os.rename

    def renamed(source: Path, target: Path) -> None:
        names.append(target.name)
        rename(source, target)

    monkeypatch.setattr(os, "rename", renamed)
    leaving = pack.with_name(f"{pack.stem}-leaving-{0:016x}.car")
    write(store, VALUES)
    rename(pack, leaving)
    for path in (long, leaving):
        assert remove(path, stamp_of(path))
    assert re.fullmatch("n{200}-leaving-[0-9a-f]{16}.car", names[0])
    assert re.fullmatch(f"{pack.stem}-leaving-[0-9a-f]{{16}}.car", names[1])


def merging_packs(store: Path) -> tuple[list[str], bytes, bytes]:
    """
    A pack of two values and one of the second alone, to be merged; a pack of the first that comes later.

    Merged with that, the two are again in the order of the first pack, and so are called as it is.
    """
    for number in range(1000):
        folder = store.with_name(f"{store.name}-{number}")
        first, second = b"first %d" % number, b"second %d" % number
        [both], [alone], [later] = (write(folder, part) for part in ([first, second], [second], [first]))
        if later.name < alone.name < both.name:
            os.unlink(later)
            os.rename(folder, store)
            return [f"values/{path.name}" for path in (alone, both)], first, second
    raise AssertionError("no such names")


def test_a_merge_leaves_alone_what_another_one_put_in_the_place_of_an_old_pack(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, first, second = merging_packs(store)
    real, flushed = PackWriter.flush, []

    def flush(writer: PackWriter) -> object:
        receipt = real(writer)
        if not flushed:
            flushed.append(writer)
            write(store, [first])
            merge(store)
            assert packs_in(store) == [store / "packs" / names[1]]
        return receipt

    monkeypatch.setattr(PackWriter, "flush", flush)
    assert packmerge.merge(store, names) == []
    assert PackCAS(store).load_many([identify(first), identify(second)]) == [first, second]


def test_rebuild_leaves_alone_a_sound_pack_that_came_in_the_place_of_a_damaged_one(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [pack] = write(store, VALUES)
    alter(pack, blocks_in(pack)[CIDS[2]][0])
    os.truncate(pack, pack.stat().st_size - 5)
    once(monkeypatch, PackWriter, "flush", lambda: write(store, VALUES))
    done = rebuild(store)
    [mended] = done.rebuilt
    assert mended.is_replaced
    assert "another pack came in its place meanwhile, and stays" in str(done)
    assert "damaged/" not in str(done)
    assert readable(store, CIDS) == set(CIDS)
    assert pack.exists()
    with suppress(FileNotFoundError):
        assert os.listdir(store / "damaged") == []
