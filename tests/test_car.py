"""CAR files and their index: what is written is read back, and damage is noticed as such."""

from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO

import dag_cbor
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multiformats import CID

from hamt_bulk.block import BLAKE3, DAG_CBOR, DAG_PB, RAW, SHA2_256, Block, identify, varint
from hamt_bulk.car import (
    HEADER_V2_BYTES,
    MAX_HEADER_BYTES,
    MAX_SECTION_BYTES,
    PRAGMA_V2,
    Header,
    Section,
    header_v1,
    header_v2,
    read_header,
    scan,
    section_head,
)
from hamt_bulk.car_index import Columns, Index, decode_index, encode_index, index_sections
from hamt_bulk.errors import InvalidInput
from hamt_bulk.ragged import row_order

ROOTLESS = bytes.fromhex("11 a2 65") + b"roots" + bytes.fromhex("80 67") + b"version" + b"\x01"

blocks = st.builds(
    lambda data, codec, hasher: Block(identify(data, codec, hasher), data),
    st.binary(max_size=40),
    st.sampled_from([RAW, DAG_CBOR, DAG_PB]),
    st.sampled_from(["blake3", "sha2-256"]),
)


def payload(blocks: Sequence[Block], roots: Sequence[bytes] = ()) -> bytes:
    return header_v1(roots) + b"".join(section_head(cid, len(data)) + bytes(data) for cid, data in blocks)


def version_2(data: bytes) -> bytes:
    """A v2 file around a v1 payload, as a pack is written."""
    index = encode_index(index_sections(scan(BytesIO(data), read_header(BytesIO(data)))))
    return header_v2(HEADER_V2_BYTES, len(data), HEADER_V2_BYTES + len(data)) + data + index


def sections(data: bytes) -> tuple[Header, list[Section]]:
    header = read_header(file := BytesIO(data))
    return header, list(scan(file, header))


def contents(data: bytes) -> list[Block]:
    header, found = sections(data)
    payload = data[header.data_offset :]
    return [Block(s.cid, payload[s.data_offset : s.data_offset + s.data_length]) for s in found]


def test_a_rootless_header_is_the_eighteen_bytes_of_the_formats() -> None:
    assert header_v1() == ROOTLESS


@given(st.lists(blocks.map(lambda block: block.cid), max_size=30))
@example([identify(varint(i)) for i in range(300)])
def test_a_header_is_the_dag_cbor_of_its_roots(roots: list[bytes]) -> None:
    header = dag_cbor.encode({"version": 1, "roots": [CID.decode(root) for root in roots]})
    assert header_v1(roots) == varint(len(header)) + header
    assert read_header(BytesIO(header_v1(roots))).roots == tuple(roots)


@given(st.lists(blocks, max_size=12), st.lists(blocks.map(lambda block: block.cid), max_size=3))
def test_what_is_written_is_read_back(blocks: list[Block], roots: list[bytes]) -> None:
    data = payload(blocks, roots)
    for version, file in enumerate([data, version_2(data)], 1):
        header, found = sections(file)
        assert (header.version, header.roots, header.finished) == (version, tuple(roots), True)
        assert file[header.data_offset :][: header.data_size] == data
        assert contents(file) == blocks
        ends = [s.data_offset + s.data_length for s in found]
        assert [s.offset for s in found] == [header.sections_offset, *ends][: len(found)]
    assert header.index_offset is not None
    assert_lists(decode_index(file[header.index_offset :], header.data_size), found)


def assert_lists(index: Index, found: Sequence[Section]) -> None:
    """`index` holds every section of `found`, sorted by digest, and no other."""
    pairs = sorted((s.cid[2], s.cid[4:], s.offset) for s in found)
    rows = [
        (code, digest.tobytes(), int(offset))
        for (code, _), columns in sorted(index.items())
        for digest, offset in zip(columns.digests, columns.offsets, strict=True)
    ]
    assert rows == pairs


def test_a_file_written_by_hand_is_read() -> None:
    """Byte by byte from the formats: two blocks, a padded payload, an index of one width."""
    a, b = b"a" * 200, b"b"
    cid_a, cid_b = identify(a, RAW, "sha2-256"), identify(b, RAW, "sha2-256")
    data = ROOTLESS + b"\xec\x01" + cid_a + a + b"\x25" + cid_b + b
    entries = sorted([cid_a[4:] + (18).to_bytes(8, "little"), cid_b[4:] + (18 + 238).to_bytes(8, "little")])
    index = bytes.fromhex("8108 01000000 1200000000000000 01000000 28000000 5000000000000000") + b"".join(
        entries
    )
    offsets = [number.to_bytes(8, "little") for number in (60, len(data), 60 + len(data))]
    file = bytes.fromhex("0aa16776657273696f6e02") + bytes(16) + b"".join(offsets) + bytes(9) + data + index

    header, found = sections(file)
    assert header == Header(2, (), 60, len(data), 18, 60 + len(data), True)
    assert found == [Section(cid_a, 18, 56, 200), Section(cid_b, 256, 293, 1)]
    assert_lists(decode_index(index, len(data)), found)
    assert encode_index(decode_index(index)) == index
    assert header_v2(60, len(data), 60 + len(data)) == file[:HEADER_V2_BYTES]


