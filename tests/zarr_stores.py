"""Zarr stores that are written to, what they hold, and how zarr's own suites and machines run on them."""

from collections.abc import Callable, Sequence
from typing import TypeVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test
from stored import assert_same, in_tree
from test_zarr_read import collect
from trees_made import CountingCAS
from zarr.abc.store import Store
from zarr.core.buffer import cpu, default_buffer_prototype
from zarr.core.sync import sync
from zarr.testing.store import StoreTests

from hamt_bulk import build
from hamt_bulk.cas import ContentAddressedStore, InMemoryCAS
from hamt_bulk.hamt import HAMT
from hamt_bulk.zarr import StoreIsReadOnly, ZarrHAMTStore

PROTOTYPE = default_buffer_prototype()

S = TypeVar("S", bound=Store)


def new_hamt(cas: ContentAddressedStore | None = None, **options) -> HAMT:
    return sync(HAMT.build(cas=cas or InMemoryCAS(), values_are_bytes=True, **options))


def new_store(cas: ContentAddressedStore | None = None, **options) -> ZarrHAMTStore:
    return ZarrHAMTStore(new_hamt(cas, **options))


def reopened(store: ZarrHAMTStore) -> ZarrHAMTStore:
    """A store of another HAMT, which begins with what this one has."""
    return new_store(store.hamt.cas, root_node_id=store.flush(), hash_fn=store.hamt.hash_fn)


def buffer(value: bytes) -> cpu.Buffer:
    return cpu.Buffer.from_bytes(value)


def listed(items) -> list[str]:
    """The names, sorted; each comes once."""
    found = sync(collect(items))
    assert len(found) == len(set(found))
    return sorted(found)


def assert_holds(store: ZarrHAMTStore, expected: dict[str, bytes]) -> None:
    """That all readers find these keys and values, and that the root is the one of a build of them."""
    values = {key: sync(store.get(key)).to_bytes() for key in listed(store.list())}
    assert_same(values, expected)
    root = store.flush()
    assert root == build(expected, InMemoryCAS())
    assert_same(in_tree(root, store.hamt.cas), expected)


class SizingCAS(CountingCAS):
    """Knows the sizes of blocks without loading them, as packs do."""

    def size_blocks(self, cids: Sequence[bytes]) -> list[int]:
        return [len(self.blocks[cid]) for cid in cids]


class SuiteStore(ZarrHAMTStore):
    """Opens as zarr's stores do, with the arguments of the class."""

    open = classmethod(Store.open.__func__)


PREPARED_BY_WRITING = (
    "test_exists",
    "test_getsize_prefix",
    "test_list",
    "test_list_dir",
    "test_list_empty_path",
    "test_list_prefix",
    "test_serializable_store",
)
"""Tests of reading that write what they read: for a read-only store it comes into the tree in another way."""

WRITES = {
    "test_clear": StoreIsReadOnly,
    "test_set_if_not_exists": StoreIsReadOnly,
    "test_set_many": StoreIsReadOnly,
    "test_set_not_open": StoreIsReadOnly,
    "test_set": AssertionError,  # these begin with `assert not store.read_only`
    "test_store_read_only": AssertionError,
}
"""How the tests of writing must fail for a read-only store. Those of deleting are skipped by the suite."""


class WritableTests(StoreTests[S, cpu.Buffer]):
    """zarr's suite, for a store that takes all edits."""

    buffer_cls = cpu.Buffer

    def test_store_supports_writes(self, store):
        assert store.supports_writes and store.supports_deletes

    def test_store_supports_listing(self, store):
        assert store.supports_listing


class ReadOnlyTests(StoreTests[S, cpu.Buffer]):
    """zarr's suite, for a store that cannot be written to; what tests read has to come into it by `set`."""

    buffer_cls = cpu.Buffer
    refusal: str
    """What the store says when it is opened to be written to."""

    @pytest.fixture(autouse=True)
    def as_it_can_be(self, request, monkeypatch):
        if request.node.originalname in PREPARED_BY_WRITING:
            monkeypatch.setattr(self.store_cls, "set", lambda *arguments: self.set(*arguments))
        if error := WRITES.get(request.node.originalname):
            request.applymarker(pytest.mark.xfail(raises=error, reason="writes", strict=True))

    async def get(self, store, key):
        raise AssertionError("nothing can be written that would be looked for")

    def test_store_supports_writes(self, store):
        assert not store.supports_writes and not store.supports_deletes

    def test_store_supports_listing(self, store):
        assert store.supports_listing

    @pytest.mark.parametrize("read_only", [True, False])
    async def test_store_open_read_only(self, open_kwargs, read_only):
        if read_only:
            await super().test_store_open_read_only(open_kwargs, read_only)
        else:
            with pytest.raises(StoreIsReadOnly, match=self.refusal):
                await super().test_store_open_read_only(open_kwargs, read_only)


def run_machine(machine: Callable[[], RuleBasedStateMachine], examples: int, steps: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
        ),
    )
