"""`copy`: what the target lacks and nothing else, children first, from and to every kind of store."""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import libipld
import pytest
from car_files import version_1
from copied import (
    ITEMS,
    LONG,
    Kept,
    Shuffling,
    Small,
    assert_no_holes,
    blocks_of,
    foreign,
    put,
    raw,
    reachable,
)
from multiformats import CID
from stored import in_tree
from test_integrity import put as put_node

from hamt_bulk import CarCAS, InMemoryCAS, PackCAS, build, check, copy, unixfs
from hamt_bulk.block import DAG_PB, RAW, Block, identify, parse, text, to_bytes, to_cid
from hamt_bulk.cas import ContentAddressedStore, LocalCAS
from hamt_bulk.cas.wrap import VerifyingCAS
from hamt_bulk.errors import BlockMismatch, BlockNotFound, CASError, InvalidInput, MalformedNode, ReadOnly
from hamt_bulk.layout import WIDTH
from hamt_bulk.manifest import blake3_hashfn
from hamt_bulk.progress import BuildProgress
from hamt_bulk.roots import transfer
from hamt_bulk.roots.copy import MAX_LEVELS
from hamt_bulk.roots.names import Names, Recent
from hamt_bulk.testing import Fail, FaultyCAS

WHOLE = InMemoryCAS()
ROOT = to_bytes(build(ITEMS, WHOLE))
BLOCKS = dict(WHOLE.blocks)
VALUES = {*map(identify, ITEMS.values())}

KINDS = ["memory", "pack", "values", "car"]


def holding(kind: str, folder: Path) -> ContentAddressedStore:
    """A store of this kind with the tree."""
    match kind:
        case "car":
            path = folder / "source.car"
            path.write_bytes(version_1([Block(*block) for block in BLOCKS.items()], [ROOT]))
            return CarCAS(path)
        case "pack":
            put(cas := PackCAS(folder / "source"), [Block(*block) for block in BLOCKS.items()])
            return cas
        case "values":
            build(ITEMS, cas := Kept())
            return cas
        case _:
            return WHOLE


def empty(kind: str, folder: Path) -> ContentAddressedStore | Path:
    """A store of this kind with nothing in it."""
    match kind:
        case "car":
            return folder / "target.car"
        case "pack":
            return PackCAS(folder / "target")
        case "values":
            return Kept()
        case _:
            return InMemoryCAS()


@pytest.mark.parametrize("to", KINDS)
@pytest.mark.parametrize("of", KINDS)
def test_a_copy_has_every_block_and_no_other(of: str, to: str, tmp_path: Path) -> None:
    source, target = holding(of, tmp_path), empty(to, tmp_path)
    copied = copy(ROOT, source, target)
    assert blocks_of(target) == BLOCKS
    opened = CarCAS(target) if isinstance(target, Path) else target
    assert check(ROOT, opened).ok
    assert in_tree(ROOT, opened) == ITEMS
    if to != "values":  # where a file is one block
        size = sum(map(len, BLOCKS.values()))
        assert (copied.root, copied.blocks, copied.copied_blocks) == (text(ROOT), len(BLOCKS), len(BLOCKS))
        assert copied.copied_bytes == size
        # A store of values gives files whole, all equal leaves of `zeros` included, and never their nodes.
        whole = (2 << 20) - sum(len(data) for cid, data in BLOCKS.items() if parse(cid).codec == DAG_PB)
        assert copied.bytes == size + whole * (of == "values")
    again = copy(ROOT, source, target)
    assert (again.copied_blocks, again.copied_bytes, again.blocks) == (0, 0, copied.blocks)


def test_the_reachable_blocks_are_those_that_a_build_made() -> None:
    """So the test above compares with the right ones."""
    some = {cid: data for cid, data in BLOCKS.items() if parse(cid).codec != RAW}
    assert reachable(ROOT, some) == some.keys()
    assert reachable(ROOT, BLOCKS) == BLOCKS.keys()
    assert len(some) > 5


@pytest.mark.parametrize("form", [text, to_cid, lambda root: f"ipfs://{text(root)}"])
def test_roots_and_stores_come_in_every_form(form: Callable[[bytes], object], tmp_path: Path) -> None:
    root = to_bytes(build({"a": b"1"}, str(tmp_path / "source")))
    copied = copy(form(root), str(tmp_path / "source"), tmp_path / "target")
    assert copied.root == text(root)
    assert in_tree(root, PackCAS(tmp_path / "target")) == {"a": b"1"}


