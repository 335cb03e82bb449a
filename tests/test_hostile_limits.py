"""What input may be, and what is said of input that is more."""

import json
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import libipld
import pytest
from blake3 import blake3
from fuzz.answers import server
from fuzz.archives import MIXED
from fuzz.packs import index_seed

from hamt_bulk import CarCAS, InMemoryCAS, PackCAS
from hamt_bulk.block import (
    MAX_BLOCK_BYTES,
    MAX_CID_BYTES,
    Block,
    identify,
    parse,
    read_varint,
    text,
    to_bytes,
    to_cid,
    varint,
    verify,
)
from hamt_bulk.car import MAX_HEADER_BYTES, MAX_SECTION_BYTES, header_v1, read_header, scan, section_head
from hamt_bulk.cas.ipfs.gateway import Gateway
from hamt_bulk.cas.ipfs.rpc import Rpc
from hamt_bulk.errors import BlockMismatch, BlockNotFound, CASError, InvalidInput, MalformedNode
from hamt_bulk.foreign import MAX_NESTING, from_cbor, from_json
from hamt_bulk.layout import WIDTH, PyHamt
from hamt_bulk.zarr.recording import named_in

CID = identify(b"any", 0x71)
LINK = b"\xd8\x2a\x58\x25\x00" + CID


def node(slot: bytes) -> bytes:
    """A node whose first slot is this, in CBOR."""
    return b"\x99\x01\x00" + slot + b"\xa0" * (WIDTH - 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (bytes(MAX_BLOCK_BYTES + 1), "1048577 bytes, a node has at most 1048576"),
        (node(b"\x81" * 3000 + b"\x80"), "nest deeper than can be decoded"),
        (node(b"\xa1\x61a" * 3000 + b"\xa0"), "nest deeper than can be decoded"),
        (node(b"\x9a\xff\xff\xff\xff"), "Array length exceeds remaining data"),
        (node(b"\xbb" + b"\x7f" * 8), "Map length exceeds remaining data"),
        (node(b"\x7b" + b"\x7f" * 8), "end of data"),
        (node(b"\x5b" + b"\xff" * 8), "end of data"),
        (node(b"\xa2\x61k" + LINK + b"\x61k" + LINK), "Map keys must be sorted and unique"),
        (node(b"\xa2\x61k" + LINK + b"\x61a" + LINK), "Map keys must be sorted and unique"),
        (node(b"\xa1\x01" + LINK), "Map keys must be strings"),
        (node(b"\xa1\x41k" + LINK), "Map keys must be strings"),
        (node(b"\xa1\x63\xed\xa0\x80" + LINK), "can't decode byte 0xed"),
        (node(b"\x9f" + LINK + b"\xff"), "Indefinite or reserved"),
        (node(b"\xfb\x7f\xf8" + bytes(6)), "NaNs are forbidden"),
        (node(b"\xf9\x00\x00"), "Unsupported major type"),
        (node(b"\xc1\x00"), "Non-42 tags are not supported"),
        (
            node(b"\x82" + LINK + LINK),
            "slot 0: a list of 2, expected 256, expected a map or a list of one link",
        ),
        (node(b"\x81\xfb" + bytes(8)), "slot 0: a list of 1"),
        (node(b"\xfb" + bytes(8)), "slot 0: a float, expected a map or a list of one link"),
        (node(b"\xa1\x61k\x01"), "slot 0: a bucket's values must be CIDs"),
        (node(b"\xa1\x61k\x40"), "slot 0: a bucket's values must be CIDs"),
        (node(b"\xa0\xa0"), "a list of 256|multiple objects"),
    ],
)
def test_a_node_is_refused_with_what_is_wrong(data: bytes, message: str) -> None:
    with pytest.raises(MalformedNode, match=message):
        PyHamt().decode(CID, data)


