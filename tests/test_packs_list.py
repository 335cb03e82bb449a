"""`packs`: what there is in a store, as far as indexes and headers show."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from packs_made import HOUR, alter, blocks_in, write

from hamt_bulk.cas import PackCAS
from hamt_bulk.errors import InvalidInput
from hamt_bulk.packs import packs
from hamt_bulk.packs.temporary import Temporary, is_left, temporary_files


def test_every_pack_is_listed_with_what_it_holds(store: Path) -> None:
    [values] = write(store, [b"one", b"two"])
    [nodes] = write(store, [b"node"], "dag-cbor")
    before = time.time()
    os.utime(values, (before - HOUR, before - HOUR))
    listing = packs(store)
    assert [(pack.name, pack.kind, pack.blocks, pack.bytes, pack.damage) for pack in listing.packs] == [
        (f"nodes/{nodes.name}", "nodes", 1, nodes.stat().st_size, None),
        (f"values/{values.name}", "values", 2, values.stat().st_size, None),
    ]
    assert abs(listing.packs[1].written - before + HOUR) < 1
    assert (listing.blocks, listing.bytes) == (3, nodes.stat().st_size + values.stat().st_size)
    assert f"values/{values.name}  sound" in str(listing)
    assert "2 packs: 3 blocks, " in str(listing)


def test_what_index_and_headers_show_of_damage_is_said(store: Path) -> None:
    names = {}
    for number in range(4):
        [names[number]] = write(store, [b"value %d %d" % (number, part) for part in range(5)])
    os.truncate(names[0], names[0].stat().st_size // 2)
    alter(names[1], names[1].stat().st_size - 5 * 40 - 28)  # how many hash codes its index has
    alter(names[2], 12)
    # A block is not looked at.
    alter(names[3], min(blocks_in(names[3]).values())[0])
    damage = {pack.name.removeprefix("values/"): pack.damage for pack in packs(store).packs}
    assert damage[names[0].name].startswith("CARv2 ")
    assert "CAR index" in damage[names[1].name]
    assert damage[names[2].name] == "its header does not say where payload and index are"
    assert damage[names[3].name] is None
    assert "3 packs damaged: --verify shows what is lost" in str(packs(store))


def test_an_empty_store_and_one_without_its_empty_folders_are_stores(store: Path) -> None:
    PackCAS(store).writer().close()
    for folder in ("packs/nodes", "packs/values", "packs", "index", "tmp"):
        assert packs(store).packs == ()
        (store / folder).rmdir()
    assert str(packs(store)) == "0 packs: 0 blocks, 0 B"


def test_what_is_no_store_is_refused_and_not_made(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="there is no pack store"):
        packs(tmp_path / "nowhere")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InvalidInput, match="other things in it"):
        packs(tmp_path)


# Files in tmp/.

WRITING = """
import sys
from hamt_bulk.cas import PackCAS
writer = PackCAS(sys.argv[1]).writer()
writer.save(b"value")
print("written", flush=True)
sys.stdin.read()
"""


def test_files_of_running_and_of_dead_writers_are_told_apart(store: Path) -> None:
    PackCAS(store).writer().close()
    process = subprocess.Popen(
        [sys.executable, "-c", WRITING, str(store)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdin is not None
    with process.stdout, process.stdin:
        assert process.stdout.readline() == b"written\n"
        [file] = temporary_files(store)
        assert file.writer == "running"
        assert f"tmp/{file.name}  its writer is running" in str(packs(store))
        process.send_signal(signal.SIGKILL)
        process.wait()
    [file] = packs(store).temporary
    assert file.writer == "gone"
    assert file.bytes > 5


def test_a_process_that_was_given_the_number_later_is_not_the_writer(store: Path) -> None:
    PackCAS(store).writer().close()
    own = store / "tmp" / f"{socket.gethostname()}-{os.getpid()}-{'0' * 16}"
    own.touch()
    [file] = temporary_files(store)
    assert file.writer == "running"
    os.utime(own, (10_000, 10_000))
    [file] = temporary_files(store)
    assert file.writer == "gone"


def test_files_of_other_hosts_and_of_nobody_are_said_to_be(store: Path) -> None:
    PackCAS(store).writer().close()
    (store / "tmp" / f"some-other-host-1-{'a' * 16}").touch()
    (store / "tmp" / "preflight-0123456789abcdef").touch()
    assert [file.writer for file in temporary_files(store)] == ["unknown", "on another host"]


@pytest.mark.parametrize(
    ("writer", "age", "left"),
    [
        ("running", 100, False),
        ("gone", 1, False),
        ("gone", 24, True),
        ("on another host", 23, False),
        ("on another host", 24, True),
        ("unknown", 25, True),
    ],
)
def test_a_file_is_left_when_it_is_old_and_its_writer_does_not_run(writer, age: int, left: bool) -> None:
    assert is_left(Temporary("x", 0, 0.0, writer), age * HOUR, 24 * HOUR) == left
