"""
Writers of roots as other libraries made them, key by key and by the formats' texts alone.

Nothing is taken from hamt_bulk but what names a block. The libraries themselves, py-hamt before 3 and dClimate's
ipldstore, can no longer be installed.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import dag_cbor
from blake3 import blake3
from multiformats import CID

from hamt_bulk import InMemoryCAS, PackCAS
from hamt_bulk.block import DAG_CBOR, DAG_PB, RAW, Block, Hasher, identify

DOCUMENTS = (".zarray", ".zgroup", ".zattrs", ".zmetadata")

Bits = Callable[[bytes], bytes]


class Blocks(dict[bytes, bytes]):
    """Blocks by binary CID."""

    def put(self, data: bytes, codec: int = RAW, hasher: Hasher = "blake3") -> bytes:
        cid = identify(data, codec, hasher)
        self[cid] = data
        return cid

    def memory(self, hasher: Hasher = "blake3") -> InMemoryCAS:
        """A store that has them."""
        cas = InMemoryCAS(hasher)
        cas.blocks.update(self)
        return cas

    def packs(self, path: Path, hasher: Hasher = "blake3") -> PackCAS:
        """A store on disk that has them."""
        cas = PackCAS(path, hasher)
        with cas.writer() as writer:
            writer.save_many(Block(cid, data) for cid, data in self.items())
            writer.flush()
        return cas


def link(cid: bytes) -> CID:
    return CID.decode(cid)


# py-hamt 2


def py_hamt_2(
    items: Mapping[str, Any],
    blocks: Blocks,
    *,
    deleted: Iterable[str] = (),
    inline: bool = False,
    encode: Callable[[str, bytes], bytes] = lambda key, value: value,
    first_byte: int = 1,
) -> bytes:
    """
    The root of `items`, set in their order, after those `deleted` were taken out.

    inline      as the first releases: values in the nodes
    encode      the transformer_encode
    first_byte  of the hash, by which the root's slots go
    """
    root: dict[str, Any] = {"B": {}, "L": {}}
    for key, value in items.items():
        held = value if inline else link(blocks.put(encode(key, dag_cbor.encode(value))))
        _insert_2(root, first_byte, [(key, held)])
    for key in deleted:
        _delete_2(root, first_byte, key)
    return _stored_2(root, blocks)


def _slot_2(key: str, depth: int) -> str:
    return str(blake3(key.encode()).digest()[depth])


def _insert_2(node: dict[str, Any], depth: int, entries: list[tuple[str, Any]]) -> None:
    for key, held in entries:
        slot = _slot_2(key, depth)
        if slot in node["L"]:
            _insert_2(node["L"][slot], depth + 1, [(key, held)])
            continue
        bucket = node["B"].setdefault(slot, [])
        if same := [entry for entry in bucket if key in entry]:
            same[0][key] = held
        elif len(bucket) < 4:
            bucket.append({key: held})
        else:
            # The new key goes before those that were there.
            del node["B"][slot]
            node["L"][slot] = child = {"B": {}, "L": {}}
            there = [pair for entry in bucket for pair in entry.items()]
            _insert_2(child, depth + 1, [(key, held), *there])


def _delete_2(node: dict[str, Any], depth: int, key: str) -> None:
    slot = _slot_2(key, depth)
    if slot in node["L"]:
        child = node["L"][slot]
        _delete_2(child, depth + 1, key)
        if child == {"B": {}, "L": {}}:
            del node["L"][slot]
        return
    node["B"][slot] = [entry for entry in node["B"][slot] if key not in entry]
    if not node["B"][slot]:
        del node["B"][slot]


def _stored_2(node: dict[str, Any], blocks: Blocks) -> bytes:
    links = {slot: link(_stored_2(child, blocks)) for slot, child in node["L"].items()}
    return blocks.put(dag_cbor.encode({"B": node["B"], "L": links}), DAG_CBOR)


# IPLD HashMaps, py-hamt 1 among them


def sha2_256(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


def hash_map(
    entries: Iterable[tuple[str | bytes, Any]],
    blocks: Blocks,
    *,
    bit_width: int = 8,
    bucket_size: int = 5,
    digest: Bits = sha2_256,
    code: int = 0x12,
    hasher: Hasher = "sha2-256",
    names: tuple[str, ...] = ("hamt", "hashAlg", "bucketSize"),
) -> bytes:
    """
    The root of `entries`, set in their order; keys are written as they come, as text or bytes.

    code    of the hash, as it is recorded
    hasher  names the blocks
    names   of what the root holds, in its order: py-hamt 1 wrote ("hashAlg", "bucketSize", "hamt")
    """
    root: dict[int, Any] = {}
    for key, value in entries:
        _insert(root, 0, key, value, bit_width, bucket_size, digest)
    parts = {"hamt": _node(root, bit_width, blocks, hasher)}
    parts |= {"hashAlg": code, "hash_alg": code, "bucketSize": bucket_size, "bucket_size": bucket_size}
    root_block = _head(5, 3) + b"".join(
        dag_cbor.encode(part) for name in names for part in (name, parts[name])
    )
    return blocks.put(root_block, DAG_CBOR, hasher)


def _binary(key: str | bytes) -> bytes:
    return key.encode() if isinstance(key, str) else key


def _insert(
    node: dict[int, Any],
    depth: int,
    key: str | bytes,
    value: Any,
    bit_width: int,
    bucket_size: int,
    digest: Bits,
) -> None:
    bits = "".join(f"{byte:08b}" for byte in digest(_binary(key)))
    slot = int(bits[depth * bit_width : (depth + 1) * bit_width].ljust(bit_width, "0"), 2)
    element = node.setdefault(slot, [])
    if isinstance(element, list):
        others = [entry for entry in element if _binary(entry[0]) != _binary(key)]
        if len(others) < bucket_size:
            node[slot] = sorted([*others, [key, value]], key=lambda entry: _binary(entry[0]))
            return
        node[slot] = element = {}
        for other, kept in others:
            _insert(element, depth + 1, other, kept, bit_width, bucket_size, digest)
    _insert(element, depth + 1, key, value, bit_width, bucket_size, digest)


def _node(node: dict[int, Any], bit_width: int, blocks: Blocks, hasher: Hasher) -> list[Any]:
    bitmap = bytearray(2**bit_width // 8)
    elements = []
    for slot, element in sorted(node.items()):
        bitmap[slot // 8] |= 1 << slot % 8
        if isinstance(element, dict):
            child = dag_cbor.encode(_node(element, bit_width, blocks, hasher))
            element = link(blocks.put(child, DAG_CBOR, hasher))
        elements.append(element)
    return [bytes(bitmap), elements]


def as_it_comes(value: Any) -> bytes:
    """CBOR with maps in the order that they have here, as cbor2 writes them."""
    match value:
        case dict():
            return _head(5, len(value)) + b"".join(
                dag_cbor.encode(key) + as_it_comes(part) for key, part in value.items()
            )
        case list():
            return _head(4, len(value)) + b"".join(map(as_it_comes, value))
        case _:
            return dag_cbor.encode(value)


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes([major << 5 | number])
    if number < 256:
        return bytes([major << 5 | 24, number])
    return bytes([major << 5 | 25]) + number.to_bytes(2, "big")


# ipldstore


def ipldstore(items: Mapping[str, bytes], blocks: Blocks) -> bytes:
    """The root of a Zarr v2 hierarchy as d70-t's has it: one block, which links to the chunks."""
    root: dict[str, Any] = {}
    for key, value in items.items():
        is_document = key.rpartition("/")[2] in DOCUMENTS
        held = json.loads(value) if is_document else link(blocks.put(value, RAW, "sha2-256"))
        _set_below(root, key, held)
    return blocks.put(dag_cbor.encode(root), DAG_CBOR, "sha2-256")


