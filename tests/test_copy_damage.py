"""`copy` of what is missing, damaged or no tree: it is named, and nothing is made of it."""

from pathlib import Path

import libipld
import pytest
from car_files import version_1
from checked import put as put_node
from copied import (
    BLOCKS,
    ITEMS,
    LONG,
    ROOT,
    WHOLE,
    Kept,
    assert_no_holes,
    holding,
    put,
    raw,
    reachable,
    tree_of,
)

from hamt_bulk import CarCAS, InMemoryCAS, PackCAS, build, copy, unixfs
from hamt_bulk.block import DAG_PB, Block, identify, parse, text, to_bytes
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.errors import BlockMismatch, BlockNotFound, CASError, InvalidInput, MalformedNode
from hamt_bulk.layout import WIDTH
from hamt_bulk.roots.copy import MAX_LEVELS


@pytest.mark.parametrize("of", ["memory", "pack", "values", "car"])
def test_each_block_that_is_missing_in_the_source_is_named(of: str, tmp_path: Path) -> None:
    full = holding(of, tmp_path) if of == "values" else InMemoryCAS()
    leaf = identify(LONG[1 << 20 : 2 << 20])
    file, _ = unixfs.split(LONG, "blake3")
    node = next(cid for cid in BLOCKS if parse(cid).codec == 0x71 and cid != ROOT)
    lost = [ROOT, node, identify(b"value 8"), file] + [leaf] * (of != "values")
    for number, cid in enumerate(lost):
        rest = [Block(*block) for block in BLOCKS.items() if block[0] != cid]
        source: ContentAddressedStore
        match of:
            case "memory":
                put(source := InMemoryCAS(), rest)
            case "pack":
                put(source := PackCAS(tmp_path / f"{number}"), rest)
            case "car":
                (tmp_path / f"{number}.car").write_bytes(version_1(rest))
                source = CarCAS(tmp_path / f"{number}.car")
            case _:
                source = Kept()
                source.values = {name: value for name, value in full.values.items() if name != cid}
        target = InMemoryCAS()
        with pytest.raises(BlockNotFound) as raised:
            copy(ROOT, source, target)
        assert f"the source, {source!r}, lacks {text(cid)}" in str(raised.value)
        assert ROOT not in target.blocks
        assert_no_holes(target.blocks, {name: reachable(name, BLOCKS) for name in target.blocks})


def test_a_leaf_that_is_missing_for_a_store_of_values_is_named() -> None:
    source = InMemoryCAS()
    leaf = identify(LONG[1 << 20 : 2 << 20])
    source.blocks |= {cid: data for cid, data in BLOCKS.items() if cid != leaf}
    file, _ = unixfs.split(LONG, "blake3")
    with pytest.raises(BlockNotFound, match=f"lacks {text(file)}, or a block of it: .*{text(leaf)}"):
        copy(ROOT, source, Kept())


@pytest.mark.parametrize("of", ["memory", "values"])
def test_each_block_that_is_damaged_in_the_source_is_named_and_not_copied(of: str) -> None:
    build(ITEMS, values := Kept())
    file, _ = unixfs.split(LONG, "blake3")
    node = next(cid for cid in BLOCKS if parse(cid).codec == 0x71 and cid != ROOT)
    leaf = identify(LONG[1 << 20 : 2 << 20])
    for cid in [ROOT, node, identify(b"value 8"), file] + [leaf] * (of == "memory"):
        source = InMemoryCAS() if of == "memory" else Kept()
        stored = source.blocks if of == "memory" else source.values
        stored |= BLOCKS if of == "memory" else values.values
        stored[cid] = stored[cid][:-1] + bytes([stored[cid][-1] ^ 1])
        target = InMemoryCAS()
        with pytest.raises(BlockMismatch, match=text(cid)):
            copy(ROOT, source, target)
        assert cid not in target.blocks
        assert ROOT not in target.blocks


class Broken(Kept):
    """Raises what zarr would take for a chunk that is not there."""

    async def load(self, id, *args, **kwargs):
        raise FileNotFoundError("gone")


def test_what_a_users_store_raises_is_one_of_ours() -> None:
    with pytest.raises(CASError, match="Broken could not load"):
        copy(ROOT, Broken(), InMemoryCAS())
    with pytest.raises(CASError, match="Broken could not load"):
        copy(ROOT, WHOLE, Broken())


def test_what_is_no_tree_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    source = InMemoryCAS()
    put(source, [raw(b"value")])
    codec_and_list = Block(identify(b"\x82\x41a\x80", 0x71), b"\x82\x41a\x80")
    put(source, [codec_and_list])
    for root, said in ((identify(b"value"), "is not"), (codec_and_list.cid, "child node of an IPLD HashMap")):
        with pytest.raises(MalformedNode, match=said):
            copy(root, source, tmp_path / "target")
    with pytest.raises(InvalidInput, match="not a CID"):
        copy("root", source, tmp_path / "target")
    with pytest.raises(BlockNotFound, match="lacks"):
        copy(identify(b"absent", 0x71), source, tmp_path / "target")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("slot, said", [({"k": b"xyz"}, "the value of 'k'"), ([b"xyz"], "a child")])
def test_links_that_are_no_cids_are_named(slot: object, said: str) -> None:
    slots = [{} for _ in range(WIDTH - 1)] + [slot]
    data = libipld.encode_dag_cbor(slots)
    put(source := InMemoryCAS(), [Block(root := identify(data, 0x71), data)])
    with pytest.raises(MalformedNode, match=rf"{text(root)}: {said} is not a CID: 78797a"):
        copy(root, source, InMemoryCAS())


def test_a_damaged_file_node_is_named() -> None:
    bad = Block(identify(b"\xff\xff", DAG_PB), b"\xff\xff")
    put(source := InMemoryCAS(), [bad])
    with pytest.raises(MalformedNode, match=text(bad.cid)):
        copy(tree_of(source, bad.cid), source, InMemoryCAS())


def test_links_that_multiply_are_not_followed_for_ever() -> None:
    """Each of 31 levels links the next one 256 times: 256 ** 31 ways to one key."""
    cas = InMemoryCAS()
    node = put_node(cas, {7: {"k": to_bytes(build({}, cas))}})
    for _ in range(31):
        node = put_node(cas, [node] * WIDTH)
    copy(node, cas, target := InMemoryCAS())
    assert target.blocks == cas.blocks


def test_levels_without_end_are_refused() -> None:
    cas = InMemoryCAS()
    node = put_node(cas, {7: {"k": to_bytes(build({}, cas))}})
    for number in range(MAX_LEVELS - 1):
        node = put_node(cas, {number: node})
    copy(node, cas, target := InMemoryCAS())
    assert target.blocks == cas.blocks
    with pytest.raises(MalformedNode, match=f"below {MAX_LEVELS} levels of nodes"):
        copy(put_node(cas, {0: node}), cas, InMemoryCAS())
