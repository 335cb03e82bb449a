"""Packs that are damaged, cut short, lost, foreign or restored: what can be served is served, and rightly."""

import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from blake3 import blake3
from car_files import version_1

from hamt_bulk.block import CODECS, Block, identify
from hamt_bulk.cas import PackCAS
from hamt_bulk.cas.packindex import DIGEST_BYTES, MAGIC
from hamt_bulk.errors import BlockMismatch, BlockNotFound, CASError, HamtError
from hamt_bulk.packs import verify

FULL = os.environ.get("HAMT_BULK_FULL") == "1"
ABSENT = identify(b"nobody has this")
VALUES = [b"value %d " % i * (1 + i % 4) for i in range(12)]
CIDS = [identify(value) for value in VALUES]


pytestmark = pytest.mark.usefixtures("no_fsync")


@pytest.fixture
def pack(store: Path) -> Path:
    """The one pack of `store`, which holds `VALUES`."""
    return write(store, VALUES)


def write(store: Path, values: Sequence[bytes], codec: str = "raw") -> Path:
    with PackCAS(store).writer() as writer:
        for value in values:
            writer.save(value, codec)  # type: ignore[arg-type]
        writer.flush()
    return max(store.glob("packs/*/*.car"), key=os.path.getmtime)


def served(store: Path, errors: type[HamtError] | tuple[type[HamtError], ...]) -> list[bool]:
    """Which of `VALUES` a new reader gives; for the others it raises one of `errors`."""
    cas, found = PackCAS(store), []
    for cid, value in zip(CIDS, VALUES, strict=True):
        try:
            assert cas.load_many([cid]) == [value]
            found.append(True)
        except errors:
            found.append(False)
    assert [cas.has_many([cid]) == [True] for cid, here in zip(CIDS, found, strict=True) if here] == (
        [True] * sum(found)
    )
    return found


def test_a_pack_cut_short_serves_the_blocks_before_the_cut(store: Path, pack: Path) -> None:
    whole = pack.read_bytes()
    ends = [whole.index(cid) + len(cid) + len(value) for cid, value in zip(CIDS, VALUES, strict=True)]
    for cut in range(0, len(whole), 97):
        pack.write_bytes(whole[:cut])
        assert served(store, (BlockNotFound, BlockMismatch)) == [end <= cut for end in ends]
        cas = PackCAS(store)
        for cid, end in zip(CIDS, ends, strict=True):
            if end > cut:
                with pytest.raises((BlockNotFound, BlockMismatch), match=pack.name):
                    cas.load_many([cid])


@pytest.mark.parametrize("kind", ["values", "nodes"])
@pytest.mark.parametrize("indexed", [False, True], ids=["own index", "multi-pack index"])
def test_a_flipped_bit_costs_one_block_at_most(store: Path, kind: str, indexed: bool) -> None:
    """
    Every bit of the file: never wrong bytes, every other block is served, and `verify` reports it.

    Through the multi-pack index a bit of every byte, or with HAMT_BULK_FULL=1 every bit too.
    """
    codec = {"values": "raw", "nodes": "dag-cbor"}[kind]
    values = VALUES[:2]
    cids = [identify(value, CODECS[codec]) for value in values]
    if indexed:
        write(store, [b"another pack"], codec)
    pack = write(store, values, codec)
    if indexed:
        PackCAS(store).finish()
        assert len(list((store / "index").iterdir())) == 1
    assert pack.parent.name == kind
    whole = bytearray(pack.read_bytes())
    for at in range(len(whole)):
        for bit in range(8) if FULL or not indexed else [at % 8]:
            whole[at] ^= 1 << bit
            pack.write_bytes(whole)
            assert given(store, cids, values) >= len(values) - 1, f"byte {at}, bit {bit}"
            [damaged] = verify(store, progress=False).damaged
            assert damaged.name == f"{kind}/{pack.name}"
            assert damaged.faults or damaged.count
            assert damaged.sound >= len(values) - 1
            whole[at] ^= 1 << bit
    pack.write_bytes(whole)
    assert verify(store, progress=False).damaged == ()


def given(store: Path, cids: Sequence[bytes], values: Sequence[bytes]) -> int:
    """How many blocks a new reader gives. None is wrong."""
    cas, found = PackCAS(store), 0
    for cid, value in zip(cids, values, strict=True):
        with suppress(BlockNotFound, BlockMismatch):
            assert cas.load_many([cid]) == [value]
            found += 1
    return found


