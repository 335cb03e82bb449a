"""Small packs become one, and nothing is lost on the way."""

import errno
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from random import Random
from threading import Event

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hamt_bulk.block import Block, identify
from hamt_bulk.cas import PackCAS
from hamt_bulk.cas.packmerge import MERGED_PACKS, SMALL_PACK_BYTES, groups, merge
from hamt_bulk.errors import BlockNotFound, CASError
from hamt_bulk.packs import merge as merge_all

sizes = st.dictionaries(
    st.tuples(st.sampled_from(["nodes", "values"]), st.integers(0, 999)).map(
        lambda pair: f"{pair[0]}/{pair[1]}.car"
    ),
    st.sampled_from([200, 300, 5000, 1 << 20, SMALL_PACK_BYTES - 1, SMALL_PACK_BYTES, 1 << 30]),
    max_size=120,
)


@given(sizes)
def test_packs_of_one_kind_and_about_one_size_are_merged(sizes):
    merged = groups(sizes)
    names = [name for group in merged for name in group]
    assert len(names) == len(set(names))
    for group in merged:
        assert len(group) >= MERGED_PACKS
        assert len({name.partition("/")[0] for name in group}) == 1
        assert max(sizes[name] for name in group) <= 8 * min(sizes[name] for name in group)
        assert max(sizes[name] for name in group) < SMALL_PACK_BYTES
    left = {name: size for name, size in sizes.items() if name not in names and size < SMALL_PACK_BYTES}
    assert not groups(left)


KINDS = ((b"value", 0x55), (b"node", 0x71))


def add(folder: Path, number: int) -> list[bytes]:
    """A pack of values and one of nodes, each of three small blocks."""
    blocks = [Block(identify(data, codec), data) for data, codec in contents(number)]
    with PackCAS(folder).writer() as writer:
        writer.save_many(blocks)
        writer.flush()
    return [block.cid for block in blocks]


def contents(number: int) -> list[tuple[bytes, int]]:
    return [(b"%s %d %d" % (kind, number, part), codec) for part in range(3) for kind, codec in KINDS]


def packs(folder: Path) -> set[str]:
    return {f"{path.parent.name}/{path.name}" for path in folder.glob("packs/*/*.car")}


def read(cas: PackCAS, cids: list[bytes]) -> list[bytes]:
    return cas.load_many(cids)


def test_many_small_additions_leave_few_packs(tmp_path):
    cas, cids, most = PackCAS(tmp_path), [], 0
    for number in range(200):
        cids += add(tmp_path, number)
        cas.finish()
        most = max(most, len(packs(tmp_path)))
    assert most <= 2 * 3 * MERGED_PACKS
    assert len(packs(tmp_path)) <= 50
    assert len(list(tmp_path.glob("index/*.mpi"))) == 1
    for reader in (cas, PackCAS(tmp_path)):
        assert read(reader, cids) == [data for number in range(200) for data, _ in contents(number)]
        assert reader.has_many(cids) == [True] * len(cids)
        assert reader.size_many(cids) == [len(block) for block in read(reader, cids)]


def test_readers_that_knew_the_old_packs_find_the_blocks(tmp_path):
    cids = [cid for number in range(MERGED_PACKS) for cid in add(tmp_path, number)]
    whole, single, lengths = PackCAS(tmp_path), PackCAS(tmp_path), PackCAS(tmp_path)
    for reader in (whole, single, lengths):
        assert reader.has_many(cids[:1]) == [True]  # they have listed the folder, and opened no pack but one
    PackCAS(tmp_path).finish()
    assert len(packs(tmp_path)) == 2
    expected = [data for number in range(MERGED_PACKS) for data, _ in contents(number)]
    assert read(whole, cids) == expected
    assert [single.load_many([cid])[0] for cid in cids] == expected
    assert lengths.size_many(cids) == [len(block) for block in expected]
    with pytest.raises(BlockNotFound, match="packs that were here are gone"):
        single.load_many([identify(b"absent")])


