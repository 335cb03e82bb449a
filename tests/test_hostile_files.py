"""UnixFS files of few blocks that claim to be very long: a range costs what the range is, the whole is refused."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from measured import peak_of

from hamt_bulk import HAMT, InMemoryCAS, PackCAS, build, copy, unixfs
from hamt_bulk.block import DAG_PB, RAW, Data, identify, to_bytes, to_cid, varint
from hamt_bulk.cas.wrap import Reader
from hamt_bulk.errors import InvalidInput, MalformedNode
from hamt_bulk.reads import drive
from hamt_bulk.roots.transfer import StoreTarget
from hamt_bulk.unixfs import MAX_LEVELS, MAX_LINKS, MAX_NODE_BYTES


class Counting(InMemoryCAS):
    """Knows which blocks it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bytes] = []

    def read_blocks(self, cids: Sequence[bytes]) -> list[Data]:
        self.asked += cids
        return super().read_blocks(cids)

    def add(self, data: bytes, codec: int = DAG_PB) -> bytes:
        cid = identify(data, codec)
        self.blocks[cid] = data
        return cid

    def node(self, children: Sequence[bytes], sizes: Sequence[int], inline: bytes = b"") -> bytes:
        links = b"".join(
            b"\x12" + varint(len(cid) + 2) + b"\x0a" + varint(len(cid)) + cid for cid in children
        )
        file = b"\x08\x02" + (b"\x12" + varint(len(inline)) + inline if inline else b"")
        file += b"".join(b"\x20" + varint(size) for size in sizes)
        return self.add(links + b"\x0a" + varint(len(file)) + file)

    def bomb(self, levels: int, leaf: bytes = b"0123456789", fan: int = MAX_LINKS) -> tuple[bytes, int]:
        """A file of one leaf, linked again and again, and its length: one block a level."""
        cid, length = self.add(leaf, RAW), len(leaf)
        for _ in range(levels):
            cid, length = self.node([cid] * fan, [length] * fan), length * fan
        return cid, length


