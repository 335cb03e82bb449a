"""Three-way merges, against doing both edits one after the other, and against dicts."""

import asyncio
import json

import dask
import numpy as np
import pytest
import xarray as xr
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from stored import in_tree
from test_append import ENCODING, days

from hamt_bulk import HAMT, InMemoryCAS, build
from hamt_bulk.block import to_bytes, to_cid
from hamt_bulk.errors import BlockNotFound, Conflict, InvalidInput
from hamt_bulk.nodes import Tree
from hamt_bulk.roots.delete import delete
from hamt_bulk.roots.merge import merge
from hamt_bulk.xarray import to_hamt
from hamt_bulk.zarr import ZarrHAMTStore
from hamt_bulk.zarr.consolidated import has_consolidated


@pytest.fixture(autouse=True)
def one_thread():
    with dask.config.set(scheduler="sync"):
        yield


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


def table(sizes, value=1.0, chunks=4, **coords):
    """Variables of so many steps, by name: `{"a": {"t": 4}}` has one along `t`."""
    arrays = {
        name: xr.DataArray(np.full(tuple(d.values()), value), dims=tuple(d)) for name, d in sizes.items()
    }
    for name, array in arrays.items():
        array.encoding["chunks"] = tuple(min(chunks, size) for size in array.shape)
        arrays[name] = array
    return xr.Dataset(arrays, coords)


def store(cas, dataset, **options):
    return lambda base: to_hamt(dataset, cas, base=base, **options)


def document(cas, key, change):
    """An edit of one metadata document."""

    def edit(base):
        parsed = json.loads(in_tree(base, cas)[key])
        change(parsed)
        return build({key: json.dumps(parsed).encode()}, cas, base=base)

    return edit


def attributes(cas, path, zarr_format, **changed):
    if zarr_format == 2:
        return document(cas, f"{path}/.zattrs", lambda parsed: parsed.update(changed))
    return document(cas, f"{path}/zarr.json", lambda parsed: parsed["attributes"].update(changed))


def more(cas, count, *names, **options):
    """An append of so many steps along `t`."""
    return store(cas, table({name: {"t": count} for name in names}), append_dim="t", **options)


SIZES = {
    "an append and a new variable": (
        table({"a": {"t": 4}}),
        lambda cas, _: more(cas, 2, "a"),
        lambda cas, _: store(cas, table({"h": {"t": 4}}), mode="a"),
        "'t': ours has it with 6 in 'a', and theirs with 4 in 'h'",
    ),
    "appends of two lengths": (
        table({"a": {"t": 4}, "b": {"t": 4}, "c": {"t": 4}}),
        lambda cas, _: more(cas, 2, "a"),
        lambda cas, _: more(cas, 3, "b"),
        "'t': ours has it with 6 in 'a', and theirs with 7 in 'b'",
    ),
    "a new dimension of two sizes": (
        table({"a": {"t": 4}}),
        lambda cas, _: store(cas, table({"p": {"t": 4, "y": 4}, "r": {"y": 4}}), mode="a"),
        lambda cas, _: store(cas, table({"q": {"y": 5}}), mode="a"),
        "'y': ours has it with 4 in 'p', 'r', and theirs with 5 in 'q'",
    ),
    "fewer steps and a new variable": (
        table({"a": {"t": 4}}),
        lambda cas, zarr_format: store(cas, table({"a": {"t": 3}}), mode="w", zarr_format=zarr_format),
        lambda cas, _: store(cas, table({"h": {"t": 4}}), mode="a"),
        "'t': ours has it with 3 in 'a', and theirs with 4 in 'h'",
    ),
}


@pytest.mark.filterwarnings("ignore:the base has consolidated metadata")
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("consolidated", [True, False])
@pytest.mark.parametrize(("first", "one", "two", "message"), SIZES.values(), ids=SIZES)
def test_a_dimension_of_two_sizes_is_a_conflict(first, one, two, message, consolidated, zarr_format):
    """xarray would not open it. With either side it is that side's dataset."""
    cas = InMemoryCAS()
    options = {"zarr_format": zarr_format, "consolidated": consolidated}
    base = to_hamt(first, cas, **options)
    ours, theirs = one(cas, zarr_format)(base), two(cas, zarr_format)(base)
    with pytest.raises(Conflict, match=f"the dimension {message}"):
        merge(base, ours, theirs, cas)
    with pytest.raises(Conflict, match="the dimension"):
        merge(base, theirs, ours, cas)
    assert merge(base, ours, theirs, cas, resolve="ours") == ours
    assert merge(base, ours, theirs, cas, resolve="theirs") == theirs
    clashes = []
    assert merge(base, ours, theirs, cas, resolve=lambda clash: clashes.append(clash) or "theirs") == theirs
    assert [(clash.kind, clash.key) for clash in clashes] == [("dimension", message[1])]


