"""`to_hamt` and `engine="hamt"` with `encryption=`."""

import logging
import os
import pickle
from pathlib import Path
from typing import Any

import cloudpickle
import dask.array as da
import keys_hidden
import numpy as np
import pytest
import xarray as xr
from dask.base import tokenize
from encrypted import OPTIONS, dataset, opened, plain
from keys_hidden import KEY, assert_hidden
from stored import assert_same, by_to_zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from hamt_bulk import Encryption, InMemoryCAS, KeyFile, PackCAS, build, errors
from hamt_bulk.bulk import Target
from hamt_bulk.layout import BUCKET_SIZE
from hamt_bulk.manifest import blake3_hashfn
from hamt_bulk.xarray import to_hamt
from hamt_bulk.xarray.write import WriteStage
from hamt_bulk.zarr import ZarrHAMTStore
from hamt_bulk.zarr.checked import UnencryptedStore

every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())


# What is built is what xarray would have stored


@every_option
@pytest.mark.parametrize("zarr_format", [3, 2])
def test_keys_and_values_are_those_of_to_zarr(options, zarr_format):
    cas, encryption = InMemoryCAS(), Encryption(KEY, **options)
    root = to_hamt(dataset(), cas, encryption=encryption, zarr_format=zarr_format)
    assert_same(plain(root, cas, encryption), by_to_zarr(dataset(), zarr_format=zarr_format))
    xr.testing.assert_identical(opened(root, cas, encryption).load(), dataset().load())
    xr.testing.assert_identical(opened(root, cas, encryption, chunks={}).load(), dataset().load())
    blocks = b"".join(cas.blocks.values())
    if zarr_format == 3:
        assert (b"secret-units" in blocks) == (
            options.get("encrypt_metadata") is False or "py-hamt-2" in options.values()
        )
    assert (b"station_names" in blocks) != bool(options.get("hide_names"))
    assert_hidden(blocks)


@every_option
def test_a_base_is_appended_to_written_into_added_to_and_replaced(options):
    cas, encryption = InMemoryCAS(), Encryption(KEY, **options)

    def made(ds: xr.Dataset, **how: Any) -> Any:
        return to_hamt(ds, cas, encryption=encryption, **how)

    whole = dataset(15).load()
    # 7 rows end within a chunk, which has to be read, and written again.
    root = made(dataset(7), encoding={"t2m": {"chunks": (2, 4)}})
    root = made(
        dataset(8, 7).drop_vars(["x", "station_names"]),
        base=root,
        append_dim="time",
        safe_chunks=True,
        align_chunks=True,
    )
    xr.testing.assert_identical(opened(root, cas, encryption).load(), whole)
    fixed = (whole.isel(time=slice(4, 8))[["t2m"]] * -1).drop_vars("x")
    patched = made(fixed.chunk(time=2), base=root, region="auto")
    assert (opened(patched, cas, encryption).t2m[4:8] == fixed.t2m).all()
    more = made(whole[["t2m"]].rename(t2m="q").chunk(time=4), base=root, mode="a")
    assert set(opened(more, cas, encryption).data_vars) == {"t2m", "station_names", "q"}
    other = made(dataset(4), base=more, mode="w")
    assert_same(plain(other, cas, encryption), by_to_zarr(dataset(4)))
    within = made(dataset(4), base=root, group="group")
    xr.testing.assert_identical(opened(within, cas, encryption, group="group").load(), dataset(4).load())
    again = made(dataset(6), base=within, group="group", mode="w")
    xr.testing.assert_identical(opened(again, cas, encryption, group="group").load(), dataset(6).load())
    xr.testing.assert_identical(opened(again, cas, encryption).load(), whole)


@every_option
def test_sharded_arrays_and_trees_of_groups(options):
    cas, encryption = InMemoryCAS(), Encryption(KEY, **options)
    encoding = {"t2m": {"shards": (4, 4), "chunks": (1, 2)}}
    ds = dataset()
    ds["t2m"] = ds["t2m"].chunk(time=4)
    root = to_hamt(ds, cas, encryption=encryption, encoding=encoding)
    assert_same(plain(root, cas, encryption), by_to_zarr(ds, encoding=encoding))
    found = opened(root, cas, encryption)
    assert float(found.t2m[13, 3]) == 55.0
    tree = xr.DataTree.from_dict({"/": dataset(4)[["x"]], "/group": dataset(6), "/group/deep": dataset(6)})
    root = to_hamt(tree, cas, encryption=encryption)
    found = xr.open_datatree(root, engine="hamt", cas=cas, encryption=encryption).load()
    xr.testing.assert_identical(found, tree.load())
    groups = xr.open_groups(root, engine="hamt", cas=cas, encryption=encryption)
    assert sorted(groups) == ["/", "/group", "/group/deep"]


