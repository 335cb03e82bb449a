"""The node cache and the reading side of a tree, against a dict."""

import asyncio
import hashlib
import multiprocessing
import pickle
import sys
import threading
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hamt_bulk import errors, unixfs
from hamt_bulk.block import identify, text, to_bytes
from hamt_bulk.cas import ContentAddressedStore, InMemoryCAS, LocalCAS, PackCAS
from hamt_bulk.cas.wrap import VerifyingCAS, configuration, verified
from hamt_bulk.cas.wrapping import WrappingCAS
from hamt_bulk.layout import PyHamt
from hamt_bulk.manifest import Manifest, blake3_hashfn
from hamt_bulk.nodecache import NodeCache, node_bytes
from hamt_bulk.nodes import Tree
from hamt_bulk.reads import drive
from hamt_bulk.tree import update


class CountingCAS(InMemoryCAS):
    """Counts what is loaded, and lets a test fail it, or hold it up until it opens the gate."""

    in_memory = False  # its loads may wait
    size_blocks = LocalCAS.size_blocks  # by loading them

    def __init__(self) -> None:
        super().__init__()
        self.loads: Counter[bytes] = Counter()
        self.fails: dict[bytes, Exception] = {}
        self.delay = 0.0
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def read_blocks(self, cids: Sequence[bytes]) -> list:
        self.loads.update(cids)
        self.entered.set()
        time.sleep(self.delay)
        assert self.gate.wait(30)
        for cid in cids:
            if cid in self.fails:
                raise self.fails[cid]
        return super().read_blocks(cids)


class PlainCAS(ContentAddressedStore):
    """The least that a store can be: `save` and `load`, asynchronous, not verified."""

    def __init__(self, inner: InMemoryCAS) -> None:
        self.inner = inner
        self.lies: dict[bytes, bytes] = {}

    async def save(self, data, codec):
        return await self.inner.save(data, codec)

    async def load(self, id, offset=None, length=None, suffix=None):
        await asyncio.sleep(0)
        cid = to_bytes(id)
        return self.lies[cid] if cid in self.lies else await self.inner.load(cid, offset, length, suffix)


def crowded_hashfn(data: bytes) -> bytes:
    """A hash whose first bytes take few values, so that small trees are deep."""
    digest = hashlib.sha256(data).digest()
    return bytes(byte & 0x81 for byte in digest[:6]) + digest


def build(cas: InMemoryCAS, pointers: dict[str, bytes], hash_fn=crowded_hashfn, layout=PyHamt()) -> bytes:  # noqa: B008
    edits = Manifest.of(pointers.items(), hash_fn)
    with cas.writer() as writer:
        root = drive(update(None, edits, layout, writer.save_many, hash_fn), cas.load_blocks)
        writer.flush()
    return root


def save(cas: InMemoryCAS, value: bytes) -> bytes:
    with cas.writer() as writer:
        pointer = writer.save(value)
        writer.flush()
    return pointer


def pointers(keys: Iterable[str]) -> dict[str, bytes]:
    return {key: identify(key.encode()) for key in keys}


def numbered(count: int) -> dict[str, bytes]:
    return pointers(map(str, range(count)))


def tree_of(count: int, cache: NodeCache | None = None) -> tuple[Tree, CountingCAS]:
    """A tree of that many keys in a store that has not been asked for anything yet."""
    cas = CountingCAS()
    root = build(cas, numbered(count))
    cas.loads.clear()
    cas.entered.clear()
    return Tree(root, cas, hash_fn=crowded_hashfn, cache=cache), cas


async def collect(items) -> list:
    return [item async for item in items]


@given(st.sets(st.text(max_size=4), max_size=60), st.sampled_from([0, 20_000, 1 << 20]), st.booleans())
@settings(deadline=None)
def test_a_tree_reads_as_the_dict_it_was_built_from(keys, max_bytes, plain):
    cas = InMemoryCAS()
    expected = pointers(keys)
    cache = NodeCache(max_bytes)
    root = build(cas, expected)
    tree = Tree(root, PlainCAS(cas) if plain else cas, hash_fn=crowded_hashfn, cache=cache)
    assert dict(tree.entries()) == dict(asyncio.run(collect(tree.entries_async()))) == expected
    for key in [*expected, "absent"]:
        found = tree.pointer(key), asyncio.run(tree.pointer_async(key))
        assert found == (expected.get(key),) * 2
        assert cache.nbytes <= max_bytes