def test_a_side_that_counts_for_an_array_counts_for_what_theirs_appended_with_it():
    """Theirs appended another variable as well, which would be longer than what ours has."""
    cas = InMemoryCAS()
    base = to_hamt(table({"a": {"t": 4}, "b": {"t": 4}}), cas)
    ours, theirs = more(cas, 2, "a")(base), more(cas, 3, "a", "b")(base)
    assert merge(base, ours, theirs, cas, resolve="ours") == ours
    assert merge(base, ours, theirs, cas, resolve="theirs") == theirs
    with pytest.raises(
        Conflict, match=r"the dimension 't': ours has it with 6 in 'a', and theirs with 7 in 'b'"
    ):
        merge(base, ours, theirs, cas, resolve=lambda clash: "ours" if clash.kind == "array" else None)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_side_that_counts_for_an_array_has_its_size_whatever_it_changed_there(zarr_format):
    """Ours wrote a chunk, so it has no document that differs, and yet what it has would have another size."""
    cas = InMemoryCAS()
    base = to_hamt(table({"a": {"t": 4}, "b": {"t": 4}}), cas, zarr_format=zarr_format)
    ours = store(cas, table({"a": {"t": 4}}, 2.0), mode="a")(base)
    theirs = store(cas, table({"b": {"t": 3}}), mode="w", zarr_format=zarr_format)(base)
    with pytest.raises(Conflict, match="'a': theirs deletes it, and ours changes it"):
        merge(base, ours, theirs, cas)
    assert merge(base, ours, theirs, cas, resolve="ours") == ours
    assert merge(base, ours, theirs, cas, resolve="theirs") == theirs


def test_sizes_in_one_group_have_nothing_to_do_with_those_in_another():
    cas = InMemoryCAS()
    base = to_hamt(table({"a": {"t": 4}}), cas)
    base = to_hamt(table({"a": {"t": 8}}), cas, base=base, mode="a", group="g")
    ours = more(cas, 2, "a")(base)
    theirs = store(cas, table({"h": {"t": 8}}), mode="a", group="g")(base)
    merged = merge(base, ours, theirs, cas)
    assert merged == store(cas, table({"h": {"t": 8}}), mode="a", group="g")(ours)


def test_a_pyramid_gets_a_level_of_each_side():
    """Zarr does not mind several sizes along one dimension, so where all had them they stay."""
    cas = InMemoryCAS()
    base = to_hamt(table({"0": {"y": 16}}), cas)

    def level(name, size):
        def add(base):
            levels = HAMT.build(cas=cas, root_node_id=base, values_are_bytes=True)
            kept = ZarrHAMTStore(asyncio.run(levels))
            group = zarr.open_group(kept, mode="r+", use_consolidated=False)
            group.create_array(name, shape=(size,), dtype="f8", dimension_names=["y"])
            zarr.consolidate_metadata(kept)
            return kept.flush()

        return add

    base = level("1", 8)(base)
    ours, theirs = level("2", 4)(base), level("3", 2)(base)
    assert merge(base, ours, theirs, cas) == level("3", 2)(ours)


