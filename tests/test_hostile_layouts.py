"""HashMaps and other foreign roots that were made to hurt: few blocks that are linked often, wide, deep or contradictory."""

import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import suppress

import dag_cbor
import pytest
from old_writers import Blocks, hash_map, link, py_hamt_2
from old_writers import ipldstore_with_hamt as fork

from hamt_bulk import HashMap, InMemoryCAS, build, check, convert, copy, diff, open_root, update
from hamt_bulk.block import DAG_CBOR, Data, identify, text
from hamt_bulk.errors import BlockNotFound, DepthExceeded, InvalidInput, MalformedNode
from hamt_bulk.layout import HashMapNodes, Slot
from hamt_bulk.nodes import Tree

SHAPE = HashMap(8, 3)
LAYOUT = HashMapNodes(SHAPE)
VALUE = identify(b"value")
NODES_A_LEVEL = 40
LEVELS = 5


class Counting(InMemoryCAS):
    """Knows how many blocks it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = 0
        self.blocks[VALUE] = b"value"

    def read_blocks(self, cids: Sequence[bytes]) -> list[Data]:
        self.asked += len(cids)
        return super().read_blocks(cids)

    def put(self, data: bytes) -> bytes:
        cid = identify(data, DAG_CBOR)
        self.blocks[cid] = data
        return cid

    def node(self, slots: dict[int, Slot], is_root: bool = False, layout: HashMapNodes = LAYOUT) -> bytes:
        parts = [slots.get(number, {}) for number in range(layout.width)]
        return self.put(bytes(layout.encode_slots(parts, is_root=is_root).data))

    def node_2(self, links: dict[int, bytes]) -> bytes:
        slots = {str(number): link(cid) for number, cid in links.items()}
        return self.put(dag_cbor.encode({"B": {}, "L": slots}))


def bomb(cas: Counting, kind: str, with_entry: bool) -> bytes:
    """A root above levels of nodes, each of which links all below it: more paths than can be walked."""
    key: dict[int, Slot] = {3: {"key": VALUE}} if with_entry else {}
    if kind == "hashmap":
        node, below = cas.node, [cas.node(key), cas.node({})]
    else:
        entry = {"3": [{"key": link(VALUE)}]} if with_entry else {}
        node, below = cas.node_2, [cas.put(dag_cbor.encode({"B": entry, "L": {}}))]  # type: ignore[assignment]
    for _ in range(LEVELS):
        below = [
            node({(at + turn) % 256: cid for at, cid in enumerate(below)}) for turn in range(NODES_A_LEVEL)
        ]
    links: dict[int, Slot] = dict(enumerate(below))
    return cas.node(links, is_root=True) if kind == "hashmap" else node(links)


@pytest.mark.parametrize("with_entry", [True, False])
@pytest.mark.parametrize("kind", ["hashmap", "py-hamt-2"])
def test_a_root_of_very_many_paths_is_refused_after_as_many_reads_as_there_are_blocks(
    kind, with_entry
) -> None:
    cas = Counting()
    root = bomb(cas, kind, with_entry)
    for walk in (
        lambda: list(open_root(root, cas).pointers()),
        lambda: len(open_root(root, cas)),
        lambda: convert(root, cas),
        lambda: convert(root, cas, HashMap(5), target=InMemoryCAS()),
    ):
        cas.asked = 0
        tracemalloc.start()
        with pytest.raises((MalformedNode, InvalidInput)):
            walk()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert cas.asked <= 4 * len(cas.blocks)
        assert peak < 64 << 20


@pytest.mark.parametrize("with_entry", [True, False])
def test_edits_checks_comparisons_and_copies_of_such_a_map_end(with_entry: bool) -> None:
    cas = Counting()
    root = bomb(cas, "hashmap", with_entry)
    empty = bytes(build({}, cas, layout=SHAPE))
    for walk in (
        lambda: update(root, {"a": b"1"}, cas, layout=SHAPE),
        lambda: update(root, {f"key {number}": None for number in range(50)}, cas, layout=SHAPE),
        lambda: list(diff(root, empty, cas)),
    ):
        cas.asked = 0
        with suppress(MalformedNode):  # an edit need not come by
            walk()
        assert cas.asked <= 4 * len(cas.blocks)
    with pytest.raises(MalformedNode):
        list(diff(root, empty, cas))
    cas.asked = 0
    assert not check(root, cas).ok
    copy(root, cas, target := InMemoryCAS())
    assert target.blocks.keys() <= cas.blocks.keys()
    assert cas.asked <= 10 * len(cas.blocks)


@pytest.mark.parametrize("width", [8, 12, 16])
def test_a_map_of_wide_nodes_takes_little_memory(width: int) -> None:
    """A node of 65,536 slots is a block of 8 KiB."""
    layout = HashMapNodes(HashMap(width, 1))
    cas = Counting()
    children = [
        cas.node({number: {f"{number}": VALUE}}, layout=layout)  # type: ignore[dict-item]
        for number in range(min(150, layout.width))
    ]
    root = cas.node(dict(enumerate(children)), is_root=True, layout=layout)
    tracemalloc.start()
    found = list(open_listing(root, cas, layout))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(found) == len(children)
    assert peak < 96 << 20  # a cache of nodes is in it


def open_listing(root: bytes, cas: InMemoryCAS, layout: HashMapNodes) -> Iterator[tuple[str, bytes]]:
    return Tree(root, cas, layout, layout.shape.placement).entries()


def test_a_map_that_goes_deeper_than_its_hash_is_refused() -> None:
    cas = Counting()
    node = cas.node({0: {"key": VALUE}})  # type: ignore[dict-item]
    for _ in range(200):
        node = cas.node({0: node})
    root = cas.node({0: node}, is_root=True)
    with pytest.raises((MalformedNode, DepthExceeded), match=r"176 levels|whole hash"):
        open_root(root, cas)
    node = cas.put(dag_cbor.encode({"B": {"0": [{"key": 1}]}, "L": {}}))
    for _ in range(200):
        node = cas.node_2({0: node})
    with pytest.raises((MalformedNode, DepthExceeded), match=r"176 levels"):
        open_root(node, cas)


def test_a_chain_of_a_node_without_end_is_listed_once() -> None:
    cas = Counting()
    below = cas.node({number: {f"{number}": VALUE} for number in range(40)})  # type: ignore[dict-item]
    for _ in range(100):
        below = cas.node({7: below})
    root = cas.node({7: below, 9: {"a": VALUE}}, is_root=True)  # type: ignore[dict-item]
    # What lies in wrong places is listed and not found.
    assert len(list(open_listing(root, cas, LAYOUT))) == 41
    assert cas.asked == 102


def test_an_ipldstore_whose_map_is_itself_ends() -> None:
    """A root's CID cannot be in it, but a chain of roots can be long."""
    cas = InMemoryCAS("sha2-256")
    blocks = Blocks()
    root = fork({"a/0": b"1"}, blocks)
    for _ in range(5000):
        root = blocks.put(dag_cbor.encode({"hamt": link(root)}), DAG_CBOR, "sha2-256")
    cas.blocks.update(blocks)
    opened = open_root(root, cas)
    for call in (lambda: list(opened.pointers()), lambda: opened.pointer("a/0"), lambda: len(opened)):
        with pytest.raises((MalformedNode, InvalidInput)):
            call()


