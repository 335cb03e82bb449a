"""The Zarr store over an encrypted tree: ranges and sizes of values."""

import pytest
from encrypted_stores import BOUND, EVERY, IDS, LARGE, stored, value
from hypothesis import given, settings
from hypothesis import strategies as st
from keys_hidden import KEY
from trees_made import CountingCAS
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.sync import sync
from zarr_stores import SizingCAS, listed

from hamt_bulk import Encryption, errors
from hamt_bulk.block import text
from hamt_bulk.crypto.bound import SEALED_BYTES, SEGMENT_BYTES

sizes = st.builds(
    lambda segments, more: max(segments * SEGMENT_BYTES + more, 0),
    st.sampled_from([0, 1, 2, 15, 16, 17, 33]),
    st.integers(-2, 2),
)


@pytest.mark.parametrize("encryption", EVERY, ids=IDS)
@given(data=st.data())
@settings(max_examples=25)
def test_a_range_is_a_slice_of_the_value(encryption, data):
    """In values of one block and of several, around the borders of segments and blocks."""
    size = data.draw(sizes)
    plain = LARGE[:size]
    store = stored(encryption, {"a/c/0": plain})
    assert value(store, "a/c/0") == plain
    assert sync(store.getsize("a/c/0")) == size
    borders = [border + by for border in (0, SEGMENT_BYTES, SEALED_BYTES, 1 << 20, size) for by in (-1, 0, 1)]
    places = st.integers(0, size + 2) | st.sampled_from([place for place in borders if place >= 0])
    for start, stop in data.draw(st.lists(st.tuples(places, places), min_size=1, max_size=5)):
        assert value(store, "a/c/0", RangeByteRequest(start, stop)) == plain[start:stop]
        assert value(store, "a/c/0", OffsetByteRequest(start)) == plain[start:]
        assert value(store, "a/c/0", SuffixByteRequest(start)) == plain[max(size - start, 0) :]


def test_a_range_of_a_large_value_loads_the_segments_it_lies_in():
    cas = CountingCAS()
    store = stored(BOUND, {"a/c/0": LARGE}, cas)
    pointer = store.hamt.draft.tree.pointer("a/c/0")
    leaf = 1 << 20
    cas.loads.clear()
    assert value(store, "a/c/0", RangeByteRequest(3 * leaf, 3 * leaf + 10)) == LARGE[3 * leaf : 3 * leaf + 10]
    leaves = {text(cid): count for cid, count in cas.loads.items() if cid != pointer}
    assert len(leaves) <= 4  # nodes on the way to the key, and the leaf of the head
    before = set(cas.loads)
    cas.loads.clear()
    at = 2 * leaf + leaf // 2
    assert value(store, "a/c/0", RangeByteRequest(at, at + 100)) == LARGE[at : at + 100]
    assert set(cas.loads) - before and cas.loads.total() == 2  # what names the leaves, and one leaf
    assert sync(store.getsize("a/c/0")) == len(LARGE)
    cas.loads.clear()
    assert value(store, "a/c/0", SuffixByteRequest(5)) == LARGE[-5:]
    assert cas.loads.total() == 2


@pytest.mark.parametrize("encryption", EVERY, ids=IDS)
def test_a_range_that_is_none_is_refused(encryption):
    store = stored(encryption, {"small": b"v", "large": LARGE})
    for key in ("small", "large"):
        for wrong in (RangeByteRequest(-1, 2), OffsetByteRequest(-1), SuffixByteRequest(-1), "0-5"):
            with pytest.raises(errors.InvalidInput, match="Unexpected byte_range"):
                value(store, key, wrong)


def test_sizes_are_told_without_loading_values():
    for encryption in EVERY:
        cas = SizingCAS()
        store = stored(encryption, {"a/zarr.json": b"{}", "a/c/0": b"v" * 1000, "b": b""}, cas)
        assert listed(store.list()) == ["a/c/0", "a/zarr.json", "b"]
        cas.loads.clear()
        assert sync(store.getsize("a/c/0")) == 1000
        assert sync(store.getsize_prefix("a")) == 1002
        assert not cas.loads


def test_sizes_that_only_values_tell_are_those_of_the_values():
    encryption = Encryption(KEY, format="py-hamt-2")
    store = stored(encryption, {"a/zarr.json": b"{}", "a/c/0": b"v" * 1000, "b": b""})
    assert sync(store.getsize_prefix("a")) == 1002
    assert sync(store.getsize("a/c/0")) == 1000
