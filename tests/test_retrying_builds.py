"""Every contract, and every build, over a store of which every tenth call fails."""

import os
from pathlib import Path

import dask
import dask.array as da
import dask.bag
import numpy as np
import pytest
import xarray as xr
from distributed import Client, LocalCluster
from stored import in_tree
from test_cas_custom import DictCAS

from hamt_bulk import InMemoryCAS, PackCAS, RetryingCAS, build, copy
from hamt_bulk.cas import BlockCAS, ContentAddressedStore, Retries
from hamt_bulk.dask import build as build_on_dask
from hamt_bulk.hamt import HAMT
from hamt_bulk.testing import Fail, FaultyCAS
from hamt_bulk.testing.contract import CASContract, cid_of
from hamt_bulk.xarray import to_hamt

FULL = os.environ.get("HAMT_BULK_FULL") == "1"
ITEMS = {f"key {number}": b"value %d" % number * 20 for number in range(600)}
ROOT = build(ITEMS, InMemoryCAS())
QUICK = Retries(max_retries=12, initial_delay=0.0005, backoff_factor=1.3)
"""Enough where one call in ten fails: a writer that begins again needs three calls, and fails 13 times once in 10^7."""


class TestRetryingPackCAS(CASContract):
    """Every tenth call of the store within fails, and nobody notices."""

    counts_saves = False  # what was lost and given again counts as often as it was flushed

    def fresh(self, folder: Path) -> RetryingCAS:
        return RetryingCAS(FaultyCAS(PackCAS(folder / "store"), Fail(rate=0.1)), QUICK)

    def corrupt(self, cas: ContentAddressedStore, cid: bytes) -> None:
        assert isinstance(cas, RetryingCAS) and isinstance(cas, BlockCAS)
        for path in cas.inner.inner.path.glob("packs/*/*.car"):
            data = bytearray(path.read_bytes())
            if (at := bytes(data).find(cid)) >= 0:
                data[at + len(cid)] ^= 1
                path.write_bytes(data)
        cas.close()

    def test_its_repr_names_it(self, folder: Path) -> None:
        found = repr(RetryingCAS(PackCAS(folder), Retries(2)))
        assert found == (
            f"RetryingCAS(PackCAS('{folder}', 'blake3'), "
            "Retries(max_retries=2, initial_delay=1.0, backoff_factor=2.0, jitter=0.25))"
        )


class TestRetryingDictCAS(CASContract):
    """The same around a store that has nothing but `save` and `load`, and does not verify."""

    drops_unflushed = counts_saves = checks_ranges = False

    def fresh(self, folder: Path) -> RetryingCAS:
        inner = DictCAS()
        inner.hasher = "blake3"  # in the object, so that its token can be compared
        return RetryingCAS(FaultyCAS(inner, Fail(rate=0.03)), QUICK)

    def another(self, cas: ContentAddressedStore) -> ContentAddressedStore:
        return cas

    def leaf(self, value: bytes, hasher: str) -> bytes:
        return cid_of(value, hasher=hasher)

    def corrupt(self, cas: RetryingCAS, cid: bytes) -> None:
        values = cas.inner.inner.inner.values
        values[cid] = bytes([values[cid][0] ^ 1]) + values[cid][1:]

    def test_its_repr_names_it(self, folder: Path) -> None:
        assert repr(self.fresh(folder)).startswith("RetryingCAS(VerifyingCAS(FaultyCAS(")


def dataset() -> xr.Dataset:
    values = da.arange(24 * 30, chunks=30, dtype="f8").reshape(24, 30).rechunk((2, 10))
    return xr.Dataset({"a": (("x", "y"), values), "b": ("y", np.arange(30.0))}, {"x": np.arange(24)})


# Builds.


@pytest.mark.parametrize("seed", range(5 if FULL else 2))
def test_a_build_on_threads_has_the_root_of_a_sound_store(tmp_path: Path, seed: int) -> None:
    faulty = FaultyCAS(PackCAS(tmp_path), Fail(rate=0.1), seed=seed)
    expected = to_hamt(dataset(), InMemoryCAS())
    with dask.config.set(scheduler="threads"):
        assert to_hamt(dataset(), RetryingCAS(faulty, QUICK)) == expected
    assert faulty.struck > 0
    assert in_tree(expected, PackCAS(tmp_path)) == in_tree(expected, RetryingCAS(faulty, QUICK))
    appended = to_hamt(
        dataset().assign_coords(x=np.arange(24, 48)),
        RetryingCAS(faulty, QUICK),
        base=expected,
        append_dim="x",
    )
    assert in_tree(appended, PackCAS(tmp_path)).keys() > in_tree(expected, PackCAS(tmp_path)).keys()


def test_a_build_on_a_cluster_has_the_root_of_a_sound_store(tmp_path: Path) -> None:
    expected = to_hamt(dataset(), InMemoryCAS())
    cluster = LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0")
    with cluster, Client(cluster) as client:
        struck = 0
        for seed in range(5 if FULL else 2):
            folder = tmp_path / str(seed)
            faulty = FaultyCAS(PackCAS(folder), Fail(rate=0.1), seed=seed)
            assert to_hamt(dataset(), RetryingCAS(faulty, QUICK)) == expected
            assert in_tree(expected, PackCAS(folder)) == in_tree(expected, RetryingCAS(faulty, QUICK))
            pieces = dask.bag.from_sequence(ITEMS.items(), npartitions=8)
            assert build_on_dask(pieces, RetryingCAS(faulty, QUICK)) == ROOT
            struck += sum(client.run(_struck, faulty).values())
    assert struck > 5


def _struck(cas: FaultyCAS) -> int:
    return cas.struck


@pytest.mark.parametrize("seed", range(3))
async def test_a_hamt_is_edited_through_failures(tmp_path: Path, seed: int) -> None:
    cas = RetryingCAS(FaultyCAS(PackCAS(tmp_path), Fail(rate=0.1), seed=seed), QUICK)
    hamt = await HAMT.build(cas=cas, values_are_bytes=True, max_waiting_edits=50)
    for number, (key, value) in enumerate(ITEMS.items()):
        await hamt.set(key, value)
        if number % 97 == 0:
            assert await hamt.get(key) == value
    assert await hamt.flush() == ROOT
    assert in_tree(ROOT, PackCAS(tmp_path)) == ITEMS


def test_copies_of_files_go_through_and_by_blocks(tmp_path: Path) -> None:
    items = ITEMS | {"long": bytes(range(256)) * 10_000}
    root = build(items, source := PackCAS(tmp_path / "source"))
    target = RetryingCAS(FaultyCAS(PackCAS(tmp_path / "target"), Fail(rate=0.1)), QUICK)
    copied = copy(root, RetryingCAS(FaultyCAS(source, Fail(rate=0.1), seed=1), QUICK), target)
    assert copied.blocks == copy(root, source, InMemoryCAS()).blocks
    assert in_tree(root, PackCAS(tmp_path / "target")) == items


def test_a_store_of_values_is_copied_to_whole(tmp_path: Path) -> None:
    items = ITEMS | {"long": bytes(range(256)) * 10_000}
    root = build(items, source := PackCAS(tmp_path / "source"))
    target = RetryingCAS(FaultyCAS(DictCAS(), Fail(rate=0.1)), QUICK)
    copy(root, source, target)
    assert in_tree(root, target) == items
