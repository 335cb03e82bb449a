"""Conversions that are interrupted, whose workers die, whose source is damaged, whose store forgets."""

import os
import random
import signal
import threading
from pathlib import Path
from typing import Any

import dask
import pytest
from disasters import SlowPacks, cluster, processes
from old_writers import Blocks, hash_map, ipldstore, link, py_hamt_2
from uncanonical import left_by_py_hamt_3_3

from hamt_bulk import HashMap, InMemoryCAS, PackCAS, build, check, convert, open_root
from hamt_bulk.block import DAG_CBOR, text
from hamt_bulk.errors import BlockMismatch, BlockNotFound, CASError, Conflict, JournalMismatch
from hamt_bulk.layout import PyHamt, Slot
from hamt_bulk.manifest import blake3_hashfn
from hamt_bulk.testing import Alter, Drop, Fail, FaultyCAS

MANY = {f"a/c/{number}": b"%d" % number for number in range(1500)}
EXPECTED = build(MANY, InMemoryCAS())


class Stop(Exception):
    """What ends the calls here."""


class StopAt:
    """A progress callback that ends the call once so many parts are converted."""

    def __init__(self, done: int | None = None) -> None:
        self.stop = done
        self.seen: list[Any] = []

    def __call__(self, progress: Any) -> None:
        self.seen.append(progress)
        if self.stop is not None and progress.stage == "convert" and progress.done >= self.stop:
            raise Stop

    @property
    def first(self) -> Any:
        return next(progress for progress in self.seen if progress.stage == "convert")


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    """Some 30 parts of a tree."""
    monkeypatch.setattr("hamt_bulk.conversion.parts.SMALL_PART", 50)


@pytest.fixture
def source() -> tuple[bytes, Blocks]:
    blocks = Blocks()
    return py_hamt_2(MANY, blocks), blocks


# Interrupted


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
@pytest.mark.parametrize("to", ["pyhamt", HashMap(5, 3)], ids=str)
def test_the_same_call_goes_on_from_where_the_last_one_was_stopped(source, tmp_path, scheduler, to) -> None:
    root, blocks = source
    cas = blocks.packs(tmp_path / "store")
    stopped = [StopAt(3), StopAt(9), StopAt(20)]
    with dask.config.set(scheduler=scheduler, num_workers=2):
        for progress in stopped:
            with pytest.raises(Stop) as caught:
                convert(root, cas, to, journal=True, progress=progress)
            assert any(
                "parts of the source are finished, and noted in" in note for note in caught.value.__notes__
            )
        last = StopAt()
        new = convert(root, cas, to, journal=True, resume=True, progress=last)
    assert new == build(MANY, InMemoryCAS(), layout=to)
    taken_over = [progress.first.done for progress in (*stopped, last)]
    assert taken_over == sorted(taken_over) and taken_over[0] == 0 and taken_over[-1] >= 20
    assert check(new, cas).ok
    assert not list((Path(cas.path) / "journals").iterdir())


def test_another_conversion_does_not_take_over(source, tmp_path) -> None:
    root, blocks = source
    cas, journal = blocks.packs(tmp_path / "store"), tmp_path / "journal"
    with pytest.raises(Stop):
        convert(root, cas, journal=journal, progress=StopAt(5))
    with pytest.raises(JournalMismatch, match="another build"):
        convert(root, cas, HashMap(), journal=journal)
    with pytest.raises(JournalMismatch, match="another build"):
        convert(root, cas, max_bucket_size=3, journal=journal)
    with pytest.raises(JournalMismatch, match="another build"):
        convert(py_hamt_2({"a": b"1"}, blocks), blocks.packs(tmp_path / "store"), journal=journal)
    assert convert(root, cas, journal=journal, resume=True) == EXPECTED


def test_an_ipldstore_is_taken_up_again_too(tmp_path) -> None:
    blocks = Blocks()
    root = ipldstore(MANY, blocks)
    cas = blocks.packs(tmp_path / "store")
    target = PackCAS(tmp_path / "target")
    with pytest.raises(Stop):
        convert(root, cas, target=target, journal=True, progress=StopAt(7))
    progress = StopAt()
    new = convert(root, cas, target=target, journal=True, resume=True, progress=progress)
    assert progress.first.done >= 7 and progress.first.total == 30
    assert dict(open_root(new, target).items()) == MANY