def test_a_range_of_a_bomb_costs_what_the_range_is() -> None:
    """174 ** 8 leaves of ten bytes: as many as 8 levels hold."""
    cas = Counting()
    root, length = cas.bomb(MAX_LEVELS)
    assert cas.size_many([root]) == [length] and length > 1 << 60
    cas.asked.clear()
    for start, size in ((0, 5), (length // 2, 100_000), (length - 3, 3), (length - 3, 10), (length + 5, 1)):
        peak = peak_of(lambda start=start, size=size: cas.load_range(root, start, start + size))  # type: ignore[misc]
        assert peak < 50 * size + (1 << 20)
        assert len(cas.load_range(root, start, start + size)) == max(min(size, length - start), 0)
        assert len(cas.asked) <= 2 * (MAX_LEVELS + 3)
        cas.asked.clear()


@pytest.mark.parametrize(("levels", "fan"), [(3, MAX_LINKS), (8, MAX_LINKS), (11, 30)])
def test_the_whole_of_a_bomb_is_refused_before_it_takes_memory(levels: int, fan: int) -> None:
    cas = Counting()
    root, length = cas.bomb(levels, bytes(1000), fan)
    calls: list[Callable[[], object]] = [
        lambda: cas.load_many([root]),
        lambda: cas.load_range(root, 7, None),
        lambda: cas.load_range(root, 0, length - 1),
        lambda: Reader(cas).read(root),
        lambda: Reader(cas).read(root, suffix=length),
    ]

    def refused(call: Callable[[], object]) -> None:
        with pytest.raises(MalformedNode, match="smaller ranges"):
            call()

    for call in calls:
        cas.asked.clear()
        assert peak_of(lambda call=call: refused(call)) < 24 << 20  # type: ignore[misc]
        assert len(cas.asked) <= levels + 2


async def test_neither_does_a_hamt_or_a_store_of_packs_take_memory_for_it(tmp_path: Path) -> None:
    root, length = (cas := Counting()).bomb(6, bytes(100))
    tree = build({"bomb": to_cid(root)}, cas)
    copy(tree, cas, str(tmp_path / "packs"))
    packs = PackCAS(tmp_path / "packs")
    hamt = await HAMT.build(cas=packs, root_node_id=tree, read_only=True, values_are_bytes=True)
    with pytest.raises(MalformedNode, match="smaller ranges"):
        await hamt.get("bomb")
    assert await packs.load(root, offset=length - 5, length=50) == bytes(5)


def test_blocks_may_come_again_up_to_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a thousand equal leaves all but the first come again; each other one of a node counts as well."""
    monkeypatch.setattr(unixfs, "MAX_REPEATED_BYTES", 999 * 10)
    cas = Counting()
    root, length = cas.bomb(1, fan=1000)
    assert len(cas.load_range(root, 0, None)) == length == 10_000
    other, _ = cas.bomb(1, fan=1001)
    with pytest.raises(MalformedNode, match="more than 9990 bytes of blocks that come again"):
        cas.load_range(other, 0, None)
    assert len(cas.load_range(other, 10, None)) == 10_000
    inner = cas.node([], [], inline=b"x" * 600)
    for fan, fits in ((17, True), (18, False)):
        root = cas.node([inner] * fan, [600] * fan)
        if fits:
            assert cas.load_range(root, 0, None) == b"x" * 600 * fan
        else:
            with pytest.raises(MalformedNode, match="come again"):
                cas.load_range(root, 0, None)


def test_what_was_found_at_one_level_counts_at_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unixfs, "MAX_REPEATED_BYTES", 100)
    cas = Counting()
    leaf = cas.add(b"0123456789", RAW)
    six = cas.node([leaf] * 7, [10] * 7)
    assert len(cas.load_range(cas.node([leaf] * 4 + [six], [10] * 4 + [70]), 0, None)) == 110
    with pytest.raises(MalformedNode, match="come again"):
        cas.load_range(cas.node([leaf] * 6 + [six], [10] * 6 + [70]), 0, None)


def test_a_file_whose_blocks_all_differ_has_no_such_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unixfs, "MAX_REPEATED_BYTES", 0)
    value = b"".join(number.to_bytes(4, "big") for number in range(1000))
    root, blocks = unixfs.split(value, "blake3", leaf_bytes=8, max_links=3)
    held = {cid: data for cid, data in blocks}
    assert drive(unixfs.read(root), lambda cids: [held[cid] for cid in cids]) == value


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x12\x00" * (MAX_NODE_BYTES // 2 + 1), "2097154 bytes, a dag-pb node has at most 2097152"),
        (
            b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
            "a protobuf field of 9223372036854775807 bytes, but 0 are left",
        ),
        (b"\x0a" + b"\x80" * 9 + b"\x01", "a varint of more than 9 bytes"),
        (b"\x8a\x00", "a varint in a longer form than needed"),
        (b"\x0a\x80", "the bytes end within a varint"),
        (b"\x0a\x02\x08\x01", r"UnixFS type 1 with 0 links, expected a file \(2\)"),
        (b"\x0a\x04\x08\x02\x20\x01", "1 block sizes, expected one for each of 0 links"),
        (b"\x12\x04\x0a\x02\x01\x55", "not a CID"),
        (
            b"\x12\x06\x0a\x04\x01\x71\x00\x00\x0a\x04\x08\x02\x20\x01",
            r"codec 0x71, expected raw \(0x55\) or dag-pb",
        ),
    ],
)
def test_a_node_beyond_a_limit_says_which(data: bytes, message: str) -> None:
    cas = Counting()
    with pytest.raises(MalformedNode, match=message):
        cas.load_range(cas.add(data), 0, None)


def test_leaves_without_bytes_are_not_asked_for() -> None:
    """A node of 40,000 links to nothing, four levels of them."""
    cas = Counting()
    cid = cas.add(b"", RAW)
    for _ in range(4):
        cid = cas.node([cid] * 40_000, [0] * 40_000)
    assert cas.load_range(cid, 0, None) == b""
    assert cas.asked == [cid]


def test_a_link_whose_hash_nobody_knows_is_refused_when_it_is_read() -> None:
    identity = b"\x01\x55\x00\x03abc"
    cas = Counting()
    cas.blocks[identity] = b"abc"
    with pytest.raises(InvalidInput, match="hash code 0x0 with 3 bytes cannot be verified"):
        cas.load_range(cas.node([identity], [3]), 0, None)


def test_a_file_whose_nodes_are_shared_is_looked_at_once_a_node() -> None:
    """A copy asks its target whether it has all blocks of a file."""
    cas = Counting()
    nodes = [cas.add(b"leaf", RAW)]
    for _ in range(60):
        nodes.append(cas.node(list(reversed(nodes)), [1] * len(nodes)))
    assert StoreTarget(cas).blocks_of_file(nodes[-1]) == len(nodes)
    assert len(cas.asked) <= len(nodes)


def test_a_copy_reads_each_node_of_a_file_no_more_than_once_a_level() -> None:
    cas = Counting()
    nodes = [cas.add(b"leaf", RAW)]
    for _ in range(40):
        nodes.append(cas.node(list(reversed(nodes)), [1] * len(nodes)))
    tree = to_bytes(build({"file": to_cid(nodes[-1])}, cas))
    cas.asked.clear()
    copy(tree, cas, target := InMemoryCAS())
    assert target.blocks.keys() == {tree, *nodes}
    assert len(cas.asked) <= 42 * len(nodes)
