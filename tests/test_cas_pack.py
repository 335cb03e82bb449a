"""A folder of packs."""

import asyncio
import gc
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import pytest
from watching import open_descriptors, opened_files

from hamt_bulk.block import Block, identify, text
from hamt_bulk.cas import PackCAS, archive, packfile
from hamt_bulk.cas.base import Receipt
from hamt_bulk.errors import BlockMismatch, BlockNotFound, CASError, InvalidInput
from hamt_bulk.testing.contract import ABSENT, LARGE, CASContract, cid_of


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch: pytest.MonkeyPatch) -> None:
    """What would be lost with the power is tested elsewhere."""
    monkeypatch.setattr(os, "fsync", lambda file: None)


class TestPackCAS(CASContract):
    def fresh(self, folder: Path) -> PackCAS:
        return PackCAS(folder / "store")

    def corrupt(self, cas: PackCAS, cid: bytes) -> None:
        for path in cas.path.glob("packs/*/*.car"):
            data = path.read_bytes()
            if (at := data.find(cid)) >= 0:
                at += len(cid)
                with path.open("r+b") as file:
                    file.seek(at)
                    file.write(bytes([data[at] ^ 1]))


class TestPackCASWithSHA2(TestPackCAS):
    def fresh(self, folder: Path) -> PackCAS:
        return PackCAS(folder / "store", "sha2-256")


def write(store: Path, values: Sequence[bytes], codec: str = "raw") -> list[bytes]:
    """Their CIDs, after they were put into one pack."""
    with PackCAS(store).writer() as writer:
        cids = [writer.save(value, codec) for value in values]  # type: ignore[arg-type]
        writer.flush()
    return cids


def packs(store: Path) -> list[Path]:
    return sorted(store.glob("packs/*/*.car"))


def command(code: str, *args: object) -> list[str]:
    """What runs `code` in another process, where a warning is an error."""
    code = "import sys\nfrom hamt_bulk.cas import PackCAS\n" + code
    return [sys.executable, "-W", "error", "-c", code, *map(str, args)]


def run(code: str, *args: object) -> str:
    """What another process prints, which has to end well and say nothing else."""
    done = subprocess.run(command(code, *args), capture_output=True, text=True, timeout=100)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.strip()


# Packs are found


def test_nodes_and_values_are_kept_apart(store: Path) -> None:
    with PackCAS(store).writer() as writer:
        writer.save(b"value")
        writer.save(LARGE)
        node = writer.save(b"node", "dag-cbor")
        writer.flush()
    [nodes], [values] = store.glob("packs/nodes/*"), store.glob("packs/values/*")
    assert node in nodes.read_bytes()
    assert node not in values.read_bytes()
    assert list((store / "tmp").iterdir()) == []


def test_a_pack_that_another_object_finished_is_seen(store: Path) -> None:
    first = write(store, [b"first"])
    reader = PackCAS(store)
    assert reader.load_many(first) == [b"first"]
    second = write(store, [b"second"])
    third = write(store, [b"third"])
    assert reader.load_many([*second, *first]) == [b"second", b"first"]
    assert reader.has_many(third) == [True]


def test_a_pack_that_another_process_finished_is_seen(store: Path) -> None:
    """By a reader that was there before the folder was."""
    reader = PackCAS(store)
    assert reader.has_many([ABSENT]) == [False]
    code = "with PackCAS(sys.argv[1]).writer() as w:\n  print(w.save(sys.argv[2].encode()).hex()); w.flush()"
    cids = [bytes.fromhex(run(code, store, value)) for value in ("one", "two")]
    assert reader.load_many(cids) == [b"one", b"two"]


def many_packs(store: Path, count: int) -> list[bytes]:
    cas, cids = PackCAS(store), []
    for i in range(count):
        with cas.writer() as writer:
            cids.append(writer.save(b"value %d" % i))
            writer.flush()
    return cids


def test_a_lookup_in_many_packs_touches_one(store: Path) -> None:
    """The reader that indexed them opens each once; the next has the index that `finish` wrote."""
    cids = many_packs(store, 300)
    cas = PackCAS(store)
    with opened_files(".car") as opened:
        assert cas.load_many([cids[7]]) == [b"value 7"]
    assert len(opened) <= 301
    with opened_files(".car") as opened:
        assert cas.load_many([cids[123]]) == [b"value 123"]
        assert cas.has_many([ABSENT, identify(b"another")]) == [False, False]
    assert len(opened) == 1

    cas.finish()
    with opened_files("") as opened:
        reader = PackCAS(store)
        assert reader.load_many([cids[200], cids[3]]) == [b"value 200", b"value 3"]
        assert reader.has_many([ABSENT]) == [False]
    assert len([name for name in opened if name.endswith(".car")]) <= 2
    assert len([name for name in opened if name.endswith(".mpi")]) == 1
    assert reader.load_many(cids) == [b"value %d" % i for i in range(300)]