def test_a_damaged_copy_does_not_hide_a_sound_one(store: Path, pack: Path) -> None:
    """Nor one that is finished after the reader has met the damage."""
    data = bytearray(pack.read_bytes())
    data[data.index(CIDS[3]) + len(CIDS[3])] ^= 1
    pack.write_bytes(data)
    reader = PackCAS(store)
    with pytest.raises(BlockMismatch, match=pack.name):
        reader.load_many(CIDS)
    assert reader.has_many([CIDS[3]]) == [True]
    write(store, VALUES[2:5])
    assert reader.load_many(CIDS) == VALUES
    assert PackCAS(store).load_many([CIDS[3], CIDS[0]]) == [VALUES[3], VALUES[0]]


@pytest.mark.parametrize("how", ["flipped", "cut", "gone"])
@pytest.mark.parametrize("indexed", [False, True], ids=["own index", "multi-pack index"])
def test_a_pack_that_is_restored_is_read_by_those_who_met_the_damage(
    store: Path, pack: Path, how: str, indexed: bool
) -> None:
    """As the errors advise: from a copy, or by building again."""
    write(store, [b"another pack"])
    if indexed:
        PackCAS(store).finish()
    before = PackCAS(store)
    assert before.load_many([CIDS[-1]]) == [VALUES[-1]]
    data = bytearray(pack.read_bytes())
    at = data.index(CIDS[-1]) + len(CIDS[-1])
    match how:
        case "flipped":
            data[at] ^= 1
            pack.write_bytes(data)
        case "cut":
            os.truncate(pack, at)
        case "gone":
            pack.unlink()
    readers = [PackCAS(store), before]
    for reader in readers[: 2 if how != "gone" else 1]:
        with pytest.raises((BlockMismatch, BlockNotFound)):
            reader.load_many([CIDS[-1]])
    assert write(store, VALUES).name == pack.name
    for reader in [*readers, PackCAS(store)]:
        assert reader.load_many(CIDS) == VALUES


def test_packs_may_be_merged_under_a_reader(store: Path) -> None:
    """The packs that it knows are gone, and their blocks are in one that it does not know."""
    packs = [write(store, [value]) for value in VALUES]
    readers = [PackCAS(store) for _ in range(2)]
    assert readers[0].load_many(CIDS[:3]) == VALUES[:3]
    readers[1].finish()
    write(store, VALUES)
    for path in packs:
        path.unlink()
    for reader in [*readers, PackCAS(store)]:
        assert reader.load_many(CIDS) == VALUES
        assert reader.has_many(CIDS) == [True] * len(CIDS)


def test_a_lost_pack_is_said_to_be_gone(store: Path, pack: Path) -> None:
    write(store, [b"another"])
    cas = PackCAS(store)
    cas.finish()
    pack.unlink()
    for reader in (PackCAS(store), cas):
        assert reader.has_many([CIDS[0], identify(b"another")]) == [False, True]
        with pytest.raises(BlockNotFound):
            reader.load_many([CIDS[0]])
    with pytest.raises(BlockNotFound, match=rf"are gone and may have held it \({pack.name}\)"):
        cas.load_many([CIDS[0]])


def test_what_is_no_pack_is_no_hindrance(store: Path, pack: Path) -> None:
    folder = pack.parent
    (folder / "text.car").write_text("not a CAR file, whatever it is called\n" * 10)
    (folder / "empty.car").touch()
    (folder / "folder.car").mkdir()
    (folder / "notes.txt").write_text("not even called so")
    os.mkfifo(folder / "pipe.car")
    os.symlink("nowhere", folder / "link.car")
    cas = PackCAS(store)
    assert cas.load_many(CIDS) == VALUES
    with pytest.raises(BlockNotFound, match=r"2 of its packs are damaged.*(text|empty)\.car"):
        cas.load_many([ABSENT])
    foreign = [Block(identify(b"foreign %d" % i), b"foreign %d" % i) for i in range(5)]
    (store / "packs/nodes/foreign.car").write_bytes(version_1(foreign, [foreign[2].cid]))
    assert cas.load_many([block.cid for block in foreign]) == [block.data for block in foreign]
    cas.finish()
    reader = PackCAS(store)
    assert reader.load_many([foreign[1].cid, CIDS[1]]) == [b"foreign 1", VALUES[1]]
    with pytest.raises(BlockNotFound, match="2 of its packs are damaged"):
        reader.load_many([ABSENT])
    assert len(list((store / "index").iterdir())) == 1


def test_damaged_packs_are_left_out_of_the_index(store: Path, pack: Path) -> None:
    for i in range(3):
        write(store, [b"more %d" % i])
    whole = pack.read_bytes()
    pack.write_bytes(whole[:300])
    cas = PackCAS(store)
    cas.finish()
    here = served(store, BlockNotFound)
    assert 0 < sum(here) < len(VALUES)
    cids = [identify(b"more %d" % i) for i in range(3)]
    assert cas.load_many(cids) == PackCAS(store).load_many(cids) == [b"more %d" % i for i in range(3)]
    pack.write_bytes(whole)
    assert cas.load_many(CIDS) == PackCAS(store).load_many(CIDS) == VALUES


