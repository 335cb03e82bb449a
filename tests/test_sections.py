"""Sections of a CAR file that is written, and the file: every block once, and found through the index."""

import os
from io import BytesIO
from pathlib import Path

import pytest
from copied import blocks_in
from hypothesis import given
from hypothesis import strategies as st

from hamt_bulk.block import Block, identify
from hamt_bulk.car import MAX_SECTION_BYTES, Section, read_header, scan
from hamt_bulk.car_index import encode_index, index_sections
from hamt_bulk.cas import CarCAS, Receipt, sections
from hamt_bulk.cas.carfile import CarFile
from hamt_bulk.cas.files import write_all
from hamt_bulk.cas.sections import Sections
from hamt_bulk.errors import CASError, InvalidInput

digests = st.integers(0, 60).map(lambda n: identify(b"%d" % n)[4:])
cids = st.one_of(
    st.builds(
        lambda codec, code, digest: bytes([1, codec, code, 32]) + digest,
        st.sampled_from([0x55, 0x71]),
        st.sampled_from([0x1E, 0x12, 0x00]),
        # Zeros at the ends, which numpy's strings do not compare.
        st.one_of(digests, st.sampled_from([bytes(32), bytes(31) + b"\1", b"\1" + bytes(31)])),
    ),
    digests.map(lambda digest: b"\x12\x20" + digest),
    digests.map(lambda digest: b"\x01\xa9\x02\x1e\x20" + digest),
    digests.map(lambda digest: b"\x01\xa9\x02\x1e\x1f" + digest[1:]),  # 36 bytes too
    st.binary(max_size=3).map(lambda data: bytes([1, 0x55, 0, len(data)]) + data),
)


@given(st.lists(cids, max_size=80), st.lists(cids, max_size=20), st.integers(1, 9))
def test_sections_are_a_dict_with_an_index(added: list[bytes], others: list[bytes], recent: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sections, "RECENT", recent)
        found, expected = Sections(), {}
        for number, cid in enumerate(added):
            asked = [cid, *others, *expected]
            assert found.has_many(asked) == [other in expected for other in asked]
            if cid not in expected:
                found.add(cid, 100 * number)
                expected[cid] = 100 * number
        assert found.has_many([]) == []
        listed = (Section(cid, offset, 0, 0) for cid, offset in expected.items())
        index = found.index()
        assert {key: sorted(columns.offsets.tolist()) for key, columns in index.items()} == {
            key: sorted(columns.offsets.tolist()) for key, columns in index_sections(listed).items()
        }
        for columns in index.values():
            for digest, offset in zip(columns.digests, columns.offsets.tolist(), strict=True):
                assert added[offset // 100].endswith(digest.tobytes())
        assert found.has_many(others) == [other in expected for other in others]


def test_many_sections_are_in_few_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of which is searched."""
    monkeypatch.setattr(sections, "RECENT", 10)
    found = Sections()
    for number in range(5000):
        found.add(identify(b"%d" % number), number)
        assert len(found._recent) < 10
        assert len(found._runs) < 12
    assert found.has_many([identify(b"%d" % number) for number in (0, 4999, 5000)]) == [True, True, False]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.car"


def blocks(count: int) -> list[Block]:
    return [
        Block(identify(data, 0x55, ("blake3", "sha2-256")[n % 2]), data)
        for n, data in enumerate(b"%d" % n * (n % 50) for n in range(count))
    ]


def test_a_block_is_written_once_and_found_by_the_index(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given twice in one call, in another, and when it is long ago."""
    monkeypatch.setattr(sections, "RECENT", 100)
    some = blocks(1000)
    distinct = dict(some)
    with CarFile(path, [some[0].cid, some[1].cid]) as file:
        file.save_many([some[1], some[1], *some[:500], *some[:500]])
        assert file.flush() == Receipt(len(dict(some[:500])), sum(map(len, dict(some[:500]).values())))
        assert file.has_many([some[3].cid, some[701].cid]) == [True, False]
        file.save_many(iter(some))
        assert file.flush().blocks == len(distinct) - len(dict(some[:500]))
        assert file.flush() == Receipt()
        assert not path.exists()
        file.finish()
    assert blocks_in(path) == distinct
    data = path.read_bytes()
    header = read_header(stream := BytesIO(data))
    assert header.roots == (some[0].cid, some[1].cid)
    assert data[header.index_offset :] == encode_index(index_sections(scan(stream, header)))
    cas = CarCAS(path)
    assert cas.load_many(list(distinct)) == list(distinct.values())
    assert cas._archive.damage is None


def test_buffers_may_change_once_they_were_taken(path: Path) -> None:
    buffer = bytearray(b"before")
    with CarFile(path, []) as file:
        file.save_many([Block(identify(buffer), memoryview(buffer))])
        buffer[:] = b"after!"
        file.finish()
    assert list(blocks_in(path).values()) == [b"before"]


def test_large_blocks_do_not_wait(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []

    def write(file: int, views: list[bytes]) -> None:
        written.append(sum(map(len, views)))
        write_all(file, views)

    monkeypatch.setattr("hamt_bulk.cas.carfile.write_all", write)
    with CarFile(path, []) as file:
        file.save_many(Block(identify(data := bytes([n]) * (1 << 20)), data) for n in range(12))
        assert max(written) < 6 << 20
        assert sum(written) > 12 << 20
        file.finish()
    assert len(blocks_in(path)) == 12


def test_a_file_without_blocks_is_one(path: Path) -> None:
    with CarFile(path, []) as file:
        file.finish()
    assert CarCAS(path).roots == []
    assert blocks_in(path) == {}


def test_what_cannot_be_read_is_refused_and_nothing_is_left(path: Path) -> None:
    data = bytes(MAX_SECTION_BYTES)
    with CarFile(path, []) as file:
        with pytest.raises(InvalidInput, match=f"at most {MAX_SECTION_BYTES}"):
            file.save_many([*blocks(5), Block(identify(b""), data)])
        with pytest.raises(CASError, match="given up"):
            file.save_many(blocks(5))
        with pytest.raises(CASError, match="given up"):
            file.finish()
    assert os.listdir(path.parent) == []


def test_a_file_that_is_finished_takes_no_more(path: Path) -> None:
    with CarFile(path, []) as file:
        file.save_many(blocks(5))
        file.finish()
        with pytest.raises(CASError, match="it is finished"):
            file.save_many(blocks(6))
    assert len(blocks_in(path)) == len(dict(blocks(5)))


def test_a_file_that_is_given_up_is_gone(path: Path) -> None:
    with CarFile(path, []) as file:
        file.save_many(blocks(5))
    assert os.listdir(path.parent) == []
