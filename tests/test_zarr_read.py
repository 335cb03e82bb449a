"""The read-only Zarr store, against zarr's own stores and under faults at every load."""

import asyncio
import gc
import logging
import pickle
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from multiprocessing import get_context

import numpy as np
import pytest
import xarray as xr
import zarr
from dask.base import tokenize
from distributed import Client, LocalCluster
from hypothesis import given, settings
from hypothesis import strategies as st
from trees_made import CountingCAS, build, crowded_hashfn, save
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import cpu, default_buffer_prototype
from zarr.storage import MemoryStore

from hamt_bulk import errors
from hamt_bulk.block import text, to_cid
from hamt_bulk.cas import InMemoryCAS, PackCAS
from hamt_bulk.hamt import HAMT
from hamt_bulk.manifest import blake3_hashfn
from hamt_bulk.testing import Fail, Fault, FaultyCAS
from hamt_bulk.zarr import ZarrHAMTStore
from hamt_bulk.zarr.store import _shared_cache

PROTOTYPE = default_buffer_prototype()


def stored(cas: InMemoryCAS, items: dict[str, bytes], hash_fn=blake3_hashfn) -> bytes:
    """The root of a tree with these keys and values."""
    return build(cas, {key: save(cas, value) for key, value in items.items()}, hash_fn)


def store_of(items: dict[str, bytes], cas: InMemoryCAS | None = None) -> ZarrHAMTStore:
    cas = cas or CountingCAS()
    store = ZarrHAMTStore.open(stored(cas, items), cas)
    if isinstance(cas, CountingCAS):
        cas.loads.clear()
    return store


def memory_store(items: dict[str, bytes]) -> MemoryStore:
    return MemoryStore({key: cpu.Buffer.from_bytes(value) for key, value in items.items()})


async def collect(items) -> list:
    return [item async for item in items]


def read_only(root: bytes, cas: InMemoryCAS, hash_fn=blake3_hashfn, **options) -> ZarrHAMTStore:
    hamt = HAMT(cas, hash_fn, root, read_only=True, values_are_bytes=True, **options)
    return ZarrHAMTStore(hamt, read_only=True)


sizes = st.sampled_from([0, 1, 100, 1 << 20, (1 << 20) + 1, (3 << 20) + 7])
bounds = st.integers(0, 200) | st.integers(0, 4 << 20) | st.sampled_from([(1 << 20) - 1, 1 << 20, 1 << 63])
requests = st.one_of(
    st.none(),
    st.builds(RangeByteRequest, bounds, bounds),
    st.builds(OffsetByteRequest, bounds),
    st.builds(SuffixByteRequest, bounds),
)


