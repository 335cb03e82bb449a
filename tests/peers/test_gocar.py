"""go-car and we read each other's files, and write the same index."""

import os
import shutil
import subprocess
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest
from test_car import assert_lists, contents, payload, sections, version_2

from hamt_bulk.block import DAG_CBOR, RAW, Block, identify, varint, verify
from hamt_bulk.car import read_header
from hamt_bulk.car_index import decode_index, encode_index, index_sections

SOURCE = Path(__file__).parent / "gocar"


@pytest.fixture(scope="module")
def gocar() -> Callable[..., bytes]:
    """go-car in a few lines; without it the test is skipped, or fails where HAMT_BULK_REQUIRE_PEERS is 1."""
    try:
        command = built()
    except (OSError, subprocess.SubprocessError) as error:
        why = f"go-car cannot be built: {error} {getattr(error, 'stderr', None) or ''}"
        if os.environ.get("HAMT_BULK_REQUIRE_PEERS") == "1":
            pytest.fail(f"HAMT_BULK_REQUIRE_PEERS is 1, and {why}", pytrace=False)
        pytest.skip(why)
    return lambda *args: subprocess.run([command, *args], check=True, capture_output=True, timeout=60).stdout


def built() -> str:
    """Where go keeps the binary. The first build downloads its modules."""
    if shutil.which("go") is None:
        raise FileNotFoundError("go is not installed")
    command = ["go", "tool", "-n", "gocar"]
    done = subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, timeout=600, check=True)
    return done.stdout.strip()


def test_go_car_reads_our_files_and_writes_the_same_index(
    gocar: Callable[..., bytes], tmp_path: Path
) -> None:
    """Two hash codes and many entries; go-car hashes each block and finds it through our index."""
    blocks = [
        Block(identify(data, codec, hasher), data)
        for i in range(3000)
        for data, codec, hasher in [
            (varint(i) * (i % 70), RAW if i % 3 else DAG_CBOR, ["blake3", "sha2-256"][i % 2])
        ]
    ]
    distinct = list({block.cid[2:]: block for block in blocks}.values())
    file = version_2(payload(distinct, [distinct[0].cid]))
    path = tmp_path / "ours.car"
    path.write_bytes(file)
    index_offset = read_header(BytesIO(file)).index_offset
    assert gocar("index", path) == file[index_offset:]
    said = f"version=2 roots=1 blocks={len(distinct)} index=car-multihash-index-sorted\n"
    assert gocar("check", path).decode() == said


@pytest.mark.parametrize("unfinished", [False, True])
def test_files_of_go_car_are_read(gocar: Callable[..., bytes], tmp_path: Path, unfinished: bool) -> None:
    path = tmp_path / "theirs.car"
    gocar("create", path, "200", *["unfinished"] * unfinished)
    file = path.read_bytes()
    header, found = sections(file)
    assert (header.version, header.finished, len(found)) == (2, not unfinished, 200)
    assert header.roots == (found[0].cid,)
    for cid, data in contents(file):
        verify(cid, data)
    if not unfinished:
        assert header.index_offset is not None
        index = decode_index(file[header.index_offset :], header.data_size)
        assert_lists(index, found)
        assert encode_index(index) == encode_index(index_sections(found)) == file[header.index_offset :]
