"""What once stopped a whole pack store, or hid what was wrong with it: one odd file, one bad sector, one hole."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import Any

import pytest
from packs_made import alter, blocks_in, contents, packs_in, readable, tree, write

import hamt_bulk.cas.packindex as packindex
from hamt_bulk.block import identify
from hamt_bulk.car import header_v1, header_v2
from hamt_bulk.cas import PackCAS
from hamt_bulk.cas.packindex import PackIndex
from hamt_bulk.errors import BlockNotFound, CASError, InvalidInput
from hamt_bulk.packs import drop, merge, packs, rebuild, verify
from hamt_bulk.testing import Alter, DiskFull, Drop, Fail, FaultyCAS

pytestmark = pytest.mark.usefixtures("no_fsync")

HOLE = 1 << 42
"""Bytes of a file that has a hole, where no memory is as large."""

VALUES = [b"value %d " % n * 40 for n in range(60)]


def mangled_with_a_hole(store: Path, how: str) -> None:
    if how == "a pack":
        os.truncate(packs_in(store)[-1], HOLE)
        return
    end = 51 + len(header_v1())
    foreign = store / "packs" / "values" / "foreign.car"
    foreign.write_bytes(header_v2(51, len(header_v1()), end) + header_v1())
    os.truncate(foreign, 1 << 30)


@pytest.mark.parametrize("how", ["a pack", "a foreign pack"])
@pytest.mark.parametrize("indexed", [True, False])
def test_a_file_with_a_hole_is_one_damaged_pack(store: Path, how: str, indexed: bool) -> None:
    """Such as a copy leaves that was interrupted. What follows its payload is not taken into memory."""
    root = tree(store, {"a": b"1", "b": b"2"})
    if not indexed:
        shutil.rmtree(store / "index")
    mangled_with_a_hole(store, how)
    assert contents(store, root) == {"a": b"1", "b": b"2"}
    assert sum(pack.damage is not None for pack in packs(store).packs) == 1
    assert drop(store, [root], older_than_hours=0, dry_run=True).removed == ()
    merge(store)
    rebuild(store)
    assert verify(store).damaged == () and contents(store, root) == {"a": b"1", "b": b"2"}


def test_an_entry_that_cannot_be_opened_hides_no_other_pack(store: Path) -> None:
    [pack] = write(store, [b"there"])
    loop = pack.with_name("loop.car")
    loop.symlink_to(loop)
    assert readable(store, [identify(b"there")])
    with pytest.raises(CASError, match=r"1 packs may hold it: cannot read .*loop\.car"):
        PackCAS(store).load_many([identify(b"absent")])
    assert [found.name for found in verify(store).damaged] == ["values/loop.car"]
    assert len(write(store, [b"another"])) == 1 and len(merge(store).gone) == 2
    assert readable(store, [identify(b"there"), identify(b"another")]) and loop.is_symlink()


def test_a_listing_that_stays_wrong_is_no_hang_and_no_missing_block(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of a network file system, which shows names for a while that are gone."""
    write(store, [b"there"])
    listed = packindex.packs_in
    monkeypatch.setattr(packindex, "packs_in", lambda folder: {*listed(folder), "values/stale.car"})
    cas = PackCAS(store)
    assert cas.load_many([identify(b"there")]) == [b"there"]
    with pytest.raises(CASError, match=r"stale\.car"):
        cas.load_many([identify(b"absent")])
    monkeypatch.setattr(packindex, "packs_in", listed)
    with pytest.raises(BlockNotFound):
        cas.load_many([identify(b"absent")])