MEANING = {
    "units": "hours since 2000-01-01",
    "calendar": "noleap",
    "scale_factor": 0.1,
    "add_offset": 3.0,
    "missing_value": 5.0,
    "_FillValue": 7.0,
    "_Unsigned": "true",
    "dtype": "bool",
    "_Encoding": "latin-1",
}


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", MEANING)
def test_attributes_that_values_are_decoded_with_do_not_change_under_the_other_sides_chunks(
    name, zarr_format
):
    cas = InMemoryCAS()
    base = to_hamt(table({"a": {"t": 4}}), cas, zarr_format=zarr_format)
    ours = attributes(cas, "a", zarr_format, **{name: MEANING[name]})(base)
    harmless = attributes(cas, "a", zarr_format, long_name="of ours")(base)
    theirs = more(cas, 4, "a")(base)
    with pytest.raises(Conflict, match=f"'a': ours changes its attribute {name}, and theirs its chunks"):
        merge(base, ours, theirs, cas)
    with pytest.raises(Conflict, match=f"'a': theirs changes its attribute {name}, and ours its chunks"):
        merge(base, theirs, ours, cas)
    opened = xr.open_dataset(merge(base, harmless, theirs, cas), engine="hamt", cas=cas)
    assert opened.sizes == {"t": 8} and opened.a.attrs["long_name"] == "of ours"


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dims", [("time", "x"), ("x", "t")], ids=["renamed", "transposed"])
def test_names_of_dimensions_do_not_change_under_the_other_sides_chunks(dims, zarr_format):
    cas = InMemoryCAS()
    base = to_hamt(table({"a": {"t": 4, "x": 4}}), cas, zarr_format=zarr_format)
    ours = store(cas, table({"a": dict.fromkeys(dims, 4)}), mode="w", zarr_format=zarr_format)(base)
    theirs = store(cas, table({"a": {"t": 4, "x": 4}}, 2.0), append_dim="t")(base)
    with pytest.raises(Conflict, match="'a': ours changes its dimension names, and theirs its chunks"):
        merge(base, ours, theirs, cas)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_new_size_counts_like_chunks(zarr_format):
    """What was appended is all fill value, so that there is no chunk to show it."""
    cas = InMemoryCAS()
    base = to_hamt(table({"a": {"t": 4}}), cas, zarr_format=zarr_format)
    key = f"a/{'.zarray' if zarr_format == 2 else 'zarr.json'}"
    theirs = store(cas, table({"a": {"t": 4}}, np.nan), append_dim="t", write_empty_chunks=False)(base)
    assert sum("zarr" not in key and ".z" not in key for key in in_tree(theirs, cas)) == 1
    ours = document(cas, key, lambda parsed: parsed.update(fill_value=9.0))(base)
    with pytest.raises(Conflict, match="'a': ours changes its fill value, and theirs its shape"):
        merge(base, ours, theirs, cas)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_appends_along_two_dimensions_of_one_array_do_not_go_together(zarr_format):
    """Neither has the corner. Chunks of the side that does not count would come back with the next append."""
    cas = InMemoryCAS()
    base = to_hamt(table({"a": {"t": 4, "x": 4}, "b": {"y": 4}}), cas, zarr_format=zarr_format)
    ours = store(cas, table({"a": {"t": 4, "x": 4}}, 2.0), append_dim="t")(base)
    theirs = store(cas, table({"a": {"t": 4, "x": 4}}, 3.0), append_dim="x")(base)
    sentence = (
        r"'a': ours appends to it along 't' \(4 before, 8 after\), and theirs along 'x' \(4 before, 8 after\)"
    )
    with pytest.raises(Conflict, match=sentence):
        merge(base, ours, theirs, cas)
    assert merge(base, ours, theirs, cas, resolve="ours") == ours
    assert merge(base, ours, theirs, cas, resolve="theirs") == theirs


@pytest.mark.parametrize("resolve", ["ours", "theirs"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_of_an_array_that_does_not_go_together_all_is_one_sides(zarr_format, resolve):
    """Whatever the other did to it: chunks, attributes, size. What is elsewhere is merged."""
    cas = InMemoryCAS()
    base = to_hamt(table({"a": {"t": 8, "x": 8}, "b": {"y": 4}}), cas, zarr_format=zarr_format)
    ours = attributes(cas, "a", zarr_format, units="m", note="ours")(base)
    ours = attributes(cas, "b", zarr_format, note="ours")(ours)
    region = {"t": slice(0, 4), "x": slice(4, 8)}
    theirs = store(cas, table({"a": {"t": 4, "x": 4}}, 3.0), region=region)(base)
    theirs = attributes(cas, "a", zarr_format, note="theirs")(
        delete(theirs, cas, keys=[last_chunk(theirs, cas)])
    )
    merged = in_tree(merge(base, ours, theirs, cas, resolve=resolve), cas)
    side = in_tree(ours if resolve == "ours" else theirs, cas)
    assert {k: v for k, v in merged.items() if k[:2] == "a/"} == {
        k: v for k, v in side.items() if k[:2] == "a/"
    }
    assert {k: v for k, v in merged.items() if k[:2] == "b/"} == {
        k: v for k, v in in_tree(ours, cas).items() if k[:2] == "b/"
    }


def last_chunk(root, cas):
    return max(key for key in in_tree(root, cas) if key.startswith("a/") and key[-1].isdigit())


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