def test_a_store_that_fails_for_a_while_costs_what_was_under_way(source, tmp_path) -> None:
    root, blocks = source
    cas = FaultyCAS(blocks.packs(tmp_path / "store"), Fail(nth=12, lasting=True, on="writer.flush"))
    with dask.config.set(scheduler="synchronous"):
        with pytest.raises(CASError):
            convert(root, cas, journal=tmp_path / "journal")
        cas.mend()
        progress = StopAt()
        assert convert(root, cas, journal=tmp_path / "journal", progress=progress) == EXPECTED
    assert 0 < progress.first.done < progress.first.total


@pytest.mark.timeout(200)
def test_a_worker_that_is_killed_costs_what_it_was_doing(source, tmp_path) -> None:
    root, blocks = source
    blocks.packs(tmp_path / "store")
    cas = SlowPacks(tmp_path / "store")
    with cluster() as client:
        client.wait_for_workers(2)
        killed: list[int] = []

        def kill(progress: Any) -> None:
            if progress.stage == "convert" and progress.done >= 6 and not killed:
                killed.append(random.choice(processes(client)))
                threading.Timer(0.05, os.kill, (killed[0], signal.SIGKILL)).start()

        assert convert(root, cas, journal=True, progress=kill) == EXPECTED
        assert killed
        with pytest.raises(Stop):
            convert(root, cas, HashMap(), journal=True, progress=StopAt(10))
    # The driver went, and its cluster: the next one has threads.
    progress = StopAt()
    with dask.config.set(scheduler="threads"):
        new = convert(root, cas, HashMap(), journal=True, resume=True, progress=progress)
    assert progress.first.done >= 10
    assert new == build(MANY, InMemoryCAS(), layout=HashMap())
    assert check(EXPECTED, cas).ok and check(new, cas).ok


# Damaged sources


@pytest.mark.parametrize("kind", ["py-hamt 2", "HashMap", "pyhamt"])
def test_a_node_that_is_missing_is_named_and_the_work_is_kept(kind: str, tmp_path) -> None:
    blocks = Blocks()
    match kind:
        case "py-hamt 2":
            root = py_hamt_2(MANY, blocks)
        case "HashMap":
            root = hash_map([(key, link(blocks.put(value))) for key, value in MANY.items()], blocks)
        case _:
            cas = InMemoryCAS()
            root = bytes(build(MANY, cas))
            blocks.update(cas.blocks)
    cas = blocks.memory()
    children = {cid: cas.blocks[cid] for cid in cas.blocks if cid[1] == DAG_CBOR and cid != root}

    def lose(progress: Any) -> None:
        if progress.stage == "convert" and progress.done >= 5:
            for cid in children:
                cas.blocks.pop(cid, None)

    with dask.config.set(scheduler="synchronous"):
        with pytest.raises(BlockNotFound) as caught:
            convert(root, cas, HashMap(6), journal=tmp_path / "journal", progress=lose)
        assert any(text(cid) in str(caught.value) for cid in children)
        assert blocks.keys() - children.keys() <= cas.blocks.keys()
        cas.blocks |= children
        progress = StopAt()
        new = convert(root, cas, HashMap(6), journal=tmp_path / "journal", resume=True, progress=progress)
    assert 5 <= progress.first.done < progress.first.total
    assert dict(open_root(new, cas).items()) == MANY


def test_a_value_of_py_hamt_2_that_is_missing_is_named(source) -> None:
    root, blocks = source
    cas = blocks.memory()
    pointer = open_root(root, cas).pointer("a/c/77")
    assert pointer is not None
    del cas.blocks[pointer]
    with pytest.raises(BlockNotFound, match=text(pointer)):
        convert(root, cas)


@pytest.mark.parametrize("to", ["pyhamt", HashMap(5, 3)], ids=str)
def test_nodes_that_deletes_left_too_small_become_buckets(to) -> None:
    gone = [key for number, key in enumerate(MANY) if number % 5]
    left = {key: value for key, value in MANY.items() if key not in gone}
    cas = InMemoryCAS()
    old = left_by_py_hamt_3_3(MANY, gone, cas, blake3_hashfn, 4)
    blocks = Blocks()
    older = py_hamt_2(MANY, blocks, deleted=gone)
    expected = build(left, InMemoryCAS(), layout=to)
    assert (to == "pyhamt") <= (text(old) != str(expected))
    assert convert(old, cas, to) == expected
    assert convert(older, blocks.memory(), to) == expected


