"""`verify`: every block is hashed, reading goes on past damage, and the report says what is lost."""

import os
import tracemalloc
from pathlib import Path
from random import Random

import pytest
from car_files import version_1
from packs_made import alter, blocks_in, readable, write

from hamt_bulk.block import Block, identify, text
from hamt_bulk.cas import PackCAS
from hamt_bulk.errors import CASError
from hamt_bulk.packs import rebuild, verify
from hamt_bulk.packs.reading import Reading
from hamt_bulk.packs.window import Window
from hamt_bulk.progress import BuildProgress

VALUES = [b"value %d " % n * (1 + n % 5) for n in range(12)]
CIDS = [identify(value) for value in VALUES]


pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture
def pack(store: Path) -> Path:
    [path] = write(store, VALUES)
    return path


def whole(path: Path) -> list[bytes]:
    """The blocks that reading gives."""
    return [piece.cid for piece in Reading(path).pieces() if piece.cid is not None and piece.data is not None]


def test_a_sound_store_is_said_to_be(store: Path, pack: Path) -> None:
    write(store, [b"node"], "dag-cbor")
    shown: list[BuildProgress] = []
    verified = verify(store, progress=shown.append)
    assert verified.ok
    assert (verified.packs, verified.blocks) == (2, 13)
    assert verified.bytes == sum(map(len, VALUES)) + 4
    assert (verified.damaged, verified.lost, verified.unreachable) == ((), 0, 0)
    assert str(verified).endswith("\nsound")
    assert {step.stage for step in shown} == {"verify"}
    assert shown[-1].done == shown[-1].total


def test_an_altered_block_is_named_with_where_it_is(store: Path, pack: Path) -> None:
    start, _ = blocks_in(pack)[CIDS[3]]
    alter(pack, start + 2)
    verified = verify(store)
    [damaged] = verified.damaged
    assert (damaged.name, damaged.sound, damaged.count, damaged.faults) == (
        f"values/{pack.name}",
        11,
        1,
        (),
    )
    [block] = damaged.damaged
    assert (block.cid, block.offset, block.whole, block.copy) == (text(CIDS[3]), start - 37, False, None)
    assert "bytes hash to" in block.what
    assert (verified.lost, verified.unreachable, verified.ok) == (1, 0, False)
    assert "1 block lost" in str(verified)
    assert f"{text(CIDS[3])} at byte {start - 37}" in str(verified)


def test_a_sound_copy_in_another_pack_is_named(store: Path, pack: Path) -> None:
    [other] = write(store, VALUES[3:5])
    alter(pack, blocks_in(pack)[CIDS[3]][0])
    verified = verify(store)
    assert verified.damaged[0].damaged[0].copy == f"values/{other.name}"
    assert (verified.lost, verified.ok) == (0, True)
    assert "no block lost" in str(verified)
    alter(other, blocks_in(other)[CIDS[3]][0])
    verified = verify(store)
    assert [pack.damaged[0].copy for pack in verified.damaged] == [None, None]
    assert verified.lost == 2


def test_blocks_behind_an_unreadable_head_are_read_by_the_index(store: Path, pack: Path) -> None:
    """And the block itself, whose bytes are whole, though stores do not find it."""
    start, _ = blocks_in(pack)[CIDS[3]]
    data = bytearray(pack.read_bytes())
    data[start - 37 : start - 20] = bytes(17)
    pack.write_bytes(data)
    assert whole(pack) == CIDS
    verified = verify(store)
    [block] = verified.damaged[0].damaged
    assert (block.cid, block.whole) == (text(CIDS[3]), True)
    assert (verified.blocks, verified.lost, verified.unreachable) == (12, 0, 1)
    assert not verified.ok


def test_blocks_behind_damage_are_found_without_an_index(store: Path, pack: Path) -> None:
    start, _ = blocks_in(pack)[CIDS[3]]
    data = bytearray(pack.read_bytes())
    data[start - 37] ^= 0x3F
    del data[-200:]
    pack.write_bytes(data)
    verified = verify(store)
    assert whole(pack) == [cid for cid in CIDS if cid != CIDS[3]]
    assert verified.lost == 1
    assert any("cut short" in fault or "index is damaged" in fault for fault in verified.damaged[0].faults)
    assert verified.damaged[0].hidden == 8


def test_a_pack_that_was_cut_short_is_reported_with_what_it_had(store: Path, pack: Path) -> None:
    """An index over many packs, which was made before, names what is gone."""
    write(store, [b"another pack"])
    PackCAS(store).finish()
    start, length = blocks_in(pack)[CIDS[8]]
    os.truncate(pack, start + length)
    verified = verify(store)
    [damaged] = verified.damaged
    assert damaged.sound == 9
    assert "it was cut short" in damaged.faults
    prefixes = [identify(value)[4:12].hex() for value in VALUES[9:]]
    assert [block.what.rpartition(" ")[2] for block in damaged.damaged] == prefixes
    assert verified.lost == 3


def test_what_only_the_packs_own_index_names_is_lost(store: Path, pack: Path) -> None:
    """Bytes were taken out of the middle, as by a disk that lost a page."""
    data = bytearray(pack.read_bytes())
    places = blocks_in(pack)
    first, last = places[CIDS[4]][0] - 37, places[CIDS[7]][0] - 37
    data[first:last] = bytes(last - first)
    pack.write_bytes(data)
    [damaged] = verify(store).damaged
    assert damaged.sound == 9
    assert [block.cid for block in damaged.damaged] == [text(cid) for cid in CIDS[4:7]]
    assert not any(block.whole for block in damaged.damaged)