def test_large_chunks_are_read_by_the_ranges_of_their_shards():
    values = np.random.default_rng(1).normal(size=(600, 600))
    ds = xr.Dataset({"a": (("x", "y"), values)}).chunk(x=600, y=600)
    cas, encryption = InMemoryCAS(), Encryption(KEY, hide_names=True)
    root = to_hamt(ds, cas, encryption=encryption, encoding={"a": {"shards": (600, 600), "chunks": (60, 60)}})
    found = opened(root, cas, encryption)
    np.testing.assert_array_equal(found.a[120:180, 60:130], values[120:180, 60:130])
    np.testing.assert_array_equal(found.a, values)


def test_a_copy_of_metadata_that_gets_out_of_date_is_found_by_its_key():
    cas, encryption = InMemoryCAS(), Encryption(KEY, hide_names=True)
    root = to_hamt(dataset(4), cas, encryption=encryption, zarr_format=2)
    more = dataset(2, 4).drop_vars(["x", "station_names"])
    with pytest.warns(UserWarning, match="the base has consolidated metadata"):
        to_hamt(more, cas, base=root, append_dim="time", consolidated=False, encryption=encryption)


# What does not fit


@every_option
def test_a_root_that_is_encrypted_is_not_opened_or_changed_without_its_key(options):
    cas, encryption = InMemoryCAS(), Encryption(KEY, **options)
    root = to_hamt(dataset(), cas, encryption=encryption)
    wrong = Encryption(bytes(32), **options)
    more = dataset(2, 20).drop_vars(["x", "station_names"])

    def load(how: Any) -> Any:
        return opened(root, cas, how).load()

    def append(how: Any) -> Any:
        return to_hamt(more, cas, base=root, append_dim="time", encryption=how)

    def add(how: Any) -> Any:
        return to_hamt(dataset(4), cas, base=root, group="group", encryption=how)

    for call in (load, append):
        with pytest.raises(errors.WrongKey):
            call(wrong)
    if options.get("format") is None:
        for call in (load, append):
            with pytest.raises(errors.WrongKey, match=r"by this package: pass encryption=Encryption\(key"):
                call(None)
    if options.get("format") != "py-hamt-2" and options.get("encrypt_metadata", True):
        for call, how in ((add, wrong), (add, None)):
            with pytest.raises((errors.WrongKey, errors.InvalidInput)):
                call(how)
    if options.get("format") == "py-hamt-3":
        for call in (load, append, add):
            with pytest.raises(
                errors.InvalidInput, match=r"(?s)is no Zarr document.*format='py-hamt-3'|utf|Expecting"
            ):
                call(None)


@pytest.mark.parametrize("start", [b"\t", b" \n", b"{", b"\xef\xbb\xbf", b"\xfe\xff", b"\x00\x00", b""])
def test_an_encrypted_document_is_told_whatever_it_begins_with(start):
    """One in fifty begins as JSON may."""
    cas = InMemoryCAS()
    sealed = start + bytes(range(120, 250))
    root = build({"zarr.json": sealed, "t/zarr.json": sealed}, cas)
    with pytest.raises(errors.InvalidInput, match=r"'zarr.json' is no Zarr document, it begins with"):
        opened(root, cas, None)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32-be"])
def test_a_document_in_any_encoding_is_one(encoding):
    cas = InMemoryCAS()
    document = '\n {"zarr_format": 3, "node_type": "group", "attributes": {"title": "é"}}'.encode(encoding)
    root = build({"zarr.json": document}, cas)
    store = UnencryptedStore.open(root, cas)
    assert sync(store.get("zarr.json", default_buffer_prototype())).to_bytes() == document


@pytest.mark.parametrize(
    "options", [value for value in OPTIONS.values() if value.get("format") != "py-hamt-2"]
)
def test_a_root_that_is_not_encrypted_is_not_opened_or_changed_with_a_key(options):
    cas, encryption = InMemoryCAS(), Encryption(KEY, **options)
    root = to_hamt(dataset(), cas)
    for call in (
        lambda: opened(root, cas, encryption).load(),
        lambda: to_hamt(
            dataset(2, 20).drop_vars(["x", "station_names"]),
            cas,
            base=root,
            append_dim="time",
            encryption=encryption,
        ),
    ):
        with pytest.raises(
            (errors.NotAuthentic, errors.WrongKey), match=r"without encryption=|hide_names=True"
        ):
            call()
    # What is replaced as a whole need not fit.
    new = to_hamt(dataset(4), cas, base=root, mode="w", encryption=encryption)
    xr.testing.assert_identical(opened(new, cas, encryption).load(), dataset(4).load())


