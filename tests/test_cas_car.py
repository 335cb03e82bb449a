"""One CAR file as a store."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from car_files import unfinished, version_1, version_2, version_2_without_index

from hamt_bulk import unixfs
from hamt_bulk.block import CODECS, DAG_PB, SHA2_256, Block, identify, parse, text, to_cid
from hamt_bulk.cas import CarCAS, PackCAS
from hamt_bulk.cas.base import blocks_of
from hamt_bulk.errors import BlockMismatch, BlockNotFound, CASError, InvalidInput, ReadOnly
from hamt_bulk.testing.contract import LARGE, ReadContract, Value, cid_of

LAYOUTS = [version_1, version_2, version_2_without_index, unfinished]


def damage(path: Path, cid: bytes) -> None:
    """Flips a bit of the first byte of a block's data."""
    data = path.read_bytes()
    at = data.index(cid) + len(cid)
    with path.open("r+b") as file:
        file.seek(at)
        file.write(bytes([data[at] ^ 1]))


class CarContract(ReadContract):
    layout: Callable[[Sequence[Block]], bytes]

    def holding(self, folder: Path, stored: Sequence[Value]) -> CarCAS:
        folder.mkdir(exist_ok=True)
        blocks: dict[bytes, Block] = {}
        for value, codec in stored:
            blocks.update((block.cid, block) for block in blocks_of(value, codec, "blake3")[1])
        path = folder / "file.car"
        path.write_bytes(type(self).layout(list(blocks.values())))
        return CarCAS(path)

    def corrupt(self, cas: CarCAS, cid: bytes) -> None:
        damage(cas.path, cid)


class TestCarV1(CarContract):
    layout = version_1


class TestCarV2(CarContract):
    layout = version_2


class TestCarV2Unfinished(CarContract):
    layout = unfinished


BLOCKS = [Block(identify(b"block %d" % i), b"block %d" % i) for i in range(9)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.car"


def test_a_pack_is_a_car_file(tmp_path: Path) -> None:
    with PackCAS(tmp_path / "store").writer() as writer:
        cids = [writer.save(b"value"), writer.save(LARGE)]
        writer.flush()
    [pack] = (tmp_path / "store/packs/values").iterdir()
    assert CarCAS(pack).load_many(cids) == [b"value", LARGE]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_roots_are_those_of_the_header(path: Path, layout: Callable[..., bytes]) -> None:
    roots = [BLOCKS[2].cid, BLOCKS[0].cid]
    path.write_bytes(layout(BLOCKS, roots))
    assert CarCAS(path).roots == list(map(to_cid, roots))


async def test_writing_is_refused(path: Path) -> None:
    path.write_bytes(version_2(BLOCKS))
    before = path.read_bytes()
    cas = CarCAS(path)
    with pytest.raises(ReadOnly, match="PackCAS"):
        cas.writer()
    with pytest.raises(ReadOnly, match="PackCAS"):
        await cas.save(b"value", "raw")
    cas.flush()
    cas.finish()
    assert path.read_bytes() == before


def test_a_file_that_is_missing_is_named(path: Path) -> None:
    cas = CarCAS(path)
    with pytest.raises(CASError, match=r"file\.car: there is no such file"):
        cas.load_many([BLOCKS[0].cid])
    path.write_bytes(version_2(BLOCKS))
    assert cas.load_many([BLOCKS[0].cid]) == [b"block 0"]


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CASError, match="it is a folder"):
        CarCAS(tmp_path).load_many([BLOCKS[0].cid])


@pytest.mark.parametrize("data", [b"", b"\0" * 100, b"not a CAR file at all", b"\x89HDF\r\n\x1a\n"], ids=len)
def test_what_is_no_car_is_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match=r"file\.car is not a CAR file"):
        CarCAS(path).load_many([BLOCKS[0].cid])


def test_a_file_that_was_replaced_is_read_anew(path: Path) -> None:
    """By the object that has read the old one, and by one that comes after."""
    path.write_bytes(version_2(BLOCKS[:3]))
    cas = CarCAS(path)
    assert cas.load_many([BLOCKS[0].cid]) == [b"block 0"]
    for blocks in (BLOCKS[3:], BLOCKS[:1] + BLOCKS[4:]):
        new = path.with_suffix(".new")
        new.write_bytes(version_2(blocks))
        os.replace(new, path)
        for reader in (cas, CarCAS(path)):
            assert reader.load_many([block.cid for block in blocks]) == [block.data for block in blocks]
    assert cas.has_many([BLOCKS[1].cid]) == [False]
    with pytest.raises(BlockNotFound):
        cas.load_many([BLOCKS[1].cid])


def test_a_second_copy_is_read_when_the_first_is_damaged(path: Path) -> None:
    path.write_bytes(version_2([*BLOCKS, *BLOCKS]))
    damage(path, BLOCKS[4].cid)
    assert CarCAS(path).load_many([block.cid for block in BLOCKS]) == [block.data for block in BLOCKS]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_of_a_file_cut_short_the_whole_blocks_are_served(path: Path, layout: Callable[..., bytes]) -> None:
    whole = layout(BLOCKS)
    for cut in range(100, len(whole), 23):
        path.write_bytes(whole[:cut])
        cas = CarCAS(path)
        for block in BLOCKS:
            end = whole.index(block.cid) + len(block.cid) + len(block.data)
            if end <= cut:
                assert cas.load_many([block.cid]) == [block.data]
            else:
                with pytest.raises((BlockNotFound, BlockMismatch), match=r"file\.car"):
                    cas.load_many([block.cid])


def test_other_peoples_cids_are_served(path: Path) -> None:
    """CIDv0, and the same block under another codec: a block is its multihash."""
    root, blocks = unixfs.split(bytes(100), "sha2-256", leaf_bytes=10)
    parts = parse(root)
    assert (parts.codec, parts.hash_code) == (DAG_PB, SHA2_256)
    version_0 = [Block(cid[2:] if parse(cid).codec == DAG_PB else cid, data) for cid, data in blocks]
    path.write_bytes(version_1(version_0))
    cas = CarCAS(path)
    assert cas.load_many([root, root[2:]]) == [bytes(100)] * 2
    assert cas.load_range(root[2:], 5, 25) == bytes(20)
    as_cbor = bytes([1, CODECS["dag-cbor"]]) + blocks[0].cid[2:]
    assert cas.load_many([as_cbor]) == [bytes(10)]


def test_the_token_changes_with_the_file(path: Path) -> None:
    path.write_bytes(version_2(BLOCKS))
    before = CarCAS(path).__dask_tokenize__()
    os.utime(path, ns=(1, 1))
    assert CarCAS(path).__dask_tokenize__() != before
    path.unlink()
    with pytest.raises(CASError, match="no such file"):
        CarCAS(path).__dask_tokenize__()


def test_what_is_absent_names_the_file(path: Path) -> None:
    path.write_bytes(version_2(BLOCKS))
    absent = identify(b"absent")
    with pytest.raises(BlockNotFound, match=rf"{text(absent)} in .*file\.car: it has 9 others"):
        CarCAS(path).load_many([absent])
    assert cid_of(b"block 0") == BLOCKS[0].cid
