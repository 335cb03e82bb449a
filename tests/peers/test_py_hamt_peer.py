"""The peer is the py-hamt that the vectors are from."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from multiformats import CID

from .py_hamt import PeerError, PyHamt

VECTORS = Path(__file__).parent.parent / "vectors" / "roots.json"
MAX_ENTRIES = 1000
ROWS: list[dict[str, Any]] = [
    row
    for row in json.loads(VECTORS.read_bytes())["py_hamt"]
    if row["cas"] == "cid" and row["values_are_bytes"] and row["n"] <= MAX_ENTRIES
]


def items_of(row: dict[str, Any]) -> list[tuple[str, bytes]]:
    keys = row.get("keys") or [f"temp/c/{t // 400}/{t // 20 % 20}/{t % 20}" for t in range(row["n"])]
    return [(key, f"v:{key}".encode()) for key in keys]


@pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
def test_the_peer_builds_the_vectors_nodes(py_hamt: PyHamt, row: dict[str, Any]) -> None:
    tree = py_hamt.build(items_of(row), row["max_bucket_size"], row["block_hash"], row["index_hash"])
    assert tree.root == row["root"]
    assert tree.blocks[tree.root].hex() == row.get("root_hex", tree.blocks[tree.root].hex())
    assert len(tree.nodes) == row["unique_blocks"]
    assert hashlib.sha256("\n".join(sorted(tree.nodes)).encode()).hexdigest() == row["cids_sha256"]


@pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
def test_the_peer_reads_what_it_built(py_hamt: PyHamt, row: dict[str, Any]) -> None:
    items = items_of(row)
    tree = py_hamt.build(items, row["max_bucket_size"], row["block_hash"], row["index_hash"])
    view = py_hamt.open(tree.root, tree.blocks, [*dict(items), "absent"], row["index_hash"])
    assert sorted(view.keys) == sorted(dict(items))
    assert view.values == {**dict(items), "absent": None}


def test_blocks_can_have_sha2_256_cids(py_hamt: PyHamt) -> None:
    """The keys are still placed by blake3."""
    items = [("a", b"1"), ("b", b""), ("a", b"2")]
    tree = py_hamt.build(items, hasher="sha2-256")
    for text, block in tree.blocks.items():
        cid = CID.decode(text)
        assert (cid.codec.name, cid.hashfun.name) == ("dag-cbor" if text in tree.nodes else "raw", "sha2-256")
        assert cid.raw_digest == hashlib.sha256(block).digest()
    assert py_hamt.open(tree.root, tree.blocks, ["a", "b"]).values == {"a": b"2", "b": b""}


def test_the_peer_refuses_missing_and_altered_blocks_and_lives_on(py_hamt: PyHamt) -> None:
    tree = py_hamt.build([("a", b"1")])
    with pytest.raises(PeerError, match="is not among the 0 blocks given"):
        py_hamt.open(tree.root, {})
    with pytest.raises(PeerError, match="has another digest"):
        py_hamt.open(tree.root, {**tree.blocks, tree.root: b"\xa0"})
    nodes = {cid: tree.blocks[cid] for cid in tree.nodes}
    with pytest.raises(PeerError, match="is not among the 1 blocks given"):
        py_hamt.open(tree.root, nodes, ["a"])
    assert py_hamt.open(tree.root, tree.blocks).keys == ["a"]