def test_a_damaged_pack_is_left_alone_with_what_it_holds(tmp_path):
    cids = [cid for number in range(MERGED_PACKS + 1) for cid in add(tmp_path, number)]
    damaged = sorted(tmp_path.glob("packs/values/*.car"))[0]
    data = bytearray(damaged.read_bytes())
    data[data.index(b"value ")] ^= 1
    damaged.write_bytes(data)
    cas = PackCAS(tmp_path)
    cas.finish()
    assert damaged.exists() and len(list(tmp_path.glob("packs/values/*.car"))) == 2
    readable = 0
    for cid in cids:
        try:
            readable += len(cas.load_many([cid]))
        except ValueError:
            continue
    assert readable == len(cids) - 1


def test_a_pack_that_has_what_all_others_have_stays(tmp_path):
    """The merged pack takes its name and its place, and is not removed as one of the old ones."""
    with PackCAS(tmp_path).writer() as writer:
        cids = [writer.save(b"%d" % part) for part in range(5)]
        writer.flush()
    [large] = packs(tmp_path)
    for part in range(5):
        with PackCAS(tmp_path).writer() as writer:
            writer.save(b"%d" % part)
            writer.flush()
    names = [large, *sorted(packs(tmp_path) - {large})]
    assert sorted(merge(tmp_path, names)) == sorted(names[1:])
    assert packs(tmp_path) == {large}
    assert read(PackCAS(tmp_path), cids) == [b"%d" % part for part in range(5)]


@pytest.mark.parametrize("call", ["fsync", "replace", "unlink"])
def test_a_merge_that_is_interrupted_loses_nothing(tmp_path, monkeypatch, call):
    """At the nth of these calls to the system, for every n."""
    real = getattr(os, call)
    for stop in range(1, 40):
        folder = tmp_path / str(stop)
        cids = [cid for number in range(MERGED_PACKS) for cid in add(folder, number)]
        count = 0

        def failing(*arguments, stop=stop, **named):
            nonlocal count
            count += 1
            if count == stop:
                raise OSError(28, "injected")
            return real(*arguments, **named)

        with monkeypatch.context() as patch:
            patch.setattr(os, call, failing)
            cas = PackCAS(folder)
            with suppress(OSError):
                cas.finish()
            if count < stop:
                assert stop > 1
                return
        for reader in (cas, PackCAS(folder)):
            assert reader.has_many(cids) == [True] * len(cids)
            assert len(read(reader, cids)) == len(cids)
        PackCAS(folder).finish()
        assert read(PackCAS(folder), cids) == read(cas, cids)
    raise AssertionError(f"{call} was called more often than expected")


def test_readers_find_every_block_while_others_add_and_merge(tmp_path, monkeypatch):
    """Each has its own view of the folder, as separate processes have."""
    monkeypatch.setattr(os, "fsync", lambda file: None)
    additions, finished = 120, Event()
    known: list[tuple[list[bytes], list[bytes]]] = []

    def write(first: int) -> None:
        cas = PackCAS(tmp_path)
        for number in range(first, first + additions):
            known.append((add(tmp_path, number), [data for data, _ in contents(number)]))
            cas.finish()

    def look(seed: int) -> int:
        cas, random, reads = PackCAS(tmp_path), Random(seed), 0
        while not finished.is_set():
            if known:
                cids, expected = random.choice(known)
                assert read(cas, cids) == expected
                assert cas.has_many(cids[:2]) == [True, True]
                reads += 1
        return reads

    with ThreadPoolExecutor(5) as threads:
        readers = [threads.submit(look, seed) for seed in range(3)]
        for writer in [threads.submit(write, number * additions) for number in range(2)]:
            writer.result()
        finished.set()
        assert min(reader.result() for reader in readers) > 10
    assert len(packs(tmp_path)) <= 2 * 3 * MERGED_PACKS
    assert [read(PackCAS(tmp_path), cids) for cids, _ in known] == [expected for _, expected in known]


def test_a_full_disk_is_said_to_be_and_not_taken_for_damaged_packs(tmp_path, monkeypatch):
    cids = [cid for number in range(3) for cid in add(tmp_path, number)]
    before = packs(tmp_path)

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "writev", full)
        with pytest.raises(CASError, match="the disk is full"):
            merge_all(tmp_path)
    assert packs(tmp_path) == before
    assert os.listdir(tmp_path / "tmp") == []
    assert len(merge_all(tmp_path).gone) == 6
    assert read(PackCAS(tmp_path), cids)
