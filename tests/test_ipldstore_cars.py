"""CAR files of ipldstores: out, in, and damaged in every way."""

import os
from io import BytesIO
from pathlib import Path

import dag_cbor
import pytest
from car_files import unfinished, version_1, version_2, version_2_without_index
from hypothesis import given
from hypothesis import strategies as st
from ipldstore_made import VECTOR, VECTOR_ITEMS, as_ipldstore_gives, filled, frozen, hierarchies
from multiformats import CID
from test_cas_custom import DictCAS

from hamt_bulk import CarCAS, InMemoryCAS, PackCAS, errors
from hamt_bulk.block import Block, identify, text, to_bytes, to_cid
from hamt_bulk.car import header_v1, read_header, scan, section_head
from hamt_bulk.ipldstore import IPLDStore, MappingCAStore, cars
from hamt_bulk.testing.contract import LARGE


def sections(data: bytes) -> list[bytes]:
    """The CIDs of a file's blocks, in order."""
    header = read_header(file := BytesIO(data))
    return [section.cid for section in scan(file, header)]


def in_order(root: CID, store: MappingCAStore) -> list[CID]:
    """What a root reaches as ipldstore's own recursion comes upon it."""
    found: list[CID] = []

    def visit(cid: CID) -> None:
        if cid in found:
            return
        found.append(cid)
        if cid.codec.name == "dag-cbor":
            waiting = [dag_cbor.decode(store.get_raw(cid))]
            while waiting:
                match part := waiting.pop(0):
                    case CID():
                        visit(part)
                    case dict():
                        waiting = [*part.values(), *waiting]
                    case list():
                        waiting = [*part, *waiting]

    visit(root)
    return found


@given(hierarchies())
def test_a_file_has_the_root_first_and_what_follows_in_ipldstores_order(items: dict[str, bytes]) -> None:
    store = filled(items)
    data = store.to_car()
    header = read_header(BytesIO(data))
    assert (header.version, header.roots) == (1, (to_bytes(store.freeze()),))
    assert isinstance(store.castore, MappingCAStore)
    assert sections(data) == [bytes(cid) for cid in in_order(store.freeze(), store.castore)]
    copy = IPLDStore.from_car(data)
    assert dict(copy) == as_ipldstore_gives(items) and copy.freeze() == store.freeze()
    assert copy.to_car() == data


@pytest.mark.parametrize("values", [["hallo", {"a": 5}], [1, True, [2, 1, 4], b"foo"], [LARGE, LARGE, b""]])
def test_values_of_a_castore_come_with_what_links_to_them(values: list) -> None:
    store = MappingCAStore()
    cids = [store.put(value) for value in values]
    root = store.put([cids, {"again": cids[0]}])
    data = store.to_car(root)
    assert len(sections(data)) == len(set(sections(data)))
    other = MappingCAStore()
    assert other.import_car(data) == [root]
    assert [other.get(cid) for cid in cids] == values
    assert other.mapping == store.mapping


def test_streams_are_written_and_read(tmp_path: Path) -> None:
    store = filled(VECTOR_ITEMS)
    path = tmp_path / "file.car"
    with path.open("wb") as file:
        assert store.to_car(file) == 560
    assert path.read_bytes() == store.to_car()
    assert [str(root) for root in CarCAS(path).roots] == [VECTOR]
    with path.open("rb") as file:
        assert dict(IPLDStore.from_car(file)) == dict(store)
    later = BytesIO(b"before" + store.to_car())
    later.seek(6)
    assert dict(IPLDStore.from_car(later)) == dict(store)
    read, write = os.pipe()
    with os.fdopen(read, "rb") as pipe:
        os.write(write, store.to_car())
        os.close(write)
        assert dict(IPLDStore.from_car(pipe)) == dict(store)


@pytest.mark.parametrize("made", [version_1, version_2, version_2_without_index])
def test_files_of_every_kind_are_taken(made, tmp_path: Path) -> None:
    """In any order of blocks, with blocks that nobody needs, and by any store."""
    cas = InMemoryCAS()
    root = frozen({"a/0": b"0", "a/1": LARGE}, cas)
    blocks = [Block(cid, data) for cid, data in sorted(cas.blocks.items())]
    store = IPLDStore(tmp_path / "store")
    store.import_car(made([*blocks, Block(identify(b"more"), b"more")], [root]))
    assert dict(store) == {"a/0": b"0", "a/1": LARGE}
    assert to_bytes(store.freeze()) == root
    assert dict(IPLDStore(PackCAS(tmp_path / "store"))) == {}


def whole() -> tuple[list[Block], bytes]:
    cas = InMemoryCAS("sha2-256")
    root = frozen({f"a/{number}": b"chunk %d" % number for number in range(50)} | {"b": LARGE}, cas)
    return [Block(cid, data) for cid, data in cas.blocks.items()], root


def test_a_block_that_is_missing_is_named_and_counted() -> None:
    blocks, root = whole()
    for count in (1, 3):
        store = filled({"before": b"1"})
        left = [
            block
            for block in blocks
            if block.data not in {b"chunk %d" % number for number in range(7, 7 + count)}
        ]
        with pytest.raises(errors.BlockNotFound) as raised:
            store.import_car(version_1(left, [root]))
        first = text(identify(b"chunk 7", hasher="sha2-256"))
        said = f"the CAR file and the store lack {count} block{'s' if count > 1 else ''} that {text(root)} reaches"
        assert str(raised.value).startswith(f"{said}: the first is {first}")
        assert dict(store) == {"before": b"1"}
    for lost in blocks:
        left = [block for block in blocks if block is not lost]
        with pytest.raises(errors.BlockNotFound, match=f"the first is {text(lost.cid)}"):
            IPLDStore().import_car(version_1(left, [root]))