def test_packs_after_the_index_are_found_beside_it(store: Path) -> None:
    cids = many_packs(store, 5)
    PackCAS(store).finish()
    more = write(store, [b"more"]) + write(store, [b"even more"], "dag-cbor")
    reader = PackCAS(store)
    assert reader.load_many([*more, *cids]) == [b"more", b"even more", *(b"value %d" % i for i in range(5))]
    reader.finish()
    [index] = (store / "index").iterdir()
    with opened_files(".car") as opened:
        assert PackCAS(store).load_many(more) == [b"more", b"even more"]
    assert len(opened) <= 2
    reader.finish()
    assert list((store / "index").iterdir()) == [index]


def test_a_small_addition_to_a_large_store_leaves_the_index_as_it_is(store: Path) -> None:
    """Else a day that is appended to many years would cost all of them."""
    cids = many_packs(store, 100)
    PackCAS(store).finish()
    [index] = (store / "index").iterdir()
    added = []
    for day in range(4):
        added += write(store, [b"day %d" % day])
        PackCAS(store).finish()
    assert list((store / "index").iterdir()) == [index]
    assert PackCAS(store).has_many([*cids, *added]) == [True] * 104
    added += write(store, [b"%d" % day for day in range(20)])
    PackCAS(store).finish()
    assert list((store / "index").iterdir()) != [index]
    assert PackCAS(store).has_many([*cids, *added]) == [True] * 124


def test_files_do_not_stay_open(store: Path) -> None:
    before = open_descriptors()
    cids = many_packs(store, 1000)
    cas = PackCAS(store)
    for _ in range(2):
        assert cas.load_many(cids) == [b"value %d" % i for i in range(1000)]
        assert open_descriptors() <= before + archive.MAX_OPEN_FILES + 2
    cas.finish()
    assert PackCAS(store).has_many(cids) == [True] * 1000
    cas.close()
    assert open_descriptors() <= before + 2


def test_a_forgotten_writer_leaves_nothing(store: Path) -> None:
    before = open_descriptors()
    writer = PackCAS(store).writer()
    writer.save(b"value")
    assert len(list((store / "tmp").iterdir())) == 1
    del writer
    assert list((store / "tmp").iterdir()) == []
    assert open_descriptors() == before


def test_one_batch_written_twice_is_one_pack(store: Path) -> None:
    values = [b"%d" % i for i in range(10)]
    assert write(store, values) == write(store, values)
    assert len(packs(store)) == 1
    write(store, values[::-1])
    assert len(packs(store)) == 2


def test_two_processes_write_the_same_batch(store: Path) -> None:
    code = (
        "cas = PackCAS(sys.argv[1])\n"
        "sys.stdin.readline()\n"
        "for n in range(20):\n"
        "  with cas.writer() as w:\n"
        "    for i in range(100): w.save(b'%d %d' % (n, i))\n"
        "    w.flush()\n"
        "cas.finish()\n"
        "print(cas.has_many([w.save(b'0 0')]))"
    )
    pipe = subprocess.PIPE
    writers = [
        subprocess.Popen(command(code, store), stdin=pipe, stdout=pipe, stderr=pipe, text=True)
        for _ in range(2)
    ]
    for writer in writers:  # both have imported what they need, or soon have
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for writer in writers:
        assert writer.communicate(timeout=100) == ("[True]\n", "")
    assert len(packs(store)) < 20
    cids = [cid_of(b"%d %d" % (n, i)) for n in range(20) for i in range(100)]
    assert PackCAS(store).has_many(cids) == [True] * 2000


def test_a_large_writer_starts_another_pack(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packfile, "MAX_PACK_BYTES", 10_000)
    values = [bytes([i]) * 3000 for i in range(20)]
    with PackCAS(store).writer() as writer:
        cids = [writer.save(value) for value in values]
        assert writer.flush() == Receipt(20, 60_000)
    assert len(packs(store)) == 5
    assert PackCAS(store).load_many(cids) == values


# What `save` was given


async def test_saves_become_packs_by_themselves(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packfile, "IMPLICIT_PACK_BYTES", 10_000)
    cas = PackCAS(store)
    values = [bytes([i]) * 3000 for i in range(20)]
    cids = [await cas.save(value, "raw") for value in values]
    assert cas.load_many(cids) == values
    assert PackCAS(store).has_many(cids[:10]) == [True] * 10
    assert cas.size_many(cids) == [3000] * 20
    assert cas.flush() == Receipt(20, 60_000)
    assert PackCAS(store).load_many(cids) == values


def test_saves_are_durable_when_the_object_goes(store: Path) -> None:
    cas = PackCAS(store)
    cid = asyncio.run(cas.save(b"value", "raw"))
    del cas
    gc.collect()  # asyncio leaves a cycle around it
    assert PackCAS(store).load_many([cid]) == [b"value"]


def test_saves_are_durable_at_the_exit(store: Path) -> None:
    code = "import asyncio\ncas = PackCAS(sys.argv[1])\nprint(bytes(asyncio.run(cas.save(b'value', 'raw'))).hex())"
    cid = bytes.fromhex(run(code, store))
    assert PackCAS(store).load_many([cid]) == [b"value"]
    assert list((store / "tmp").iterdir()) == []