class Reading(InMemoryCAS):
    """Knows which blocks were asked for, and how many at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.read: list[bytes] = []
        self.most = 0

    def read_blocks(self, cids):
        self.read += cids
        self.most = max(self.most, len(cids))
        return super().read_blocks(cids)


@pytest.mark.parametrize("to", KINDS)
def test_values_that_both_have_are_not_read(to: str, tmp_path: Path) -> None:
    source, target = Reading(), empty(to, tmp_path)
    build(ITEMS, source)
    copy(ROOT, source, target)
    source.read = []
    copy(ROOT, source, target)
    nodes = [cid for cid in BLOCKS if parse(cid).codec != RAW]
    files = [cid for cid in nodes if parse(cid).codec == DAG_PB]
    assert sorted(source.read) == sorted(set(nodes) - set(files) if to == "values" else nodes)


def test_files_that_both_have_are_not_read_from_a_store_of_values() -> None:
    """It could only give them whole, and the target knows of which blocks they are."""
    build(ITEMS, source := Kept())
    target = InMemoryCAS()
    copy(ROOT, source, target)
    long, _ = unixfs.split(LONG, "blake3")
    del source.values[long]
    assert copy(ROOT, source, target).copied_blocks == 0
    del target.blocks[identify(LONG[: 1 << 20])]
    with pytest.raises(BlockNotFound, match=text(long)):
        copy(ROOT, source, target)


def test_of_a_file_of_a_store_of_values_the_blocks_that_lack_are_copied(tmp_path: Path) -> None:
    build(ITEMS, source := Kept())
    long, split = unixfs.split(LONG, "blake3")
    for number, lost in enumerate((long, split[2].cid)):
        target = PackCAS(tmp_path / f"{number}")
        put(target, [Block(*block) for block in BLOCKS.items() if block[0] != lost])
        assert copy(ROOT, source, target).copied_blocks == 1
        assert blocks_of(target) == BLOCKS


def test_a_copy_of_an_appended_root_copies_what_is_new(tmp_path: Path) -> None:
    build(ITEMS, source := PackCAS(tmp_path / "source"))
    copy(ROOT, source, target := PackCAS(tmp_path / "target"))
    before = blocks_of(target)
    root = to_bytes(build({"air/c/new": b"new", "air/c/7": b"changed", "air/c/8": None}, source, base=ROOT))
    copied = copy(root, source, target)
    new = reachable(root, blocks_of(source)) - before.keys()
    assert blocks_of(target).keys() - before.keys() == new
    assert copied.copied_blocks == len(new) < 10
    assert check(root, target).ok


def test_a_copy_goes_where_another_one_was_begun() -> None:
    """A node that is there does not prove that what is below it is."""
    small = Small()
    for lost in small.cas.blocks:
        target = InMemoryCAS()
        target.blocks |= {cid: data for cid, data in small.cas.blocks.items() if cid != lost}
        copied = copy(small.root, small.cas, target)
        assert (copied.copied_blocks, copied.copied_bytes) == (1, len(small.cas.blocks[lost]))
        assert target.blocks == small.cas.blocks


def test_wherever_a_copy_is_interrupted_no_block_links_to_one_that_is_not_there() -> None:
    """The target may write the blocks of a flush in any order. A second call completes it."""
    small = Small()
    steps = 0
    while True:
        target = Shuffling()
        target.left = steps
        try:
            copy(small.root, small.cas, target)
        except CASError:
            steps += 1
        else:
            break
        assert_no_holes(target.blocks, small.below)
        assert small.root not in target.blocks
        target.left = None
        copy(small.root, small.cas, target)
        assert target.blocks == small.cas.blocks
    assert steps >= len(small.cas.blocks)


def test_wherever_a_copy_to_a_users_store_is_interrupted_no_block_links_to_one_that_is_not_there() -> None:
    small = Small()
    source = small.whole()
    below = {cid: {other for other in source.values if other in data} for cid, data in source.values.items()}
    steps = 0
    while True:
        target = FaultyCAS(kept := Kept(), Fail(on="save", nth=steps + 1, lasting=True))
        try:
            copy(small.whole_root, source, target)
        except CASError:
            steps += 1
        else:
            break
        assert_no_holes(kept.values, below)
        assert small.whole_root not in kept.values
        target.mend()
        copy(small.whole_root, source, target)
        assert kept.values == source.values
    assert steps == len(source.values)


def test_wherever_files_of_a_store_of_values_are_interrupted_their_nodes_have_their_leaves(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With nodes of two levels, and flushes in between."""
    data = [bytes(range(start, start + 45)) for start in range(0, 225, 45)]
    split, small = unixfs.split, {"leaf_bytes": 10, "max_links": 2}
    monkeypatch.setattr(unixfs, "split", lambda value, hasher, **_: split(value, hasher, **small))
    monkeypatch.setattr("hamt_bulk.roots.files.HELD", 5)
    build({f"{n}": value for n, value in enumerate(data)}, source := Kept())
    root = to_bytes(build({f"{n}": value for n, value in enumerate(data)}, whole := InMemoryCAS()))
    below = {cid: {other for other in whole.blocks if other in data} for cid, data in whole.blocks.items()}
    steps = 0
    while True:
        target = Shuffling()
        target.left = steps
        try:
            copy(root, source, target)
        except CASError:
            steps += 1
        else:
            break
        assert_no_holes(target.blocks, below)
    assert target.blocks == whole.blocks
    assert steps == len(whole.blocks)
    assert target.flushes > 3 * len(data)  # each file has more nodes than may wait