@cache
def values_of_all_sizes() -> tuple[ZarrHAMTStore, MemoryStore]:
    items = {str(size): bytes(range(251)) * (size // 251 + 1) for size in sizes.elements}
    items = {key: value[: int(key)] for key, value in items.items()}
    return store_of(items), memory_store(items)


@given(sizes | st.just("absent"), requests)
@settings(deadline=None)
def test_ranges_are_those_of_zarrs_stores(size, wanted):
    ours, theirs = values_of_all_sizes()
    found = asyncio.run(ours.get(str(size), PROTOTYPE, wanted))
    if isinstance(wanted, SuffixByteRequest) and size != "absent" and wanted.suffix > size:
        asked = None  # zarr 3.1's MemoryStore gives less than that, its LocalStore all there is
    else:
        asked = wanted
    expected = asyncio.run(theirs.get(str(size), PROTOTYPE, asked))
    assert (found and found.to_bytes()) == (expected and expected.to_bytes())
    [again] = asyncio.run(ours.get_partial_values(PROTOTYPE, iter([(str(size), wanted)])))
    assert (again and again.to_bytes()) == (found and found.to_bytes())


def test_a_range_loads_only_the_blocks_it_lies_in():
    items = {"big": np.random.default_rng(1).bytes(5 << 20)}
    store = store_of(items)
    cas = store.hamt.cas
    found = asyncio.run(store.get("big", PROTOTYPE, RangeByteRequest((2 << 20) + 5, (2 << 20) + 9)))
    assert found.to_bytes() == items["big"][(2 << 20) + 5 : (2 << 20) + 9]
    assert cas.loads.total() == 3  # the tree's root, the file's, and one leaf
    assert asyncio.run(store.getsize("big")) == 5 << 20
    assert cas.loads.total() == 4


@pytest.mark.parametrize(
    "wanted", [RangeByteRequest(-1, 2), SuffixByteRequest(-1), OffsetByteRequest(-1), (0, 1)]
)
def test_a_range_that_makes_no_sense_is_refused(wanted):
    with pytest.raises(errors.InvalidInput, match="Unexpected byte_range"):
        asyncio.run(store_of({"a": b"1234"}).get("a", PROTOTYPE, wanted))


names = st.sampled_from(["c", "0", "1", "0.0", "a", "b", "zarr.json", ".zarray"])
keys = st.lists(names, min_size=1, max_size=4).map("/".join)


@given(st.sets(keys, max_size=12), keys | st.sampled_from(["", "a/", "c/0/", "zz"]))
@settings(deadline=None)
def test_listings_are_those_of_zarrs_stores(keys, prefix):
    """Also the second time, when folders are remembered."""
    items = dict.fromkeys(keys, b"1")
    ours, theirs = store_of(items, InMemoryCAS()), memory_store(items)
    for _ in range(2):
        for listing in ("list_prefix", "list_dir"):
            found, expected = (
                asyncio.run(collect(getattr(store, listing)(prefix))) for store in (ours, theirs)
            )
            assert sorted(found) == sorted(expected)
    assert sorted(asyncio.run(collect(ours.list()))) == sorted(keys)
    assert asyncio.run(ours.is_empty(prefix)) == asyncio.run(theirs.is_empty(prefix))
    folder = prefix.rstrip("/") + "/" if prefix else ""
    assert asyncio.run(ours.getsize_prefix(prefix)) == sum(key.startswith(folder) for key in keys)


def test_listing_a_hierarchy_walks_the_tree_once_and_loads_no_chunk():
    items = {f"g{group}/v/c/{chunk}": b"%d/%d" % (group, chunk) for group in range(5) for chunk in range(300)}
    items |= {f"g{group}/zarr.json": b"g%d" % group for group in range(5)}
    cas = CountingCAS()
    root = stored(cas, items)
    cas.loads.clear()
    store = read_only(root, cas, max_cache_bytes=0)
    assert sorted(asyncio.run(collect(store.list_dir("")))) == [f"g{group}" for group in range(5)]
    nodes = cas.loads.copy()
    assert set(nodes.values()) == {1}
    assert not nodes.keys() & set(map(partial(save, cas), items.values()))
    for group in range(5):
        assert sorted(asyncio.run(collect(store.list_dir(f"g{group}")))) == ["v", "zarr.json"]
    assert cas.loads == nodes
    assert len(asyncio.run(collect(store.list_dir("g1/v/c")))) == 300


def test_looking_for_the_first_key_does_not_walk_the_tree():
    cas = CountingCAS()
    root = stored(cas, {f"a/{number}": b"" for number in range(3000)}, crowded_hashfn)
    cas.loads.clear()
    assert not asyncio.run(read_only(root, cas, crowded_hashfn).is_empty("a"))
    assert cas.loads.total() < len(cas.blocks) / 2


async def _opened(root, cas) -> ZarrHAMTStore:
    return await ZarrHAMTStore.open(root, cas)


def test_open_takes_any_form_of_a_root_and_may_be_awaited(tmp_path):
    cas = PackCAS(tmp_path / "store")
    root = stored(cas, {"a": b"1"})
    for form in (root, to_cid(root), text(root), f"ipfs://{text(root)}", tmp_path / text(root)):
        for place in (cas, tmp_path / "store", str(tmp_path / "store")):
            store = ZarrHAMTStore.open(form, place)
            assert store == asyncio.run(_opened(form, place))
            assert store._is_open and store.read_only and store.root == to_cid(root)
    assert store != ZarrHAMTStore.open(root, InMemoryCAS())
    assert len({store, ZarrHAMTStore.open(root, cas)}) == 1


def test_writing_is_refused_and_the_refusal_names_what_to_use():
    store = store_of({"a": b"1"})
    value = cpu.Buffer.from_bytes(b"2")
    for attempt in (
        lambda: store.set("a", value),
        lambda: store.set_if_not_exists("a", value),
        lambda: store.delete("a"),
        lambda: store.delete_dir(""),
        lambda: store.clear(),
        lambda: store._set_many([("a", value)]),
    ):
        with pytest.raises(errors.ReadOnly, match=r"read-only mode and does not support writing.*to_hamt"):
            asyncio.run(attempt())
    with pytest.raises(errors.ReadOnly, match="to_hamt"):
        store.with_read_only(False)
    assert store.with_read_only(True) == store
    with pytest.raises(ValueError, match="read-only"):
        xr.Dataset({"a": 1}).to_zarr(store)


def _read(store: ZarrHAMTStore) -> bytes:
    return asyncio.run(store.get("a")).to_bytes()


def test_a_store_travels_to_another_process_without_its_cache(tmp_path):
    cas = PackCAS(tmp_path / "store")
    store = ZarrHAMTStore.open(stored(cas, {"a": b"1"} | {str(n): b"" for n in range(999)}), cas)
    asyncio.run(collect(store.list()))
    assert len(pickle.dumps(store)) < 1000
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert pool.submit(_read, store).result() == b"1"


def test_a_thousand_tasks_load_the_root_once():
    _shared_cache.cache_clear()
    cas = CountingCAS()
    store = store_of({"a": b"1"}, cas)
    parcel = pickle.dumps(store)
    for _ in range(1000):
        copy = pickle.loads(parcel)
        assert copy == store and copy._is_open and tokenize(copy) == tokenize(store)
        assert asyncio.run(copy.exists("a"))
        del copy
    assert cas.loads[store.hamt.draft.tree.root] == 1
    assert tokenize(store) != tokenize(store_of({"a": b"2"}, cas))


# What zarr and xarray make of it


def dataset() -> xr.Dataset:
    rng = np.random.default_rng(7)
    return xr.Dataset(
        {
            "t2m": (("time", "x"), rng.normal(size=(4, 6)), {"units": "K"}),
            "count": (("x",), np.arange(6, dtype="int16")),
        },
        coords={"time": np.array("2020-01-01", "M8[ns]") + np.arange(4), "x": np.linspace(0, 1, 6)},
        attrs={"title": "a"},
    )


@cache
def hierarchy(zarr_format: int, consolidated: bool) -> tuple[dict[bytes, bytes], bytes]:
    """The blocks and the root of a dataset, with a group and a sharded array below it."""
    memory = MemoryStore()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        encoding = {"t2m": {"chunks": (2, 6)}}
        dataset().to_zarr(memory, zarr_format=zarr_format, consolidated=False, encoding=encoding)
        if zarr_format == 3:
            shards = zarr.create_array(
                memory,
                name="group/s",
                shape=(8,),
                chunks=(1,),
                shards=(4,),
                dtype="i4",
                dimension_names=["s"],
            )
            shards[:] = np.arange(8)
        else:
            inner = zarr.create_array(
                memory, name="group/s", shape=(8,), chunks=(4,), dtype="i4", zarr_format=2
            )
            inner[:] = np.arange(8)
        if consolidated:
            zarr.consolidate_metadata(memory, zarr_format=zarr_format)
    cas = InMemoryCAS()
    items = {key: value.to_bytes() for key, value in memory._store_dict.items()}
    return cas.blocks, stored(cas, items, crowded_hashfn)


def faulty_store(zarr_format: int, consolidated: bool, *faults: Fault) -> tuple[FaultyCAS, ZarrHAMTStore]:
    inner = InMemoryCAS()
    inner.blocks, root = hierarchy(zarr_format, consolidated)
    cas = FaultyCAS(inner, *faults)
    return cas, read_only(root, cas, crowded_hashfn)


def open_dataset(store: ZarrHAMTStore, **options) -> xr.Dataset:
    return xr.open_zarr(store, chunks=None, **options).load()


def open_members(store: ZarrHAMTStore, **options) -> list[tuple[str, str]]:
    group = zarr.open_group(store, mode="r", **options)
    assert "t2m" in group and group.get("count") is not None
    members = group.members(max_depth=None)
    return sorted((name, type(member).__name__) for name, member in members)


def read_arrays(store: ZarrHAMTStore) -> list:
    whole = zarr.open(store, path="t2m", mode="r")[...]
    return [whole.tolist(), zarr.open_array(store, path="group/s", mode="r")[2:3].tolist()]


OPENED = {
    "dataset, v3 consolidated": (3, True, open_dataset),
    "dataset, v3, xarray tries twice": (3, False, open_dataset),
    "dataset, v3": (3, False, partial(open_dataset, consolidated=False)),
    "dataset, v2 consolidated": (2, True, open_dataset),
    "dataset, v2": (2, False, partial(open_dataset, consolidated=False)),
    "members, v3 consolidated": (3, True, open_members),
    "members, v3": (3, False, partial(open_members, use_consolidated=False)),
    "members, v2 consolidated": (2, True, open_members),
    "members, v2": (2, False, partial(open_members, use_consolidated=False)),
    "arrays, v3": (3, True, read_arrays),
    "arrays, v2": (2, True, read_arrays),
}

FAULTS = [
    error for error in vars(errors).values() if isinstance(error, type) and issubclass(error, Exception)
]
FAULTS += [KeyError, FileNotFoundError, OSError, ValueError]


def links(error: BaseException | None) -> Iterator[BaseException]:
    """An error, what it was raised from, and the members of groups."""
    while error is not None:
        yield error
        for member in getattr(error, "exceptions", ()):
            yield from links(member)
        error = error.__cause__ or error.__context__


@pytest.fixture
def quiet_loops(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Without the log of tasks that zarr leaves behind when one of their siblings has failed."""
    with caplog.at_level(logging.CRITICAL, "asyncio"):
        yield
        gc.collect()


@pytest.mark.usefixtures("quiet_loops")
@pytest.mark.filterwarnings("ignore:Failed to open Zarr store with consolidated metadata:RuntimeWarning")
@pytest.mark.parametrize("on", [False, True], ids=["once", "from then on"])
@pytest.mark.parametrize("what", OPENED)
def test_a_fault_at_any_load_is_an_error_and_never_a_gap(what, on):
    """Neither a variable that is dropped nor a chunk that is filled, whatever the store raises and when."""
    zarr_format, consolidated, opened = OPENED[what]
    clean, store = faulty_store(zarr_format, consolidated)
    expected = opened(store)
    calls = sum(clean.calls.values())
    assert calls >= 3
    for error in FAULTS:
        for nth in range(1, calls + 1):
            fault = Fail(nth=nth, lasting=on, error=error("injected"))
            cas, store = faulty_store(zarr_format, consolidated, fault)
            try:
                found = opened(store)
            except Exception as raised:
                assert any(link.args == ("injected",) for link in links(raised))
                assert not isinstance(raised, (KeyError, FileNotFoundError))
                if issubclass(error, errors.HamtError) and error is not errors.KeyNotFound:
                    assert any(type(link) is error for link in links(raised))
            else:
                # xarray tries again, without consolidated metadata, after a ValueError of the first try.
                assert not cas.struck or (not on and opened is open_dataset)
                assert found.identical(expected) if isinstance(found, xr.Dataset) else found == expected


@pytest.mark.usefixtures("quiet_loops")
@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.parametrize("damage", [None, b"damaged"], ids=["missing", "damaged"])
def test_any_block_that_is_missing_or_damaged_is_named(damage, consolidated):
    sound, root = hierarchy(3, consolidated)
    opened = partial(open_dataset, consolidated=consolidated)
    expected = errors.BlockNotFound if damage is None else errors.BlockMismatch
    needed = 0
    for cid in sound:
        cas = InMemoryCAS()
        cas.blocks = {other: data for other, data in sound.items() if other != cid}
        if damage is not None:
            cas.blocks[cid] = damage
        try:
            found = opened(read_only(root, cas, crowded_hashfn))
        except expected as error:
            assert text(cid) in str(error)
            needed += 1
        else:
            assert found.identical(dataset())
    assert needed > 5


@pytest.mark.parametrize("scheduler", ["threads", "distributed"])
def test_dask_reads_it(scheduler):
    cas, store = faulty_store(3, True)
    opened = xr.open_zarr(store, chunks={})
    if scheduler == "threads":
        assert opened.load(scheduler="threads").identical(dataset())
        return
    with (
        LocalCluster(n_workers=2, threads_per_worker=2, processes=False, dashboard_address=":0") as cluster,
        Client(cluster),
    ):
        assert opened.load().identical(dataset())
        cas.arm(Fail(error=errors.BlockNotFound("injected")))
        with pytest.raises(errors.BlockNotFound, match="injected"):
            xr.open_zarr(store, chunks={}).load()
