"""The Zarr store of a root of any kind: beside zarr's memory store, and in threads and processes."""

import asyncio
import os
import pickle
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import pytest
import xarray as xr
from dask.base import tokenize
from hypothesis import given
from hypothesis import strategies as st
from ipldstore_made import frozen, root_of
from test_zarr_read import PROTOTYPE, collect, keys, memory_store, requests, sizes
from zarr.abc.store import OffsetByteRequest, RangeByteRequest, SuffixByteRequest
from zarr.core.buffer import cpu
from zarr.storage import MemoryStore

from hamt_bulk import InMemoryCAS, PackCAS, errors
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.crypto import Encryption
from hamt_bulk.formats.ipldstore import IpldstoreRoot
from hamt_bulk.formats.root import Root
from hamt_bulk.formats.sealed import SealedRoot
from hamt_bulk.zarr import roots
from hamt_bulk.zarr.roots import RootStore


class DictRoot(Root):
    """A root of some kind: pointers are the keys, and every call is counted."""

    kind = "dict"

    def __init__(self, values: dict[str, bytes], cas: ContentAddressedStore | None = None) -> None:
        super().__init__(b"\x01\x55\x12\x20" + bytes(32), cas or InMemoryCAS())
        self.given = values
        self.walks = 0
        self.threads: set[str] = set()
        self.fails: Exception | None = None

    def _called(self) -> None:
        self.threads.add(threading.current_thread().name.partition("_")[0])
        if self.fails is not None:
            raise self.fails

    def pointers(self) -> Iterator[tuple[str, bytes]]:
        self.walks += 1
        for key in self.given:
            self._called()
            yield key, key.encode()

    def pointer(self, key: str) -> bytes | None:
        self._called()
        return key.encode() if key in self.given else None

    def values(self, entries: Sequence[tuple[str, bytes]]) -> list[Any]:
        return [self.read(key, pointer) for key, pointer in entries]

    def read(
        self, key: str, pointer: bytes, start: int = 0, stop: int | None = None, suffix: int | None = None
    ) -> bytes:
        self._called()
        value = self.given[pointer.decode()]
        return value[start:stop] if suffix is None else value[max(len(value) - suffix, 0) :]

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.given, self.cas)


# Beside zarr's memory store


@given(sizes | st.just("absent"), requests)
def test_ranges_are_those_of_zarrs_stores(size, wanted) -> None:
    found = asyncio.run(OURS.get(str(size), PROTOTYPE, wanted))
    if isinstance(wanted, SuffixByteRequest) and size != "absent" and wanted.suffix > size:
        wanted = None  # zarr 3.1's MemoryStore gives less than that, its LocalStore all there is
    expected = asyncio.run(THEIRS.get(str(size), PROTOTYPE, wanted))
    assert (found and found.to_bytes()) == (expected and expected.to_bytes())
    [again] = asyncio.run(OURS.get_partial_values(PROTOTYPE, iter([(str(size), wanted)])))
    assert (again and again.to_bytes()) == (expected and expected.to_bytes())
    if expected is None:
        assert not asyncio.run(OURS.exists(str(size)))
        with pytest.raises(FileNotFoundError):
            asyncio.run(OURS.getsize(str(size)))
    else:
        assert asyncio.run(OURS.exists(str(size)))
        assert asyncio.run(OURS.getsize(str(size))) == size