def test_cids_of_other_makers_are_read() -> None:
    """A version 0 CID, a hash code of two bytes, and identity, whose blocks no index lists."""
    old = identify(b"", DAG_PB, "sha2-256")[2:]
    keccak = b"\x01" + varint(0x0129) + varint(0x1053) + b"\x04abcd"
    identity = b"\x01\x55\x00\x02hi"
    blocks = [Block(old, b""), Block(keccak, b"xyz"), Block(identity, b"hi")]
    data = payload(blocks, [old, keccak, identity])
    assert read_header(BytesIO(data)).roots == (old, keccak, identity)
    assert contents(data) == blocks
    assert list(index_sections(sections(data)[1])) == [(SHA2_256, 32), (0x1053, 4)]


@pytest.mark.parametrize("data_offset", [0, HEADER_V2_BYTES])
def test_a_file_whose_writer_died_gives_the_sections_that_are_whole(data_offset: int) -> None:
    blocks = [Block(identify(data), data) for data in (b"one", b"two", b"three")]
    file = BytesIO(header_v2(data_offset, 0, 0) + payload(blocks)[:-1])
    header = read_header(file)
    assert not header.finished
    found: list[bytes] = []
    with pytest.raises(
        InvalidInput, match=f"byte {18 + 2 * 40} of the payload: 41 bytes.* the 40 that are left"
    ):
        found.extend(section.cid for section in scan(file, header))
    assert found == [block.cid for block in blocks[:2]]


class Counting(BytesIO):
    """A file that counts what is asked of it, and gives less than that, as a socket might."""

    taken = 0

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        data = super().read(min(size, 100_000))
        self.taken += len(data)
        return data


@pytest.mark.parametrize(("length", "share"), [(100, 1.01), (3_000, 1.01), (20_000, 0.25), (1_000_000, 0.01)])
def test_large_blocks_are_passed_over_unread(length: int, share: float) -> None:
    data = bytes(length)
    count = 4_000_000 // length
    file = Counting(payload([Block(identify(data), data)] * count))
    header = read_header(file)
    assert sum(section.data_length for section in scan(file, header)) == count * length
    assert file.taken < header.data_size * share + 10_000


CBOR_ROOTS = b"\xa2\x65roots"
DAMAGED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "end within a varint"),
    "a length alone": (b"\x11", "17 bytes at byte 0, expected .* the 0 that are left"),
    "an endless length": (b"\xff" * 20, "more than 9 bytes"),
    "no header": (b"\x00", "a header of 0 bytes"),
    "a huge header": (
        varint(MAX_HEADER_BYTES + 1) + bytes(MAX_HEADER_BYTES + 1),
        f"at most {MAX_HEADER_BYTES}",
    ),
    "other bytes": (b"\x03abc", "not dag-cbor with roots"),
    "deep nesting": (varint(50_000) + b"\x81" * 50_000, "not dag-cbor with roots"),
    "a text of 2^63 bytes": (b"\x09\x7b" + b"\xff" * 8, "not dag-cbor with roots"),
    "an empty CID": (b"\x0b" + CBOR_ROOTS + b"\x81\xd8\x2a\x40", "not dag-cbor with roots"),
    "no roots": (b"\x0a\xa1\x67version\x01", "not dag-cbor with roots"),
    "version 3": (ROOTLESS[:-1] + b"\x03", "'version': 3}, expected"),
    "version true": (ROOTLESS[:-1] + b"\xf5", "'version': True}, expected"),
    "a number as root": (b"\x16" + CBOR_ROOTS + b"\x81\x1a\x7f\0\0\0\x67version\x01", "2130706432"),
    "a pragma alone": (PRAGMA_V2, "CARv2 file of 11 bytes"),
    "a payload past the end": (header_v2(51, 19, 0) + ROOTLESS, r"bytes \[51, 70\) of a file of 69"),
    "a payload in the header": (header_v2(50, 19, 0) + ROOTLESS, r"bytes \[50, 69\) of a file of 69"),
    "a payload at 2^64": (header_v2(2**64 - 1, 0, 0) + ROOTLESS, "of a file of 69"),
    "a payload of version 2": (header_v2(51, 11, 0) + PRAGMA_V2, "version 2 at byte 51"),
    "an index in the payload": (header_v2(51, 18, 60) + ROOTLESS + b"..", "index at byte 60 of a file of 71"),
    "an index past the end": (header_v2(51, 18, 69) + ROOTLESS, "index at byte 69 of a file of 69"),
    "a section of no bytes": (ROOTLESS + b"\x00", "byte 18 of the payload: the bytes end within a varint"),
    "a section too short for its CID": (ROOTLESS + b"\x23" + identify(b""), "36 bytes, .* the section's 35"),
    "a huge section": (ROOTLESS + varint(1 << 60) + identify(b""), f"at most {MAX_SECTION_BYTES}"),
    "a huge CID": (ROOTLESS + b"\x20\x01\x55\x00" + varint(1 << 50), "expected it within the section's 32"),
    "a CID of version 2": (ROOTLESS + b"\x24\x02" + identify(b"")[1:], "not a CID"),
}


