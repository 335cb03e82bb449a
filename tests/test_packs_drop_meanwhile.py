"""`drop` while others write, merge, edit and copy: what is young and what they count on stays."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from packs_made import age, blocks_in, contents, dropped, is_file, items_of, readable, tree, write

import hamt_bulk.packs.dropping as dropping
from hamt_bulk import HAMT, copy
from hamt_bulk.block import identify, to_bytes, to_cid
from hamt_bulk.cas import PackCAS
from hamt_bulk.packs import drop

pytestmark = pytest.mark.usefixtures("no_fsync")


def test_young_packs_and_files_are_not_touched(store: Path) -> None:
    root = tree(store, {"a": b"1"})
    write(store, [b"old and dead"])
    age(store, 25)
    write(store, [b"young and dead"])
    (store / "tmp" / f"other-host-1-{'a' * 16}").write_bytes(b"young")
    done = dropped(store, root, hours=24)
    assert (len(done.young), done.blocks, done.temporary) == (1, 1, ())
    assert readable(store, [identify(b"young and dead")])
    age(store, 24)
    done = dropped(store, root, hours=24)
    assert done.blocks == 1
    assert done.temporary == (f"other-host-1-{'a' * 16}",)
    assert done.temporary_bytes == 5
    assert list((store / "tmp").iterdir()) == []


def test_the_file_of_a_running_writer_stays_however_old(store: Path) -> None:
    root = tree(store, {"a": b"1"})
    with PackCAS(store).writer() as writer:
        writer.save(b"on its way")
        dead = store / "tmp" / f"{socket.gethostname()}-{2**22 + 1}-{'b' * 16}"
        dead.write_bytes(b"of a process that is gone")
        (store / "tmp" / "folder").mkdir()
        done = drop(store, [root], older_than_hours=0)
        assert done.temporary == (dead.name,)
        writer.flush()
    assert readable(store, [identify(b"on its way")])


def test_what_journals_name_is_kept(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tree(store, {"a": b"1"})
    finished = write(store, [b"finished", b"file " * 40])
    write(store, [b"dead"])
    files = [cid for cid in blocks_in(finished[0]) if is_file(cid)]
    named = [identify(b"finished"), *files, identify(b"lost"), identify(b"lost file", 0x70)]
    asked: list[Path] = []

    def live_of_journals(folder: Path) -> Iterator[bytes]:
        asked.append(folder)
        yield from named

    monkeypatch.setattr(dropping, "live_of_journals", live_of_journals)
    cids = list(blocks_in(finished[0]))
    done = dropped(store, root)
    assert (done.blocks, done.absent) == (1, 3)
    assert "3 blocks that journals name are not there" in str(done)
    assert readable(store, cids) == set(cids)
    assert set(asked) == {store / "journals"}


@contextmanager
def meanwhile(monkeypatch: pytest.MonkeyPatch, name: str, act) -> Iterator[None]:
    """`act` is called before the first call of `os.NAME` within."""
    real, acts = getattr(os, name), [act]

    def call(*arguments, **named):
        if acts:
            acts.pop()()
        return real(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(os, name, call)
        yield
    assert acts == []


@pytest.mark.parametrize("call", ["rename", "unlink"])
def test_a_pack_that_is_written_once_more_meanwhile_stays(
    store: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """As late as between the last look and the move. Once it is out of the way, a writer makes a new file."""
    root = tree(store, {"a": b"1"})
    write(store, [b"dead", b"again"])
    age(store, 25)
    with meanwhile(monkeypatch, call, lambda: write(store, [b"dead", b"again"])):
        drop(store, [root])
    assert readable(store, [identify(b"dead"), identify(b"again")]) == {identify(b"dead"), identify(b"again")}
    assert list((store / "tmp").iterdir()) == []


def test_a_pack_that_is_merged_meanwhile_is_no_hindrance(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from hamt_bulk.packs import merge

    root = tree(store, {"a": b"1"})
    for n in range(3):
        write(store, [b"dead %d" % n])
    age(store, 25)
    with meanwhile(monkeypatch, "rename", lambda: merge(store)):
        drop(store, [root])
    assert contents(store, root) == {"a": b"1"}


async def test_a_tree_that_is_edited_meanwhile_loses_nothing(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it was made from is kept, and what it writes is young."""
    root = tree(store, items_of("tree", 100))
    write(store, [b"dead"])
    age(store, 25)
    hamt = await HAMT.build(cas=PackCAS(store), root_node_id=to_cid(root), values_are_bytes=True)
    await hamt.set("new", b"value")
    await hamt.make_read_only()
    drop(store, [root])
    assert contents(store, to_bytes(hamt.root_node_id)) == contents(store, root) | {"new": b"value"}


@pytest.mark.parametrize("call", ["stat", "rename", "unlink"])
def test_blocks_that_a_copy_counts_on_stay(
    tmp_path: Path, store: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """A copy leaves out what is there, dead or not, and will link to it: those packs are new from then on."""
    kept, root = tree(store, {"a": b"1"}), tree(store, items_of("copied", 30))
    source = tmp_path / "source"
    assert tree(source, items_of("copied", 30)) == root
    age(store, 25)
    target = PackCAS(store)
    with meanwhile(monkeypatch, call, lambda: copy(root, PackCAS(source), target)):
        drop(store, [kept])
    assert contents(store, root) == items_of("copied", 30)
    assert contents(store, kept) == {"a": b"1"}


def test_a_pack_that_cannot_be_claimed_is_written_once_more(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, [b"1"])
    cas, cids = PackCAS(store), [identify(b"1"), identify(b"absent")]
    assert cas.claim_many(cids) == [True, False]

    def denied(*arguments: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "utime", denied)
    assert PackCAS(store).claim_many(cids) == [False, False]
    assert PackCAS(store).has_many(cids) == [True, False]