def test_what_is_listed_is_limited_and_all_is_counted(store: Path, pack: Path) -> None:
    for start, _ in blocks_in(pack).values():
        alter(pack, start)
    verified = verify(store, max_listed=5)
    assert (len(verified.damaged[0].damaged), verified.damaged[0].count, verified.lost) == (5, 12, 12)
    assert "  and 7 more" in str(verified)


def test_foreign_cars_are_verified_too_and_other_files_are_said_to_be_none(store: Path, pack: Path) -> None:
    foreign = [Block(identify(b"foreign %d" % n), b"foreign %d" % n) for n in range(5)]
    path = store / "packs/values/foreign.car"
    path.write_bytes(version_1(foreign, [foreign[2].cid]))
    (store / "packs/values/text.car").write_text("not a CAR file, whatever it is called\n" * 10)
    verified = verify(store)
    assert (verified.blocks, verified.packs, verified.lost) == (17, 2, 0)
    assert [(one.name, one.faults) for one in verified.damaged] == [
        ("values/text.car", ("it is no pack, and has no blocks",))
    ]
    data = path.read_bytes()
    path.write_bytes(data.replace(b"foreign 3", b"foreign x"))
    verified = verify(store)
    assert verified.lost == 1
    assert verified.damaged[0].damaged[0].cid == text(foreign[3].cid)


def test_an_unreadable_page_costs_the_blocks_in_it(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = [bytes([n]) * 3000 for n in range(20)]
    [pack] = write(store, values, leaf_bytes=1 << 20)
    bad, pread = range(3 * 4096, 4 * 4096), os.pread
    start_of = {cid: start for cid, (start, _) in blocks_in(pack).items()}

    def failing(file: int, length: int, at: int) -> bytes:
        if at < bad.stop and at + length > bad.start and os.readlink(f"/proc/self/fd/{file}") == str(pack):
            raise OSError(5, "Input/output error")
        return pread(file, length, at)

    monkeypatch.setattr(os, "pread", failing)
    verified = verify(store)
    lost = [block for block in verified.damaged[0].damaged if not block.whole]
    hit = {text(cid) for cid, start in start_of.items() if start < bad.stop and start + 3000 > bad.start}
    assert 0 < len(lost) == len(hit)
    assert {block.cid for block in lost} == hit
    assert verified.blocks == 20 - len(hit)


def test_a_pack_that_may_not_be_read_is_no_sound_one(
    store: Path, pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, [b"another"])

    def denied(window: Window, path: Path) -> None:
        if path == pack:
            raise CASError(f"cannot read {path}: permission denied")
        real(window, path)

    real = Window.__init__
    monkeypatch.setattr(Window, "__init__", denied)
    verified = verify(store)
    assert (verified.blocks, verified.lost, verified.ok) == (1, 1, False)
    assert "permission denied" in str(verified)


def test_memory_is_that_of_a_block_and_not_of_the_pack(store: Path) -> None:
    with PackCAS(store).writer() as writer:
        random = Random(1)
        for _ in range(48):
            writer.save(random.randbytes(1 << 20))
        writer.flush()
    tracemalloc.start()
    try:
        assert verify(store).blocks == 48
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("seed", range(20))
def test_whatever_happens_to_a_pack_reading_ends_and_gives_sound_blocks_alone(
    store: Path, pack: Path, seed: int
) -> None:
    """And every one that a store gives."""
    random = Random(seed)
    data = bytearray(pack.read_bytes())
    for _ in range(random.choice((1, 3, 10))):
        match random.randrange(4):
            case 0:
                del data[random.randrange(len(data)) :]
            case 1:
                start = random.randrange(len(data) or 1)
                data[start : start + random.randrange(200)] = random.randbytes(random.randrange(200))
            case 2:
                data[random.randrange(len(data) or 1) : 0] = random.randbytes(40)
            case 3 if data:
                data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    pack.write_bytes(data)
    found = whole(pack)
    assert set(found) <= set(CIDS)
    assert set(found) >= readable(store, CIDS)
    verified = verify(store)
    assert verified.blocks == len(found)


def test_a_pack_that_was_cut_anywhere_and_has_no_index_has_lost_blocks(store: Path, pack: Path) -> None:
    """Where nothing is damaged, as at the end of a section, its name tells that something is gone."""
    data = pack.read_bytes()
    ends = [start + length for start, length in blocks_in(pack).values()]
    for left in (0, 1, 51, 68, 69, *ends[:-1], ends[3] - 1, ends[3] + 1):
        pack.write_bytes(data[:left])
        verified = verify(store)
        assert not verified.ok, left
        assert verified.short == 1
        assert "blocks are lost: how many is not known" in str(verified)
    pack.write_bytes(data[: ends[-1]])
    verified = verify(store)
    assert (verified.lost, verified.short, verified.ok) == (0, 0, True)


def test_what_another_index_says_of_a_cut_pack_is_counted(store: Path, pack: Path) -> None:
    rebuild(store)
    start, length = blocks_in(pack)[CIDS[7]]
    os.truncate(pack, start + length)
    verified = verify(store)
    assert (verified.lost, verified.short) == (4, 0)


def test_a_pack_whose_index_alone_is_damaged_has_lost_nothing(store: Path, pack: Path) -> None:
    """Also when the codec of a block is another one, so that its sections do not have its name."""
    alter(pack, pack.stat().st_size - 40)
    assert verify(store).short == 0
    alter(pack, blocks_in(pack)[CIDS[0]][0] - 35)
    assert (verify(store).short, verify(store).lost) == (0, 0)