@pytest.mark.parametrize(("data", "message"), DAMAGED.values(), ids=DAMAGED.keys())
def test_a_damaged_file_is_refused_with_what_was_found(data: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        sections(data)


WHOLE = version_2(
    payload([Block(identify(data), data) for data in (b"", b"one", b"x" * 130)], [identify(b"")])
)


@pytest.mark.parametrize("length", range(len(WHOLE)))
def test_a_file_cut_anywhere_is_refused(length: int) -> None:
    with pytest.raises(InvalidInput):
        read_all(WHOLE[:length])


@given(st.lists(st.tuples(st.integers(0, len(WHOLE) - 1), st.integers(1, 255)), min_size=1, max_size=3))
def test_flipped_bits_give_our_errors_or_another_file(flips: list[tuple[int, int]]) -> None:
    data = bytearray(WHOLE)
    for at, mask in flips:
        data[at] ^= mask
    with suppress(InvalidInput):
        read_all(bytes(data))


def read_all(data: bytes) -> None:
    header, _ = sections(data)
    if header.index_offset is not None:
        decode_index(data[header.index_offset :], header.data_size)


@given(st.binary(max_size=80))
def test_random_bytes_give_our_errors(data: bytes) -> None:
    for parse in (read_all, decode_index):
        with suppress(InvalidInput):
            parse(data)
            parse(b"\x81\x08" + data)


widths = st.sampled_from([0, 1, 7, 8, 9, 20, 32, 128])


@given(st.data(), widths)
def test_digests_are_sorted_as_bytes_and_equal_ones_keep_their_order(data: st.DataObject, width: int) -> None:
    """Bytes are drawn from three values, so that rows share beginnings."""
    row = st.lists(st.sampled_from([0, 1, 255]), min_size=width, max_size=width).map(bytes)
    rows = data.draw(st.lists(row, max_size=30))
    digests = np.frombuffer(b"".join(rows), np.uint8).reshape(len(rows), width)
    assert row_order(digests).tolist() == sorted(range(len(rows)), key=lambda i: rows[i])

    offsets = np.arange(len(rows), dtype=np.uint64)
    encoded = encode_index({(BLAKE3, width): Columns(digests, offsets)})
    decoded = decode_index(encoded, len(rows))
    assert encode_index(decoded) == encoded
    if rows:
        assert decoded[BLAKE3, width].digests.tobytes() == b"".join(sorted(rows))


def index_bytes(
    *entries: bytes, codes: int = 1, widths: int = 1, width: int = 9, length: int | None = None
) -> bytes:
    data = b"".join(entry + bytes(8) for entry in entries)
    head = (
        b"\x81\x08" + codes.to_bytes(4, "little") + bytes([BLAKE3, *[0] * 7]) + widths.to_bytes(4, "little")
    )
    length = len(data) if length is None else length
    return head + width.to_bytes(4, "little") + length.to_bytes(8, "little") + data


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\x80\x08", "codec 0x400, expected 0x401"),
        (b"\x81\x08\x01", "3 bytes, expected 4 more at 2"),
        (b"\x81\x08" + b"\xff" * 4, "a count of -1"),
        (index_bytes(b"a", codes=2), "expected 12 more"),
        (index_bytes(b"a", widths=-1 & 0xFFFFFFFF), "a count of -1"),
        (index_bytes(b"a", width=7), "of 8 to 136 bytes"),
        (index_bytes(b"a", width=1 << 31), "of 8 to 136 bytes"),
        (index_bytes(b"a", length=1 << 63), "in the 9 that are left"),
        (index_bytes(b"a", length=8), "8 bytes of entries of 9"),
        (index_bytes(b"a") + b"!", "expected the 39 that its counts give"),
        (index_bytes(b"b", b"a"), "digest 61… at entry 1, expected none before 62…"),
    ],
)
def test_a_damaged_index_is_refused_with_what_was_found(data: bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        decode_index(data)


def test_offsets_of_an_index_lie_within_the_payload() -> None:
    assert list(decode_index(index_bytes(b"a", b"a"), 1)) == [(BLAKE3, 1)]
    with pytest.raises(InvalidInput, match="offset 0, expected less than the payload's 0 bytes"):
        decode_index(index_bytes(b"a"), 0)
