"""Trees of few nodes that are linked from very many places: no walk takes more requests than there are nodes."""

import os
import tracemalloc
from collections.abc import Sequence

import pytest

from hamt_bulk import HAMT, InMemoryCAS, PackCAS, copy, diff
from hamt_bulk.block import Block, Data, identify
from hamt_bulk.errors import MalformedNode
from hamt_bulk.layout import WIDTH, PyHamt, Slot
from hamt_bulk.manifest import TOMBSTONE, Manifest, blake3_hashfn
from hamt_bulk.nodes import Tree
from hamt_bulk.reads import drive
from hamt_bulk.roots.copy import MAX_LEVELS
from hamt_bulk.tree import update
from hamt_bulk.tree.guards import RECENT, Once

LAYOUT = PyHamt()
NODES_A_LEVEL = 200
LEVELS = 5
VALUE = identify(b"value")
ENDS: dict[str, dict[int, Slot]] = {
    "nothing": {3: LAYOUT.encode_slots([{}] * WIDTH).cid},
    "an entry": {3: {"key": VALUE}},
}
"""What lies at the ends of all paths."""


class Counting(InMemoryCAS):
    """Knows which blocks it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[bytes] = []
        self.has_no_entries = True

    def read_blocks(self, cids: Sequence[bytes]) -> list[Data]:
        self.asked += cids
        return super().read_blocks(cids)

    def node(self, slots: dict[int, Slot]) -> bytes:
        block = LAYOUT.encode_slots([slots.get(number, {}) for number in range(WIDTH)])
        self.blocks[block.cid] = bytes(block.data)
        return block.cid


@pytest.fixture(params=ENDS)
def cas(request: pytest.FixtureRequest) -> Counting:
    """With the end of all paths, and the empty node."""
    cas = Counting()
    cas.blocks[VALUE] = b"value"
    cas.node({})
    cas.node(ENDS[request.param])
    cas.has_no_entries = request.param == "nothing"
    return cas


def bomb(cas: Counting, levels: int = LEVELS) -> bytes:
    """A node above so many levels of 200 nodes, each of which links all 200 below it: 200 ** levels paths."""
    below = [list(cas.blocks)[-1]]
    for _ in range(levels):
        slots = [
            {(number + at) % WIDTH: cid for at, cid in enumerate(below)} for number in range(NODES_A_LEVEL)
        ]
        below = [cas.node(one) for one in slots]
    return cas.node(dict(enumerate(below)))


def test_a_listing_ends_when_a_node_comes_again(cas: Counting) -> None:
    root = bomb(cas)
    tracemalloc.start()
    with pytest.raises(MalformedNode, match=r"bafy\w+ is linked from more than one place"):
        list(Tree(root, cas).entries())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(cas.asked) < len(cas.blocks)
    assert peak < 48 << 20


async def test_a_hamt_lists_no_such_tree_either(cas: Counting) -> None:
    hamt = await HAMT.build(cas=cas, root_node_id=bomb(cas), read_only=True, values_are_bytes=True)
    keys = hamt.keys()
    with pytest.raises(MalformedNode, match="more than one place"):
        _ = [key async for key in keys]
    assert len(cas.asked) < len(cas.blocks) + 2


def test_a_comparison_ends_when_a_node_comes_again(cas: Counting) -> None:
    root, other = bomb(cas), bomb(cas, LEVELS - 1)
    with pytest.raises(MalformedNode, match="lies below"):
        list(diff(root, other, cas))
    assert len(cas.asked) < len(cas.blocks)


@pytest.mark.parametrize("edit", [VALUE, TOMBSTONE])
def test_an_edit_reads_each_node_once(cas: Counting, edit: bytes) -> None:
    """To see whether the node that the edit goes through has become too small it looks at what is below."""
    first, second = blake3_hashfn(b"edited")[:2]
    above = bomb(cas)
    suspect = cas.node({(second + 1) % WIDTH: above, (second + 2) % WIDTH: list(cas.blocks)[5]})
    root = cas.node({first: suspect})
    new: list[Block] = []
    changed = drive(update(root, Manifest.of([("edited", edit)]), LAYOUT, new.extend), cas.load_blocks)
    assert len(cas.asked) <= len(cas.blocks)
    if cas.has_no_entries:
        entries = Manifest.of([("edited", edit)])
        assert changed == drive(update(None, entries, LAYOUT, lambda _: None), cas.load_blocks)


def test_a_copy_reads_each_node_twice(cas: Counting) -> None:
    """Once to look into it, and once to write it."""
    root = bomb(cas)
    copy(root, cas, target := InMemoryCAS())
    assert root in target.blocks
    assert len(cas.asked) <= 2 * len(cas.blocks)


def test_a_copy_of_nodes_that_link_all_below_them_ends(cas: Counting) -> None:
    """Each is at as many depths as there are nodes above it."""
    nodes = [list(cas.blocks)[-1]]
    for _ in range(2 * MAX_LEVELS):
        nodes.append(cas.node(dict(enumerate(reversed(nodes)))))
    with pytest.raises(MalformedNode, match=f"below {MAX_LEVELS} levels of nodes"):
        copy(nodes[-1], cas, InMemoryCAS())
    assert len(cas.asked) <= MAX_LEVELS * len(cas.blocks)
    cas.asked.clear()
    few = nodes[MAX_LEVELS // 2]
    copy(few, cas, target := InMemoryCAS())
    assert few in target.blocks
    assert len(cas.asked) <= (MAX_LEVELS // 2 + 3) * len(cas.blocks)


def test_a_copy_to_a_store_of_packs_is_no_different(cas: Counting, tmp_path) -> None:
    root = bomb(cas, 2)
    done = copy(root, cas, str(tmp_path / "target"))
    assert done.copied_blocks == len(set(cas.asked))
    with pytest.raises(MalformedNode, match="more than one place"):
        list(Tree(root, PackCAS(tmp_path / "target")).entries())


def test_nodes_that_came_before_are_known_however_many_there_were() -> None:
    once = Once()
    names = [identify(number.to_bytes(4, "big"), 0x71) for number in range(5 * RECENT + 7)]
    names += [identify(b"", 0x71)[:4] + os.urandom(28) + bytes(4) for _ in range(20)]
    for cid in names:
        once.add(cid)
    assert sum(map(len, once._runs)) + len(once._recent) == len(names)
    assert len(once._runs) < 6
    for cid in (names[0], names[RECENT], names[4 * RECENT], names[-1], names[-20]):
        with pytest.raises(MalformedNode, match="more than one place"):
            once.add(cid)


def test_a_sound_tree_is_listed_as_before() -> None:
    """Also one whose nodes without entries are the same, as py-hamt up to 3.3 left them behind."""
    cas = Counting()
    empty = cas.node({})
    emptied = cas.node({7: empty})
    root = cas.node({1: emptied, 2: cas.node({3: emptied, 4: {"key": VALUE}}), 5: empty})
    assert list(Tree(root, cas).entries()) == [("key", VALUE)]


@pytest.mark.parametrize("slot", [b"\x01\x55garbage", b"xyz"])
def test_a_link_that_is_no_cid_is_named_by_whatever_follows_it(slot: bytes) -> None:
    cas = Counting()
    number = blake3_hashfn(b"key")[0]
    root = cas.node({number: slot})
    for walk in (
        lambda: Tree(root, cas).pointer("key"),
        lambda: list(Tree(root, cas).entries()),
        lambda: list(diff(root, cas.node({}), cas)),
        lambda: drive(update(root, Manifest.of([("key", VALUE)]), LAYOUT, list), cas.load_blocks),
    ):
        with pytest.raises(MalformedNode, match=r"(bafy\w+|the root): a child is not a CID: "):
            walk()
    other = cas.node({number: {"key": slot}})
    with pytest.raises(MalformedNode, match=r"bafy\w+: the value of 'key' is not a CID"):
        Tree(other, cas).pointer("key")