def edited(cas: InMemoryCAS, root: bytes, change) -> bytes:
    """The root after `change` was made to the slots of its first child."""
    layout = PyHamt()
    above = layout.decode(root, cas.blocks[root])
    number = next(number for number, slot in enumerate(above) if isinstance(slot, bytes))
    child: Any = above[number]
    slots: list[Slot] = layout.decode(child, cas.blocks[child])
    change(slots)
    for at, node in ((number, slots), (None, above)):
        block = layout.encode_slots(node)
        cas.blocks[block.cid] = bytes(block.data)
        if at is not None:
            above[at] = block.cid
    return block.cid


def moved(slots: list[Slot]) -> None:
    """Puts the first entry into a slot that its hash does not lead to."""
    number = next(number for number, slot in enumerate(slots) if slot)
    empty = next(number for number, slot in enumerate(slots) if not slot)
    slots[number], slots[empty] = {}, slots[number]


@pytest.mark.parametrize("to", ["pyhamt", HashMap(5, 3)], ids=str)
def test_keys_that_lie_in_wrong_places_are_put_into_right_ones(to) -> None:
    cas = InMemoryCAS()
    old = edited(cas, bytes(build(MANY, cas)), moved)
    assert [problem.kind for problem in check(old, cas).problems] == ["misplaced"]
    new = convert(old, cas, to)
    assert new == build(MANY, InMemoryCAS(), layout=to)
    assert check(new, cas).ok


def test_a_key_with_two_values_is_named() -> None:
    """As is left when a key was set again that lay in a wrong place."""
    cas = InMemoryCAS()
    other = cas.writer().save(b"other")

    def doubled(slots: list[Slot]) -> None:
        bucket = next(slot for slot in slots if slot)
        empty = next(number for number, slot in enumerate(slots) if not slot)
        slots[empty] = dict.fromkeys(bucket, other)  # type: ignore[arg-type]

    old = edited(cas, bytes(build(MANY, cas)), doubled)
    with pytest.raises(Conflict, match=r"'a/c/[0-9]+' is in the source twice, as 'baf"):
        convert(old, cas)


def test_empty_buckets_that_js_left_are_gone() -> None:
    blocks = Blocks()
    old = hash_map([("a", b"1"), ("b", b"2")], blocks, bit_width=5, bucket_size=3)
    data = blocks[old]
    emptied = data.replace(b"\x81\x82\x61a\x411", b"\x80")
    assert emptied != data
    cas = blocks.memory()
    root = blocks.put(emptied, DAG_CBOR, "sha2-256")
    cas.blocks[root] = emptied
    assert dict(open_root(root, cas).items()) == {"b": b"2"}
    assert not check(root, cas).ok
    shape = HashMap(5, 3, text_keys=True)
    assert convert(root, cas, shape) == convert(
        hash_map([("b", b"2")], blocks, bit_width=5, bucket_size=3), blocks.memory(), shape
    )


# Stores that cannot be trusted


@pytest.mark.parametrize("kind", ["py-hamt 2", "copy", "HashMap"])
def test_what_a_store_acknowledged_and_lost_is_noticed_whichever_block_it_is(kind: str) -> None:
    few = {f"a/c/{number}": b"%d" % number for number in range(40)}
    blocks = Blocks()
    if kind == "py-hamt 2":
        root = py_hamt_2(few, blocks)
    else:
        entries = [(key, link(blocks.put(value))) for key, value in few.items()]
        root = hash_map(entries, blocks, bit_width=3)
    struck = 0
    with dask.config.set(scheduler="synchronous"):
        for nth in range(1, 200):
            cas = blocks.memory()
            target = FaultyCAS(InMemoryCAS() if kind == "copy" else cas, Drop(nth=nth))
            options = {"target": target} if kind == "copy" else {}
            try:
                new = convert(root, cas if kind == "copy" else target, HashMap(3, 2), **options)
            except (BlockNotFound, BlockMismatch):
                assert target.struck
                struck += 1
                continue
            # What was lost was there before.
            assert dict(open_root(new, target.inner).items()) == few
            if not target.struck:
                break
    assert struck > (40 if kind != "HashMap" else 5)
    assert not target.struck


def test_bytes_that_are_altered_as_they_are_read_are_noticed(source) -> None:
    root, blocks = source
    noticed = 0
    with dask.config.set(scheduler="synchronous"):
        for nth in (1, 2, 5, 17, 40):
            cas = FaultyCAS(blocks.memory(), Alter(nth=nth))
            try:
                assert convert(root, cas) == EXPECTED
            except BlockMismatch:
                noticed += 1
    assert noticed == 5
