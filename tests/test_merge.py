"""Three-way merges, against doing both edits one after the other, and against dicts."""

import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st
from stored import in_tree
from test_append import ENCODING, days

from hamt_bulk import InMemoryCAS, build
from hamt_bulk.block import to_cid
from hamt_bulk.errors import BlockNotFound, Conflict, InvalidInput
from hamt_bulk.roots.delete import delete
from hamt_bulk.roots.merge import merge
from hamt_bulk.xarray import to_hamt

pytestmark = pytest.mark.usefixtures("one_thread")


keys = st.sampled_from([f"k{n}" for n in range(40)])
values = st.sampled_from([b"1", b"2", b"3"])
trees = st.dictionaries(keys, values, max_size=40)
edits = st.dictionaries(keys, st.none() | values, max_size=12)


def after(tree: dict, changes: dict) -> dict:
    return {key: value for key, value in (tree | changes).items() if value is not None}


@given(trees, edits, edits, st.sampled_from([None, "ours", "theirs"]))
def test_it_is_the_merge_of_dicts(before, mine, other, resolve):
    cas = InMemoryCAS()
    ours, theirs = after(before, mine), after(before, other)
    expected, clashes = {}, []
    for key in before.keys() | ours.keys() | theirs.keys():
        was, one, two = before.get(key), ours.get(key), theirs.get(key)
        if one != was and two != was and one != two:
            clashes.append(key)
            value = two if resolve == "theirs" else one
        else:
            value = two if one == was else one
        if value is not None:
            expected[key] = value
    roots = [build(tree, cas) for tree in (before, ours, theirs)]
    if clashes and resolve is None:
        with pytest.raises(Conflict) as caught:
            merge(*roots, cas)
        assert all(repr(key) in str(caught.value) for key in clashes[:1] if len(clashes) <= 10)
    else:
        assert merge(*roots, cas, resolve=resolve) == build(expected, cas)


def base_and(cas, *sides, **options):
    """The root of a dataset and of what each side makes of it."""
    base = to_hamt(days(0, 8).merge(days(0, 8, name="rain")), cas, encoding=ENCODING, **options)
    return base, *(side(base) for side in sides)


def add(cas, name, first=0, last=8, **options):
    return lambda base: to_hamt(days(first, last, name=name), cas, base=base, mode="a", **options)


def append(cas, last, name="t2m", **options):
    return lambda base: to_hamt(days(8, last, name=name), cas, base=base, append_dim="time", **options)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("consolidated", [True, False])
def test_added_variables_and_groups_merge_as_if_one_was_added_after_the_other(zarr_format, consolidated):
    cas = InMemoryCAS()
    options = {"consolidated": consolidated, "zarr_format": zarr_format}
    snow, wind = add(cas, "snow", **options), add(cas, "wind", group="g", **options)
    base, ours, theirs = base_and(cas, snow, wind, **options)
    merged = merge(base, ours, theirs, cas)
    assert in_tree(merged, cas) == in_tree(wind(ours), cas)
    assert merged == wind(ours) == merge(base, theirs, ours, cas)


def test_appends_of_different_variables_merge():
    """Both make the coordinate longer, and in the same way."""
    cas = InMemoryCAS()
    base, ours, theirs = base_and(cas, append(cas, 12), append(cas, 12, "rain"))
    merged = merge(base, ours, theirs, cas)
    assert merged == to_hamt(days(0, 12).merge(days(0, 12, name="rain")), cas, encoding=ENCODING)
    assert xr.open_dataset(merged, engine="hamt", cas=cas).load().sizes["time"] == 12


@pytest.mark.parametrize("last", [10, 12])
def test_two_appends_along_one_dimension_do_not_go_together(last):
    cas = InMemoryCAS()

    def other(base):
        return to_hamt(days(8, last) * 2, cas, base=base, append_dim="time")

    base, ours, theirs = base_and(cas, append(cas, 12), other)
    sentence = rf"'t2m': ours and theirs both append to it along 'time' \(8 before, 12 by ours and {last} by theirs\)"
    with pytest.raises(Conflict, match=sentence):
        merge(base, ours, theirs, cas)
    assert merge(base, ours, theirs, cas, resolve="ours") == ours
    assert merge(base, ours, theirs, cas, resolve="theirs") == theirs


def test_the_same_append_on_both_sides_is_no_conflict():
    cas = InMemoryCAS()
    base, ours, theirs = base_and(cas, append(cas, 12), append(cas, 12))
    assert merge(base, ours, theirs, cas) == ours


def test_writes_into_different_chunks_merge_and_into_one_do_not():
    cas = InMemoryCAS()

    def write(first, factor):
        return lambda base: to_hamt(
            (days(first, first + 4) * factor).drop_vars("time"),
            cas,
            base=base,
            region={"time": slice(first, first + 4)},
        )

    base, ours, theirs, again = base_and(cas, write(0, 2), write(4, 3), write(0, 5))
    assert merge(base, ours, theirs, cas) == write(4, 3)(ours)
    with pytest.raises(Conflict, match="'t2m/c/0/0/0': ours and theirs give it different values"):
        merge(base, ours, again, cas)


