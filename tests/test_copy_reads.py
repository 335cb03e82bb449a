"""`copy` asks for little and reads less: what both have, what many keys have, and a few blocks at a time."""

from pathlib import Path

import pytest
from copied import BLOCKS, ITEMS, KINDS, LONG, ROOT, Kept, blocks_of, empty, foreign, put

from hamt_bulk import InMemoryCAS, PackCAS, build, copy, unixfs
from hamt_bulk.block import DAG_PB, RAW, Block, identify, parse, text, to_cid
from hamt_bulk.errors import BlockNotFound
from hamt_bulk.roots.names import Names, Recent


class Reading(InMemoryCAS):
    """Knows which blocks were asked for, and how many at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[bytes] = []
        self.most = 0

    def read_blocks(self, cids):
        self.read += cids
        self.most = max(self.most, len(cids))
        return super().read_blocks(cids)


@pytest.mark.parametrize("to", KINDS)
def test_values_that_both_have_are_not_read(to: str, tmp_path: Path) -> None:
    source, target = Reading(), empty(to, tmp_path)
    build(ITEMS, source)
    copy(ROOT, source, target)
    source.read = []
    copy(ROOT, source, target)
    nodes = [cid for cid in BLOCKS if parse(cid).codec != RAW]
    files = [cid for cid in nodes if parse(cid).codec == DAG_PB]
    assert sorted(source.read) == sorted(set(nodes) - set(files) if to == "values" else nodes)


def test_files_that_both_have_are_not_read_from_a_store_of_values() -> None:
    """It could only give them whole, and the target knows of which blocks they are."""
    build(ITEMS, source := Kept())
    target = InMemoryCAS()
    copy(ROOT, source, target)
    long, _ = unixfs.split(LONG, "blake3")
    del source.values[long]
    assert copy(ROOT, source, target).copied_blocks == 0
    del target.blocks[identify(LONG[: 1 << 20])]
    with pytest.raises(BlockNotFound, match=text(long)):
        copy(ROOT, source, target)


def test_of_a_file_of_a_store_of_values_the_blocks_that_lack_are_copied(tmp_path: Path) -> None:
    build(ITEMS, source := Kept())
    long, split = unixfs.split(LONG, "blake3")
    for number, lost in enumerate((long, split[2].cid)):
        target = PackCAS(tmp_path / f"{number}")
        put(target, [Block(*block) for block in BLOCKS.items() if block[0] != lost])
        assert copy(ROOT, source, target).copied_blocks == 1
        assert blocks_of(target) == BLOCKS


def test_a_value_of_many_keys_is_asked_for_once() -> None:
    root = build({f"{n}": b"fill" for n in range(5000)}, source := InMemoryCAS())
    copied = copy(root, source, target := Asked())
    assert target.asked == len(source.blocks) == copied.blocks


class Asked(InMemoryCAS):
    """Knows for how many blocks it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = self.most = 0

    def has_blocks(self, cids):
        self.asked += len(cids)
        self.most = max(self.most, len(cids))
        return super().has_blocks(cids)


def test_a_file_of_many_keys_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it was forgotten that it had been seen."""
    monkeypatch.setattr("hamt_bulk.roots.names.REMEMBERED", 0)
    put(source := Reading(), [block for text in (b"a" * 50, b"b" * 50) for block in foreign(text)[1]])
    files = [to_cid(foreign(text)[0]) for text in (b"a" * 50, b"b" * 50)]
    root = build({f"{n}": files[n % 2] for n in range(100)}, source)
    copy(root, source, target := InMemoryCAS())
    assert target.blocks == source.blocks
    assert source.read.count(bytes(files[0])) == 2  # to look into it, and to copy it


def test_only_a_few_blocks_are_in_memory_at_a_time() -> None:
    source = Reading()
    root = build({f"{n}": b"%d" % n for n in range(20_000)} | {"long": LONG}, source)
    source.most = 0
    copy(root, source, target := Asked())
    assert source.most == 32
    assert target.most == 1024
    assert target.blocks == source.blocks


def test_names_are_kept_in_order_and_once() -> None:
    cids = [identify(b"%d" % (n % 7)) for n in range(20)]
    odd = [cid[2:] for cid in cids]
    names = Names([*cids, *odd])
    assert list(names) == [*cids, *dict.fromkeys(odd)]
    assert list(names.distinct()) == [*dict.fromkeys(cids), *dict.fromkeys(odd)]
    assert (len(names), len(names.distinct())) == (27, 14)
    assert list(Names().distinct()) == []
    zeros = [bytes([1, 0x55, 0x1E, 32]) + bytes(31 - n) + b"\1" + bytes(n) for n in range(32)]
    assert list(Names([*zeros, *zeros]).distinct()) == zeros


def test_what_was_seen_long_ago_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hamt_bulk.roots.names.REMEMBERED", 3)
    recent = Recent()
    assert [recent.is_new(cid) for cid in (b"a", b"b", b"c", b"a", b"d", b"a", b"b")] == [
        True, True, True, False, True, False, True,
    ]  # fmt: skip
