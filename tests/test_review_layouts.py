"""Trees and conversions at their edges: odd keys, odd links, journals of another call, values that maps hold."""

import math
import struct
from pathlib import Path
from unittest.mock import patch

import dag_cbor
import dask
import numpy as np
import pytest
import xarray as xr
from multiformats import CID
from old_kinds import WRITERS
from old_writers import Blocks, hash_map, ipldstore_with_hamt, link, py_hamt_2
from zarr.storage import MemoryStore

from hamt_bulk import (
    HAMT,
    Encryption,
    HashMap,
    Inline,
    InMemoryCAS,
    PackCAS,
    build,
    check,
    convert,
    copy,
    open_root,
    update,
)
from hamt_bulk.block import DAG_CBOR, identify, to_cid
from hamt_bulk.conversion import stages as conversion_stages
from hamt_bulk.conversion.parts import convert_part
from hamt_bulk.errors import Conflict, InvalidInput, JournalMismatch, MalformedNode
from hamt_bulk.formats.root import FILES_AT_ONCE, VALUES_AT_ONCE, batches
from hamt_bulk.hashers import blake3_hashfn, sha2_256_hashfn
from hamt_bulk.journal.records import CHAIN_BYTES, LENGTH_BYTES, Batch, decode, encode, start
from hamt_bulk.layout import HashMapNodes, PyHamt
from hamt_bulk.layout.cbor import links_of
from hamt_bulk.manifest import Manifest
from hamt_bulk.packs import drop
from hamt_bulk.xarray import to_hamt

ITEMS = {f"a/{number}": b"value %d" % number for number in range(1500)}
ENCRYPTION = Encryption(bytes(32), deterministic=True)
FILE = identify(b"no file", 0x70)
LONG_DIGEST = CID("base32", 1, "raw", ("identity", b"h" * 65))
FOREIGN_LINK = CID("base32", 1, "raw", ("identity", b"h"))


@pytest.fixture(autouse=True)
def in_this_thread():
    with dask.config.set(scheduler="synchronous"):
        yield


class _KilledError(Exception):
    pass


def killed(root: CID, cas: PackCAS, to: object, after: int, **options: object) -> None:
    """A conversion that ends after some parts of the source."""
    done: list[int] = []

    def part(*arguments):
        if len(done) == after:
            raise _KilledError
        done.append(1)
        return convert_part(*arguments)

    with patch.object(conversion_stages, "convert_part", part), pytest.raises(_KilledError):
        convert(root, cas, to, progress=False, **options)


def sealed(cas: PackCAS) -> CID:
    return build({key: bytes(ENCRYPTION.seal(key, value)) for key, value in ITEMS.items()}, cas)


@pytest.mark.parametrize(
    "shape", [HashMap(bit_width=5), HashMap(hasher="murmur3-128"), HashMap(bit_width=9)], ids=str
)
def test_a_conversion_to_a_map_goes_on_whatever_its_hash_and_keys(tmp_path: Path, shape: HashMap) -> None:
    cas = PackCAS(tmp_path)
    items = {**ITEMS, **{b"\xff%d" % number: b"v" for number in range(1500)}}
    root = build(items, cas, layout=HashMap())
    killed(root, cas, shape, 2, journal=True)
    new = convert(root, cas, shape, journal=True, resume=True, progress=False)
    assert new == build(items, cas, layout=shape)


def test_a_journal_with_keys_that_are_no_text_is_one_of_a_map_alone() -> None:
    shape = HashMap()
    edits = Manifest.of([("\udcff", identify(b""))], shape.placement, any_keys=True)
    record, _ = encode(Batch.of([(0, 1)], edits), start())
    batch = decode(record[LENGTH_BYTES:-CHAIN_BYTES])
    assert list(batch.manifest(shape.placement, any_keys=True).keys) == [b"\xff"]
    with pytest.raises(InvalidInput, match=r"the key b'\\xff', and keys here are text"):
        batch.manifest(blake3_hashfn)