@pytest.mark.parametrize("store", [lambda cas: cas, PlainCAS])
def test_a_node_that_many_want_at_once_is_loaded_once(store):
    """64 cold reads from four threads and four event loops."""
    tree, cas = tree_of(300)
    tree = Tree(tree.root, store(cas), hash_fn=crowded_hashfn)
    cas.delay = 0.02
    keys = [str(number) for number in range(8)]

    def in_a_thread() -> list:
        return [tree.pointer(key) for key in keys]

    def in_a_loop() -> list:
        async def reads():
            return await asyncio.gather(*map(tree.pointer_async, keys))

        return list(asyncio.run(reads()))

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(task) for task in [in_a_thread, in_a_loop] * 4]
        assert all(answer.result() == list(numbered(8).values()) for answer in answers)
    assert len(cas.loads) > 8
    assert set(cas.loads.values()) == {1}


def test_listing_loads_each_node_once_and_no_value():
    tree, cas = tree_of(2000, NodeCache(0))
    assert dict(tree.entries()) == numbered(2000)
    assert set(cas.loads.values()) == {1}
    assert len(cas.loads) == len(cas.blocks)


def test_the_cache_keeps_to_its_limit_and_drops_the_least_recently_used():
    tree, cas = tree_of(1000, NodeCache(60_000))
    for key in numbered(1000):
        tree.pointer(key)
        assert tree.cache.nbytes <= 60_000
    assert cas.loads[tree.root] == 1  # every lookup uses it
    assert max(cas.loads.values()) > 1


def test_a_listing_pushes_nothing_out_of_the_cache():
    tree, cas = tree_of(3000, NodeCache(60_000))
    for _ in range(2):
        tree.pointer("7")
    cas.loads.clear()
    list(tree.entries())
    cas.loads.clear()
    tree.pointer("7")
    assert not cas.loads


def test_the_estimate_of_a_node_is_its_memory():
    cas = InMemoryCAS()
    root = build(cas, pointers(f"t2m/c/0/{number}/{number % 7}" for number in range(5000)), blake3_hashfn)
    tree = Tree(root, cas)
    list(tree.entries())  # what is made only once
    tree.cache = NodeCache()
    tracemalloc.start()
    try:
        list(tree.entries())
        used, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert 0.8 < tree.cache.nbytes / used < 1.25
    assert node_bytes([{}] * 256) < 4000


def test_a_failed_load_is_everyones_error_and_is_not_kept(monkeypatch):
    tree, cas = tree_of(300)
    waiting = threading.Semaphore(0)

    def claim(*wanted):
        claims = NodeCache._claim(tree.cache, *wanted)
        waiting.release()
        return claims

    monkeypatch.setattr(tree.cache, "_claim", claim)
    cas.fails[tree.root] = errors.CASError("out of reach")
    cas.gate.clear()

    def in_a_loop():
        return asyncio.run(tree.pointer_async("1"))

    with ThreadPoolExecutor(8) as pool:
        answers = [pool.submit(task) for task in [lambda: tree.pointer("1"), in_a_loop] * 4]
        assert all(waiting.acquire(timeout=30) for _ in answers)
        cas.gate.set()
        for answer in answers:
            with pytest.raises(errors.CASError, match="out of reach"):
                answer.result()
    assert cas.loads[tree.root] == 1
    cas.fails.clear()
    assert tree.pointer("1") == numbered(2)["1"]


@pytest.mark.parametrize("close", [True, False], ids=["its loop is closed", "its loop is blocked"])
def test_whoever_was_cancelled_leaves_those_who_wait_alone(close):
    """Also when it was the first, whose load it was, and when its event loop goes or stands still."""
    tree, cas = tree_of(300)
    cas.gate.clear()
    loop = asyncio.new_event_loop()

    async def first() -> None:
        task = asyncio.ensure_future(tree.pointer_async("1"))
        await asyncio.to_thread(cas.entered.wait, 30)
        if close:
            task.cancel()

    loop.run_until_complete(first())
    if close:
        loop.close()

    async def second() -> list:
        tasks = [asyncio.ensure_future(tree.pointer_async("1")) for _ in range(3)]
        await asyncio.sleep(0.05)
        tasks[0].cancel()
        cas.gate.set()
        return await asyncio.gather(*tasks, return_exceptions=True)

    cancelled, *answers = asyncio.run(second())
    assert isinstance(cancelled, asyncio.CancelledError)
    assert answers == [numbered(2)["1"]] * 2
    assert tree.pointer("1") == numbered(2)["1"]
    assert cas.loads[tree.root] == 1
    if not close:
        loop.run_until_complete(asyncio.sleep(0.05))
        loop.close()


