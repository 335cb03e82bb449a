"""Values of more than one block: the same roots as other importers, and reads that trust no node."""

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hamt_bulk.block import DAG_CBOR, DAG_PB, RAW, Block, Data, identify, text, varint, verify
from hamt_bulk.errors import HamtError, InvalidInput, MalformedNode
from hamt_bulk.reads import drive
from hamt_bulk.unixfs import MAX_LEVELS, MAX_LINKS, MAX_PIECES, links, read, size, split

VECTORS = json.loads((Path(__file__).parent / "vectors" / "unixfs.json").read_text())["vectors"]

type_file, type_raw, type_directory = b"\x08\x02", b"\x08\x00", b"\x08\x01"


@pytest.fixture(scope="module")
def content() -> memoryview:
    """The vectors' recipe, byte[i] = i % 251, at its longest. Every value is a view of it."""
    return memoryview(bytes(range(251)) * (max(vector["size"] for vector in VECTORS) // 251 + 1))


class Blocks(dict[bytes, bytes]):
    """Blocks by CID, and the requests that were made for them."""

    def __init__(self, blocks: Sequence[Block] = ()) -> None:
        super().__init__((cid, bytes(data)) for cid, data in blocks)
        self.requests: list[list[bytes]] = []

    def add(self, data: bytes, codec: int = DAG_PB) -> bytes:
        cid = identify(data, codec)
        self[cid] = data
        return cid

    def load(self, cids: Sequence[bytes]) -> Sequence[Data]:
        self.requests.append(list(cids))
        return [self[cid] for cid in cids]


def field(tag: int, value: bytes | int) -> bytes:
    return varint(tag) + (varint(value) if isinstance(value, int) else varint(len(value)) + value)


def node(file: bytes | None, children: Sequence[bytes] = ()) -> bytes:
    """A dag-pb node whose links have neither names nor tsizes."""
    parts = [field(0x12, field(0x0A, child)) for child in children]
    return b"".join(parts) + (b"" if file is None else field(0x0A, file))


def name(vector: dict[str, Any]) -> str:
    return f"{vector['hash']}-{vector['size']}-by-{vector['chunk']}-{vector['maxLinks']}"


@pytest.mark.parametrize("vector", VECTORS, ids=name)
def test_a_value_has_the_root_that_the_js_importer_gives_it(
    vector: dict[str, Any], content: memoryview
) -> None:
    value = content[: vector["size"]]
    root, blocks = split(value, vector["hash"], leaf_bytes=vector["chunk"], max_links=vector["maxLinks"])
    assert text(root) == vector["root"]
    assert blocks[-1].cid == root
    assert sum(len(block.data) for block in blocks) == vector["cumulativeSize"]
    if vector["rootHex"] is not None:
        assert bytes(blocks[-1].data).hex() == vector["rootHex"]
        assert len(blocks) == vector["blocks"]
    kept: dict[bytes, Data] = dict(blocks)
    assert drive(size(root), lambda cids: [kept[cid] for cid in cids]) == len(value)
    if len(value) < 1 << 25:
        assert drive(read(root), lambda cids: [kept[cid] for cid in cids]) == value


def test_leaves_are_views_of_the_value() -> None:
    value = bytearray(100)
    _, blocks = split(value, "blake3", leaf_bytes=10, max_links=3)
    leaves = [block.data for block in blocks if block.cid[1] == RAW]
    assert len(leaves) == 10
    assert all(isinstance(leaf, memoryview) and leaf.obj is value for leaf in leaves)


values = st.binary(max_size=300)
small = st.tuples(st.integers(4, 20), st.integers(3, 6))


@given(values, small, st.sampled_from(["blake3", "sha2-256"]))
def test_blocks_hash_to_their_cids_and_come_before_their_parents(
    value: bytes, shape: tuple[int, int], hasher: str
) -> None:
    _, blocks = split(value, hasher, leaf_bytes=shape[0], max_links=shape[1])
    seen: set[bytes] = set()
    for cid, data in blocks:
        verify(cid, data)
        assert seen.issuperset(links(data) if cid[1] == DAG_PB else ())
        seen.add(cid)


@given(values, small, st.integers(0, 320), st.none() | st.integers(0, 320))
@example(b"", (4, 3), 0, None)
@example(b"abcd", (4, 3), 1, 1)
def test_a_range_is_the_slice_and_asks_only_for_the_blocks_it_needs(
    value: bytes, shape: tuple[int, int], start: int, stop: int | None
) -> None:
    leaf_bytes, max_links = shape
    root, blocks = split(value, "blake3", leaf_bytes=leaf_bytes, max_links=max_links)
    store = Blocks(blocks)
    assert drive(read(root, start, stop), store.load) == value[start:stop]

    needed = [{root}] if stop is None or start < stop else []
    spans = [(0, len(value), root)]
    while spans := children_of(spans, store):
        spans = [
            span for span in spans if max(start, span[0]) < min(len(value) if stop is None else stop, span[1])
        ]
        needed.append({cid for _, _, cid in spans})
    assert [set(request) for request in store.requests] == [level for level in needed if level]
    assert all(len(request) == len(set(request)) for request in store.requests)


def children_of(spans: list[tuple[int, int, bytes]], store: Blocks) -> list[tuple[int, int, bytes]]:
    """The spans of all children, measured by reading each of them whole."""
    below = []
    for start, _, cid in spans:
        for child in links(store[cid]) if cid[1] == DAG_PB else ():
            whole = drive(read(child), Blocks(list(map(Block._make, store.items()))).load)
            below.append((start, start + len(whole), child))
            start += len(whole)
    return below


def foreign_leaves(store: Blocks) -> bytes:
    """Leaves as nodes with bytes of their own, of both types, with and without a filesize."""
    first = store.add(node(type_file + field(0x12, b"abc") + field(0x18, 3)))
    second = store.add(node(type_raw + field(0x12, b"defg")))
    return node(type_file + field(0x18, 7) + field(0x20, 3) + field(0x20, 4), [first, second])


def inline_before_links(store: Blocks) -> bytes:
    """As the trickle importer writes them."""
    return node(type_file + field(0x12, b"abc") + field(0x20, 4), [store.add(b"defg", RAW)])


def data_before_links(store: Blocks) -> bytes:
    file = field(0x0A, type_file + field(0x20, 7))
    link = field(0x0A, store.add(b"abcdefg", RAW)) + field(0x12, b"") + field(0x18, 7)
    return file + field(0x12, link)


def mode_and_mtime(store: Blocks) -> bytes:
    mtime = field(0x42, field(0x08, 1700000000) + b"\x15\x01\x02\x03\x04")
    return node(type_file + field(0x12, b"abcdefg") + field(0x18, 7) + field(0x38, 0o644) + mtime)


def link_of_an_old_cid(store: Blocks) -> bytes:
    """CIDv0 is a bare sha2-256 multihash and always names dag-pb."""
    leaf = node(type_file + field(0x12, b"abcdefg"))
    cid = identify(leaf, DAG_PB, "sha2-256")[2:]
    store[cid] = leaf
    return node(type_file + field(0x20, 7), [cid])


def same_child_twice(store: Blocks) -> bytes:
    child = store.add(b"abcdefg", RAW)
    return node(type_file + field(0x20, 7) + field(0x20, 7), [child, child])


OTHERS = [foreign_leaves, inline_before_links, data_before_links, mode_and_mtime, link_of_an_old_cid]


@pytest.mark.parametrize("make", [*OTHERS, same_child_twice])
def test_nodes_of_other_importers_are_read(make: Callable[[Blocks], bytes]) -> None:
    store = Blocks()
    root = store.add(make(store))
    whole = b"abcdefg" * (2 if make is same_child_twice else 1)
    assert drive(size(root), store.load) == len(whole)
    for start in range(len(whole) + 1):
        for stop in [None, *range(len(whole) + 2)]:
            assert drive(read(root, start, stop), store.load) == whole[start:stop]


LEAF = identify(b"abcd")
MALFORMED = {
    "nothing at all": (b"", "without data"),
    "no file": (node(None, [LEAF]), "without data"),
    "a directory": (node(type_directory), "type 1 with 0 links, expected a file"),
    "no type": (node(field(0x18, 0)), "type None"),
    "raw type with links": (node(type_raw + field(0x20, 4), [LEAF]), "type 0 with 1 links"),
    "too few sizes": (node(type_file, [LEAF]), "0 block sizes, expected one for each of 1 links"),
    "too many sizes": (node(type_file + field(0x20, 4)), "1 block sizes, expected one for each of 0 links"),
    "a child of another size": (node(type_file + field(0x20, 5), [LEAF]), "4 bytes, expected the 5"),
    "a huge child": (
        node(type_file + field(0x20, 1 << 60), [LEAF]),
        "4 bytes, expected the 1152921504606846976",
    ),
    "a lying filesize": (
        node(type_file + field(0x18, 1 << 60) + field(0x20, 4), [LEAF]),
        "expected 4, the sum",
    ),
    "two filesizes": (node(type_file + field(0x18, 0) * 2), "tag 0x18 twice"),
    "a dag-cbor child": (
        node(type_file + field(0x20, 4), [identify(b"abcd", DAG_CBOR)]),
        "codec 0x71, expected raw",
    ),
    "a child that is no CID": (node(type_file + field(0x20, 4), [b"abc"]), "not a CID"),
    "a link without a CID": (field(0x12, b""), "a link without a CID"),
    "two CIDs in a link": (field(0x12, field(0x0A, LEAF) * 2), "tag 0xa in a link"),
    "two data": (field(0x0A, type_file) * 2, "tag 0xa in a node"),
    "an unknown field": (field(0x1A, b""), "tag 0x1a in a node"),
    "an unknown wire type": (b"\x0b", "wire type 3"),
    "a field past the end": (b"\x0a\x7f\x08", "127 bytes, but 1 are left"),
    "a varint without end": (b"\x0a" + b"\xff" * 20, "more than 9 bytes"),
    "a varint cut short": (b"\x0a\x80", "end within a varint"),
}


@pytest.mark.parametrize(("data", "message"), MALFORMED.values(), ids=MALFORMED.keys())
def test_a_malformed_node_is_refused_by_name(data: bytes, message: str) -> None:
    store = Blocks([Block(LEAF, b"abcd")])
    root = store.add(data)
    with pytest.raises(MalformedNode, match=f"^{text(root)}|^{text(LEAF)}") as raised:
        drive(read(root), store.load)
    assert message in str(raised.value)


def test_roots_and_ranges_that_cannot_be_are_refused() -> None:
    for reads in (read(identify(b"", DAG_CBOR)), size(identify(b"", DAG_CBOR))):
        with pytest.raises(MalformedNode, match="codec 0x71"):
            drive(reads, Blocks().load)
    with pytest.raises(InvalidInput, match=r"\[-1, None\)"):
        drive(read(LEAF, -1), Blocks().load)


def test_a_tree_may_have_so_many_levels_and_no_more() -> None:
    store = Blocks()
    cid = store.add(b"ab", RAW)
    for _ in range(MAX_LEVELS):
        cid = store.add(node(type_file + field(0x20, 2), [cid]))
    assert drive(read(cid), store.load) == b"ab"
    cid = store.add(node(type_file + field(0x20, 2), [cid]))
    with pytest.raises(MalformedNode, match="more than 8 levels"):
        drive(read(cid), store.load)
    with pytest.raises(InvalidInput, match="257 leaves with max_links=2"):
        split(bytes(257), "blake3", leaf_bytes=1, max_links=2)


def test_nodes_that_multiply_run_into_a_limit_and_not_out_of_memory() -> None:
    """Three small blocks, whose sizes all agree, stand for as many pieces as they like."""
    store = Blocks()
    cid, length, fan = store.add(b"a", RAW), 1, 1100
    for _ in range(2):
        cid = store.add(node(type_file + field(0x20, length) * fan, [cid] * fan))
        length *= fan
    assert drive(size(cid), store.load) == length > MAX_PIECES
    assert drive(read(cid, 5000, 9000), store.load) == b"a" * 4000
    with pytest.raises(MalformedNode, match="smaller ranges"):
        drive(read(cid), store.load)


@given(st.data())
def test_damaged_nodes_raise_nothing_but_our_errors(data: st.DataObject) -> None:
    store = Blocks(split(bytes(range(120)), "blake3", leaf_bytes=4, max_links=3)[1])
    nodes = [block for cid, block in store.items() if cid[1] == DAG_PB]
    damaged = bytearray(data.draw(st.sampled_from(nodes)))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged)))
        damaged[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    read_or_refuse(store.add(bytes(damaged)), store)


@given(st.binary(max_size=60) | st.binary(max_size=60).map(lambda data: node(type_file + data, [LEAF])))
def test_random_bytes_raise_nothing_but_our_errors(data: bytes) -> None:
    store = Blocks([Block(LEAF, b"abcd")])
    read_or_refuse(store.add(data), store)


def read_or_refuse(root: bytes, store: Blocks) -> None:
    """Children that damage made up are given bytes too: what matters is that nothing else is raised."""

    def load(cids: Sequence[bytes]) -> Sequence[Data]:
        return [store.get(cid, b"abcd") for cid in cids]

    for reads in (read(root), read(root, 3, 50), size(root)):
        with suppress(HamtError):
            drive(reads, load)
    with suppress(MalformedNode):
        links(store[root])


def test_the_defaults_are_those_of_the_formats() -> None:
    root, blocks = split(bytes((1 << 20) * 175), "blake3")
    assert [len(links(block.data)) for block in blocks if block.cid[1] == DAG_PB] == [MAX_LINKS, 1, 2]
    assert root == blocks[-1].cid
