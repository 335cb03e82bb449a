"""ipldstore's stores of blocks, in any mapping: IPLD values by CID, and a store for all else here."""

import hashlib
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

import dag_cbor
import pytest
import xarray as xr
from multiformats import CID, multicodec, multihash
from test_zarr_read import dataset

from hamt_bulk import build, errors
from hamt_bulk.block import identify, to_cid
from hamt_bulk.formats import open_root
from hamt_bulk.ipldstore import MappingCAStore, iter_links
from hamt_bulk.testing.contract import LARGE, CASContract
from hamt_bulk.xarray import to_hamt


class TestMappingCAStore(CASContract):
    portable = False

    def fresh(self, folder: Path) -> MappingCAStore:
        return MappingCAStore()

    def corrupt(self, cas: MappingCAStore, cid: bytes) -> None:
        data = cas.blocks[cid]
        cas.blocks[cid] = bytes([data[0] ^ 1]) + data[1:]


class Folder(MutableMapping[str, bytes]):
    """Files, which another process can reach."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self.folder = folder

    def __getitem__(self, key: str) -> bytes:
        try:
            return (self.folder / key.replace("/", "_")).read_bytes()
        except FileNotFoundError:
            raise KeyError(key) from None

    def __setitem__(self, key: str, value: bytes) -> None:
        (self.folder / key.replace("/", "_")).write_bytes(value)

    def __delitem__(self, key: str) -> None:
        (self.folder / key).unlink()

    def __iter__(self) -> Iterator[str]:
        return (path.name for path in self.folder.iterdir())

    def __len__(self) -> int:
        return sum(1 for _ in self)


class TestAnyMapping(TestMappingCAStore):
    """In another base and with the other hash, too."""

    portable = True

    def fresh(self, folder: Path) -> MappingCAStore:
        return MappingCAStore(Folder(folder), "blake3", "base58btc")


@pytest.mark.parametrize("call", ["saving", "loading", "asking"])
def test_a_mapping_that_fails_is_the_outside(call: str, tmp_path: Path) -> None:
    """Also where it raises what zarr takes for a chunk that is not there."""
    folder = Folder(tmp_path / "folder")
    store = MappingCAStore(folder)
    cid = store.put(b"value")
    folder.folder = tmp_path / "gone"
    if call != "saving":
        folder.folder.write_bytes(b"a file")
    with pytest.raises(errors.CASError, match=r"Folder failed on block .*: \w+Error") as raised:
        {
            "saving": lambda: store.put(b"other"),
            "loading": lambda: store.get(cid),
            "asking": lambda: cid in store,
        }[call]()
    assert not isinstance(raised.value, FileNotFoundError)


test_cid = CID("base58btc", 1, "raw", "12206e6ff7950a36187a801613426e858dce686cd7d7e3c0fc42ee0330072d245c95")
IPLD_VALUES = [
    *(
        b"hallo",
        "hallo",
        {"a": 1},
        [1, 2, 3],
        1,
        1.34,
        True,
        False,
        None,
        test_cid,
        [test_cid],
        {"foo": test_cid},
    ),
    *([b"bytes", {"b": [None, b""]}], {}, LARGE),
]


@pytest.mark.parametrize("value", IPLD_VALUES, ids=lambda value: repr(value)[:20])
def test_a_value_is_put_and_got(value: Any) -> None:
    store = MappingCAStore()
    cid = store.put(value)
    assert store.get(cid) == value and cid in store
    if value is not LARGE:
        data = value if isinstance(value, bytes) else dag_cbor.encode(value)
        codec = "raw" if isinstance(value, bytes) else "dag-cbor"
        assert cid == CID("base32", 1, codec, ("sha2-256", hashlib.sha256(data).digest()))
        assert store.mapping == {str(cid): data} and store.get_raw(cid) == data


@pytest.mark.parametrize("codec", ["dag-json", 0x0129, multicodec.get("dag-json")], ids=repr)
def test_a_block_has_the_codec_that_is_said_and_any_length(codec: Any) -> None:
    store = MappingCAStore()
    cid = store.put_raw(bytes(3 << 20), codec)
    assert cid.codec.name == "dag-json" and store.get_raw(cid) == bytes(3 << 20)
    with pytest.raises(errors.InvalidInput, match="codec 0x129, and values are read as raw"):
        store.get(cid)
    assert len(store.mapping) == 1


@pytest.mark.parametrize(
    "options, said",
    [
        ({"default_hash": "md5"}, "default_hash='md5': blocks can be named with 'blake3', 'sha2-256'"),
        ({"default_base": "base3"}, "default_base='base3': no multibase"),
    ],
)
def test_what_is_no_hash_or_base_is_refused(options: dict[str, str], said: str) -> None:
    with pytest.raises(errors.InvalidInput, match=said):
        MappingCAStore(**options)


@pytest.mark.parametrize(
    "given", ["sha2-256", 0x12, multihash.get("sha2-256"), multihash.Multihash(codec="sha2-256")]
)
def test_a_hash_is_named_in_any_way(given: Any) -> None:
    assert MappingCAStore(default_hash=given).hasher == "sha2-256"


def test_what_cannot_be_put_is_refused() -> None:
    store = MappingCAStore()
    with pytest.raises(errors.InvalidInput, match="no multicodec"):
        store.put_raw(b"", "nonsense")
    with pytest.raises(errors.InvalidInput, match="a block must be bytes"):
        store.put_raw("text", "raw")  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidInput, match="is no IPLD value"):
        store.put({"a": object()})  # type: ignore[dict-item]
    cid = store.put_raw(b"\xff", "dag-cbor")
    with pytest.raises(errors.MalformedNode, match=f"{cid} is not dag-cbor"):
        store.get(cid)
    with pytest.raises(errors.BlockNotFound):
        store.get(test_cid)
    assert test_cid not in store


def test_the_mapping_has_texts_of_one_base_and_version() -> None:
    store = MappingCAStore(default_base="base58btc")
    cid = store.put(b"value")
    [name] = store.mapping
    assert name == str(store.normalize_cid(cid)) and name.startswith("z")
    block = b"\x0a\x04\x08\x02\x18\x00"
    old = b"\x12\x20" + hashlib.sha256(block).digest()
    store.put_raw(block, "dag-pb")
    assert store.get_raw(CID.decode(old)) == block and store.get(CID.decode(old)) == b""
    assert str(store.normalize_cid(CID.decode(old))) in store.mapping


def test_a_mapping_is_a_store_for_all_else_here() -> None:
    """A tree of another layout and a Zarr hierarchy, both by its CIDs."""
    store = MappingCAStore()
    root = build({"a": b"1"}, store)
    assert open_root(root, store).get("a") == b"1"
    ds = dataset()
    found = to_hamt(ds, store)
    assert xr.open_zarr(open_root(found, store).store()).identical(ds)
    assert all(name.startswith("b") for name in store.mapping)


def test_links_of_a_value_come_in_order() -> None:
    first, second = (to_cid(identify(data)) for data in (b"1", b"2"))
    assert list(iter_links({"a": [first, {"b": second}], "c": first, "d": 1})) == [first, second, first]
    assert list(iter_links("text")) == []