@pytest.mark.parametrize("first", [None, ENCRYPTION])
def test_a_journal_does_not_count_for_values_that_are_decrypted_otherwise(
    tmp_path: Path, first: Encryption | None
) -> None:
    cas = PackCAS(tmp_path / "store")
    root = sealed(cas)
    journal = tmp_path / "journal"
    killed(root, cas, "pyhamt", 2, journal=journal, decryption=first)
    second = ENCRYPTION if first is None else None
    with pytest.raises(JournalMismatch, match="'decryption'"):
        convert(root, cas, journal=journal, decryption=second, progress=False)
    journal.unlink()
    new = convert(root, cas, journal=journal, decryption=second, progress=False)
    assert new == (root if second is None else build(ITEMS, cas))


def test_a_journal_does_not_count_for_another_transformer(tmp_path: Path) -> None:
    blocks = Blocks()
    root = py_hamt_2(ITEMS, blocks)
    cas = blocks.packs(tmp_path / "store")
    journal = tmp_path / "journal"
    killed(to_cid(root), cas, "pyhamt", 2, journal=journal)
    with pytest.raises(JournalMismatch, match="'decryption'"):
        convert(root, cas, journal=journal, transformer_decode=lambda key, value: value, progress=False)


def test_links_are_not_left_clear_in_an_encrypted_result() -> None:
    source, target = InMemoryCAS(), InMemoryCAS()
    with source.writer() as writer:
        child = writer.save(dag_cbor.encode({"secret": 42}), "dag-cbor")
        writer.flush()
    root = build({"secret": to_cid(child)}, source, layout=HashMap())
    with pytest.raises(InvalidInput, match=r"'secret' is a link, .* leave out encryption"):
        convert(root, source, HashMap(), target, encryption=ENCRYPTION, progress=False)


def test_what_values_in_the_map_link_to_is_copied_too() -> None:
    blocks, target = Blocks(), InMemoryCAS()
    leaf = blocks.put(b"leaf")
    inner = blocks.put(dag_cbor.encode([link(leaf)]), DAG_CBOR)
    root = py_hamt_2({"value": {"inner": link(inner)}, "bytes": b"x"}, blocks)
    new = convert(root, blocks.memory(), HashMap(), target, progress=False)
    assert open_root(new, target).get("bytes") == b"x"
    assert {leaf, inner} <= target.blocks.keys()


def test_a_key_in_two_places_is_never_converted_as_the_one_that_lookups_do_not_find() -> None:
    """py-hamt, reopened with a smaller bucket size, leaves such trees."""
    cas, nodes = InMemoryCAS(), PyHamt()
    with cas.writer() as writer:
        right, stale = writer.save(b"right"), writer.save(b"stale")
        writer.flush()
    for wrong in (0, 255):
        slots: list = [{} for _ in range(256)]
        for number in range(100):
            slots[blake3_hashfn(b"other %d" % number)[0]][f"other {number}"] = right
        slots[blake3_hashfn(b"abc")[0]]["abc"] = right
        slots[wrong]["abc"] = stale
        block = nodes.encode_slots(slots, is_root=True)
        cas.blocks[block.cid] = bytes(block.data)
        assert open_root(block.cid, cas).get("abc") == b"right"
        with pytest.raises(Conflict, match="'abc' is in the source twice"):
            convert(block.cid, cas, progress=False)


def test_few_values_of_many_blocks_are_in_memory_together() -> None:
    raw = identify(b"")
    sizes = [len(batch) for batch in batches([raw] * 130 + [FILE] * 9, lambda pointer: pointer)]
    assert sizes == [VALUES_AT_ONCE, VALUES_AT_ONCE, 2 + FILES_AT_ONCE - 1, FILES_AT_ONCE, 2]
    assert list(batches([], lambda pointer: pointer)) == []
    assert [len(batch) for batch in batches([b"\0\xf6"] * 65, lambda pointer: pointer)] == [VALUES_AT_ONCE, 1]