def test_a_listing_that_fails_does_not_fail_those_who_wait_for_another_node():
    tree, cas = tree_of(300)
    [root] = tree.cache.get([tree.root], tree._load)
    sound, missing, *_ = (slot for slot in root if isinstance(slot, bytes))
    key = next(key for key in numbered(300) if root[crowded_hashfn(key.encode())[0]] == sound)
    cas.fails[missing] = errors.BlockNotFound("gone")
    cas.gate.clear()
    cas.entered.clear()
    with ThreadPoolExecutor(2) as pool:
        listing = pool.submit(lambda: list(tree.entries()))
        assert cas.entered.wait(30)
        lookup = pool.submit(tree.pointer, key)
        time.sleep(0.1)
        cas.gate.set()
        with pytest.raises(errors.BlockNotFound, match="gone"):
            listing.result()
        assert lookup.result() == numbered(300)[key]


@pytest.mark.skipif(sys.platform != "linux", reason="fork is for Linux")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_forked_child_reads_what_its_parent_was_loading():
    """It has neither the parent's threads nor the end of what they were loading."""
    tree, cas = tree_of(300)
    cas.gate.clear()
    with ThreadPoolExecutor(1) as pool:
        loading = pool.submit(lambda: asyncio.run(tree.pointer_async("1")))
        assert cas.entered.wait(30)
        shut, cas.gate = cas.gate, threading.Event()
        cas.gate.set()
        child = multiprocessing.get_context("fork").Process(target=_read_both_ways, args=(tree,))
        child.start()
        child.join(30)
        shut.set()
        assert loading.result() == numbered(2)["1"]
    assert child.exitcode == 0


def _read_both_ways(tree: Tree) -> None:
    assert tree.pointer("1") == asyncio.run(tree.pointer_async("1")) == numbered(2)["1"]


def test_a_missing_root_is_said_to_be_the_root():
    tree, cas = tree_of(300)
    elsewhere = Tree(tree.root, InMemoryCAS())
    with pytest.raises(
        errors.BlockNotFound, match=f"the root {text(tree.root)} is not in this store, InMemory"
    ):
        elsewhere.pointer("1")
    with pytest.raises(errors.BlockNotFound, match="the root"):
        list(elsewhere.entries())
    [root] = tree.cache.get([tree.root], tree._load)
    del cas.blocks[next(slot for slot in root if isinstance(slot, bytes))]
    with pytest.raises(errors.BlockNotFound, match="no block"):
        list(tree.entries())