def test_the_largest_node_is_read() -> None:
    """As many entries in one bucket as fit: a bound for what a node may make us hold."""
    entries = (MAX_BLOCK_BYTES - 300) // (len(LINK) + 6)
    bucket = b"".join(b"\x65%05d" % number + LINK for number in range(entries))
    data = node(b"\xb9" + entries.to_bytes(2, "big") + bucket)
    assert len(PyHamt().decode(CID, data)[0]) == entries > 20_000
    with pytest.raises(InvalidInput, match=f"a bucket of {entries} entries"):
        PyHamt().refuse_larger_buckets(CID, PyHamt().decode(CID, data))


@pytest.mark.parametrize(
    ("cid", "message"),
    [
        (b"\x01\x55\x12\x7d" + bytes(125), f"129 bytes, at most {MAX_CID_BYTES}"),
        (b"\x02\x55\x12\x01a", "version 2, expected 1"),
        (b"\x01\x55\x12\x02a", "a digest of 1 bytes, expected 2"),
        (b"\x01\x55\x92\x00\x01a", "a varint in a longer form than needed"),
        (b"\x01" + b"\xff" * 9 + b"\x01\x12\x01a", "a varint of more than 9 bytes"),
        (b"\x01\x55", "the bytes end within a varint"),
        (b"", "the bytes end within a varint"),
    ],
)
def test_a_cid_is_refused_with_what_is_wrong(cid: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse(cid)
    with pytest.raises(InvalidInput, match=message):
        to_bytes(text(cid))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("b" + "a" * 5000, r"'ba+…' \(5001 characters, at most 1025\)"),
        ("z" + "1" * 1_000_000, r"\(1000001 characters, at most 1025\)"),
        ("\0", "not a CID"),
        ("", "not a CID"),
        ("bßß", "not a CID"),
        ("B" + text(CID)[1:-1] + "ſ", "not a CID"),
        ("Qm" + "1" * 44, "not a CID"),
    ],
)
def test_the_text_of_a_cid_is_refused_with_what_is_wrong(name: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message) as caught:
        to_bytes(name)
    assert len(str(caught.value)) < 1500


@pytest.mark.parametrize(
    ("cid", "kind", "message"),
    [
        (b"\x01\x55\x00\x01a", InvalidInput, "hash code 0x0 with 1 bytes cannot be verified"),
        (b"\x01\x55\x13\x40" + bytes(64), InvalidInput, "hash code 0x13 with 64 bytes cannot be verified"),
        (b"\x01\x55\x12\x14" + bytes(20), InvalidInput, "hash code 0x12 with 20 bytes cannot be verified"),
        (b"\x01\x55\x12\x20" + bytes(32), BlockMismatch, "expected 0000000000000000…"),
    ],
)
def test_only_whole_digests_of_two_hashes_are_believed(
    cid: bytes, kind: type[Exception], message: str, tmp_path: Path
) -> None:
    """Whatever the codec; any other CID may be named by nodes, listed and passed on."""
    with pytest.raises(kind, match=message):
        verify(cid, b"a")
    memory = InMemoryCAS()
    memory.blocks[cid] = b"a"
    path = tmp_path / "one.car"
    path.write_bytes(header_v1() + section_head(cid, 1) + b"a")
    for cas in (memory, CarCAS(path)):
        # The index of a CAR leaves out CIDs of hash 0, which hold their blocks themselves.
        with pytest.raises((kind, BlockNotFound) if cid[2] == 0 else kind, match=rf"{message}|no block"):
            cas.load_blocks([cid])


