"""IPLD HashMaps: roots that js ipld-hashmap and IAMap computed, and maps of every shape against a dict."""

import hashlib
import json
from pathlib import Path

import pytest

from hamt_bulk import HashMap, InMemoryCAS, KeyHasher, build
from hamt_bulk.block import DAG_CBOR, RAW, Block, identify, text, to_bytes
from hamt_bulk.hashers import SHA2_256
from hamt_bulk.layout import HashMapNodes
from hamt_bulk.manifest import Manifest
from hamt_bulk.pointers import inline_pointer
from hamt_bulk.reads import drive
from hamt_bulk.tree import update

VECTORS = json.loads((Path(__file__).parent / "vectors" / "roots.json").read_text())["ipld_hashmap"]


def shape_of(row) -> HashMap:
    hasher = row["index_hash"]
    if row.get("hasher_option"):
        # js records the hash that it is told, and places keys by sha2-256.
        hasher = KeyHasher("as js", row["hash_alg_code"], SHA2_256.hash)
    return HashMap(row["bit_width"], row["bucket_size"], hasher)


def entries_of(row):
    for t in range(row["n"]):
        key = f"temp/c/{t // 400}/{t // 20 % 20}/{t % 20}"
        value = b"v:" + key.encode()
        match row["value_kind"]:
            case "cid-sha2-256":
                yield key, identify(value, RAW, "sha2-256")
            case "cid-blake3":
                yield key, identify(value, RAW, "blake3")
            case "bytes8":
                yield key, inline_pointer(hashlib.sha256(value).digest()[:8])


@pytest.mark.parametrize("row", VECTORS, ids=[row["id"] for row in VECTORS])
def test_a_vector_built_in_bulk(row):
    shape = shape_of(row)
    layout = HashMapNodes(shape, row["block_hash"])
    blocks: list[Block] = []
    edits = Manifest.of(entries_of(row), shape.placement)
    root = drive(update(None, edits, layout, blocks.extend, shape.placement), list)
    assert text(root) == row["root"]
    assert len({block.cid for block in blocks}) == row["unique_blocks"]
    if "root_hex" in row:
        [data] = [bytes(block.data) for block in blocks if block.cid == root]
        assert data.hex() == row["root_hex"]