class OwnKeyError(errors.BlockNotFound, KeyError):
    """An error as a careless store would define it."""


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (KeyError("k"), errors.CASError),
        (FileNotFoundError("f"), errors.CASError),
        (TimeoutError(), errors.CASError),
        (AssertionError("a"), errors.CASError),
        (errors.KeyNotFound("k"), errors.CASError),
        (OwnKeyError("gone"), errors.BlockNotFound),
        (errors.CASError("c"), None),
        (errors.BlockNotFound("b"), None),
        (errors.BlockMismatch("m"), None),
        (errors.NotPortable("p"), None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_a_store_raises_comes_out_as_an_error_of_ours(error, expected):
    tree, cas = tree_of(1)
    pointer = save(cas, b"value")
    cas.fails = dict.fromkeys(cas.blocks, error)
    for attempt in (
        lambda: tree.pointer("0"),
        lambda: asyncio.run(tree.pointer_async("0")),
        lambda: list(tree.entries()),
        lambda: tree.read(pointer),
        lambda: asyncio.run(tree.read_async(pointer, 1, 2)),
        lambda: tree.sizes([pointer]),
    ):
        with pytest.raises(errors.HamtError) as raised:
            attempt()
        chain = [
            raised.value,
            raised.value.__cause__,
            raised.value.__cause__ and raised.value.__cause__.__cause__,
        ]
        assert not isinstance(raised.value, (KeyError, FileNotFoundError))
        assert isinstance(raised.value, expected or type(error))
        assert any(type(link) is type(error) and link.args == error.args for link in chain)
        if expected:
            assert any(
                f"CountingCAS could not load {text(cid)}" in str(link) for link in chain for cid in cas.fails
            )


def test_a_tree_of_another_hash_is_not_taken_for_one_without_the_key():
    cas = InMemoryCAS()
    root = build(cas, numbered(300), lambda data: hashlib.sha256(data).digest())
    with pytest.raises(errors.MalformedNode, match=r"no telling whether .* has 'absent': .* another hash_fn"):
        Tree(root, cas).pointer("absent")


def test_a_store_that_verifies_is_not_hashed_again():
    cas = InMemoryCAS()
    assert verified(cas) is cas
    plain = verified(PlainCAS(cas))
    assert isinstance(plain, VerifyingCAS)
    assert verified(plain) is plain


def test_the_whole_contract_is_passed_on_by_what_is_put_around_a_store():
    """A method that is added to the contract must not be answered by its default."""
    contract = {name for name, member in vars(ContentAddressedStore).items() if callable(member)}
    public = {name for name in contract if not name.startswith("_")}
    assert public <= vars(WrappingCAS).keys()


VALUE = bytes(range(256)) * 5000


@given(
    st.integers(0, len(VALUE) + 9), st.none() | st.integers(0, len(VALUE) + 9), st.sampled_from([100, None])
)
@settings(deadline=None, max_examples=20)
def test_ranges_of_a_store_that_cannot_verify_are_cut_from_the_whole(start, stop, length):
    cas = InMemoryCAS()
    value = VALUE[:length]
    pointer = save(cas, value)
    reader = Tree(b"", PlainCAS(cas))
    expected = value[start : None if stop is None else max(start, stop)]
    assert (
        reader.read(pointer, start, stop) == asyncio.run(reader.read_async(pointer, start, stop)) == expected
    )
    suffix = value[max(len(value) - start, 0) :]
    assert (
        reader.read(pointer, suffix=start) == asyncio.run(reader.read_async(pointer, suffix=start)) == suffix
    )
    assert reader.sizes([pointer]) == asyncio.run(reader.sizes_async([pointer])) == [len(value)]


@pytest.mark.parametrize("value", [b"value", VALUE], ids=["raw", "file"])
def test_a_store_that_lies_is_caught(value):
    cas = InMemoryCAS()
    pointer = save(cas, value)
    root = build(cas, numbered(1))
    plain = PlainCAS(cas)
    plain.lies = {pointer: value + b"!", root: cas.blocks[root].replace(b"\xa0", b"\xa0\xa0", 1)}
    tree = Tree(root, plain)
    for attempt in (
        lambda: tree.pointer("0"),
        lambda: asyncio.run(tree.pointer_async("0")),
        lambda: tree.read(pointer, 0, 1),
        lambda: asyncio.run(tree.read_async(pointer, 0, 1)),
    ):
        with pytest.raises(errors.BlockMismatch):
            attempt()


def test_a_file_that_was_split_otherwise_cannot_be_verified_and_is_refused():
    cas = InMemoryCAS()
    pointer, blocks = unixfs.split(VALUE, "blake3", leaf_bytes=1 << 18)
    cas.blocks.update((block.cid, bytes(block.data)) for block in blocks)
    assert Tree(b"", cas).read(pointer) == VALUE
    with pytest.raises(errors.BlockMismatch, match="split otherwise"):
        Tree(b"", PlainCAS(cas)).read(pointer)


def test_stores_are_told_apart_by_their_configuration(tmp_path):
    stores = [
        PackCAS(tmp_path / "a"),
        PackCAS(tmp_path / "b"),
        InMemoryCAS(),
        InMemoryCAS(),
        PlainCAS(InMemoryCAS()),
    ]
    stores += [VerifyingCAS(store) for store in stores]
    assert len(set(map(configuration, stores))) == len(stores)
    for store in stores:
        assert configuration(pickle.loads(pickle.dumps(store))) == configuration(store)
    unportable = PlainCAS(InMemoryCAS())
    unportable.lies = threading.Lock()
    assert configuration(unportable) == configuration(unportable)