def test_a_codec_without_a_name_is_public_nowhere() -> None:
    with pytest.raises(InvalidInput, match=r"b\w+ has no public form"):
        to_cid(b"\x01" + varint(1 << 60) + b"\x12\x20" + bytes(32))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff" * 9 + b"\x01", "a varint of more than 9 bytes"),
        (b"\x80" * 8, "the bytes end within a varint"),
        (b"\x80\x00", "a varint in a longer form than needed"),
        (b"", "the bytes end within a varint"),
    ],
)
def test_a_varint_has_nine_bytes_at_most_and_its_shortest_form(data: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_varint(data, 0)
    assert read_varint(varint((1 << 63) - 1), 0) == ((1 << 63) - 1, 9)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (varint(MAX_HEADER_BYTES + 1) + bytes(MAX_HEADER_BYTES + 1), "a header of 1048577 bytes at byte 0"),
        (
            varint(1 << 40),
            "a header of 1099511627776 bytes at byte 0, expected at most 1048576 and the 0 that are left",
        ),
        (
            header_v1() + varint(MAX_SECTION_BYTES + 1),
            f"{MAX_SECTION_BYTES + 1} bytes, expected at most|within a varint",
        ),
        (header_v1() + section_head(CID, 1 << 40), "expected at most 33554432 and the 36 that are left"),
        (header_v1() + varint(3) + CID, "a CID of 36 bytes, expected it within the section's 3"),
        (varint(3001) + b"\x81" * 3001, "nest deeper"),
        (
            varint(13) + b"\xa1\x65roots\x1b\x7f\xff\xff\xff\xff\xff\xff\xff"[:13],
            "is not dag-cbor with roots",
        ),
        (varint(17) + b"\xa2\x65roots\x05\x67version\x01", "is not dag-cbor with roots"),
        (varint(17) + b"\xa2\x65roots\x80\x67version\x02", r"its header is \{'roots': \[\], 'version': 2\}"),
    ],
)
def test_a_car_is_refused_with_what_is_wrong(data: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        list(scan(BytesIO(data), read_header(BytesIO(data))))


def test_a_section_of_the_largest_length_is_passed_over() -> None:
    block = bytes(MAX_SECTION_BYTES - len(CID))
    [section] = scan(file := BytesIO(header_v1() + section_head(CID, len(block)) + block), read_header(file))
    assert section.data_length == len(block)


def test_a_car_of_very_many_small_sections_is_indexed_in_little_memory(tmp_path: Path) -> None:
    """A file without an index is read through, and what is kept of a section is its digest and offset."""
    count = 20_000
    path = tmp_path / "small.car"
    path.write_bytes(header_v1() + section_head(CID, 0) * count)
    cas = CarCAS(path)
    tracemalloc.start()
    assert cas.has_many([CID]) == [True]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 200 * count


def deep_list(depth: int) -> bytes:
    return b"\x81" * depth + b"\x80"


def test_json_nests_so_deep_and_no_deeper() -> None:
    """However much there is side by side."""
    fits = "[" * MAX_NESTING + "]" * MAX_NESTING
    assert from_json(fits) and from_json(b"[" + b",".join([b'{"a": [1]}'] * 2000) + b"]")
    for deep in (f"[{fits}]", f'{{"a": {fits}}}', "[" * 100_000, f"[{fits}, {{}}]".encode()):
        with pytest.raises(ValueError, match="nest deeper than 256"):
            from_json(deep)
    assert named_in("zarr.json", b'{"a": ' * 100_000) is None


@pytest.mark.parametrize(
    "content",
    [
        {"consolidated_metadata": {"metadata": ["a", 5]}},
        {"consolidated_metadata": {"metadata": "abc"}},
        {"consolidated_metadata": None},
        {"consolidated_metadata": [1]},
        ["metadata"],
        None,
        5,
    ],
)
def test_consolidated_metadata_that_is_none_names_nothing(content: object) -> None:
    for document in ("zarr.json", ".zmetadata"):
        assert named_in(document, json.dumps(content).encode()) is None
    if not isinstance(content, dict):
        assert named_in(".zmetadata", json.dumps({"metadata": content}).encode()) is None


CRASH = """
import sys, threading
sys.setrecursionlimit(1_000_000)
from hamt_bulk.errors import InvalidInput, MalformedNode
from hamt_bulk.layout import PyHamt
from hamt_bulk.car import read_header
from hamt_bulk.block import varint
from io import BytesIO

def decode():
    for deep in (b"\\x81" * 400_000, b"\\xa1\\x61a" * 200_000, b"\\x82\\x80" * 300_000, b"\\x81" * 257 + b"\\x80"):
        try:
            PyHamt().decode(b"cid", deep)
        except MalformedNode as error:
            print("nest deeper than 256" in str(error))
        try:
            read_header(BytesIO(varint(len(deep)) + deep))
        except InvalidInput as error:
            print("nest deeper than 256" in str(error))
    print(PyHamt().decode(b"cid", b"\\x99\\x01\\x00" + b"\\xa0" * 256) == [{}] * 256)

thread = threading.Thread(target=decode)
thread.start()
thread.join()
"""


def test_a_program_that_raised_pythons_recursion_limit_is_not_ended_by_what_nests() -> None:
    """libipld recurses in C as deep as Python allows, which is deeper than a thread's stack."""
    done = subprocess.run([sys.executable, "-c", CRASH], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["True"] * 9, "")


@pytest.mark.parametrize("make", [lambda data: data, lambda data: bytearray(data), memoryview])
def test_what_is_measured_first_is_decoded_as_ever(
    make: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [
        1,
        "text",
        b"bytes",
        None,
        True,
        [],
        {},
        [[1, [2]], {"a": {"b": [3]}}, -5, 1.5],
        [[]] * 300,
        {"k": CID},
    ]
    values.append(["x" * 1000, "y" * 70_000, b"z" * 300, 1 << 40])
    monkeypatch.setattr("hamt_bulk.foreign.SAFE_RECURSION", 0)
    for value in values:
        data = libipld.encode_dag_cbor(value)
        assert from_cbor(make(data)) == value
        for end in range(min(len(data), 300)):
            with pytest.raises(ValueError):
                from_cbor(make(data[:end]))
    assert from_cbor(deep_list(MAX_NESTING - 1))
    with pytest.raises(ValueError, match="nest deeper than 256"):
        from_cbor(deep_list(MAX_NESTING + 1))


@pytest.mark.parametrize("column", ["offsets", "prefixes"])
def test_an_index_over_packs_that_leads_nowhere_is_not_used(column: str, tmp_path: Path) -> None:
    """Its digest is right. An operating system takes no such offsets; rows out of order cannot be searched."""
    sound = index_seed()
    cas = PackCAS(tmp_path)
    cas.writer().close()
    head = sound.index(b'"rows": ') + 8
    rows = int(sound[head : sound.index(b"}", head)])
    start = len(sound) - (12 if column == "offsets" else 20) * rows
    numbers = [sound[at : at + 8] for at in range(start, start + 8 * rows, 8)]
    changed = [b"\xff" * 8] * rows if column == "offsets" else numbers[::-1]
    data = sound[:start] + b"".join(changed) + sound[start + 8 * rows :]
    (tmp_path / "index/far.mpi").write_bytes(data + blake3(data).digest())
    (tmp_path / "packs/values/sound.car").write_bytes(header_v1())
    names = [block.cid for block in MIXED]
    assert cas.has_many(names) == [False] * len(names)
    assert len(cas._index._mapped) == 0
    with pytest.raises(BlockNotFound):
        cas.load_blocks(names)


async def test_of_a_car_that_a_gateway_sends_no_more_is_kept_than_a_way_has() -> None:
    block = Block(identify(b""), b"")
    car = header_v1() + section_head(block.cid, 0) * 50_000
    gateway = Gateway(server(200, {"content-type": "application/vnd.ipld.car"}, car))
    assert await gateway.path(block.cid, ["13", "0"]) == [block] * 3


@pytest.mark.parametrize(
    ("answer", "taken"),
    [("9", 9), ("1e999", None), ("-5", None), ("1.5", None), ('"9"', None), ("true", None)],
)
async def test_a_size_that_a_daemon_tells_is_a_number_of_bytes(answer: str, taken: int | None) -> None:
    rpc = Rpc(server(200, {}, b'{"Key": "k", "Size": %s}' % answer.encode()))
    if taken is not None:
        assert await rpc.size(CID) == taken
        return
    with pytest.raises(CASError, match=r"block/stat answered .*expected JSON as Kubo gives it"):
        await rpc.size(CID)


@pytest.mark.parametrize("body", [b"[" * 5000, b'{"a":' * 5000, b"9" * 5000, b"{}{}", b"\xff"])
async def test_answers_that_are_no_json_objects_are_shown(body: bytes) -> None:
    with pytest.raises(CASError, match=r"id answered .*expected JSON as Kubo gives it"):
        await Rpc(server(200, {}, body)).identity()
