"""IPLD HashMaps: roots that js ipld-hashmap and IAMap computed, and maps of every shape against a dict."""

import hashlib
from itertools import product

import dag_cbor
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from js_vectors import ROWS, pointers_of
from multiformats import CID

from hamt_bulk import HAMT, HashMap, Inline, InMemoryCAS, KeyHasher, build, check, delete, diff, open_root
from hamt_bulk.block import DAG_CBOR, Block, identify, text, to_bytes, to_cid
from hamt_bulk.errors import InvalidInput, MalformedNode
from hamt_bulk.formats.trees import HashMapRoot
from hamt_bulk.hashers import SHA2_256, sha2_256_hashfn
from hamt_bulk.keys import key_text, plain_key
from hamt_bulk.layout import HashMapNodes, OtherLayout
from hamt_bulk.manifest import Manifest
from hamt_bulk.pointers import inline_value, is_inline
from hamt_bulk.reads import drive
from hamt_bulk.roots.diff import Change
from hamt_bulk.tree import update


def shape_of(row) -> HashMap:
    hasher = row["index_hash"]
    if row.get("hasher_option"):
        # js records the hash that it is told, and places keys by sha2-256.
        hasher = KeyHasher("as js", row["hash_alg_code"], SHA2_256.hash)
    return HashMap(row["bit_width"], row["bucket_size"], hasher)


@pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
def test_a_vector_built_in_bulk(row):
    shape = shape_of(row)
    layout = HashMapNodes(shape, row["block_hash"])
    blocks: list[Block] = []
    edits = Manifest.of(pointers_of(row), shape.placement)
    root = drive(update(None, edits, layout, blocks.extend, shape.placement), list)
    assert text(root) == row["root"]
    assert len({block.cid for block in blocks}) == row["unique_blocks"]
    if "root_hex" in row:
        [data] = [bytes(block.data) for block in blocks if block.cid == root]
        assert data.hex() == row["root_hex"]


async def values_of(hamt: HAMT) -> dict:
    return {key: value async for key, value in hamt.items()}


@pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
async def test_a_vector_made_key_by_key(row):
    hamt = await HAMT.build(cas=InMemoryCAS(row["block_hash"]), layout=shape_of(row), max_waiting_edits=777)
    for key, pointer in pointers_of(row):
        if is_inline(pointer):
            await hamt.set(key, Inline(inline_value(pointer)))
        else:
            await hamt.set_pointer(key, pointer)
    assert str(await hamt.flush()) == row["root"]


shapes = st.builds(
    HashMap,
    st.integers(3, 16),
    st.integers(1, 6),
    st.sampled_from(["sha2-256", "blake3", "murmur3-128", "murmur3-32"]),
    st.booleans(),
)
texts = st.text(max_size=6) | st.sampled_from([f"t2m/c/{t}" for t in range(300)])
links = st.binary(max_size=4).map(lambda data: to_cid(identify(data)))
ipld = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text(max_size=5) | st.binary(max_size=40) | links,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
inline = ipld.filter(lambda value: not isinstance(value, CID)).map(
    Inline
)  # a link is one however it is given


def expected(items: dict) -> dict:
    """What a map gives for what was put into it."""
    return {key: value.value if isinstance(value, Inline) else value for key, value in items.items()}


def stored(cas: InMemoryCAS, items: dict) -> dict:
    """`items` with the bytes that their links name stored, and read."""
    found = {}
    for key, value in expected(items).items():
        found[key] = value
        if isinstance(value, CID) and not isinstance(items[key], Inline):
            data = LINKED[bytes(value)]
            cas.blocks[bytes(value)] = data
            found[key] = data
    return found


LINKED = {
    identify(bytes(data)): bytes(data) for size in range(3) for data in product(range(256), repeat=size)
}


@settings(max_examples=40)
@given(st.data(), shapes)
async def test_a_map_is_the_dict_of_its_entries(data, shape):
    """Built, edited in steps, emptied and read: keys are text or any bytes, values links, bytes or any IPLD."""
    keys = texts if shape.text_keys else texts | st.binary(max_size=4)
    small = st.binary(max_size=2)
    items = data.draw(
        st.dictionaries(keys.map(plain), small | small.map(lambda d: to_cid(identify(d))) | inline, max_size=60)
    )  # fmt: skip
    cas = InMemoryCAS()
    root = build(items, cas, layout=shape)
    wanted = stored(cas, items)
    opened = open_root(root, cas)
    assert dict(opened.items()) == wanted
    assert len(opened) == len(wanted)
    for key, value in wanted.items():
        assert key in opened
        assert opened.get(key) == value
    assert "not there" not in opened

    order = data.draw(st.permutations(list(items)))
    cut = data.draw(st.integers(0, len(order)))
    half = build({key: items[key] for key in order[:cut]}, cas, layout=shape)
    assert build({key: items[key] for key in order[cut:]}, cas, base=half, layout=shape) == root
    less = build(dict.fromkeys(order[:cut]), cas, base=root, layout=shape)
    assert less == build({key: items[key] for key in order[cut:]}, cas, layout=shape)
    assert build(dict.fromkeys(order), cas, base=root, layout=shape) == build({}, cas, layout=shape)

    hamt = await HAMT.build(cas=cas, root_node_id=half, layout=shape)
    for key in order[cut:]:
        await hamt.set(key, items[key])
    assert await values_of(hamt) == wanted
    assert await hamt.flush() == root
    for key in order[:cut]:
        await hamt.delete(key)
    assert await hamt.flush() == less


