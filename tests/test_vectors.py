"""Roots that py-hamt 3.6 itself computed: `vectors/roots.json`, section `py_hamt`."""

import hashlib
import json
from pathlib import Path

import dag_cbor
import pytest

from hamt_bulk.block import BLAKE3, RAW, Block, identify, parse, text
from hamt_bulk.layout import PyHamt
from hamt_bulk.manifest import Manifest, blake3_hashfn
from hamt_bulk.reads import drive
from hamt_bulk.tree import update

ROWS = json.loads((Path(__file__).parent / "vectors" / "roots.json").read_text())["py_hamt"]


class MultihashPyHamt(PyHamt):
    """As over py-hamt's InMemoryCAS, whose ids are multihashes: plain CBOR bytes, not links."""

    __slots__ = ()

    def identify(self, data):
        return multihash(super().identify(data))

    def pointer_head(self, length):
        return bytes((0x58, length))


def multihash(cid: bytes) -> bytes:
    parts = parse(cid)
    assert parts.hash_code == BLAKE3
    return bytes((BLAKE3, 32)) + parts.digest


def sha2_hashfn(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


@pytest.mark.parametrize("row", ROWS, ids=[row["id"] for row in ROWS])
def test_the_tree_of_a_vector(row):
    keys = row.get("keys") or [f"temp/c/{t // 400}/{t // 20 % 20}/{t % 20}" for t in range(row["n"])]
    in_memory = row["cas"] == "InMemoryCAS"
    layout = (MultihashPyHamt if in_memory else PyHamt)(row["max_bucket_size"], row["block_hash"])
    hash_fn = {"blake3": blake3_hashfn, "sha2-256": sha2_hashfn}[row["index_hash"]]

    def pointer(key: str) -> bytes:
        value = b"v:" + key.encode()
        cid = identify(
            value if row["values_are_bytes"] else dag_cbor.encode(value.decode()), RAW, row["block_hash"]
        )
        return multihash(cid) if in_memory else cid

    blocks: list[Block] = []
    edits = Manifest.of(((key, pointer(key)) for key in keys), hash_fn)
    root = drive(update(None, edits, layout, blocks.extend, hash_fn), list)
    assert (root.hex() if in_memory else text(root)) == row["root"]
    assert len(edits) == row["entries"]
    assert len({block.cid for block in blocks}) == row["unique_blocks"]
    assert sum(len(block.data) for block in blocks) == row["node_bytes"]
    if "root_hex" in row:
        assert bytes(blocks[-1].data).hex() == row["root_hex"]
