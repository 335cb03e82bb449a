"""The format "bound": values are tied to their names, and parts of them are opened alone."""

import hashlib
import struct

import pytest
from blake3 import blake3
from Crypto.Cipher import ChaCha20_Poly1305
from hypothesis import given
from hypothesis import strategies as st

from hamt_bulk import errors
from hamt_bulk.crypto import Encryption, bound

KEY = bytes(range(32))
OTHER_KEY = bytes(range(1, 33))
SEGMENT = bound.SEGMENT_BYTES
PLAIN = Encryption(KEY, header=b"era5")

keys = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
sizes = st.one_of(
    st.integers(0, 200),
    st.builds(
        lambda segments, more: max(segments * SEGMENT + more, 0), st.integers(0, 3), st.integers(-2, 2)
    ),
)


def value_of(size: int) -> bytes:
    return bytes(number * 7 % 251 for number in range(min(size, 251))) * (size // 251 + 1)


def plain(size: int) -> bytes:
    return value_of(size)[:size]


# Round trips


@given(keys, sizes, st.binary(max_size=9), st.booleans())
def test_what_was_sealed_is_opened_and_its_size_is_told(key, size, header, deterministic):
    encryption = Encryption(KEY, header=header, deterministic=deterministic)
    value = plain(size)
    stored = encryption.seal(key, value)
    assert encryption.open(key, stored) == value
    assert encryption.size(key, len(stored)) == size
    assert size < 16 or value not in bytes(stored)


def test_equal_values_are_stored_alike_in_deterministic_mode_alone():
    fixed = Encryption(KEY, deterministic=True)
    assert fixed.seal("a", b"v") == fixed.seal("a", b"v") != fixed.seal("b", b"v")
    assert fixed.seal("a", b"v") != fixed.seal("a", b"w")
    assert fixed.seal("a", b"v") != Encryption(KEY, header=b"h", deterministic=True).seal("a", b"v")
    assert fixed.seal("a", b"v")[:13] == PLAIN_NO_HEADER.seal("a", b"v")[:13]
    assert PLAIN_NO_HEADER.seal("a", b"v") != PLAIN_NO_HEADER.seal("a", b"v")


PLAIN_NO_HEADER = Encryption(KEY)


def test_a_value_of_another_key_or_header_says_so():
    stored = PLAIN.seal("a", b"value")
    for other in (Encryption(OTHER_KEY, header=b"era5"), Encryption(KEY), Encryption(KEY, header=b"era")):
        with pytest.raises(errors.WrongKey, match="either the key or the header is another one") as caught:
            other.open("a", stored)
        assert bytes(stored[5:13]).hex() in str(caught.value)
        assert bytes(other.seal("a", b"")[5:13]).hex() in str(caught.value)
        assert not isinstance(caught.value, (KeyError, OSError))


@pytest.mark.parametrize("document", [b'{"zarr_format": 3}', b' \n{"a": 1}', b"[1]"])
def test_a_plain_document_says_to_leave_encryption_out(document):
    with pytest.raises(
        errors.NotAuthentic, match=r"looks like a plain Zarr document: open it without encryption="
    ):
        PLAIN.open("zarr.json", document)


@pytest.mark.parametrize("stored", [b"", b"\x00" * 100, b"\xff", b"\xffHBE", b"\xffHBE\x02" + bytes(60)])
def test_what_is_something_else_is_refused(stored):
    with pytest.raises(errors.NotAuthentic, match="is not encrypted in the format 'bound'"):
        PLAIN.open("a", stored)


# Changes


SMALL = PLAIN.seal("a/c/0", b"twenty bytes of data")


def test_every_bit_of_a_small_value_that_is_flipped_is_noticed():
    for at in range(len(SMALL)):
        for bit in range(8):
            changed = bytearray(SMALL)
            changed[at] ^= 1 << bit
            # A flipped bit of the key id says that it is another key's.
            with pytest.raises(errors.WrongKey if 5 <= at < 13 else errors.NotAuthentic):
                PLAIN.open("a/c/0", changed)


def test_a_small_value_that_is_cut_or_longer_is_refused_at_every_length():
    for length in range(len(SMALL)):
        with pytest.raises(errors.NotAuthentic):
            PLAIN.open("a/c/0", SMALL[:length])
    for more in (b"\0", bytes(16), bytes(17), SMALL, bytes(70_000)):
        with pytest.raises(errors.NotAuthentic):
            PLAIN.open("a/c/0", SMALL + more)


@pytest.mark.parametrize("size", [SEGMENT - 1, SEGMENT, SEGMENT + 1, 3 * SEGMENT, 3 * SEGMENT + 5])
def test_a_large_value_that_is_cut_around_any_segment_is_refused(size):
    stored = bytes(PLAIN.seal("a", plain(size)))
    borders = range(bound.HEAD_BYTES, len(stored), bound.SEALED_BYTES)
    lengths = {border + by for border in borders for by in (-17, -16, -1, 0, 1, 15, 16, 17)}
    lengths |= {len(stored) - by for by in (1, 15, 16, 17)}
    for length in sorted(length for length in lengths if length < len(stored)):
        with pytest.raises(errors.NotAuthentic):
            PLAIN.open("a", stored[:length])


def pieces_of(stored: bytes) -> list[bytes]:
    starts = range(bound.HEAD_BYTES, len(stored), bound.SEALED_BYTES)
    return [stored[: bound.HEAD_BYTES], *(stored[at : at + bound.SEALED_BYTES] for at in starts)]


def test_segments_in_another_order_or_of_another_value_are_refused():
    one, other = (bytes(PLAIN.seal("a", plain(3 * SEGMENT))) for _ in range(2))
    head, a, b, c = pieces_of(one)
    _, _, other_b, other_c = pieces_of(other)
    assert PLAIN.open("a", head + a + b + c) == plain(3 * SEGMENT)
    for parts in ([b, a, c], [a, c, b], [a, c], [b, c], [a, b], [a, a, b, c], [a, b, c, c], [a, other_b, c]):
        with pytest.raises(errors.NotAuthentic):
            PLAIN.open("a", head + b"".join(parts))
    with pytest.raises(errors.NotAuthentic):
        PLAIN.open("a", head + a + b + other_c)


@given(keys, keys)
def test_the_value_of_one_key_is_not_opened_as_that_of_another(one, other):
    stored = PLAIN.seal(one, b"value")
    if one == other:
        assert PLAIN.open(other, stored) == b"value"
    else:
        with pytest.raises(errors.NotAuthentic, match="or moved here from another key"):
            PLAIN.open(other, stored)


def test_header_and_name_do_not_run_into_one_another():
    """What is "ab" and "c" is not "a" and "bc", even if the key id did not tell the headers apart."""
    assert bound._associated(b"ab", "c") != bound._associated(b"a", "bc")
    assert bound._associated(b"", "ab") != bound._associated(b"ab", "")


# Ranges


@given(sizes, st.data())
def test_a_range_is_opened_from_the_segments_it_lies_in(size, data):
    value, stored = plain(size), bytes(PLAIN.seal("a", plain(size)))
    places = st.integers(0, size + 3) | st.sampled_from([0, SEGMENT - 1, SEGMENT, SEGMENT + 1, 2 * SEGMENT])
    start, stop = data.draw(places), data.draw(places | st.none())
    shape = bound.shape_of("a", len(stored))
    assert shape.size == size
    span = bound.span_of(shape, start, stop)
    found = PLAIN.open_range("a", stored[:32], stored[span.start : span.stop], shape, start, stop)
    assert found == value[start:stop]
    wanted = max(min(size, size if stop is None else stop) - min(start, size), 0)
    assert span.stop - span.start <= (wanted // SEGMENT + 2) * bound.SEALED_BYTES


@pytest.mark.parametrize("size", [0, 5, SEGMENT, 2 * SEGMENT + 5])
def test_of_a_range_behind_the_end_the_end_is_verified(size):
    """Else who cuts a value short would make its end look empty."""
    stored = bytes(PLAIN.seal("a", plain(size)))
    shape = bound.shape_of("a", len(stored))
    span = bound.span_of(shape, size + 7, size + 9)
    assert PLAIN.open_range("a", stored[:32], stored[span.start :], shape, size + 7, size + 9) == b""
    cut = stored[: bound.HEAD_BYTES + bound.SEALED_BYTES]
    if cut != stored:
        shape = bound.shape_of("a", len(cut))
        span = bound.span_of(shape, size + 7, size + 9)
        with pytest.raises(errors.NotAuthentic):
            PLAIN.open_range("a", cut[:32], cut[span.start : span.stop], shape, size + 7, size + 9)


@pytest.mark.parametrize("cut", [1, 16, 17, bound.SEALED_BYTES])
def test_segments_that_came_cut_short_are_refused(cut):
    stored = bytes(PLAIN.seal("a", plain(3 * SEGMENT)))
    shape = bound.shape_of("a", len(stored))
    span = bound.span_of(shape, 0, 2 * SEGMENT)
    sealed = stored[span.start : span.stop]
    assert len(PLAIN.open_range("a", stored[:32], sealed, shape, 0, 2 * SEGMENT)) == 2 * SEGMENT
    with pytest.raises(errors.NotAuthentic):
        PLAIN.open_range("a", stored[:32], sealed[:-cut], shape, 0, 2 * SEGMENT)


# What never changes


def test_the_bytes_that_are_stored_are_these_for_ever():
    """A change of any of these makes all that was written before unreadable."""
    fixed = Encryption(KEY, header=b"era5", deterministic=True)
    assert bytes(fixed.seal("t2m/c/0/1", b"twenty bytes of data")).hex() == SMALL_HEX
    assert fixed.open("t2m/c/0/1", bytes.fromhex(SMALL_HEX)) == b"twenty bytes of data"
    assert PLAIN.open("t2m/c/0/1", bytes.fromhex(SMALL_HEX)) == b"twenty bytes of data"
    large = fixed.seal("t2m/c/0/1", plain(2 * SEGMENT + 1))
    assert hashlib.sha256(large).hexdigest() == LARGE_SHA256


def test_the_bytes_are_those_that_the_documentation_says():
    """Made here from its text."""
    key, value = "t2m/c/0/1", plain(SEGMENT + 5)

    def subkey(use: str) -> bytes:
        return blake3(KEY, derive_key_context=f"hamt_bulk 2026-10 encryption 1 {use}").digest()

    def with_length(part: bytes) -> bytes:
        return struct.pack("<Q", len(part)) + part

    data = b"".join(map(with_length, (b"hamt_bulk encryption 1 value", b"era5", key.encode())))
    prefix = blake3(with_length(data) + value, key=subkey("nonce")).digest()[:19]
    expected = b"\xffHBE\x01" + blake3(b"era5", key=subkey("key id")).digest()[:8] + prefix
    for number, piece in enumerate((value[:65_536], value[65_536:])):
        cipher = ChaCha20_Poly1305.new(key=subkey("value"), nonce=prefix + struct.pack(">IB", number, number))
        cipher.update(data)
        expected += b"".join(cipher.encrypt_and_digest(piece))
    assert Encryption(KEY, header=b"era5", deterministic=True).seal(key, value) == expected


SMALL_HEX = (
    "ff4842450131fbb373034babfbaea6cea38581e9f07afdc89a1e9db0f68eb0ec"
    "94ed9c074e6891ab6b4f3d62a1f814daa92be9120fc5808ac1ffdea5b69d07230d9b92be"
)
LARGE_SHA256 = "8e5cf89a86549f80af376d9ea59e930ebfa120034e34f55312a290d922e3ac7d"
