"""Encrypted trees that were tampered with: their blocks are sound, and have other roots."""

import pytest
import zarr
from encrypted_stores import (
    BOUND,
    EVERY,
    HIDING,
    IDS,
    LARGE,
    REFUSALS,
    THREE,
    VALUES,
    new_store,
    pointer,
    rerooted,
    stored,
    value,
    with_bytes,
)
from keys_hidden import KEY
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest

from hamt_bulk import Encryption, errors
from hamt_bulk.crypto.bound import SEALED_BYTES, SEGMENT_BYTES
from hamt_bulk.zarr import ZarrHAMTStore


@pytest.mark.parametrize("encryption", [BOUND, HIDING], ids=["bound", "hidden"])
def test_values_that_were_swapped_are_told(encryption):
    store = stored(encryption, VALUES)
    pairs = [("a/c/0", "a/c/1"), ("zarr.json", "a/zarr.json"), ("a/c/0", "zarr.json")]
    for one, other in pairs:
        swapped = rerooted(
            store,
            {store.name_of(one): pointer(store, other), store.name_of(other): pointer(store, one)},
        )
        for key in (one, other):
            for wanted in (None, RangeByteRequest(0, 1), OffsetByteRequest(9), SuffixByteRequest(0)):
                with pytest.raises(errors.NotAuthentic, match="moved here from another key"):
                    value(swapped, key, wanted)
        assert {key: value(swapped, key) for key in VALUES if key not in (one, other)} == {
            key: data for key, data in VALUES.items() if key not in (one, other)
        }


def test_py_hamts_format_lets_them_be_swapped():
    """What its documentation here warns of."""
    store = stored(THREE, VALUES)
    swapped = rerooted(store, {"a/c/0": pointer(store, "a/c/1")})
    assert value(swapped, "a/c/0") == b"second"


@pytest.mark.parametrize("encryption", [BOUND, HIDING], ids=["bound", "hidden"])
@pytest.mark.parametrize(
    "other", [Encryption(KEY, header=b"era6"), Encryption(bytes(32), header=b"era5")], ids=["header", "key"]
)
def test_a_value_from_a_root_of_another_header_or_key_is_told(encryption, other):
    store = stored(encryption, VALUES)
    foreign = stored(other, VALUES, store.hamt.cas)
    mixed = rerooted(store, {store.name_of("a/c/0"): pointer(foreign, "a/c/0")})
    with pytest.raises(errors.WrongKey, match="either the key or the header is another one"):
        value(mixed, "a/c/0")
    assert value(mixed, "a/c/1") == b"second"


@pytest.mark.parametrize("encryption", EVERY, ids=IDS)
def test_a_plain_value_in_the_place_of_an_encrypted_one_is_told(encryption):
    store = stored(encryption, VALUES)
    for key, plain in (
        ("a/c/0", b"first"),
        ("zarr.json", b'{"zarr_format": 3, "node_type": "group", "attributes": {}}'),
    ):
        changed = with_bytes(store, key, plain)
        for wanted in (None, RangeByteRequest(0, 1)):
            with pytest.raises(REFUSALS):
                value(changed, key, wanted)


@pytest.mark.parametrize("encryption", [BOUND, HIDING], ids=["bound", "hidden"])
def test_a_value_that_was_cut_is_told_at_every_length(encryption):
    store = stored(encryption, VALUES)
    [data] = store.hamt.cas.load_many([pointer(store, "a/c/0")])
    for length in range(len(data)):
        with pytest.raises(errors.NotAuthentic):
            value(with_bytes(store, "a/c/0", data[:length]), "a/c/0")


def test_a_large_value_that_was_cut_between_segments_is_told_by_ranges_that_reach_its_end():
    store = stored(BOUND, {"a/c/0": LARGE})
    data = store.hamt.cas.load_range(pointer(store, "a/c/0"), 0, None)
    for segments in (1, 2, 16, 40, 80):
        cut = with_bytes(store, "a/c/0", data[: 32 + segments * SEALED_BYTES])
        end = segments * SEGMENT_BYTES
        for wanted in (
            None,
            SuffixByteRequest(1),
            OffsetByteRequest(end - 1),
            OffsetByteRequest(end + 10),
            RangeByteRequest(end - 5, end),
            RangeByteRequest(end, end + 5),
            RangeByteRequest(len(LARGE) - 1, len(LARGE)),
        ):
            with pytest.raises(errors.NotAuthentic):
                value(cut, "a/c/0", wanted)


def test_segments_of_a_large_value_that_changed_places_are_told():
    store = stored(BOUND, {"a/c/0": LARGE})
    data = store.hamt.cas.load_range(pointer(store, "a/c/0"), 0, None)
    a, b = (data[32 + n * SEALED_BYTES :][:SEALED_BYTES] for n in (20, 21))
    changed = with_bytes(store, "a/c/0", data.replace(a + b, b + a))
    for segment in (20, 21):
        with pytest.raises(errors.NotAuthentic, match=f"its segment {segment} of"):
            value(changed, "a/c/0", RangeByteRequest(segment * SEGMENT_BYTES, segment * SEGMENT_BYTES + 1))
    assert value(changed, "a/c/0", RangeByteRequest(0, 5)) == LARGE[:5]


@pytest.mark.parametrize("encryption", EVERY, ids=IDS)
def test_every_bit_that_is_flipped_is_told(encryption):
    store = stored(encryption, {"a/c/0": b"v"})
    [data] = store.hamt.cas.load_many([pointer(store, "a/c/0")])
    for bit in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(REFUSALS):
            value(with_bytes(store, "a/c/0", bytes(flipped)), "a/c/0")


def test_no_refusal_is_taken_for_a_missing_chunk():
    store = stored(BOUND, {})
    group = zarr.open_group(new_store(BOUND, store.hamt.cas), mode="w")
    array = group.create_array("a", shape=(4,), chunks=(2,), dtype="i4", fill_value=7)
    array[:] = [1, 2, 3, 4]
    written = ZarrHAMTStore.open(group.store.flush(), store.hamt.cas, encryption=BOUND)
    assert list(zarr.open_array(written, path="a", mode="r")) == [1, 2, 3, 4]
    swapped = rerooted(written, {"a/c/1": pointer(written, "a/c/0")})
    with pytest.raises(errors.NotAuthentic):
        zarr.open_array(swapped, path="a", mode="r")[:]