def test_blocks_that_wait_are_compared_with_their_cids(store: Path) -> None:
    cas = PackCAS(store)
    cas._implicit_writer().save_many([Block(ABSENT, b"something else")])
    with pytest.raises(BlockMismatch):
        cas.load_many([ABSENT])


# The folder


def test_reading_creates_nothing(store: Path) -> None:
    cas = PackCAS(store)
    with pytest.raises(BlockNotFound, match="there is no such folder"):
        cas.load_many([ABSENT])
    assert cas.has_many([ABSENT]) == [False]
    cas.finish()
    cas.flush()
    cas.close()
    assert not store.exists()


def test_a_folder_with_other_things_is_refused(store: Path) -> None:
    store.mkdir()
    (store / "thesis.tex").write_text("years of work")
    for call in (PackCAS(store).writer, lambda: PackCAS(store).load_many([ABSENT])):
        with pytest.raises(InvalidInput, match="a folder with other things"):
            call()
    assert [path.name for path in store.iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("there", [[], ["lost+found"], ["tmp", "packs"], ["journals"]])
def test_an_empty_folder_becomes_a_store(store: Path, there: list[str]) -> None:
    for name in there:
        (store / name).mkdir(parents=True)
    cids = write(store, [b"value"])
    assert PackCAS(store).load_many(cids) == [b"value"]


@pytest.mark.parametrize("found", [b"hamt_bulk pack store 2\n", b"", b"\xff\xfe\x00", b"x" * 10_000])
def test_another_format_is_refused(store: Path, found: bytes) -> None:
    write(store, [b"value"])
    (store / "format").write_bytes(found)
    for call in (PackCAS(store).writer, lambda: PackCAS(store).load_many([ABSENT])):
        with pytest.raises(InvalidInput, match=r"format says .*expected 'hamt_bulk pack store 1'"):
            call()


async def test_a_file_in_place_of_the_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("text")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        cas = PackCAS(path)
        for call in (cas.writer, lambda cas=cas: cas.load_many([ABSENT]), cas.announce):
            with pytest.raises(CASError, match="choose another folder"):
                call()
        with pytest.raises(CASError, match="choose another folder"):
            await cas.save(b"value", "raw")
        assert cas.flush() == Receipt()
    assert (tmp_path / "file").read_text() == "text"


def test_folders_that_were_cleaned_away_come_back(store: Path) -> None:
    """Copies leave out empty folders."""
    cids = many_packs(store, 2)
    for name in ("tmp", "index", "packs/nodes"):
        (store / name).rmdir()
    cids += write(store, [b"more"])
    PackCAS(store).finish()
    (store / "tmp").rmdir()
    for path in (store / "index").iterdir():
        path.unlink()
    (store / "index").rmdir()
    PackCAS(store).finish()
    assert PackCAS(store).load_many(cids) == [b"value 0", b"value 1", b"more"]


def test_what_is_absent_names_the_folder(store: Path) -> None:
    write(store, [b"value"])
    with pytest.raises(BlockNotFound, match=f"{text(ABSENT)} in {store}: its 1 packs do not hold it"):
        PackCAS(store).load_many([ABSENT])


def test_workers_know_the_folder_of_the_driver(store: Path, tmp_path: Path) -> None:
    token = PackCAS(store).announce()
    PackCAS(store).preflight(token)
    for elsewhere in (tmp_path / "elsewhere", store):
        with pytest.raises(CASError, match="not the folder that the driver sees"):
            PackCAS(elsewhere).preflight(token if elsewhere != store else "another token")
    PackCAS(store).retract(token)
    PackCAS(store).retract(token)
    with pytest.raises(CASError):
        PackCAS(store).preflight(token)
    assert list((store / "tmp").iterdir()) == []


@pytest.mark.parametrize(("size", "count", "limit"), [(1024, 4000, 1.09), (4096, 1000, 1.02)])
def test_a_store_is_little_larger_than_its_blocks(store: Path, size: int, count: int, limit: float) -> None:
    write(store, [i.to_bytes(4, "big") * (size // 4) for i in range(count)], "dag-cbor")
    write(store, [i.to_bytes(4, "big") * (size // 4) for i in range(count)])
    files = [path for path in store.rglob("*") if path.is_file()]
    assert len(files) == 3
    assert sum(path.stat().st_size for path in files) <= limit * 2 * size * count


def test_threads_that_miss_together_all_find_a_new_pack(store):
    """One of them takes the pack in; the others, who find nothing new after that, look again all the same."""
    readers, reader = 8, PackCAS(store)
    with ThreadPoolExecutor(readers) as threads:
        for number in range(60):
            [cid] = write(store, [b"%d" % number])
            barrier = Barrier(readers)

            def read(cid: bytes = cid, barrier: Barrier = barrier) -> bytes:
                barrier.wait()
                return reader.load_many([cid])[0]

            for found in [threads.submit(read) for _ in range(readers)]:
                assert found.result() == b"%d" % number
