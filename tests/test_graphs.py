"""Batches cut out of the graphs of arrays compute what Dask itself computes."""

import pickle

import dask
import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hamt_bulk.dask import graphs as graphs_module
from hamt_bulk.dask import parcel as parcel_module
from hamt_bulk.dask.batches import batches_of, blocks_of, windows_of
from hamt_bulk.dask.graphs import BatchGraphs
from hamt_bulk.dask.parcel import Parcel, SealedParcel

X = da.arange(240, chunks=20).reshape(12, 20).rechunk((3, 5))
PIECES = [da.from_delayed(dask.delayed(np.full)((2, 4), n), (2, 4), int) for n in range(6)]


def old_tuples() -> da.Array:
    """A graph of the form before tasks were objects, in which a tuple that starts with a callable is a task."""
    graph = {("raw", n): (np.arange, n, n + 4) for n in range(3)}
    graph |= {("sum", n): (np.add, ("raw", n), (np.add, 1, ("raw", (n + 1) % 3))) for n in range(3)}
    return da.Array(graph, "sum", chunks=((4, 4, 4),), dtype=int)


ARRAYS = {
    "blockwise": [X + 1],
    "rechunked": [X.rechunk((12, 2)).rechunk((2, 20))],
    "reduced": [X.sum(axis=0), X.mean()],
    "minus its mean": [X - X.mean()],
    "overlapping": [X.map_overlap(lambda block: block * 2, depth=1, boundary="reflect")],
    "fancy index": [X[[5, 1, 1, 8]][:, ::-3]],
    "pieces of files": [da.concatenate(PIECES), da.stack(PIECES)[1:4]],
    "matrix product": [X @ X.T],
    "cumulated": [X.cumsum(axis=1)],
    "masked": [X[X % 3 == 0].compute_chunk_sizes()],
    "from an array": [da.from_array(np.arange(30.0), chunks=7)],
    "two that share": [X * 2, X * 2 + 1, X],
    "the same twice": [X, X],
    "of no dimension": [X.max(), da.asarray(np.float64(3))],
    "empty": [da.zeros((0, 3)), da.zeros((3, 0), chunks=2)],
    "persisted": [(X + 1).persist(scheduler="synchronous")],
    "tuples": [old_tuples(), old_tuples() + 1],
}


def sent(content):
    """`content` as it is on a worker."""
    return pickle.loads(pickle.dumps(Parcel(content))).open()


@pytest.mark.parametrize("arrays", ARRAYS.values(), ids=ARRAYS)
@pytest.mark.parametrize("window_blocks", [3, 10_000])
def test_batches_compute_what_dask_computes(arrays, window_blocks, monkeypatch):
    monkeypatch.setattr(graphs_module, "windows_of", lambda batches, _: windows_of(batches, 1, window_blocks))
    monkeypatch.setattr("hamt_bulk.dask.batches.SMALL_BATCH_BYTES", 0)
    expected = [array.compute(scheduler="synchronous") for array in arrays]
    found = [np.full_like(array, -1) for array in expected]
    graphs = BatchGraphs(arrays)
    for window in graphs.windows(
        batches_of(arrays, 2, np.zeros(sum(array.npartitions for array in arrays), bool)), 2
    ):
        subgraphs, outer = graphs.cut(window)
        for batch, subgraph in zip(window, subgraphs, strict=True):
            outside = dict(zip(subgraph.outside, dask.get(outer, subgraph.outside), strict=True))
            for block, result in zip(batch, sent(subgraph).results(outside), strict=True):
                found[block.source][block.slices] = result
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)


@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), max_size=3), st.integers(1, 9))
def test_every_dask_block_is_in_one_batch_of_one_window(chunks, workers):
    array = da.zeros([sum(sizes) for sizes in chunks], chunks=[tuple(sizes) for sizes in chunks])
    windows = list(
        windows_of(batches_of([array, array], workers, np.zeros(2 * array.npartitions, bool)), workers, 7)
    )
    blocks = [block for window in windows for batch in window for block in batch]
    assert blocks == list(blocks_of([array, array]))
    assert [block.index for block in blocks] == [*np.ndindex(array.numblocks)] * 2
    assert sum(block.nbytes for block in blocks) == 2 * array.nbytes


@pytest.mark.parametrize("limit", [0, 1 << 20], ids=["as it is", "compressed"])
def test_a_parcel_is_opened_where_it_arrives(limit, monkeypatch):
    monkeypatch.setattr(parcel_module, "MAX_COMPRESSED_BYTES", limit)
    content = {"values": np.arange(5), "text": "x" * 1000}
    parcel = Parcel(content)
    assert parcel.open() is content
    arrived = pickle.loads(pickle.dumps(parcel))
    assert isinstance(arrived, SealedParcel)
    assert repr(arrived.open()) == repr(content)
    again = pickle.loads(pickle.dumps(arrived))
    assert repr(again.open()) == repr(content)
    assert dask.base.tokenize(parcel) == dask.base.tokenize(arrived) != dask.base.tokenize(Parcel(content))