def test_who_has_no_key_reads_what_was_left_open():
    cas = InMemoryCAS()
    encryption = Encryption(KEY, encrypt_metadata=False, exclude_vars=["time", "x"])
    root = to_hamt(dataset(), cas, encryption=encryption)
    found = xr.open_dataset(root, engine="hamt", cas=cas, chunks={})
    assert found.t2m.attrs["units"] == "secret-units" and list(found.time.values) == list(range(20))
    with pytest.raises(errors.WrongKey, match="'t2m/c/0/0' is encrypted by this package: pass encryption="):
        found.t2m[0].load()


def test_other_options_than_those_of_the_writer_are_told():
    cas = InMemoryCAS()
    root = to_hamt(dataset(), cas, encryption=Encryption(KEY))
    with pytest.raises(
        errors.NotAuthentic, match="is encrypted, and exclude_vars or encrypt_metadata=False say"
    ):
        opened(root, cas, Encryption(KEY, exclude_vars=["time"])).load()
    with pytest.raises(errors.NotAuthentic, match="not a hidden name"):
        opened(root, cas, Encryption(KEY, hide_names=True))
    hidden = to_hamt(dataset(), cas, encryption=Encryption(KEY, hide_names=True))
    with pytest.raises(errors.WrongKey, match="hide_names=True"):
        opened(hidden, cas, Encryption(KEY))


def test_chunks_that_share_a_zarr_chunk_are_named_by_their_key(monkeypatch, cut_batches):
    ds = xr.Dataset({"a": ("x", da.arange(8, chunks=2))})
    monkeypatch.setattr("hamt_bulk.xarray.plan._refuse_shared_chunks", lambda *_: None)
    cut_batches(16)
    with pytest.raises(errors.Conflict, match=r"'a/c/\d'.*Variable 'a' has Dask chunks"):
        to_hamt(
            ds,
            InMemoryCAS(),
            encoding={"a": {"chunks": (4,)}},
            safe_chunks=False,
            encryption=Encryption(KEY, hide_names=True, deterministic=True),
        )


def test_what_is_no_encryption_is_refused_and_not_shown():
    cas = InMemoryCAS()
    root = to_hamt(dataset(), cas)
    for call in (lambda: to_hamt(dataset(), cas, encryption=KEY), lambda: opened(root, cas, KEY)):
        with pytest.raises(
            errors.InvalidInput, match=r"encryption= is a bytes, expected Encryption"
        ) as caught:
            call()
        assert_hidden(caught.value)


# That the key is seen nowhere


def test_graphs_and_logs_have_no_key_in_them(tmp_path, key_file, monkeypatch, caplog):
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("KEY_OF_TESTS_LOG", os.devnull)
    pickled = []
    once = WriteStage._window

    def window(self, *arguments):
        made = once(self, *arguments)
        pickled.append(cloudpickle.dumps((made.graph, made.results)))
        return made

    monkeypatch.setattr(WriteStage, "_window", window)
    for number, source in enumerate((KEY, KeyFile(key_file), keys_hidden.fetched)):
        cas, encryption = PackCAS(tmp_path / f"store{number}"), Encryption(source, header=b"h")
        root = to_hamt(dataset(), cas, encryption=encryption, journal=True)
        again = to_hamt(
            dataset(2, 20).drop_vars(["x", "station_names"]),
            cas,
            base=root,
            append_dim="time",
            encryption=encryption,
        )
        delayed = to_hamt(dataset(), cas, encryption=encryption, compute=False)
        found = opened(again, cas, encryption, chunks={})
        pickled.append(cloudpickle.dumps((dict(delayed.__dask_graph__()), dict(found.__dask_graph__()))))
        assert_hidden(found, str(delayed.__dask_graph__().layers), tokenize(found), found.encoding)
        target = Target.of(cas, BUCKET_SIZE, blake3_hashfn, None)
        assert_hidden(pickle.dumps((target, ZarrHAMTStore.open(root, cas, encryption=encryption))))
        assert_hidden(*(path for path in Path(cas.path).rglob("*") if path.is_file()))
    assert len(pickled) >= 6
    assert_hidden(*pickled, caplog.text)