@pytest.mark.parametrize("kind", ["hamt missing", "hamt is a value", "hamt is a child"])
def test_an_ipldstore_whose_map_is_none_says_so(kind: str) -> None:
    blocks = Blocks()
    tree = hash_map([(f"a/{number}", link(blocks.put(b"1"))) for number in range(3000)], blocks)
    child = next(cid for cid in blocks if cid[1] == DAG_CBOR and cid != tree)
    hamt = {"hamt missing": identify(b"no", DAG_CBOR), "hamt is a child": child}.get(kind)
    if hamt is None:
        hamt = blocks.put(dag_cbor.encode(5), DAG_CBOR)
    root = blocks.put(dag_cbor.encode({"hamt": link(hamt)}), DAG_CBOR)
    opened = open_root(root, blocks.memory())
    error, named = (BlockNotFound, hamt) if kind == "hamt missing" else ((InvalidInput, MalformedNode), hamt)
    with pytest.raises(error, match=text(named)):
        opened.get("a/1")
    with pytest.raises(error, match=text(named)):
        list(opened)


def test_a_key_that_two_nodes_have_is_no_reason_to_loop() -> None:
    """Nor is a value that says it is a link to a node."""
    cas = Counting()
    tree = cas.node({3: {"a": VALUE}})  # type: ignore[dict-item]
    root = cas.node({1: tree, 2: {"b": tree}}, is_root=True)  # type: ignore[dict-item]
    assert sorted(key for key, _ in open_listing(root, cas, LAYOUT)) == ["a", "b"]


def test_what_py_hamt_2_deletes_left_is_no_hostility() -> None:
    """Nodes without entries are unlinked by it, small ones are left."""
    items = {f"{number}": b"1" for number in range(3000)}
    blocks = Blocks()
    root = py_hamt_2(items, blocks, deleted=[key for key in items if key != "7"])
    assert dict(open_root(root, blocks.memory()).items()) == {"7": b"1"}