def plain(key: str | bytes) -> str | bytes:
    """Bytes that are UTF-8 are that text."""
    return plain_key(key_text(key))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bit_width": 2}, r"bit_width=2: an IPLD HashMap has 3 to 16"),
        ({"bit_width": 17}, r"bit_width=17"),
        ({"bit_width": True}, r"bit_width=True"),
        ({"bucket_size": 0}, r"bucket_size=0: expected a number from 1 on"),
        (
            {"hasher": "md5"},
            r"key hasher 'md5' is not registered: there are .*call hamt_bulk.register_hasher",
        ),
        ({"hasher": 0x1B}, r"hash code 0x1b is not registered"),
    ],
)
def test_a_shape_that_cannot_be_is_refused(arguments, message):
    with pytest.raises(InvalidInput, match=message):
        HashMap(**arguments)


def test_arguments_that_contradict_each_other_are_refused():
    cas, shape = InMemoryCAS(), HashMap(5, 3)
    with pytest.raises(
        InvalidInput, match=r"max_bucket_size=9 and layout=HashMap\(.*says its bucket_size itself"
    ):
        build({}, cas, layout=shape, max_bucket_size=9)
    with pytest.raises(InvalidInput, match=r"hash_fn and layout=HashMap.*says its hasher itself"):
        build({}, cas, layout=shape, hash_fn=sha2_256_hashfn)
    with pytest.raises(InvalidInput, match=r"layout='trie', expected \"pyhamt\" or a HashMap"):
        build({}, cas, layout="trie")
    root = build({"a": b"1"}, cas, layout=shape)
    with pytest.raises(
        InvalidInput, match=r"of bit_width 5, bucket_size 3 and hash code 0x12, and was opened as one of 8, 3"
    ):
        build({}, cas, base=root, layout=HashMap())
    with pytest.raises(OtherLayout, match="it is the root of an IPLD HashMap"):
        build({}, cas, base=root, layout="pyhamt")
    with pytest.raises(
        MalformedNode, match="not the root of an IPLD HashMap: a list of 256: it is a node of py-hamt 3"
    ):
        build({}, cas, base=build({}, cas), layout=shape)
    with pytest.raises(InvalidInput, match=r"the value of 'a' is a int, 5; expected bytes"):
        build({"a": 5}, cas)
    with pytest.raises(InvalidInput, match="a key must be text"):
        build({b"\xff": b""}, cas)


def test_the_layout_of_a_base_need_not_be_named():
    cas = InMemoryCAS()
    for shape in (HashMap(4, 2, "murmur3-128"), HashMap(9, 5, "blake3")):
        items = {f"k{n}": b"%d" % n for n in range(500)}
        root = build(items, cas, layout=shape)
        assert build(dict.fromkeys(items), cas, base=root) == build({}, cas, layout=shape)
        assert open_root(root, cas).layout == shape
        assert set(diff(root, build({"k0": b"new"}, cas, base=root), cas)) == {
            Change("k0", to_cid(identify(b"0")), to_cid(identify(b"new")))
        }
        assert delete(root, cas, keys=["k0"]) == build({"k0": None}, cas, base=root)
        report = check(root, cas)
        assert report.ok
        assert (report.entries, report.bucket_size) == (500, shape.bucket_size)


def test_a_hash_that_nobody_registered_is_named():
    cas = InMemoryCAS()
    mine = KeyHasher("mine", 0x3FFFF7, lambda data: hashlib.sha512(data).digest())
    root = build({"a": b"1"}, cas, layout=HashMap(8, 3, mine))
    assert dict(HashMapRoot(to_bytes(root), cas, HashMap(8, 3, mine)).items()) == {"a": b"1"}
    with pytest.raises(
        InvalidInput,
        match=r"root of an IPLD HashMap: hash code 0x3ffff7 is not registered: .*register_hasher",
    ):
        open_root(root, cas)


def test_a_root_that_records_another_hash_than_it_was_built_with_is_read_and_edited():
    """As js ipld-hashmap does, which records the hash that it is told and places keys by sha2-256."""
    cas = InMemoryCAS("sha2-256")
    shape = HashMap(5, 3, KeyHasher("as js", 0x22, SHA2_256.hash))
    root = build({f"k{n}": b"%d" % n for n in range(1000)}, cas, layout=shape)
    opened = open_root(root, cas)
    assert opened.get("k999") == b"999"
    assert opened.layout.key_hasher.code == 0x22
    assert build({"k0": None}, cas, base=root) == build(
        {f"k{n}": b"%d" % n for n in range(1, 1000)}, cas, layout=shape
    )


def test_empty_buckets_that_js_leaves_behind_are_read_and_not_written():
    cas = InMemoryCAS("sha2-256")
    node = [bytes([0b101, 0, 0, 0]), [[], [[b"b", 2]]]]
    keys = {
        int.from_bytes(hashlib.sha256(key).digest()[:1], "big") >> 3: key
        for key in map(str.encode, map(str, range(99)))
    }
    node[1][1][0][0] = keys[2]
    data = dag_cbor.encode({"hamt": node, "bucketSize": 3, "hashAlg": 0x12})
    root = identify(data, DAG_CBOR, "sha2-256")
    cas.blocks[root] = data
    assert dict(open_root(root, cas).items()) == {keys[2].decode(): 2}
    assert build({keys[0]: 1}, cas, base=root) == build({keys[0]: 1, keys[2]: 2}, cas, layout=HashMap(5, 3))
    assert not check(root, cas).ok
