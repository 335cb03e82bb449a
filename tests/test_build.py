"""`build` in one process, and what it refuses."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multiformats import CID
from stored import in_tree

from hamt_bulk import InMemoryCAS, PackCAS, build
from hamt_bulk.block import BLAKE3, identify, parse, text, to_cid
from hamt_bulk.errors import BlockNotFound, CASError, HamtError, InvalidInput, MalformedNode

keys = st.text(max_size=8)
values = st.binary(max_size=40)


@given(st.dictionaries(keys, values, max_size=60), st.dictionaries(keys, st.none() | values, max_size=30))
def test_the_tree_holds_what_a_dict_would(items, changes):
    cas = InMemoryCAS()
    root = build(items, cas)
    assert in_tree(root, cas) == items
    changed = {key: value for key, value in {**items, **changes}.items() if value is not None}
    assert in_tree(build(changes.items(), cas, base=root), cas) == changed


def test_of_a_key_that_comes_twice_the_last_value_counts():
    assert build([("a", b"1"), ("b", b"2"), ("a", b"3")], InMemoryCAS()) == build(
        {"b": b"2", "a": b"3"}, InMemoryCAS()
    )


def test_a_value_may_be_saved_already_or_a_view():
    cas = InMemoryCAS()
    saved = to_cid(identify(b"1"))
    assert build({"a": saved, "b": bytearray(b"2")}, cas) == build(
        {"a": b"1", "b": memoryview(b"2")}, InMemoryCAS()
    )


def test_the_root_is_a_cid_of_the_stores_hasher():
    root = build({"a": b"1"}, InMemoryCAS())
    assert isinstance(root, CID)
    assert str(root).startswith("bafyr4i")
    assert parse(bytes(root)).hash_code == BLAKE3
    assert str(build({"a": b"1"}, InMemoryCAS("sha2-256"))).startswith("bafyrei")


def test_empty_tree():
    assert str(build({}, InMemoryCAS())) == "bafyr4igb3js3dqlnsvmbi533lhghfet3l4r35vbi7mlrvxjb6f3n5wkc3m"


@pytest.mark.parametrize("form", [lambda c: c, str, lambda c: f"ipfs://{c}", bytes])
def test_a_base_is_taken_in_every_form(form):
    cas = InMemoryCAS()
    root = build({"a": b"1"}, cas)
    assert build({"b": b"2"}, cas, base=form(root)) == build({"a": b"1", "b": b"2"}, cas)


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ({1: b"x"}, "a key must be text, found int 1"),
        ({b"k": b"x"}, "a key must be text, found bytes b'k'"),
        ({"\ud800": b"x"}, "no UTF-8 form"),
        ({"k": "text"}, "the value of 'k' is a str, 'text'; expected bytes.*CID.*None"),
        ({"k": 3.5}, "the value of 'k' is a float"),
        ({"k": [b"x"]}, "the value of 'k' is a list"),
        ([("a", b"x"), 3], "pairs, found 3"),
        ([("a", b"1", 2)], "pairs, found"),
    ],
)
def test_items_that_cannot_be_stored_are_named(items, message):
    cas = InMemoryCAS()
    with pytest.raises(InvalidInput, match=message):
        build(items, cas)


@pytest.mark.parametrize("base", ["", "no-cid", "bafy", b"123", 7, "Qm", "/a/b"])
def test_a_base_that_is_no_cid_is_refused(base):
    with pytest.raises(InvalidInput, match="not a CID"):
        build({"a": b"1"}, InMemoryCAS(), base=base)


def test_a_base_that_is_missing_or_no_node_is_refused():
    cas = InMemoryCAS()
    with pytest.raises(BlockNotFound, match=text(identify(b"gone", 0x71))):
        build({"a": b"1"}, cas, base=identify(b"gone", 0x71))
    with cas.writer() as writer:
        other = writer.save(b"\x82\x41\x00\x80", "dag-cbor")
        writer.flush()
    with pytest.raises(MalformedNode, match="a list of 2, expected 256"):
        build({"a": b"1"}, cas, base=other)


def test_keys_of_kilobytes_that_make_a_node_too_large_are_refused():
    with pytest.raises(InvalidInput, match=r"a node of .* bytes, at most 1048576"):
        build({f"{n}" * 3000: b"x" for n in range(1000)}, InMemoryCAS())


@pytest.mark.parametrize("size", [0, 24, -1])
def test_a_bucket_size_out_of_range_is_refused(size):
    with pytest.raises(InvalidInput, match="expected 1 to 23"):
        build({}, InMemoryCAS(), max_bucket_size=size)


@pytest.mark.parametrize("hash_fn", [lambda data: b"", lambda data: data])
def test_a_hash_of_no_fixed_length_is_refused(hash_fn):
    with pytest.raises(InvalidInput, match="always of the same length"):
        build({"a": b"1", "bb": b"2"}, InMemoryCAS(), hash_fn=hash_fn)


def test_a_failed_build_leaves_no_trace(tmp_path):
    cas = PackCAS(tmp_path)

    def broken():
        yield "a", b"1"
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        build(broken(), cas)
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and path.name != "format"]
    assert in_tree(build({"a": b"1"}, cas), cas) == {"a": b"1"}


def test_a_build_that_cannot_be_tidied_up_keeps_its_root(tmp_path):
    class Untidy(PackCAS):
        def finish(self):
            raise CASError("no space for an index")

    with pytest.warns(UserWarning, match="the build is complete, but .*no space for an index"):
        root = build({"a": b"1"}, Untidy(tmp_path))
    assert root == build({"a": b"1"}, InMemoryCAS())


def test_every_error_is_one_of_ours_and_can_be_pickled():
    import pickle

    from hamt_bulk import errors

    for name, kind in vars(errors).items():
        if isinstance(kind, type) and issubclass(kind, HamtError):
            error = pickle.loads(pickle.dumps(kind("what was found")))
            assert type(error) is kind, name
            assert str(error) == "what was found"


@pytest.mark.parametrize("count", [0, 1, 4, 5, 300, 3000])
@pytest.mark.parametrize("bucket_size", [1, 4, 9])
def test_py_hamt_has_the_same_root(py_hamt, count, bucket_size):
    items = {f"temp/c/{n // 40}/{n % 40}": b"%d" % n for n in range(count)}
    peer = py_hamt.build(items.items(), max_bucket_size=bucket_size)
    assert str(build(items, InMemoryCAS(), max_bucket_size=bucket_size)) == peer.root


def test_py_hamt_reads_what_we_write(py_hamt):
    items = {f"a/c/{n}": b"%d" % n for n in range(2000)}
    cas = InMemoryCAS()
    root = build({key: None for key in list(items)[::3]}, cas, base=build(items, cas))
    kept = {key: value for number, (key, value) in enumerate(items.items()) if number % 3}
    view = py_hamt.open(str(root), {text(cid): data for cid, data in cas.blocks.items()}, list(items))
    assert sorted(view.keys) == sorted(kept)
    assert view.values == {key: kept.get(key) for key in items}
