"""`copy` of files, and of blocks and names that only some stores can take."""

from pathlib import Path

import pytest
from copied import LONG, Kept, blocks_of, empty, foreign, put, raw, reachable, tree_of
from stored import in_tree

from hamt_bulk import CarCAS, InMemoryCAS, PackCAS, build, check, copy, unixfs
from hamt_bulk.block import DAG_PB, Block, identify, text
from hamt_bulk.cas.wrap import VerifyingCAS
from hamt_bulk.errors import BlockMismatch, InvalidInput


def test_files_are_copied_as_they_were_split(tmp_path: Path) -> None:
    """By whomever, into levels upon levels, under CIDs of either version."""
    data = bytes(range(256)) * 2
    file, blocks = unixfs.split(data, "sha2-256", leaf_bytes=7, max_links=3)
    for pointer in (file, file[2:]):
        source = InMemoryCAS()
        put(source, [*blocks[:-1], Block(pointer, blocks[-1].data)])
        root = tree_of(source, pointer)
        copy(root, source, target := PackCAS(tmp_path / text(root)))
        copy(root, target, tmp_path / f"{text(root)}.car")
        copy(root, tmp_path / f"{text(root)}.car", memory := InMemoryCAS())
        assert memory.blocks == source.blocks
        assert in_tree(root, target) == {"k": data}


@pytest.mark.parametrize("pointer", [lambda cid: cid, lambda cid: cid[2:]], ids=["1", "0"])
def test_files_of_our_split_come_from_a_store_of_values_under_their_own_names(pointer) -> None:
    """Also under CIDs of version 0, where their hash is sha2-256."""
    data = LONG[: 2 << 20]
    file, _ = unixfs.split(data, "sha2-256")
    source = Kept("sha2-256")
    source.values[pointer(file)] = data
    root = tree_of(memory := InMemoryCAS("sha2-256"), pointer(file))
    source.values |= memory.blocks
    copy(root, source, target := InMemoryCAS())
    assert in_tree(root, target) == {"k": data}
    assert pointer(file) in target.blocks


def test_files_that_were_split_otherwise_need_stores_of_blocks() -> None:
    file, blocks = foreign(bytes(200))
    put(source := InMemoryCAS(), blocks)
    root = tree_of(source, file)
    with pytest.raises(InvalidInput, match=rf"{text(file)} cannot be copied to .*Kept.*PackCAS"):
        copy(root, source, Kept())
    values = Kept()
    values.values = {root: source.blocks[root], file: bytes(200)}
    with pytest.raises(BlockMismatch, match=rf"file {text(file)}: its 200 bytes, split at 1 MiB"):
        copy(root, values, InMemoryCAS())
    believed = Kept()
    believed.values = dict(values.values)
    believed.verifies = True
    with pytest.raises(BlockMismatch, match=rf"file {text(file)}: .* gives it only whole"):
        copy(root, believed, target := InMemoryCAS())
    assert target.blocks == {}


def test_folders_of_files_are_copied() -> None:
    """As values they cannot be read, but nothing is lost of them either, also where links are of version 0."""
    file, blocks = unixfs.split(b"some text", "sha2-256", leaf_bytes=2, max_links=3)
    file = file[2:]
    blocks[-1] = Block(file, blocks[-1].data)
    link = b"\x0a" + bytes([len(file)]) + file + b"\x12\x01f"
    folder = b"\x12" + bytes([len(link)]) + link + b"\x0a\x02\x08\x01"
    put(source := InMemoryCAS(), [*blocks, Block(identify(folder, DAG_PB), folder)])
    root = tree_of(source, identify(folder, DAG_PB))
    copy(root, source, target := InMemoryCAS())
    assert target.blocks == source.blocks


@pytest.mark.parametrize("to", ["memory", "pack", "car"])
def test_names_are_kept_whatever_the_hasher_of_the_target(to: str, tmp_path: Path) -> None:
    source = InMemoryCAS("sha2-256")
    root = build({"a": b"1", "long": LONG}, source)
    target = empty(to, tmp_path)
    copy(root, source, target)
    assert blocks_of(target) == source.blocks
    opened = CarCAS(target) if isinstance(target, Path) else target
    assert check(root, opened).ok


def test_a_store_that_names_values_itself_takes_none_under_other_names() -> None:
    root = build({"a": b"1"}, source := InMemoryCAS("sha2-256"))
    target = Kept("blake3")
    with pytest.raises(InvalidInput, match=rf"whose `save` calls these 1 bytes {text(identify(b'1'))}"):
        copy(root, source, target)
    assert target.values == {}
    copy(root, source, same := Kept("sha2-256"))
    assert check(root, same).ok


def test_blocks_that_others_make_are_taken_by_stores_of_blocks(tmp_path: Path) -> None:
    """A raw block above 1 MiB, and a codec that we do not know."""
    large = raw(bytes(3 << 19))
    odd = Block(bytes.fromhex("01a9021e20") + identify(b"{}")[4:], b"{}")
    put(source := InMemoryCAS(), [large, odd])
    one, other = tree_of(source, large.cid), tree_of(source, odd.cid)
    for number, root in enumerate((one, other)):
        copy(root, source, target := PackCAS(tmp_path / f"{number}"))
        copy(root, source, tmp_path / f"{number}.car")
        for cas in (target, tmp_path / f"{number}.car"):
            assert blocks_of(cas).keys() == reachable(root, source.blocks)
    with pytest.raises(InvalidInput, match=f"{text(large.cid)} cannot be copied"):
        copy(one, source, Kept())
    with pytest.raises(InvalidInput, match=rf"{text(odd.cid)} cannot be copied .* nothing it knows"):
        copy(other, source, Kept())


def test_stores_that_were_wrapped_are_what_they_are(tmp_path: Path) -> None:
    """Files come in blocks, and go in blocks."""
    file, blocks = foreign(bytes(200))
    put(source := InMemoryCAS(), blocks)
    root = tree_of(source, file)
    target = InMemoryCAS()
    copy(root, VerifyingCAS(source), VerifyingCAS(target))
    assert target.blocks == source.blocks
    with pytest.raises(InvalidInput, match="Kept"):
        copy(root, source, VerifyingCAS(Kept()))
    copy(root, source, tmp_path / "file.car")
    assert copy(None, VerifyingCAS(CarCAS(tmp_path / "file.car")), InMemoryCAS()).root == text(root)
