"""`copy` into a .car file: whole or not there, and never in place of another."""

import errno
import os
from io import BytesIO
from pathlib import Path

import pytest
from car_files import version_1, version_2
from copied import ITEMS, blocks_in
from stored import in_tree
from watching import DISK_ERRORS, Crash, Faults, failing, open_descriptors

from hamt_bulk import CarCAS, InMemoryCAS, build, check, copy
from hamt_bulk.block import Block, identify, text, to_bytes, to_cid
from hamt_bulk.car import read_header, scan
from hamt_bulk.car_index import encode_index, index_sections
from hamt_bulk.errors import BlockNotFound, CASError, InvalidInput

SOURCE = InMemoryCAS()
ROOT = to_bytes(build(ITEMS, SOURCE))
SMALL = to_bytes(build({"a": b"1", "b": b"22"}, SOURCE))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file.car"


def test_the_file_is_a_car_with_an_index_and_that_one_root(path: Path) -> None:
    copy(ROOT, SOURCE, path)
    header = read_header(BytesIO(path.read_bytes()))
    assert (header.version, header.roots, header.finished) == (2, (ROOT,), True)
    assert header.index_offset is not None
    cas = CarCAS(path)
    assert cas.roots == [to_cid(ROOT)]
    assert check(ROOT, cas).ok
    assert in_tree(ROOT, cas) == ITEMS
    assert os.listdir(path.parent) == ["file.car"]


def test_the_index_is_that_of_its_sections(path: Path) -> None:
    copy(ROOT, SOURCE, path)
    data = path.read_bytes()
    header = read_header(file := BytesIO(data))
    assert data[header.index_offset :] == encode_index(index_sections(scan(file, header)))


@pytest.mark.parametrize("form", [str, lambda path: f"file://{path}", CarCAS, Path])
def test_the_file_is_named_in_any_way(path: Path, form) -> None:
    copy(SMALL, SOURCE, form(path))
    assert len(blocks_in(path)) == 3


def test_a_file_that_has_it_all_may_be_named_again(path: Path) -> None:
    first = copy(ROOT, SOURCE, path)
    before = path.stat()
    again = copy(ROOT, SOURCE, path)
    assert (again.blocks, again.copied_blocks) == (first.blocks, 0)
    assert copy(ROOT, path, path).copied_blocks == 0
    after = path.stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


OTHER = [Block(identify(b"precious"), b"precious")]


@pytest.mark.parametrize(
    "data, said",
    [
        (b"", "is not a CAR file"),
        (b"precious words, not a CAR", "is not a CAR file"),
        (version_2(OTHER, [OTHER[0].cid]), f"its roots are {text(OTHER[0].cid)}, not {text(SMALL)} alone"),
        (version_1(OTHER), "its roots are none"),
        (version_1(OTHER, [SMALL, OTHER[0].cid]), f"{text(OTHER[0].cid)}, not"),
        (version_2(OTHER, [SMALL]), f"it lacks blocks of {text(SMALL)}"),
    ],
)
def test_another_file_is_never_written_to(path: Path, data: bytes, said: str) -> None:
    path.write_bytes(data)
    with pytest.raises(InvalidInput, match="is there already") as raised:
        copy(SMALL, SOURCE, path)
    assert said in str(raised.value)
    assert "choose another name, or remove it" in str(raised.value)
    assert path.read_bytes() == data
    assert os.listdir(path.parent) == ["file.car"]


def test_a_file_of_the_same_root_that_was_cut_short_is_refused(path: Path) -> None:
    copy(SMALL, SOURCE, path)
    whole = path.read_bytes()
    first = version_1([Block(*block) for block in blocks_in(path).items()], [SMALL])
    for data, said in (
        (whole[: whole.rindex(SMALL) + 10], "its roots are none"),
        (first[:-9], "it lacks blocks"),
    ):
        path.write_bytes(data)
        with pytest.raises(InvalidInput, match=said):
            copy(SMALL, SOURCE, path)
        assert path.read_bytes() == data


def test_a_link_to_nowhere_is_left_alone(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")
    with pytest.raises(CASError, match="no such file"):
        copy(SMALL, SOURCE, path)
    assert os.listdir(path.parent) == ["file.car"]


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_comes_in_the_meantime_is_left_alone(
    path: Path, links: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On file systems with hard links, and on others."""
    if not links:
        monkeypatch.setattr(os, "link", _refusing)
    with pytest.raises(InvalidInput, match=r"file\.car is there by now"):
        copy(SMALL, SOURCE, path, progress=lambda _: path.write_bytes(b"precious"))
    assert path.read_bytes() == b"precious"
    assert os.listdir(path.parent) == ["file.car"]


def _refusing(*_: object) -> None:
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def test_file_systems_without_links_will_do(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", _refusing)
    copy(ROOT, SOURCE, path)
    assert blocks_in(path) == {**blocks_in(path), ROOT: SOURCE.blocks[ROOT]}
    assert os.listdir(path.parent) == ["file.car"]


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(CASError, match=r"absent/file\.car: there is no such file or folder"):
        copy(SMALL, SOURCE, tmp_path / "absent" / "file.car")
    (tmp_path / "file").touch()
    with pytest.raises(CASError, match="a part of the path is a file"):
        copy(SMALL, SOURCE, tmp_path / "file" / "file.car")


def test_nothing_is_left_of_a_copy_that_fails(path: Path) -> None:
    """A block is missing, and the file was begun."""
    source = InMemoryCAS()
    source.blocks |= SOURCE.blocks
    del source.blocks[identify(b"value 8")]
    before = open_descriptors()
    with pytest.raises(BlockNotFound):
        copy(ROOT, source, path)
    assert os.listdir(path.parent) == []
    assert open_descriptors() == before


def test_nothing_is_left_of_a_copy_that_is_interrupted(path: Path) -> None:
    def interrupt(progress) -> None:
        if progress.stage == "nodes":
            assert len(os.listdir(path.parent)) == 1
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        copy(ROOT, SOURCE, path, progress=interrupt)
    assert os.listdir(path.parent) == []


@pytest.mark.parametrize("number", DISK_ERRORS)
def test_wherever_the_disk_fails_no_part_of_a_file_is_left(
    path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy(ROOT, SOURCE, path)
    whole = path.read_bytes()
    path.unlink()
    faults = Faults(monkeypatch)
    step, failed = 0, 0
    while True:
        with faults.armed(step, failing(number)):
            try:
                copy(ROOT, SOURCE, path)
            except CASError:
                failed += 1
        if not faults.struck:
            break
        left = os.listdir(path.parent)
        if faults.calls[step] == "unlink":
            assert "file.car" in left  # of a file that is finished one more name stays
        else:
            # The file has its name before its folder is made durable.
            assert left in ([], ["file.car"])
        if "file.car" in left:
            assert path.read_bytes() == whole
        for name in left:
            (path.parent / name).unlink()
        step += 1
    assert failed > 5
    assert path.read_bytes() == whole


def test_wherever_the_process_dies_the_file_is_whole_or_not_there(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = Faults(monkeypatch)
    step = 0
    while True:
        try:
            with faults.armed(step, Crash):
                copy(SMALL, SOURCE, path)
        except Crash:
            pass
        if not faults.struck:
            break
        if path.exists():
            assert check(SMALL, path).ok
            path.unlink()
        step += 1
    assert step > 5