def ipldstore_with_hamt(items: Mapping[str, bytes], blocks: Blocks) -> bytes:
    """The root as dClimate's fork has it: chunks are files in a HashMap of py-hamt 1, which the root links to."""
    root: dict[str, Any] = {}
    chunks: list[tuple[str | bytes, Any]] = []
    for key, value in items.items():
        if key.rpartition("/")[2] in DOCUMENTS:
            _set_below(root, key, json.loads(value))
        else:
            chunks.append((key.encode(), link(unixfs_file(value, blocks))))
    root["hamt"] = link(hash_map(chunks, blocks, names=("hashAlg", "bucketSize", "hamt")))
    return blocks.put(as_it_comes(root), DAG_CBOR, "sha2-256")


def _set_below(root: dict[str, Any], key: str, held: Any) -> None:
    *folders, name = key.split("/")
    for folder in folders:
        root = root.setdefault(folder, {})
    root[name] = held


def unixfs_file(value: bytes, blocks: Blocks, leaf_bytes: int = 262_144) -> bytes:
    """The CIDv0 that `ipfs add` gives a file, one level of leaves below it at most."""
    pieces = [value[at : at + leaf_bytes] for at in range(0, len(value), leaf_bytes)] or [b""]
    leaves = [_file_node(piece, [], blocks) for piece in pieces]
    return leaves[0] if len(leaves) == 1 else _file_node(None, list(zip(leaves, pieces, strict=True)), blocks)


def _file_node(data: bytes | None, leaves: list[tuple[bytes, bytes]], blocks: Blocks) -> bytes:
    size = len(data) if data is not None else sum(len(piece) for _, piece in leaves)
    content = b"\x08\x02" + (b"\x12" + _varint(len(data)) + data if data else b"") + b"\x18" + _varint(size)
    content += b"".join(b"\x20" + _varint(len(piece)) for _, piece in leaves)
    node = b""
    for cid, _ in leaves:
        entry = b"\x0a\x22" + cid + b"\x12\x00\x18" + _varint(len(blocks[cid]))
        node += b"\x12" + _varint(len(entry)) + entry
    block = node + b"\x0a" + _varint(len(content)) + content
    cid = identify(block, DAG_PB, "sha2-256")[2:]
    blocks[cid] = block
    return cid


def _varint(value: int) -> bytes:
    return bytes([value]) if value < 128 else bytes([value & 127 | 128]) + _varint(value >> 7)
