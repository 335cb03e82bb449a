"""Random stores, random damage, random roots kept: what could be read below a kept root still can be."""

import os
import tempfile
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random

import pytest
from hypothesis import event, given, settings
from hypothesis import strategies as st
from packs_made import alter, blocks_in, packs_in, pointers_of, readable, snapshot, tree, write

from hamt_bulk.block import RAW, Block, identify, parse
from hamt_bulk.cas import PackCAS
from hamt_bulk.errors import HamtError
from hamt_bulk.packs import drop, merge, rebuild, verify
from hamt_bulk.packs.digests import RECENT, Digests
from hamt_bulk.unixfs import links

EXAMPLES = 500 if os.environ.get("HAMT_BULK_FULL") == "1" else 40

items = st.dictionaries(
    st.text("abc", min_size=1, max_size=3), st.binary(max_size=6).map(lambda data: data * 30), max_size=40
)


@contextmanager
def new_store() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield Path(folder) / "store"


def damage(store: Path, random: Random, count: int) -> None:
    """Flips bits of packs, zeroes parts of them and cuts them off."""
    # This process may hold files open in whose place others came, with the same blocks.
    PackCAS(store).close()
    for path in random.sample(packs_in(store), min(count, len(packs_in(store)))):
        at = random.randrange(path.stat().st_size)
        match random.randrange(4):
            case 0 | 1:
                alter(path, at)
            case 2:
                data = bytearray(path.read_bytes())
                data[at : at + 50] = bytes(len(data[at : at + 50]))
                path.write_bytes(data)
            case 3:
                os.truncate(path, at)


def mirror(store: Path) -> None:
    """Writes all blocks once more, in one pack of each kind."""
    cas = PackCAS(store)
    cids = sorted({cid for path in packs_in(store) for cid in blocks_in(path)})
    with cas.writer() as writer:
        writer.save_many([Block(cid, cas.load_blocks([cid])[0]) for cid in cids])
        writer.flush()


def below(store: Path, root: bytes) -> set[bytes]:
    """All blocks that a root reaches, of a store that is sound."""
    cas = PackCAS(store)
    found = {cid for path in packs_in(store) for cid in blocks_in(path)}
    values, waiting = set(), list(pointers_of(cas, root).values())
    while waiting:
        cid = waiting.pop()
        if cid not in values:
            values.add(cid)
            waiting += links(cas.load_blocks([cid])[0]) if parse(cid).codec == 0x70 else []
    nodes, waiting = {root}, [root]
    while waiting:
        # What a node links to are blocks of the store that stand in its bytes.
        data = bytes(cas.load_blocks([waiting.pop()])[0])
        children = {cid for cid in found if cid[1] == 0x71 and cid in data} - nodes
        nodes |= children
        waiting += children
    return values | nodes


@settings(max_examples=EXAMPLES)
@given(
    st.lists(items, min_size=1, max_size=4),
    st.lists(st.lists(st.binary(max_size=9), max_size=9), max_size=3),
    st.integers(0, 3),
    st.integers(0, 2**32),
    st.booleans(),
)
def test_what_a_kept_root_reaches_stays_as_readable_as_it_was(trees, others, damaged, seed, indexed) -> None:
    with new_store() as store:
        random = Random(seed)
        roots = [tree(store, one) for one in trees]
        for values in others:
            # Some of the trees' values once more, in other packs.
            more = random.sample(
                sorted({value for one in trees for value in one.values()}),
                bool(trees[0]) and random.randrange(2),
            )
            if values or more:
                write(store, [*values, *more])
        if random.randrange(2):
            mirror(store)
        if indexed:
            PackCAS(store)._index.rewrite()
        keep = random.sample(roots, random.randrange(1, len(roots) + 1))
        needed = set().union(*(below(store, root) for root in keep))
        every = {cid for path in packs_in(store) for cid in blocks_in(path)}
        damage(store, random, damaged)
        before, files = readable(store, every), snapshot(store)
        try:
            said = drop(store, keep, older_than_hours=0, dry_run=True)
        except HamtError:
            event("refused")
            # A block of a kept root is gone: nothing is dropped.
            assert damaged
            with pytest.raises(HamtError):
                drop(store, keep, older_than_hours=0)
            assert snapshot(store) == files
            return
        assert snapshot(store) == files
        done = drop(store, keep, older_than_hours=0)
        event(f"removed {bool(done.removed)}, written again {bool(done.rewritten)}, damaged {bool(damaged)}")
        assert replace(said, dry_run=False) == done
        after = readable(store, every)
        assert after >= before & needed
        if not damaged:
            assert needed <= after
        left = {name: data for name, (_, data) in snapshot(store).items()}
        again = drop(store, keep, older_than_hours=0)
        assert (again.removed, again.rewritten, again.bytes) == ((), (), 0)
        assert {name: data for name, (_, data) in snapshot(store).items()} == left
        rebuild(store)
        assert readable(store, every) >= after & needed
        merge(store)
        assert readable(store, every) >= after & needed
        if not damaged:
            assert verify(store).ok


@settings(max_examples=EXAMPLES)
@given(st.lists(st.lists(st.integers(0, 400), max_size=80), max_size=12), st.sampled_from([1, 7, RECENT]))
def test_digests_are_a_set(groups: list[list[int]], recent: int) -> None:
    """Of whatever codec; with identity CIDs, which have digests of other lengths."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hamt_bulk.packs.digests.RECENT", recent)
        digests, model = Digests(), set()
        for group in groups:
            cids = [cid_of(number) for number in group]
            new = {cid_of(number)[2:]: None for number in group if number not in model}
            assert [cid[2:] for cid in digests.add_many(cids)] == list(new)
            model |= set(group)
            assert len(digests) == len(model)
            assert digests.has_many([cid_of(number) for number in range(401)]) == [
                number in model for number in range(401)
            ]


def test_a_block_takes_44_bytes_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the moments when parts of the set are copied."""
    monkeypatch.setattr("hamt_bulk.packs.digests.RECENT", 1 << 9)
    random, digests = Random(1), Digests()
    tracemalloc.start()
    try:
        for _ in range(150):
            digests.add_many([identify(b"", RAW)[:4] + random.randbytes(32) for _ in range(512)])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(digests) == 150 * 512
    # What is asked for in one call, and the sets that are not settled, do not grow.
    assert peak < 44 * len(digests) + (1 << 18)


def cid_of(number: int) -> bytes:
    if number % 50 == 0:
        return bytes((1, 0x55, 0, 2)) + number.to_bytes(2, "big")
    # Digests that end with zeros are others than shorter ones.
    digest = number.to_bytes(2, "big").ljust(32, b"\0") if number % 3 == 0 else identify(b"%d" % number)[4:]
    return bytes((1, 0x55 if number % 2 else 0x71, 0x1E, 32)) + digest
