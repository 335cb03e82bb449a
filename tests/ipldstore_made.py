"""Roots as ipldstore has them: made here, made by other libraries from the format's text, and drawn at random."""

import hashlib
import json
from typing import Any

import dag_cbor
from hypothesis import strategies as st
from multiformats import CID

from hamt_bulk import InMemoryCAS
from hamt_bulk.block import identify
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.formats.ipldstore import IpldstoreRoot, write_ipldstore
from hamt_bulk.formats.ipldstore_cbor import Link
from hamt_bulk.formats.ipldstore_tree import DOCUMENTS
from hamt_bulk.ipldstore import IPLDStore

VECTOR = "bafyreibf3yn5ovxhrcwwdg4sm5sinnkwoyfx3wswghbjchz4zvwt55bhte"
"""What ipldstore's own documentation has for an array `a` of three numbers, written by xarray with zarr 2."""

ARRAY = {
    "chunks": [3],
    "compressor": None,
    "dtype": "<i8",
    "fill_value": None,
    "filters": None,
    "order": "C",
    "shape": [3],
    "zarr_format": 2,
}
VECTOR_ITEMS = {
    ".zattrs": b"{}",
    ".zgroup": b'{"zarr_format": 2}',
    ".zmetadata": json.dumps(
        {
            "zarr_consolidated_format": 1,
            "metadata": {
                ".zattrs": {},
                ".zgroup": {"zarr_format": 2},
                "a/.zarray": ARRAY,
                "a/.zattrs": {"_ARRAY_DIMENSIONS": ["a"]},
            },
        }
    ).encode(),
    "a/.zarray": json.dumps(ARRAY).encode(),
    "a/.zattrs": b'{"_ARRAY_DIMENSIONS": ["a"]}',
    "a/0": bytes.fromhex("010000000000000002000000000000000300000000000000"),
}

LINK = Link(identify(b"value", hasher="sha2-256"))
"""What libipld writes as a link."""


def frozen(items: dict[str, bytes], cas: ContentAddressedStore) -> bytes:
    """The root of these keys and values."""
    with cas.writer() as writer:
        entries = [
            (key, value if key.rpartition("/")[2] in DOCUMENTS else writer.save(value))
            for key, value in items.items()
        ]
        writer.flush()
    return write_ipldstore(entries, cas)


def frozen_naively(items: dict[str, bytes]) -> bytes:
    """The same as the format's text has it, by other libraries than ours."""
    root: dict[str, Any] = {}
    for key, value in items.items():
        *folders, name = key.split("/")
        folder = root
        for part in folders:
            folder = folder.setdefault(part, {})
        leaf = CID("base32", 1, "raw", ("sha2-256", hashlib.sha256(value).digest()))
        folder[name] = json.loads(value) if name in DOCUMENTS else leaf
    return dag_cbor.encode(root)


def root_of(items: dict[str, bytes], cas: ContentAddressedStore | None = None) -> IpldstoreRoot:
    """The same, opened."""
    cas = cas or InMemoryCAS("sha2-256")
    return IpldstoreRoot(frozen(items, cas), cas)


def filled(items: dict[str, bytes], castore: Any = None) -> IPLDStore:
    """ipldstore's mapping with these keys and values."""
    store = IPLDStore(castore)
    store.update(items)
    return store


def block_root(data: bytes, codec: int = 0x71) -> IpldstoreRoot:
    """The root that is this block, whatever it holds."""
    cas = InMemoryCAS("sha2-256")
    cid = identify(data, codec, "sha2-256")
    cas.blocks[cid] = data
    return IpldstoreRoot(cid, cas)


def as_ipldstore_gives(items: dict[str, bytes]) -> dict[str, bytes]:
    """The values, documents as they come out of a root: in the order of dag-cbor."""
    return {
        key: json.dumps(dag_cbor.decode(dag_cbor.encode(json.loads(value)))).encode()
        if key.rpartition("/")[2] in DOCUMENTS
        else value
        for key, value in items.items()
    }


def everything(root: IpldstoreRoot) -> dict[str, bytes]:
    """What a root holds, which all ways to count agree on."""
    found = dict(root.items())
    assert len(found) == len(root) == len(list(root.pointers()))
    return found


names = st.sampled_from(["a", "b", "0", "0.0", "", "é", "zarr.json", "hamt", "c"])
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 64), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=12), part, max_size=3),
    max_leaves=8,
)
documents = st.dictionaries(st.text(max_size=12), json_values, max_size=4).map(
    lambda content: json.dumps(content).encode()
)


@st.composite
def hierarchies(draw: st.DrawFn) -> dict[str, bytes]:
    """Keys of which none is a folder of another."""
    items: dict[str, bytes] = {}
    for folders in draw(st.lists(st.lists(names, max_size=3), max_size=6)):
        name = draw(names | st.sampled_from(DOCUMENTS))
        key = "/".join([*folders, name])
        if any(other.startswith(f"{key}/") or key.startswith(f"{other}/") for other in items):
            continue
        items[key] = draw(documents if name in DOCUMENTS else st.binary(max_size=5))
    return items


def cbor_map(entries: list[tuple[str, bytes]]) -> bytes:
    """A map as it comes, of values that are encoded."""
    return bytes([0xA0 + len(entries)]) + b"".join(dag_cbor.encode(key) + value for key, value in entries)