def test_attributes_merge_field_by_field():
    cas = InMemoryCAS()

    def describe(**attributes):
        def edit(base):
            dataset = days(0, 8).assign_attrs(attributes)
            return to_hamt(dataset, cas, base=base, mode="a")

        return edit

    base, ours, theirs, against = base_and(cas, describe(a=1), describe(b=[2, 3]), describe(a=5))
    merged = merge(base, ours, theirs, cas)
    assert xr.open_dataset(merged, engine="hamt", cas=cas).attrs == {"a": 1, "b": [2, 3]}
    with pytest.raises(Conflict, match=r"'zarr.json': ours and theirs change attributes\.a"):
        merge(base, ours, against, cas)
    for side, expected in (("ours", 1), ("theirs", 5)):
        merged = merge(base, ours, against, cas, resolve=side)
        assert xr.open_dataset(merged, engine="hamt", cas=cas).attrs == {"a": expected}


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (lambda cas: lambda base: delete(base, cas, prefix="t2m"), "ours deletes it, and theirs changes it"),
        (
            lambda cas: (
                lambda base: to_hamt(
                    days(0, 8).astype("f8"), cas, base=delete(base, cas, prefix="t2m"), mode="a"
                )
            ),
            "ours changes its data type.* and theirs its chunks",
        ),
        (lambda cas: append(cas, 12), None),
    ],
)
def test_what_cannot_be_read_with_what_the_other_side_wrote_does_not_go_together(one, message):
    """Theirs writes a chunk that has no counterpart in ours, so that no key clashes."""
    cas = InMemoryCAS()

    def write(base):
        values = (days(0, 4) + 7).drop_vars("time")
        return to_hamt(values, cas, base=base, region={"time": slice(0, 4)})

    base, ours, theirs = base_and(cas, one(cas), write)
    if message is None:
        assert merge(base, ours, theirs, cas) == write(ours)
        return
    with pytest.raises(Conflict, match=message):
        merge(base, ours, theirs, cas)


def test_both_adding_a_variable_of_one_name_is_a_conflict():
    cas = InMemoryCAS()
    base, ours, theirs = base_and(
        cas, add(cas, "snow"), lambda base: to_hamt(days(0, 8, name="snow") + 1, cas, base=base, mode="a")
    )
    with pytest.raises(Conflict, match="'snow': ours and theirs both add it"):
        merge(base, ours, theirs, cas)
    assert merge(base, ours, theirs, cas, resolve="theirs") == theirs


def test_a_function_decides_on_each_clash():
    cas = InMemoryCAS()
    roots = [build({"a": value, "b": value, "c": value, "d": value}, cas) for value in (b"0", b"1", b"2")]
    seen = {}

    def resolve(clash):
        seen[clash.key] = [cas.load_many([cid])[0] for cid in (clash.base, clash.ours, clash.theirs)]
        return {"a": "ours", "b": "theirs", "c": b"new", "d": clash.base}[clash.key]

    merged = merge(*roots, cas, resolve=resolve)
    assert seen == {key: [b"0", b"1", b"2"] for key in "abcd"}
    assert merged == build({"a": b"1", "b": b"2", "c": b"new", "d": b"0"}, cas)
    with pytest.raises(Conflict, match="'c'"):
        merge(*roots, cas, resolve=lambda clash: "ours" if clash.key != "c" else None)
    with pytest.raises(InvalidInput, match=r"resolve returned 7 for '[abcd]'"):
        merge(*roots, cas, resolve=lambda clash: 7)
    with pytest.raises(InvalidInput, match="expected 'ours', 'theirs' or a function"):
        merge(*roots, cas, resolve="mine")


def test_documents_that_are_not_zarrs_are_plain_values():
    cas = InMemoryCAS()
    roots = [build({"x/zarr.json": value}, cas) for value in (b"0", b"not json", b"[1]")]
    with pytest.raises(Conflict, match=r"x/zarr.json"):
        merge(*roots, cas)
    assert merge(*roots, cas, resolve="theirs") == roots[2]


def test_a_name_that_only_ends_like_a_document_is_no_document():
    """JSON objects under it are not merged field by field."""
    cas = InMemoryCAS()
    roots = [build({"x/notzarr.json": value}, cas) for value in (b"{}", b'{"a": 1}', b'{"b": 2}')]
    with pytest.raises(Conflict, match=r"'x/notzarr\.json': ours and theirs give it different values"):
        merge(*roots, cas)


def test_a_missing_root_is_named():
    cas = InMemoryCAS()
    root = build({"a": b"1"}, cas)
    absent = build({"b": b"1"}, InMemoryCAS())
    with pytest.raises(BlockNotFound, match=str(to_cid(bytes(absent)))):
        merge(root, root, absent, cas)


@given(st.data())
@settings(max_examples=25)
def test_merging_touches_only_what_differs(data):
    """Whatever two disjoint sets of keys were edited, the result is that of doing both."""
    cas = InMemoryCAS()
    before = {f"key {n}": b"%d" % n for n in range(300)}
    names = data.draw(st.permutations(sorted(before)))
    mine = dict.fromkeys(names[:5], b"mine") | dict.fromkeys(names[5:7])
    other = dict.fromkeys(names[10:14], b"theirs") | dict.fromkeys(names[20:40])
    roots = [build(after(before, change), cas) for change in ({}, mine, other)]
    assert merge(*roots, cas) == build(after(before, mine | other), cas)
