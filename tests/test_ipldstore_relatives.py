"""Roots that relatives of ipldstore wrote: whole keys in one map, maps in any order, and files."""

import json

import dag_cbor
import libipld
import pytest
from ipldstore_made import ARRAY, VECTOR_ITEMS, block_root, cbor_map, everything, frozen_naively

from hamt_bulk.block import identify, to_cid, varint
from hamt_bulk.errors import InvalidInput
from hamt_bulk.formats.ipldstore import write_ipldstore


def test_the_oldest_version_had_whole_keys_in_one_map() -> None:
    keys = {
        "a/.zarray": ARRAY,
        "a/0": to_cid(identify(b"0", hasher="sha2-256")),
        ".zgroup": {"zarr_format": 2},
    }
    root = block_root(dag_cbor.encode(keys))
    root.cas.blocks[identify(b"0", hasher="sha2-256")] = b"0"
    assert everything(root) == {
        "a/.zarray": json.dumps(dag_cbor.decode(dag_cbor.encode(ARRAY))).encode(),
        "a/0": b"0",
        ".zgroup": b'{"zarr_format": 2}',
    }
    assert write_ipldstore(root.pointers(), root.cas) != root.root


def test_maps_in_another_order_are_read() -> None:
    """The fork's own encoder left them as they came; libipld refuses them."""
    link = libipld.encode_dag_cbor(identify(b"0", hasher="sha2-256"))
    attributes = cbor_map([("units", dag_cbor.encode("K")), ("b", dag_cbor.encode(1))])
    data = cbor_map([("b", cbor_map([("0.0", link), ("0", link)])), (".zattrs", attributes), ("a", link)])
    with pytest.raises(ValueError, match="sorted"):
        libipld.decode_dag_cbor(data)
    root = block_root(data)
    root.cas.blocks[identify(b"0", hasher="sha2-256")] = b"0"
    assert everything(root) == {"b/0.0": b"0", "b/0": b"0", "a": b"0", ".zattrs": b'{"b": 1, "units": "K"}'}
    again = write_ipldstore(root.pointers(), root.cas)
    assert libipld.decode_dag_cbor(root.cas.blocks[again])


@pytest.mark.parametrize(
    "number, shown",
    [
        ("fb7ff8000000000000", "NaN"),
        ("f97e00", "NaN"),
        ("fbfff0000000000000", "-Infinity"),
        ("f93e00", "1.5"),
    ],
)
def test_numbers_that_dag_cbor_has_not_are_read_where_a_fork_wrote_them(number: str, shown: str) -> None:
    """Kubo takes NaN in what it stores as dag-cbor, and zarr reads it from JSON."""
    root = block_root(cbor_map([(".zattrs", cbor_map([("a", bytes.fromhex(number))]))]))
    assert root.get(".zattrs") == f'{{"a": {shown}}}'.encode()
    assert root.sizes(list(root.pointers())) == [len(root.get(".zattrs"))]
    if shown != "1.5":
        with pytest.raises(InvalidInput, match=r"'\.zattrs' has no form .*: -?(nan|inf) is no number"):
            write_ipldstore(root.pointers(), root.cas)


def test_a_root_that_is_a_file_is_read() -> None:
    """A version of the fork had `ipfs add` take its roots."""
    data = frozen_naively(VECTOR_ITEMS)
    file = b"\x08\x02\x12" + varint(len(data)) + data + b"\x18" + varint(len(data))
    root = block_root(b"\x0a" + varint(len(file)) + file, 0x70)
    assert set(root) == set(VECTOR_ITEMS)