@pytest.mark.parametrize("size", [0, 1 << 30])
def test_a_folder_among_the_index_files_is_no_hindrance(
    store: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """Whether index files are mapped or read."""
    monkeypatch.setattr(packindex, "MAPPED_BYTES", size)
    write(store, VALUES)
    (store / "index" / "x.mpi").mkdir()
    PackIndex(store).update()
    PackIndex(store).update()
    index = PackIndex(store)
    index.refresh()
    assert index.rows == len(blocks_in(packs_in(store)[0])) and not index.archives[0].damage
    assert readable(store, blocks_in(packs_in(store)[0])) == set(blocks_in(packs_in(store)[0]))


@pytest.mark.parametrize("size", [0, 1 << 30])
@pytest.mark.parametrize("at", [0, 40, -1])
def test_a_changed_index_file_is_not_believed(
    store: Path, monkeypatch: pytest.MonkeyPatch, size: int, at: int
) -> None:
    monkeypatch.setattr(packindex, "MAPPED_BYTES", size)
    write(store, [b"there"])
    PackIndex(store).update()
    [file] = (store / "index").glob("*.mpi")
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    assert packindex.rows_of(store, "values/" + packs_in(store)[0].name) == {}
    assert readable(store, [identify(b"there")])
    for length in (0, 3, 31, 32, 39):
        os.truncate(file, length)
        assert readable(store, [identify(b"there")])


def test_an_index_file_that_is_cut_while_it_is_read_kills_nobody(store: Path) -> None:
    """Bytes that are mapped and not there any more are a signal, not an error."""
    write(store, VALUES)
    PackIndex(store).update()
    code = """
import os, sys
from pathlib import Path
from hamt_bulk.cas import PackCAS
from hamt_bulk.block import identify
cas, store = PackCAS(sys.argv[1]), Path(sys.argv[1])
assert cas.has_many([identify(b"absent")]) == [False]
for file in (store / "index").glob("*.mpi"):
    os.truncate(file, 0)
assert cas.has_many([identify(b"absent")]) == [False]
"""
    subprocess.run([sys.executable, "-c", code, str(store)], check=True, timeout=60)


# Disks that do not give some bytes.


@pytest.fixture
def broken(store: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[Path, range]]:
    """Pages of files that a disk does not give any more, whichever way they are read."""
    places: dict[Path, range] = {}

    def fails(name: object, start: int, stop: int) -> bool:
        bad = places.get(Path(str(name)))
        return bad is not None and start < bad.stop and stop > bad.start

    class Broken(BufferedReader):
        def read(self, size: int | None = -1, /) -> bytes:
            at = self.tell()
            end = os.fstat(self.fileno()).st_size
            stop = end if size is None or size < 0 else min(at + size, end)
            if fails(self.name, at, stop):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().read(size)

    real_open, real_pread = Path.open, os.pread

    def opened(path: Path, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        file = real_open(path, mode, *arguments, **named)
        return Broken(file.detach()) if mode == "rb" and path in places else file

    def pread(number: int, length: int, at: int) -> bytes:
        name = os.readlink(f"/proc/self/fd/{number}")
        if fails(name, at, at + length):
            if at >= places[Path(name)].start:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            length = places[Path(name)].start - at  # what comes before is given
        return real_pread(number, length, at)

    monkeypatch.setattr(Path, "open", opened)
    monkeypatch.setattr(os, "pread", pread)
    yield places


def test_an_index_that_the_disk_does_not_give_is_read_off_the_sections(
    store: Path, broken: dict[Path, range]
) -> None:
    [pack] = write(store, VALUES, leaf_bytes=1 << 20)
    size = pack.stat().st_size
    broken[pack] = range(size - 1000, size)
    cids = {identify(value) for value in VALUES}
    assert readable(store, cids) == cids
    [found] = packs(store).packs
    assert found.damage is not None and "its index" in found.damage


@pytest.mark.parametrize("start", [0, 4096, 16384])
def test_a_sector_that_the_disk_does_not_give_costs_its_own_blocks(
    store: Path, broken: dict[Path, range], start: int
) -> None:
    """`rebuild` saves the others of that pack, `drop` leaves it alone, and all other packs are cared for."""
    root = tree(store, {"a": b"1"})
    [pack] = write(store, VALUES, leaf_bytes=1 << 20)
    hidden = write(store, [b"whole, and only its index is not"])[0]
    alter(hidden, hidden.stat().st_size - 1)
    broken[pack] = range(start, start + 4096)
    spans = {cid: (at, at + length) for cid, (at, length) in blocks_in_sound(pack, broken).items()}
    sound = {cid for cid, (first, last) in spans.items() if last <= start or first - 50 >= start + 4096}
    done = drop(store, [root], older_than_hours=0, dry_run=True)
    assert pack.name in {Path(damaged.name).name for damaged in done.damaged}
    rebuilt = rebuild(store)
    assert {Path(mended.name).name for mended in rebuilt.rebuilt} == {pack.name, hidden.name}
    assert readable(store, spans) >= sound and sound
    assert readable(store, [identify(b"whole, and only its index is not")])
    with pytest.raises(BlockNotFound, match="1 in its folder 'damaged' were damaged and put aside"):
        PackCAS(store).load_many([identify(b"absent")])


def blocks_in_sound(pack: Path, broken: dict[Path, range]) -> dict[bytes, tuple[int, int]]:
    bad = broken.pop(pack)
    try:
        return blocks_in(pack)
    finally:
        broken[pack] = bad


def test_a_pack_in_the_place_of_another_is_told_of(store: Path) -> None:
    [first] = write(store, [b"one"])
    [second] = write(store, [b"two"])
    shutil.copy(second, first)
    [found] = verify(store).damaged
    assert "another pack that has taken this one's name" in str(found)


# Faults that would never come.


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Alter(on="save"), "on='save': Alter is of load, load_many"),
        (lambda: Drop(on="flush"), "on='flush': Drop is of save, writer.save_many"),
        (lambda: DiskFull(on=("flush", "load")), "on='load': DiskFull is of save, flush"),
        (lambda: DiskFull(on="writer"), "on='writer'"),
        (lambda: DiskFull(nth=3), "leave nth, lasting, rate out"),
        (lambda: Fail(on=()), "name the calls"),
    ],
)
def test_a_fault_that_would_never_come_is_refused(make, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        make()


def test_the_end_of_a_store_can_be_struck(store: Path) -> None:
    cas = FaultyCAS(PackCAS(store), Fail(on="close"))
    with pytest.raises(CASError, match="cannot close PackCAS"):
        cas.close()
    assert (cas.calls, cas.struck) == ({"close": 1}, 1)