def test_what_a_transformer_raises_is_never_taken_for_no_such_chunk() -> None:
    def decode(key: str, value: bytes) -> bytes:
        raise KeyError(key)

    blocks = Blocks()
    root = open_root(py_hamt_2({"a/0": b"chunk"}, blocks), blocks.memory(), transformer_decode=decode)
    with pytest.raises(InvalidInput, match="transformer_decode failed on the value of 'a/0': KeyError"):
        root.get("a/0")
    root = open_root(root.root, root.cas, transformer_decode=lambda key, value: None)
    with pytest.raises(InvalidInput, match="made a NoneType of the value of 'a/0', expected bytes"):
        root.get("a/0")


def test_keys_that_are_no_text_are_refused_where_keys_are_text() -> None:
    """They would be text that is no UTF-8: the tree could never be read."""
    shape = HashMap(text_keys=True)
    for many in (1, 400):
        items = {bytes([255, number % 256, number // 256]): b"" for number in range(many)}
        with pytest.raises(InvalidInput, match="is no text, and this HashMap has text_keys=True"):
            build(items, InMemoryCAS(), layout=shape)


@pytest.mark.parametrize("is_text_first", [False, True])
def test_a_map_of_both_kinds_of_keys_is_not_spoiled_by_an_edit(is_text_first: bool) -> None:
    """py-hamt 1 wrote text and bytes; the first key of a root tells which an edit writes."""
    at = sha2_256_hashfn(b"\xff")[0]
    texts = (f"text {number}" for number in range(1000))
    other = next(key for key in texts if (sha2_256_hashfn(key.encode())[0] < at) == is_text_first)
    items = {other: b"1", b"\xff": b"2"}
    blocks = Blocks()
    root = hash_map(items.items(), blocks)
    cas = blocks.memory()
    opened = open_root(root, cas)
    assert opened.layout.text_keys == is_text_first
    assert dict(opened.items()) == items
    if is_text_first:
        with pytest.raises(InvalidInput, match="is no text"):
            update(root, {"more": b"3"}, cas)
    else:
        assert dict(open_root(update(root, {"more": b"3"}, cas), cas).items()) == {**items, "more": b"3"}


async def test_escapes_that_are_utf8_together_are_the_text_that_they_are() -> None:
    escaped = "é".encode().decode("ascii", "surrogateescape")
    cas = InMemoryCAS()
    root = build([(escaped, b"1"), ("é", b"2")], cas, layout=HashMap())
    assert root == build({"é": b"2"}, cas, layout=HashMap())
    assert open_root(root, cas).get(escaped) == b"2"
    hamt = await HAMT.build(cas=cas, layout=HashMap())
    await hamt.set(escaped, b"1")
    await hamt.set("é", b"2")
    assert await hamt.len() == 1
    assert await hamt.get(escaped) == b"2"
    assert await hamt.flush() == root


@pytest.mark.parametrize("layout", ["pyhamt", HashMap()], ids=str)
async def test_cids_that_no_decoder_takes_are_refused_before_they_are_in_a_node(layout) -> None:
    hamt = await HAMT.build(cas=InMemoryCAS(), layout=layout)
    with pytest.raises(InvalidInput, match=r"a digest of 65 bytes, .* at most 64"):
        build({"key": LONG_DIGEST}, InMemoryCAS(), layout=layout)
    with pytest.raises(InvalidInput, match=r"a digest of 65 bytes, .* at most 64"):
        await hamt.set_pointer("key", LONG_DIGEST)
    if layout != "pyhamt":
        for value in (LONG_DIGEST, Inline(LONG_DIGEST), [LONG_DIGEST]):
            with pytest.raises(InvalidInput, match=r"a digest of 65 bytes|is no IPLD value"):
                await hamt.set("key", value)
    assert await hamt.len() == 0


async def test_a_link_is_the_same_as_an_inline_value() -> None:
    cas = InMemoryCAS()
    with cas.writer() as writer:
        value = to_cid(writer.save(b"value"))
        writer.flush()
    hamt = await HAMT.build(cas=cas, layout=HashMap())
    await hamt.set("key", Inline(value))
    assert await hamt.get("key") == b"value"
    assert await hamt.flush() == build({"key": value}, cas, layout=HashMap())
    assert await hamt.get("key") == b"value"


@pytest.mark.parametrize("width", [3, 8, 9, 12, 16])
def test_ways_begin_with_as_many_bytes_as_a_root_says(width: int) -> None:
    nodes = HashMapNodes(HashMap(width))
    first = {nodes.first_byte(number) for number in range(nodes.width)}
    assert first == set(range(nodes.first_bytes))


def test_nodes_of_too_many_slots_for_a_block_are_refused_by_what_to_change() -> None:
    """A root of links alone has no key to name."""
    nodes = HashMapNodes(HashMap(16))
    with pytest.raises(
        InvalidInput, match=r"65536 slots are too many for so many keys, take a smaller bit_width"
    ):
        nodes.encode_slots([identify(b"%d" % number) for number in range(nodes.width)])
    long = [{}] * 255 + [{"k" * (1 << 20): identify(b"")}]
    with pytest.raises(InvalidInput, match=r"travel as one block on IPFS: the keys are too long"):
        HashMapNodes(HashMap()).encode_slots(long)


@pytest.mark.parametrize(
    "name", ["py-hamt 1", "py-hamt 1 of bytes", "py-hamt 1 of both", "ipldstore with a HashMap"]
)
def test_a_root_whose_maps_have_another_order_is_copied_and_kept(tmp_path: Path, name: str) -> None:
    items = {".zgroup": b'{"zarr_format": 2}', **{f"a/{number}": b"%d" % number for number in range(300)}}
    blocks, target = Blocks(), InMemoryCAS()
    root = WRITERS[name][1](items, blocks)
    copy(root, blocks.memory(), target)
    assert dict(open_root(root, target).items()) == items
    packs = blocks.packs(tmp_path)
    drop(packs, [root], older_than_hours=0)
    assert dict(open_root(root, PackCAS(tmp_path)).items()) == items


def test_links_are_found_beside_numbers_that_dag_cbor_has_not() -> None:
    cid = identify(b"leaf")
    item = b"\xd8\x2a\x58\x25\x00" + cid
    nan = struct.pack(">Bd", 0xFB, math.nan)
    assert links_of(b"\x83" + nan + item + b"\xf9\x00\x00") == [cid]
    for wrong, why in (
        (b"\xc1" + item, "a tag 1 "),
        (b"\xd8\x2a\x01", "a tag 42 "),
        (b"\xd8\x2a\x41\x01", "a tag 42 "),
        (item + b"\x00", "1 bytes follow the value"),
        (b"\x82" + item, "the bytes end"),
    ):
        with pytest.raises(ValueError, match=why):
            links_of(wrong)


def test_a_map_whose_buckets_hold_nothing_is_refused_by_name() -> None:
    blocks = Blocks()
    root = hash_map([], blocks, bucket_size=0)
    with pytest.raises(
        MalformedNode, match=f"{to_cid(root)}: the root of an IPLD HashMap with buckets of 0 entries"
    ):
        open_root(root, blocks.memory())


def test_a_link_that_begins_as_inline_values_do_is_no_value() -> None:
    blocks = Blocks()
    value = blocks.put(b"value")
    data = blocks.pop(hash_map([("key", link(value))], blocks)).replace(
        b"\x00" + value, b"\x00\x00" + value[1:]
    )
    with pytest.raises(MalformedNode, match="Invalid CID"):
        open_root(blocks.put(data, DAG_CBOR), blocks.memory())


def test_an_ipldstore_whose_hashmap_is_an_ipldstore_is_refused() -> None:
    """A chain of them could be as long as its maker likes."""
    blocks = Blocks()
    inner = ipldstore_with_hamt({"a/0": b"x"}, blocks)
    root = blocks.put(dag_cbor.encode({"hamt": link(inner)}), DAG_CBOR)
    with pytest.raises(MalformedNode, match="is an ipldstore"):
        open_root(root, blocks.memory()).get("a/0")


def test_what_is_no_encryption_is_refused_and_not_shown() -> None:
    cas = InMemoryCAS()
    root = build({"key": b"value"}, cas)
    secret = b"SECRET" * 6
    for call in (
        lambda: open_root(root, cas, encryption=secret),  # type: ignore[arg-type]
        lambda: convert(root, cas, encryption=secret),  # type: ignore[arg-type]
        lambda: convert(root, cas, decryption=secret),  # type: ignore[arg-type]
    ):
        with pytest.raises(InvalidInput, match="is a bytes, expected Encryption") as caught:
            call()
        assert "SECRET" not in str(caught.value)


def test_a_link_of_an_unknown_codec_in_a_value_is_a_problem_that_a_check_reports() -> None:
    blocks = Blocks()
    root = hash_map([("key", [FOREIGN_LINK])], blocks)
    unknown = b"\x01\xff\xff\x7f\x1e\x20" + bytes(32)
    known = dag_cbor.encode(FOREIGN_LINK)
    data = blocks.pop(root).replace(known, b"\xd8\x2a\x58\x27\x00" + unknown)
    root = blocks.put(data, DAG_CBOR)
    [problem] = check(root, blocks.memory(), progress=False).problems
    assert (problem.where, problem.kind) == ("key", "missing")


def held(extra: dict[str, bytes]) -> tuple[CID, InMemoryCAS]:
    """A map that holds all values of a small hierarchy itself."""
    kept: dict = {}
    xr.Dataset({"a": ("x", np.arange(6))}).to_zarr(
        MemoryStore(kept), zarr_format=2, consolidated=False, encoding={"a": {"chunks": (2,)}}
    )
    cas = InMemoryCAS()
    items = {key: value.to_bytes() for key, value in kept.items()} | extra
    return build({key: Inline(value) for key, value in items.items()}, cas, layout=HashMap()), cas


def test_metadata_and_chunks_that_a_map_holds_are_checked_as_others_are() -> None:
    root, cas = held({})
    report = check(root, cas, progress=False)
    assert report.problems == ()
    assert [(array.path, array.stored, array.total) for array in report.arrays] == [("a", 3, 3)]
    root, cas = held({"a/7": b"stray", "b/.zarray": b"{no JSON"})
    found = {
        problem.where: (problem.kind, problem.cid) for problem in check(root, cas, progress=False).problems
    }
    assert found == {"a/7": ("unaccounted", ""), "b/.zarray": ("inconsistent", "")}


@pytest.mark.filterwarnings("ignore:Object at:zarr.errors.ZarrUserWarning")
@pytest.mark.filterwarnings("ignore:Consolidated metadata is currently")
@pytest.mark.parametrize("shape", [HashMap(bit_width=5), HashMap(hasher="murmur3-32")], ids=str)
def test_a_group_of_a_map_is_replaced_whatever_its_keys(tmp_path: Path, shape: HashMap) -> None:
    cas = PackCAS(tmp_path)
    group = b'{"zarr_format":3,"node_type":"group","attributes":{}}'
    root = build({"zarr.json": group, b"odd/\xfe": b"kept"}, cas, layout=shape)
    many = xr.Dataset({"a": ("x", np.arange(400))}).chunk(x=1)
    old = to_hamt(many, cas, base=root, group="g", mode="a", progress=False)
    old = update(old, {b"g/\xff": b"odd"}, cas)
    few = xr.Dataset({"b": ("x", np.arange(3))})
    new = to_hamt(few, cas, base=old, group="g", mode="w", progress=False)
    keys = set(open_root(new, cas).keys())
    assert keys == {"zarr.json", b"odd/\xfe", "g/zarr.json", "g/b/zarr.json", "g/b/c/0"}
