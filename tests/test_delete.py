"""Deleting keys and folders from a root."""

import pytest
import xarray as xr
import zarr
from stored import in_tree
from test_append import ENCODING, days

from hamt_bulk import InMemoryCAS, build
from hamt_bulk.errors import InvalidInput, KeyNotFound
from hamt_bulk.roots.delete import delete
from hamt_bulk.xarray import to_hamt
from hamt_bulk.zarr import ZarrHAMTStore

pytestmark = pytest.mark.usefixtures("one_thread")


def both(cas, **options):
    dataset = days(0, 8).merge(days(0, 8, name="t2m_max"))
    return to_hamt(dataset, cas, encoding=ENCODING, **options)


@pytest.mark.parametrize("prefix", ["t2m_max", "t2m_max/"])
@pytest.mark.parametrize("options", [{}, {"zarr_format": 2}, {"consolidated": False}])
def test_without_a_variable_it_is_the_dataset_that_never_had_it(prefix, options):
    cas = InMemoryCAS()
    assert delete(both(cas, **options), cas, prefix=prefix) == to_hamt(
        days(0, 8), cas, encoding=ENCODING, **options
    )


def test_a_folder_is_no_prefix_of_names():
    cas = InMemoryCAS()
    root = delete(both(cas), cas, prefix="t2m")
    assert set(xr.open_dataset(root, engine="hamt", cas=cas).data_vars) == {"t2m_max"}


def test_a_group_goes_with_all_that_is_in_it():
    cas = InMemoryCAS()
    first = both(cas)
    root = to_hamt(days(0, 4), cas, base=first, mode="a", group="g/inner")
    assert [key for key in in_tree(root, cas) if key.startswith("g/")]
    assert delete(root, cas, prefix="g") == first
    inner = delete(root, cas, prefix="g/inner")
    opened = zarr.open_group(ZarrHAMTStore.open(inner, cas), mode="r")
    assert sorted(opened.group_keys()) == ["g"] and not list(opened["g"].group_keys())


def test_a_range_of_chunks_becomes_fill_values():
    cas = InMemoryCAS()
    root = both(cas)
    chunks = [f"t2m/c/1/0/{x}" for x in range(2)]
    without = delete(root, cas, keys=chunks)
    assert in_tree(without, cas) == {k: v for k, v in in_tree(root, cas).items() if k not in chunks}
    opened = xr.open_dataset(without, engine="hamt", cas=cas)
    assert opened.t2m[4:].isnull().all() and opened.t2m[:4].notnull().all()


def test_deleting_documents_by_key_brings_the_copies_up_to_date():
    cas = InMemoryCAS()
    root = both(cas)
    keys = [key for key in in_tree(root, cas) if key.startswith("t2m_max/")]
    assert delete(root, cas, keys=keys) == delete(root, cas, prefix="t2m_max")


def test_what_is_not_there_is_an_error_and_nothing_is_deleted():
    cas = InMemoryCAS()
    root = build({"a": b"1", "b/c": b"2"}, cas)
    with pytest.raises(KeyNotFound, match=r"has no 'x', 'y'; nothing was deleted"):
        delete(root, cas, keys=["a", "x", "y"])
    with pytest.raises(KeyNotFound, match="no key in the folder 'a/'"):
        delete(root, cas, prefix="a")
    with pytest.raises(InvalidInput, match="pass keys="):
        delete(root, cas)
    with pytest.raises(InvalidInput, match="expected several keys"):
        delete(root, cas, keys="a")
    with pytest.raises(InvalidInput, match="would delete everything"):
        delete(root, cas, prefix="/")
    assert in_tree(root, cas) == {"a": b"1", "b/c": b"2"}
    assert delete(root, cas, keys=["a", "b/c"]) == build({}, cas)