def test_an_unreadable_pack_is_not_taken_for_absent(
    store: Path, pack: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block that it may hold may be there later; all others are served."""
    write(store, [b"another"])
    read, readable = Path.open, False

    def no_access(path: Path, *args: object, **kwargs: object) -> object:
        if path == pack and not readable:
            raise PermissionError(13, "Permission denied")
        return read(path, *args, **kwargs)  # type: ignore[call-overload]

    monkeypatch.setattr(Path, "open", no_access)
    cas = PackCAS(store)
    assert cas.load_many([identify(b"another")]) == [b"another"]
    assert cas.has_many([CIDS[0]]) == [False]
    for _ in range(2):
        with pytest.raises(
            CASError, match=rf"1 packs may hold it: cannot read .*{pack.name}: permission denied"
        ):
            cas.load_many([CIDS[0]])
    readable = True
    assert cas.load_many(CIDS) == VALUES


# The multi-pack index may be lost or damaged at any time.


def an_index(store: Path) -> Path:
    for value in VALUES:
        write(store, [value])
    PackCAS(store).finish()
    [index] = (store / "index").iterdir()
    return index


def test_a_flipped_bit_in_the_multi_pack_index_changes_nothing(store: Path) -> None:
    index = an_index(store)
    whole = bytearray(index.read_bytes())
    for at in range(0, len(whole), 7):
        whole[at] ^= 1 << at % 8
        index.write_bytes(whole)
        assert PackCAS(store).load_many(CIDS[:2]) == VALUES[:2]
        whole[at] ^= 1 << at % 8


def test_a_multi_pack_index_cut_short_changes_nothing(store: Path) -> None:
    index = an_index(store)
    whole = index.read_bytes()
    for cut in range(0, len(whole), 31):
        index.write_bytes(whole[:cut])
        assert PackCAS(store).load_many(CIDS[:2]) == VALUES[:2]
    index.unlink()
    cas = PackCAS(store)
    cas.finish()
    assert index.read_bytes() == whole


def signed(head: bytes, columns: bytes) -> bytes:
    """An index file that says it is sound."""
    body = MAGIC + len(head).to_bytes(8, "little") + head + columns
    return body + blake3(body).digest()


def test_a_multi_pack_index_that_lies_changes_nothing(store: Path, tmp_path: Path) -> None:
    index = an_index(store)
    whole = index.read_bytes()
    length = int.from_bytes(whole[len(MAGIC) : len(MAGIC) + 8], "little")
    head = whole[len(MAGIC) + 8 :][:length]
    columns = whole[len(MAGIC) + 8 + length : -DIGEST_BYTES]
    count = len(VALUES)
    other_files = columns[: 16 * count] + np.full(count, 99, np.uint32).tobytes()
    for lie in (
        signed(head, columns[:-20]),
        signed(head, b""),
        signed(head, other_files),
        signed(b"[]      ", columns),
        signed(b"{}      ", columns),
        signed(b"not json", columns),
        signed(b'{"packs": 7, "rows": 12}', columns),
        signed(b'{"packs": [7], "rows": 12}      ', columns[: 16 * count] + bytes(4 * count)),
        signed(b'{"packs": [], "rows": 0} ', b""),
        signed(head + b" ", columns),
        b"",
        MAGIC,
    ):
        index.write_bytes(lie)
        assert PackCAS(store).load_many(CIDS) == VALUES
    index.unlink()
    index.mkdir()
    assert PackCAS(store).load_many(CIDS) == VALUES
    index.rmdir()
    # That of another store, which has all of these packs and one more.
    other = tmp_path / "other"
    shutil.copytree(store, other)
    write(other, [b"only there"])
    PackCAS(other).finish()
    for path in (other / "index").iterdir():
        shutil.copy(path, store / "index")
    cas = PackCAS(store)
    assert cas.load_many(CIDS) == VALUES
    assert cas.has_many([identify(b"only there")]) == [False]


def test_the_multi_pack_index_that_covers_most_is_used(store: Path) -> None:
    index = an_index(store)
    old = index.read_bytes()
    for i in range(2):
        write(store, [b"more %d" % i])
    PackCAS(store).finish()
    index.write_bytes(old)
    assert len(list((store / "index").iterdir())) == 2
    assert PackCAS(store).load_many([*CIDS, identify(b"more 1")]) == [*VALUES, b"more 1"]
