"""The peer is the ipld-hashmap and the IAMap that the vectors are from."""

import hashlib
import random
from typing import Any

import pytest
from js_vectors import ROWS, entries_of

from hamt_bulk.hashers import hasher_of

from .js_hashmap import JsOptions, JsPeer, Library
from .py_hamt import PeerError

MAX_ENTRIES = 1000
SMALL = [row for row in ROWS if row["n"] <= MAX_ENTRIES]


def options_of(row: dict[str, Any]) -> JsOptions:
    return JsOptions(
        row["bit_width"], row["bucket_size"], row["impl"], row["hash_alg_code"], row["block_hash"]
    )


@pytest.mark.parametrize("row", SMALL, ids=[row["id"] for row in SMALL])
def test_the_peer_builds_the_vectors_nodes(js: JsPeer, row: dict[str, Any]) -> None:
    tree = js.edit(entries_of(row), options_of(row))
    assert tree.root == row["root"]
    assert tree.blocks[tree.root].hex() == row.get("root_hex", tree.blocks[tree.root].hex())
    assert len(tree.blocks) == row["unique_blocks"]
    assert hashlib.sha256("\n".join(sorted(tree.blocks)).encode()).hexdigest() == row["cids_sha256"]


@pytest.mark.parametrize("name", ["sha2-256", "blake3", "murmur3-128", "murmur3-32"])
def test_javascripts_hashers_give_our_digests(js: JsPeer, name: str) -> None:
    """Those of multiformats, @noble/hashes and @multiformats/murmur3: what a program registers with IAMap."""
    rng = random.Random(5)
    data = [rng.randbytes(length) for length in (*range(70), 1000, 1024, 5000)]
    hasher = hasher_of(name)
    assert js.digests(hasher.code, data) == [hasher.hash(each) for each in data]


@pytest.mark.parametrize("library", ["ipld-hashmap", "iamap"])
def test_the_peer_reads_what_it_wrote(js: JsPeer, library: Library) -> None:
    options = JsOptions(library=library)
    tree = js.edit(
        [("a", 1), ("b", None), (b"\xff", [b"2"]), ("a", {"x": 0.5}), ("b",), ("c", None)], options
    )
    view = js.read(tree.root, tree.blocks, options, ["a", b"a", "b", b"\xff", "c"])
    assert dict(view.entries) == {b"a": {"x": 0.5}, b"\xff": [b"2"], b"c": None}
    assert view.values == {"a": {"x": 0.5}, b"a": {"x": 0.5}, b"\xff": [b"2"], "c": None}


@pytest.mark.parametrize("library", ["ipld-hashmap", "iamap"])
def test_the_peer_refuses_missing_and_altered_blocks_and_lives_on(js: JsPeer, library: Library) -> None:
    """Else two that both fail would agree."""
    options = JsOptions(library=library)
    tree = js.edit([(f"k{number}", number) for number in range(60)], options)
    assert len(tree.blocks) > 1
    for cid, data in tree.blocks.items():
        others = {other: tree.blocks[other] for other in tree.blocks if other != cid}
        with pytest.raises(PeerError, match=f"{cid} is not among the {len(others)} blocks given"):
            js.read(tree.root, others, options)
        altered = data[:-1] + bytes([data[-1] ^ 1])
        with pytest.raises(PeerError, match="CID hash does not match bytes"):
            js.read(tree.root, {**others, cid: altered}, options)
    assert len(js.read(tree.root, tree.blocks, options).entries) == 60