async def test_what_was_saved_on_the_target_and_not_flushed_lasts(tmp_path: Path) -> None:
    """It is there for whoever asks the object, so it is not copied."""
    target = PackCAS(tmp_path)
    await target.save(b"value 8", "raw")
    copied = copy(ROOT, WHOLE, target)
    assert copied.copied_blocks == len(BLOCKS) - 1
    assert blocks_of(target) == BLOCKS


@pytest.mark.parametrize("limit", [{"UNFLUSHED_BYTES": 2 << 20}, {"UNFLUSHED_BLOCKS": 200}], ids=str)
def test_much_is_flushed_before_all_is_there(
    limit: dict[str, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So that an interrupted copy of much does not begin again."""
    for name, value in limit.items():
        monkeypatch.setattr(transfer, name, value)
    copied = copy(ROOT, WHOLE, target := PackCAS(tmp_path))
    assert blocks_of(target) == BLOCKS
    assert copied.copied_blocks == len(BLOCKS)
    assert len(list(tmp_path.glob("packs/values/*"))) > 2


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


def tree_of(cas: LocalCAS, pointer: bytes) -> bytes:
    return put_node(cas, {blake3_hashfn(b"k")[0]: {"k": pointer}})


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


def test_a_node_at_two_depths_is_written_after_what_it_links_to() -> None:
    """Nobody builds such a tree, but an interrupted copy of one has no holes either."""
    cas = InMemoryCAS()
    leaf = put_node(cas, {1: {"k": to_bytes(build({}, cas))}})
    middle = put_node(cas, {2: leaf, 3: {"k": leaf}})
    root = put_node(cas, {0: middle, 1: put_node(cas, {0: middle, 1: put_node(cas, {4: middle, 5: leaf})})})
    below = {cid: {other for other in cas.blocks if other in data} for cid, data in cas.blocks.items()}
    for steps in range(len(cas.blocks)):
        target = Shuffling()
        target.left = steps
        with pytest.raises(CASError):
            copy(root, cas, target)
        assert_no_holes(target.blocks, below)


def test_a_value_of_many_keys_is_asked_for_once() -> None:
    root = build({f"{n}": b"fill" for n in range(5000)}, source := InMemoryCAS())
    copied = copy(root, source, target := Asked())
    assert target.asked == len(source.blocks) == copied.blocks


class Asked(InMemoryCAS):
    """Knows for how many blocks it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = self.most = 0

    def has_blocks(self, cids):
        self.asked += len(cids)
        self.most = max(self.most, len(cids))
        return super().has_blocks(cids)


def test_a_file_of_many_keys_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when it was forgotten that it had been seen."""
    monkeypatch.setattr("hamt_bulk.roots.names.REMEMBERED", 0)
    put(source := Reading(), [block for text in (b"a" * 50, b"b" * 50) for block in foreign(text)[1]])
    files = [to_cid(foreign(text)[0]) for text in (b"a" * 50, b"b" * 50)]
    root = build({f"{n}": files[n % 2] for n in range(100)}, source)
    copy(root, source, target := InMemoryCAS())
    assert target.blocks == source.blocks
    assert source.read.count(bytes(files[0])) == 2  # to look into it, and to copy it


def test_only_a_few_blocks_are_in_memory_at_a_time() -> None:
    source = Reading()
    root = build({f"{n}": b"%d" % n for n in range(20_000)} | {"long": LONG}, source)
    source.most = 0
    copy(root, source, target := Asked())
    assert source.most == 32
    assert target.most == 1024
    assert target.blocks == source.blocks


def test_progress_goes_from_nothing_to_all() -> None:
    steps: list[BuildProgress] = []
    copy(ROOT, WHOLE, InMemoryCAS(), progress=steps.append)
    nodes = sum(parse(cid).codec != RAW for cid in BLOCKS)
    for stage in ("copy", "nodes"):
        own = [step for step in steps if step.stage == stage]
        assert own[0].done in (1, 2)  # the root alone, or the nodes of two files
        assert (own[-1].done, own[-1].total) == (nodes, nodes)
        assert all(one.done < other.done for one, other in pairwise(own))
        assert all(step.done <= step.total for step in own)
    assert [step.stage for step in steps] == sorted(step.stage for step in steps)


def test_the_store_is_tidied_up_and_may_fail_to_be(tmp_path: Path) -> None:
    class Untidy(InMemoryCAS):
        def finish(self):
            raise CASError("no space for an index")

    with pytest.warns(UserWarning, match="copy is complete, .*no space for an index") as caught:
        copy(ROOT, WHOLE, target := Untidy())
    assert caught[0].filename == __file__
    assert target.blocks == BLOCKS
    copy(ROOT, WHOLE, PackCAS(tmp_path))
    assert list((tmp_path / "index").iterdir())


def test_a_target_that_is_read_only_or_lives_elsewhere_says_so() -> None:
    class Closed(InMemoryCAS):
        def writer(self):
            raise ReadOnly("a gateway is read only")

    with pytest.raises(ReadOnly, match="gateway"):
        copy(ROOT, WHOLE, Closed())
    with pytest.raises(InvalidInput, match="no store of kind 'ftp'"):
        copy(ROOT, WHOLE, "ftp://host")


def test_without_a_root_the_one_of_a_car_file_is_copied(tmp_path: Path) -> None:
    path = tmp_path / "file.car"
    copy(ROOT, WHOLE, path)
    copied = copy(None, path, target := InMemoryCAS())
    assert (copied.root, target.blocks) == (text(ROOT), BLOCKS)
    for roots, said in (([], "0 roots"), ([ROOT, identify(b"x")], f"2 roots, expected one: {text(ROOT)}")):
        path.write_bytes(version_1([], roots))
        with pytest.raises(InvalidInput, match=said):
            copy(None, path, target)
    with pytest.raises(InvalidInput, match="names no root"):
        copy(None, WHOLE, target)


def test_names_are_kept_in_order_and_once() -> None:
    cids = [identify(b"%d" % (n % 7)) for n in range(20)]
    odd = [cid[2:] for cid in cids]
    names = Names([*cids, *odd])
    assert list(names) == [*cids, *dict.fromkeys(odd)]
    assert list(names.distinct()) == [*dict.fromkeys(cids), *dict.fromkeys(odd)]
    assert (len(names), len(names.distinct())) == (27, 14)
    assert list(Names().distinct()) == []
    zeros = [bytes([1, 0x55, 0x1E, 32]) + bytes(31 - n) + b"\1" + bytes(n) for n in range(32)]
    assert list(Names([*zeros, *zeros]).distinct()) == zeros


def test_what_was_seen_long_ago_is_new(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hamt_bulk.roots.names.REMEMBERED", 3)
    recent = Recent()
    assert [recent.is_new(cid) for cid in (b"a", b"b", b"c", b"a", b"d", b"a", b"b")] == [
        True, True, True, False, True, False, True,
    ]  # fmt: skip


def test_a_cid_is_public_as_text() -> None:
    copied = copy(CID.decode(ROOT), WHOLE, InMemoryCAS())
    assert copied.root == text(ROOT)
