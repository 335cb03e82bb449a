"""What a conversion loses, or puts in another place, is noticed before it has a root."""

import pytest

from hamt_bulk import Encryption, HashMap, InMemoryCAS, build, convert, open_root
from hamt_bulk.block import to_bytes
from hamt_bulk.conversion import stages
from hamt_bulk.conversion.values import Values
from hamt_bulk.errors import BlockMismatch, Conflict
from hamt_bulk.layout import PyHamt
from hamt_bulk.nodes import Tree

ITEMS = {f"t/c/{n}": b"value %d" % n for n in range(3000)}
SEALED = Encryption(bytes(range(32)))

CONVERSIONS = [
    pytest.param(HashMap(5, 3), None, id="kept"),
    pytest.param("pyhamt", SEALED, id="encrypted"),
    pytest.param("ipldstore", None, id="ipldstore"),
]


@pytest.fixture
def stored() -> tuple[InMemoryCAS, object]:
    cas = InMemoryCAS()
    return cas, build(ITEMS, cas)


@pytest.mark.parametrize(("to", "encryption"), CONVERSIONS)
def test_a_part_that_is_left_out_is_missed(stored, monkeypatch, to, encryption):
    cas, root = stored
    windows = stages.ConvertStage._window
    monkeypatch.setattr(stages.ConvertStage, "_window", lambda self, numbers: windows(self, numbers[1:]))
    with pytest.raises(BlockMismatch, match=r"lacks \d+ keys, such as '.+'"):
        convert(root, cas, to, encryption=encryption, progress=False)


@pytest.mark.parametrize(("to", "encryption"), CONVERSIONS)
def test_an_entry_that_a_task_drops_is_missed(stored, monkeypatch, to, encryption):
    cas, root = stored
    converted = Values.converted

    def dropping(self, entries, writer):
        return list(converted(self, entries, writer))[1:]

    monkeypatch.setattr(Values, "converted", dropping)
    with pytest.raises(BlockMismatch, match=r"lacks \d+ keys"):
        convert(root, cas, to, encryption=encryption, progress=False)


@pytest.mark.parametrize(("to", "encryption"), CONVERSIONS)
def test_values_of_other_keys_are_noticed(stored, monkeypatch, to, encryption):
    cas, root = stored
    apart = Values.converted

    def swapping(self, entries, writer):
        (one, two, *others) = entries
        return apart(self, [(one[0], two[1]), (two[0], one[1]), *others], writer)

    monkeypatch.setattr(Values, "converted", swapping)
    with pytest.raises(BlockMismatch, match=r"has other values of \d+ keys, such as '.+': .+, expected .+"):
        convert(root, cas, to, encryption=encryption, progress=False)


def test_a_key_too_many_is_noticed(stored, monkeypatch):
    cas, root = stored
    converted = Values.converted

    def adding(self, entries, writer):
        return [*converted(self, entries, writer), ("more", next(iter(entries))[1])]

    monkeypatch.setattr(Values, "converted", adding)
    with pytest.raises((BlockMismatch, Conflict), match="more"):
        convert(root, cas, HashMap(5, 3), progress=False)


def test_one_key_in_two_places_of_a_source_is_said_to_be_so():
    cas = InMemoryCAS()
    root = build(ITEMS, cas)
    layout = PyHamt()
    slots = list(layout.decode(to_bytes(root), cas.blocks[to_bytes(root)]))
    number = next(number for number, slot in enumerate(slots) if isinstance(slot, bytes))
    node = list(layout.decode(slots[number], cas.blocks[slots[number]]))
    elsewhere = next(key for key in ITEMS if Tree(to_bytes(root), cas).pointer(key) and key not in str(node))
    at = next(at for at, slot in enumerate(node) if not slot)
    node[at] = {elsewhere: to_bytes(build({}, cas))}
    child = layout.encode_slots(node)
    slots[number] = child.cid
    block = layout.encode_slots(slots)
    cas.blocks |= {child.cid: bytes(child.data), block.cid: bytes(block.data)}
    with pytest.raises(
        Conflict, match="has it in two places: lookups find the one that lies where its hash leads"
    ):
        convert(block.cid, cas, HashMap(5, 3), progress=False)
    assert open_root(root, cas).get(elsewhere) == ITEMS[elsewhere]
