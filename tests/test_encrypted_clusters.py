"""Encrypted builds on every scheduler, and where keys go."""

import asyncio
import gc
from typing import Any

import dask
import pytest
from distributed import Client, LocalCluster
from encrypted import dataset, opened
from keys_hidden import KEY, assert_hidden
from stored import by_to_zarr

from hamt_bulk import Encryption, InMemoryCAS, KeyEnv, KeyFile, PackCAS, build, errors
from hamt_bulk.xarray import to_hamt, to_hamt_async


@pytest.fixture(scope="module")
def expected() -> Any:
    """The root of a deterministic build, from what xarray stores."""
    encryption = Encryption(KEY, header=b"era5", deterministic=True, hide_names=True)
    stored = {
        encryption.name(key): encryption.seal(key, value) for key, value in by_to_zarr(dataset()).items()
    }
    return build(stored, InMemoryCAS())


def deterministic(key: Any) -> Encryption:
    return Encryption(key, header=b"era5", deterministic=True, hide_names=True)


def test_a_delayed_root_keeps_its_key(expected):
    """Nobody else has the Encryption any more when it is computed."""
    cas = InMemoryCAS()
    root = to_hamt(dataset(), cas, encryption=deterministic(KEY), compute=False)
    gc.collect()
    assert root.compute(scheduler="threads") == expected


@pytest.mark.parametrize("scheduler", ["synchronous", "threads"])
def test_in_this_process_the_root_is_one(expected, scheduler):
    with dask.config.set(scheduler=scheduler, num_workers=3):
        assert to_hamt(dataset(), InMemoryCAS(), encryption=deterministic(KEY)) == expected


def test_in_a_cluster_of_this_process_the_root_is_one(expected, threads):
    assert to_hamt(dataset(), InMemoryCAS(), encryption=deterministic(KEY)) == expected


def test_in_processes_the_root_is_one(expected, tmp_path, key_file):
    with dask.config.set(scheduler="processes", num_workers=2):
        assert (
            to_hamt(dataset(), PackCAS(tmp_path / "s"), encryption=deterministic(KeyFile(key_file)))
            == expected
        )


def test_on_workers_the_root_is_one_and_they_read_it(expected, tmp_path, key_file, processes):
    cas, encryption = PackCAS(tmp_path / "store"), deterministic(KeyFile(key_file))
    assert to_hamt(dataset(), cas, encryption=encryption) == expected
    found = opened(expected, cas, encryption, chunks={})
    assert float(found.t2m.sum()) == 80 * 79 / 2
    assert to_hamt(found.drop_encoding(), PackCAS(tmp_path / "again"), encryption=encryption) == expected


def test_with_an_asynchronous_client_the_root_is_one(expected, tmp_path, key_file):
    async def on_it() -> list[Any]:
        async with (
            LocalCluster(
                n_workers=1, threads_per_worker=1, dashboard_address=":0", asynchronous=True
            ) as cluster,
            Client(cluster, asynchronous=True),
        ):
            cas = PackCAS(tmp_path / "store")
            root = await to_hamt_async(dataset(), cas, encryption=deterministic(KeyFile(key_file)))
            with pytest.raises(errors.NotPortable, match="KeyFile"):
                await to_hamt_async(dataset(), cas, encryption=deterministic(KEY))
            return [root]

    assert asyncio.run(on_it()) == [expected]


def test_a_key_that_stays_here_is_refused_before_any_work_where_others_do_it(tmp_path, processes):
    ds = dataset()
    with pytest.raises(errors.NotPortable, match=r"given as bytes in process \d+ .* KeyFile\(path\), KeyEnv"):
        to_hamt(ds, PackCAS(tmp_path), encryption=Encryption(KEY))
    with dask.config.set(scheduler="processes"), pytest.raises(errors.NotPortable, match="KeyFile"):
        to_hamt(ds, PackCAS(tmp_path), encryption=Encryption(KEY))
    with pytest.raises(errors.NotPortable, match="KeyFile"):
        to_hamt(ds, PackCAS(tmp_path), encryption=Encryption(KEY), compute=False)
    assert not list((tmp_path / "packs").rglob("*.car"))


def test_a_reader_whose_key_stays_here_fails_on_a_worker_and_does_not_hang(
    expected, tmp_path, key_file, processes
):
    cas = PackCAS(tmp_path / "store")
    to_hamt(dataset(), cas, encryption=deterministic(KeyFile(key_file)))
    found = opened(expected, cas, deterministic(KEY), chunks={})
    with pytest.raises(errors.NotPortable, match=r"given as bytes in process \d+ .* KeyFile\(path\), KeyEnv"):
        found.t2m.sum().compute()


def test_a_worker_without_the_key_is_named_before_any_work(tmp_path, monkeypatch, processes):
    """The variable is set here, after the workers began."""
    monkeypatch.setenv("KEY_OF_THE_DRIVER", KEY.hex())
    with pytest.raises(
        errors.InvalidInput, match=r"the worker tcp://\S+ .*'KEY_OF_THE_DRIVER' is not set in process"
    ) as caught:
        to_hamt(dataset(), PackCAS(tmp_path), encryption=Encryption(KeyEnv("KEY_OF_THE_DRIVER")))
    assert not list((tmp_path / "packs").rglob("*.car"))
    assert_hidden(caught.value)


def test_a_worker_with_another_key_is_named_before_any_work(tmp_path, key_file, processes):
    encryption = Encryption(KeyFile(key_file))
    encryption.fetch()
    key_file.write_bytes(bytes(32))
    with pytest.raises(errors.WrongKey, match=r"the worker tcp://\S+ .*gives another key in process"):
        to_hamt(dataset(), PackCAS(tmp_path / "store"), encryption=encryption)