SIZED = {str(size): (bytes(range(251)) * (size // 251 + 1))[:size] for size in sizes.elements}
OURS = root_of(SIZED).store()
THEIRS = memory_store(SIZED)


@given(st.sets(keys, max_size=12), keys | st.sampled_from(["", "a/", "c/0/", "zz"]))
def test_listings_are_those_of_zarrs_stores(keys, prefix) -> None:
    """Also the second time, when folders are remembered."""
    items = {key: key.encode() for key in keys}
    ours, theirs = RootStore(DictRoot(items)), memory_store(items)
    for _ in range(2):
        for listing in ("list_prefix", "list_dir"):
            found, expected = (
                asyncio.run(collect(getattr(store, listing)(prefix))) for store in (ours, theirs)
            )
            assert sorted(found) == sorted(expected)
    assert sorted(asyncio.run(collect(ours.list()))) == sorted(keys)
    assert asyncio.run(ours.is_empty(prefix)) == asyncio.run(theirs.is_empty(prefix))
    folder = prefix.rstrip("/") + "/" if prefix else ""
    inside = sum(len(value) for key, value in items.items() if key.startswith(folder))
    assert asyncio.run(ours.getsize_prefix(prefix)) == inside


@pytest.mark.parametrize(
    "wanted", [RangeByteRequest(-1, 2), SuffixByteRequest(-1), OffsetByteRequest(-1), (0, 1)]
)
def test_a_range_that_makes_no_sense_is_refused(wanted) -> None:
    with pytest.raises(errors.InvalidInput, match="Unexpected byte_range"):
        asyncio.run(RootStore(DictRoot({"a": b"1234"})).get("a", PROTOTYPE, wanted))


def test_a_descent_through_a_hierarchy_walks_the_root_once() -> None:
    items = {f"g{group}/v/c/{chunk}": b"" for group in range(5) for chunk in range(600)}
    items |= {f"g{group}/zarr.json": b"" for group in range(5)}
    root = DictRoot(items)
    store = RootStore(root)
    assert sorted(asyncio.run(collect(store.list_dir("")))) == [f"g{group}" for group in range(5)]
    for group in range(5):
        assert sorted(asyncio.run(collect(store.list_dir(f"g{group}/")))) == ["v", "zarr.json"]
    assert asyncio.run(collect(store.list_dir("nowhere"))) == []
    assert asyncio.run(collect(store.with_read_only(True).list_dir("g1"))) == ["v", "zarr.json"]
    assert root.walks == 1
    assert len(asyncio.run(collect(store.list_dir("g1/v/c")))) == 600
    assert root.walks == 2


def test_looking_for_the_first_key_does_not_walk_the_root(monkeypatch) -> None:
    monkeypatch.setattr(roots, "KEYS_AT_ONCE", 10)
    seen: list[str] = []

    class Seen(DictRoot):
        def pointers(self):
            for entry in super().pointers():
                seen.append(entry[0])
                yield entry

    assert not asyncio.run(RootStore(Seen({f"a/{number}": b"" for number in range(1000)})).is_empty("a"))
    assert len(seen) == 10


# What is never "no such chunk"


@pytest.mark.parametrize("error", [errors.BlockNotFound, errors.CASError, errors.MalformedNode])
def test_what_fails_is_raised_and_is_never_an_absent_key(error) -> None:
    root = DictRoot({"a": b"1", "b/c": b"2"})
    store = RootStore(root)
    root.fails = error("the outside failed")
    calls = [
        lambda: store.get("a"),
        lambda: store.get("absent"),
        lambda: store.exists("a"),
        lambda: store.getsize("a"),
        lambda: store.getsize_prefix(""),
        lambda: store.is_empty(""),
        lambda: collect(store.list()),
        lambda: collect(store.list_prefix("a")),
        lambda: collect(store.list_dir("")),
    ]
    for call in calls:
        with pytest.raises(error, match="the outside failed") as raised:
            asyncio.run(call())
        assert not isinstance(raised.value, (KeyError, FileNotFoundError))
    root.fails = None
    assert sorted(asyncio.run(collect(store.list_dir("")))) == ["a", "b"]  # half a walk was not remembered


# Writing


def test_writing_is_refused_and_the_refusal_names_what_to_use() -> None:
    store = RootStore(DictRoot({"a": b"1"}))
    value = cpu.Buffer.from_bytes(b"2")
    for attempt in (
        lambda: store.set("a", value),
        lambda: store.set_if_not_exists("a", value),
        lambda: store.set_partial_values([("a", 0, b"2")]),
        lambda: store.delete("a"),
        lambda: store.delete_dir(""),
        lambda: store.clear(),
        lambda: store._set_many([("a", value)]),
    ):
        with pytest.raises(errors.ReadOnly, match=r"does not support writing.*convert.*to_hamt"):
            asyncio.run(attempt())
    with pytest.raises(errors.ReadOnly, match=r"convert.*to_hamt"):
        store.with_read_only(False)
    with pytest.raises(ValueError, match="read-only"):
        xr.Dataset({"a": 1}).to_zarr(store)


# Threads and processes


def test_reads_of_a_store_that_waits_leave_the_event_loop_alone(tmp_path) -> None:
    waits, at_hand = DictRoot({"a": b"1"}, PackCAS(tmp_path / "store")), DictRoot({"a": b"1"})
    for root in (waits, at_hand):
        store = RootStore(root)
        assert asyncio.run(store.get("a")).to_bytes() == b"1"
        assert asyncio.run(collect(store.list_dir(""))) == ["a"]
        assert asyncio.run(store.getsize_prefix("")) == 1
    assert waits.threads == {"hamt-bulk-root"}
    assert at_hand.threads == {threading.current_thread().name}


def test_many_reads_are_under_way_at_once(tmp_path) -> None:
    """More than asyncio has threads for, on few cores."""
    barrier = threading.Barrier(roots.READS_AT_ONCE, timeout=60)

    class Waiting(DictRoot):
        def read(self, *arguments, **options):
            barrier.wait()
            return super().read(*arguments, **options)

    store = RootStore(Waiting({"a": b"1"}, PackCAS(tmp_path / "store")))

    async def read() -> int:
        return len(await asyncio.gather(*(store.get("a") for _ in range(roots.READS_AT_ONCE))))

    assert asyncio.run(read()) == roots.READS_AT_ONCE


def _read(store: RootStore) -> bytes:
    return asyncio.run(store.get("a")).to_bytes()


def test_a_store_travels_to_another_process(tmp_path) -> None:
    store = root_of({"a": b"1"}, PackCAS(tmp_path / "store")).store()
    assert _read(store) == b"1"
    assert len(pickle.dumps(store)) < 1000
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        assert pool.submit(_read, store).result() == b"1"


def test_a_forked_process_reads_too(tmp_path) -> None:
    """It has the pool of its parent, and none of its threads."""
    store = root_of({"a": b"1"}, PackCAS(tmp_path / "store")).store()
    assert _read(store) == b"1"
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if _read(store) == b"1" else 1)
        finally:
            os._exit(2)
    assert os.waitpid(child, 0)[1] == 0


def test_equal_are_stores_of_one_root_and_place(tmp_path) -> None:
    cas = PackCAS(tmp_path / "store")
    store = root_of({"a": b"1"}, cas).store()
    same = IpldstoreRoot(store.source.root, PackCAS(tmp_path / "store")).store()
    copy = pickle.loads(pickle.dumps(store))
    assert store == same == copy == store.with_read_only(True)
    assert len({store, same, copy}) == len({tokenize(each) for each in (store, same, copy)}) == 1
    for other in (
        root_of({"a": b"2"}, cas).store(),
        IpldstoreRoot(store.source.root, PackCAS(tmp_path / "other")).store(),
        RootStore(DictRoot({})),
        MemoryStore(),
    ):
        assert store != other and tokenize(store) != tokenize(other)
    assert RootStore(DictRoot({}, cas)) != RootStore(
        DictRoot({"a": b""}, cas)
    )  # other arguments of the same class


def test_an_encrypted_root_is_told_from_one_with_another_key(tmp_path) -> None:
    """The root that it is around is a part of it."""
    cas = PackCAS(tmp_path / "store")
    keys = [Encryption(bytes([number]) * 32) for number in range(2)]
    sealed = {key: bytes(keys[0].seal(key, value)) for key, value in {"a": b"1", "b/c": b"2"}.items()}
    root = frozen(sealed, cas)
    stores = [SealedRoot(IpldstoreRoot(root, cas), key).store() for key in keys]
    again = pickle.loads(pickle.dumps(stores[0]))
    assert stores[0] == again and tokenize(stores[0]) == tokenize(again)
    assert stores[0] != stores[1] and tokenize(stores[0]) != tokenize(stores[1])
    assert _read(stores[0]) == _read(again) == b"1"
    assert asyncio.run(stores[0].getsize("b/c")) == 1
    with pytest.raises(errors.HamtError):
        _read(stores[1])


def test_an_opened_store_stays_open_elsewhere() -> None:
    store = root_of({}).store()
    assert not pickle.loads(pickle.dumps(store))._is_open
    asyncio.run(store._open())
    assert pickle.loads(pickle.dumps(store))._is_open
