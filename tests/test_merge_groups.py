"""Merges of groups: their consolidated metadata, and members that one side deletes or makes something else."""

import pytest
import xarray as xr
from merged import attributes, more, store, table

from hamt_bulk import InMemoryCAS
from hamt_bulk.block import to_bytes
from hamt_bulk.errors import Conflict
from hamt_bulk.nodes import Tree
from hamt_bulk.roots.delete import delete
from hamt_bulk.roots.merge import merge
from hamt_bulk.xarray import to_hamt
from hamt_bulk.zarr.consolidated import has_consolidated

pytestmark = pytest.mark.usefixtures("one_thread")

CONSOLIDATED = {
    "nothing has a copy but ours": (False, True, False, True),
    "theirs leaves the copy as it is": (True, True, False, True),
    "ours leaves the copy as it is": (True, False, True, True),
    "neither brings it up to date": (True, False, False, None),
    "nothing has a copy": (False, False, False, False),
}


@pytest.mark.filterwarnings("ignore:the base has consolidated metadata")
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("grows", [True, False])
@pytest.mark.parametrize("copies", CONSOLIDATED.values(), ids=CONSOLIDATED)
def test_consolidated_metadata_has_all_that_both_sides_did(copies, grows, zarr_format):
    """It is what readers look at first; where no side has it none is made."""
    cas = InMemoryCAS()
    first, one, two, has_copy = copies
    if has_copy is None:
        has_copy = (
            zarr_format == 2
        )  # in format 3 the copy is in the group's document, and zarr drops it there
    base = to_hamt(table({"a": {"t": 4}}), cas, zarr_format=zarr_format, consolidated=first)
    add, other = table({"o": {"x": 4}}), table({"p": {"y": 4}})
    ours = store(cas, add, mode="a", consolidated=one)(base)
    if grows:
        theirs = more(cas, 2, "a", consolidated=two)(base)
    else:
        theirs = store(cas, other, mode="a", consolidated=two)(base)
    for merged in (merge(base, ours, theirs, cas), merge(base, theirs, ours, cas)):
        opened = xr.open_dataset(merged, engine="hamt", cas=cas, consolidated=has_copy)
        apart = xr.open_dataset(merged, engine="hamt", cas=cas, consolidated=False)
        assert opened.sizes == apart.sizes
        assert set(opened.variables) == set(apart.variables) == {"a", "o"} | (set() if grows else {"p"})
        assert has_copy == has_consolidated(Tree(to_bytes(merged), cas), "")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_copy_that_one_side_alone_dropped_stays_away(zarr_format):
    cas = InMemoryCAS()
    base = to_hamt(table({"a": {"t": 4}}), cas, zarr_format=zarr_format)
    dropped = to_hamt(table({"a": {"t": 4}}), cas, zarr_format=zarr_format, consolidated=False)
    changed = attributes(cas, "a", zarr_format, note=1)
    for merged in (merge(base, dropped, changed(base), cas), merge(base, changed(base), dropped, cas)):
        assert merged == changed(dropped)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("consolidated", [True, False])
def test_a_group_that_one_side_deletes_and_the_other_adds_to_is_a_conflict(consolidated, zarr_format):
    cas = InMemoryCAS()
    options = {"zarr_format": zarr_format, "consolidated": consolidated}
    base = to_hamt(table({"a": {"t": 4}}), cas, **options)
    base = to_hamt(table({"g1": {"t": 4}}), cas, base=base, mode="a", group="g", **options)
    ours = delete(base, cas, prefix="g")
    theirs = store(cas, table({"g2": {"t": 4}}), mode="a", group="g", **options)(base)
    write = store(cas, table({"g1": {"t": 4}}, 5.0), mode="a", group="g", **options)(base)
    inner = store(cas, table({"a": {"t": 4}}), mode="a", group="g/inner", **options)(base)
    for side, what in (
        (theirs, "adds 'g/g2' in it"),
        (write, "changes 'g/g1' in it"),
        (inner, "adds 'g/inner' in it"),
    ):
        with pytest.raises(Conflict, match=f"  ours deletes the group 'g', and theirs {what}\n"):
            merge(base, ours, side, cas)
        with pytest.raises(Conflict, match=f"  theirs deletes the group 'g', and ours {what}\n"):
            merge(base, side, ours, cas)
        assert merge(base, ours, side, cas, resolve="ours") == ours
        assert merge(base, ours, side, cas, resolve="theirs") == side
    less = delete(base, cas, prefix="g/g1")
    assert merge(base, ours, less, cas) == ours


@pytest.mark.parametrize("resolve", ["ours", "theirs"])
def test_an_array_and_a_group_of_one_name_do_not_go_together(resolve):
    cas = InMemoryCAS()
    base = to_hamt(table({"a": {"t": 4}}), cas, consolidated=False)
    ours = store(cas, table({"g": {"t": 4}}), mode="a", consolidated=False)(base)
    theirs = store(cas, table({"b": {"t": 4}}), mode="a", consolidated=False, group="g")(base)
    with pytest.raises(Conflict, match="ours makes 'g' an array, and theirs makes it a group\n"):
        merge(base, ours, theirs, cas)
    assert merge(base, ours, theirs, cas, resolve=resolve) == (ours if resolve == "ours" else theirs)


@pytest.mark.filterwarnings("ignore:the base has consolidated metadata")
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_when_one_side_did_nothing_it_is_the_other(zarr_format):
    """Also where that one's copy of the metadata is out of date."""
    cas = InMemoryCAS()
    base = to_hamt(table({"a": {"t": 4}}), cas, zarr_format=zarr_format)
    side = store(cas, table({"b": {"t": 4}}), mode="a", consolidated=False)(base)
    assert (
        merge(base, side, base, cas) == merge(base, base, side, cas) == merge(base, side, side, cas) == side
    )