def test_what_the_store_has_need_not_be_in_the_file() -> None:
    store = filled({"a": b"1", "b": b"2"})
    car = filled({"a": b"1", "b": b"2", "c": b"3"}).to_car()
    some = [
        Block(section.cid, car[section.data_offset : section.data_offset + section.data_length])
        for section in scan(BytesIO(car), read_header(BytesIO(car)))
        if section.cid != identify(b"1", hasher="sha2-256")
    ]
    root = read_header(BytesIO(car)).roots[0]
    store.import_car(version_1(some, [root]))
    assert dict(store) == {"a": b"1", "b": b"2", "c": b"3"}


@pytest.mark.parametrize("count", [0, 2])
def test_a_file_has_one_root(count: int) -> None:
    blocks, root = whole()
    roots = [root, blocks[0].cid][:count]
    with pytest.raises(errors.InvalidInput, match=f"names {count} roots, expected one") as raised:
        IPLDStore.from_car(version_1(blocks, roots))
    assert all(text(named) in str(raised.value) for named in roots)
    assert MappingCAStore().import_car(version_1(blocks, roots)) == [to_cid(named) for named in roots]


def test_a_root_that_is_none_of_ipldstores_is_refused() -> None:
    data = dag_cbor.encode([1])
    block = Block(identify(data, 0x71), data)
    with pytest.raises(errors.MalformedNode, match="is no ipldstore root: a list of 1"):
        IPLDStore.from_car(version_1([block], [block.cid]))


@pytest.mark.parametrize("source", [b"", b"precious words", "text", None, 5])
def test_what_is_no_car_file_is_refused(source) -> None:
    with pytest.raises(errors.InvalidInput, match=r"CAR"):
        IPLDStore.from_car(source)


def test_a_file_whose_writer_died_is_refused_where_it_ends() -> None:
    blocks, root = whole()
    with pytest.raises(errors.BlockNotFound, match="the first is"):
        IPLDStore.from_car(unfinished(blocks[:-1], [root]))


def test_wherever_a_file_is_cut_it_is_refused() -> None:
    data = filled({"a": b"1", "b": b"22", ".zattrs": b"{}"}).to_car()
    for length in range(len(data)):
        with pytest.raises((errors.InvalidInput, errors.BlockNotFound)):
            IPLDStore.from_car(data[:length])


@given(st.data())
def test_a_file_with_a_changed_byte_is_refused_or_means_the_same(data: st.DataObject) -> None:
    car = bytearray(CAR)
    at = data.draw(st.integers(0, len(car) - 1))
    car[at] ^= data.draw(st.integers(1, 255))
    try:
        found = IPLDStore.from_car(bytes(car))
    except errors.HamtError as error:
        assert not isinstance(error, LookupError)
    else:
        assert dict(found) == ITEMS  # a length, or a CID, that is written in another way


ITEMS = {"a": b"1", "b": b"22", ".zattrs": b"{}"}
CAR = filled(ITEMS).to_car()


def test_every_block_is_hashed_before_it_is_taken() -> None:
    cid = identify(b"value")
    store = MappingCAStore()
    with pytest.raises(errors.BlockMismatch, match=text(cid)):
        store.import_car(header_v1() + section_head(cid, 5) + b"other")
    odd = b"\x01\x55\x14\x05value"  # sha3-512, which cannot be verified
    with pytest.raises(errors.InvalidInput, match="cannot be verified"):
        store.import_car(header_v1() + section_head(odd, 5) + b"value")
    assert not store.mapping


def test_long_files_are_flushed_as_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cars, "UNFLUSHED_BYTES", 20)
    blocks, root = whole()
    store = MappingCAStore()
    with pytest.raises(errors.InvalidInput, match="CAR section"):
        store.import_car(version_1(blocks, [root]) + b"\xff")
    assert len(store.mapping) >= len(blocks) - 1


def test_a_block_that_is_missing_ends_a_file_that_is_written() -> None:
    store = filled({"a": b"1"})
    root = store.freeze()
    del store.castore.mapping[str(to_cid(identify(b"1", hasher="sha2-256")))]  # type: ignore[attr-defined]
    with pytest.raises(errors.BlockNotFound, match=text(identify(b"1", hasher="sha2-256"))):
        store.to_car()
    assert store.freeze() == root


def test_a_block_too_long_to_be_read_again_is_refused() -> None:
    store = MappingCAStore()
    with pytest.raises(errors.InvalidInput, match=r"of 33554433 bytes, at most 33554432 fit"):
        store.to_car(store.put_raw(bytes((32 << 20) + 1), "raw"))


def test_a_store_of_whole_values_gives_no_blocks_of_files() -> None:
    cas = DictCAS()
    store = filled({"a": b"1"}, cas)
    assert dict(IPLDStore.from_car(store.to_car())) == {"a": b"1"}
    store["b"] = LARGE
    with pytest.raises(errors.InvalidInput, match="only whole"):
        store.to_car()


def test_a_link_into_what_is_no_dag_cbor_is_told() -> None:
    store = MappingCAStore()
    root = store.put({"a": store.put_raw(b"\xff", "dag-cbor")})
    with pytest.raises(errors.MalformedNode, match="is not dag-cbor"):
        store.to_car(root)
