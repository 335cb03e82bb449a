"""Stores by their URL."""

import os
from pathlib import Path
from typing import Any

import pytest
from car_files import version_2
from multiformats import CID

from hamt_bulk.block import Block, identify
from hamt_bulk.cas import CarCAS, InMemoryCAS, PackCAS, open_cas
from hamt_bulk.errors import InvalidInput


def test_a_path_is_a_folder_of_packs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for url in ("store", "./store", tmp_path / "store", f"{tmp_path}/store/", f"file://{tmp_path}/store"):
        cas = open_cas(url)
        assert isinstance(cas, PackCAS)
        assert cas.path == tmp_path / "store"
    assert not (tmp_path / "store").exists()


def test_a_path_keeps_its_place_when_the_process_moves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cas = open_cas("store")
    monkeypatch.chdir("/")
    with cas.writer() as writer:
        writer.save(b"value")
        writer.flush()
    assert (tmp_path / "store" / "format").exists()


def test_a_path_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    cas = open_cas("~/store")
    assert isinstance(cas, PackCAS)
    assert cas.path == tmp_path / "store"


def test_a_car_file_is_read(tmp_path: Path) -> None:
    block = Block(identify(b"value"), b"value")
    (tmp_path / "file.car").write_bytes(version_2([block]))
    for url in (tmp_path / "file.car", str(tmp_path / "file.car"), f"FILE://{tmp_path}/file.car"):
        cas = open_cas(url)
        assert isinstance(cas, CarCAS)
        assert cas.load_many([block.cid]) == [b"value"]


def test_a_folder_may_be_called_like_a_car_file(tmp_path: Path) -> None:
    (tmp_path / "folder.car").mkdir()
    assert isinstance(open_cas(tmp_path / "folder.car"), PackCAS)


def test_a_memory_store_has_a_name() -> None:
    cas = open_cas("memory://a")
    assert isinstance(cas, InMemoryCAS)
    assert open_cas("memory://a") is cas
    assert open_cas("memory://b") is not cas
    assert open_cas("memory://") is open_cas("memory://")


def test_a_store_is_returned_as_it_is() -> None:
    cas = InMemoryCAS()
    assert open_cas(cas) is cas


class Path8(os.PathLike[Any]):
    def __fspath__(self) -> bytes:
        return b"store"


@pytest.mark.parametrize(
    "url", [None, 5, b"store", [], CID.decode(identify(b"")), Path8(), "", "file://", "a\0b"], ids=type
)
def test_what_names_no_store_is_refused(url: Any) -> None:
    with pytest.raises(InvalidInput):
        open_cas(url)


@pytest.mark.parametrize("kind", [PackCAS, CarCAS])
@pytest.mark.parametrize("path", [None, 5, b"store", "", "a\0b", Path8()], ids=type)
def test_what_is_no_path_is_refused(kind: Any, path: Any) -> None:
    with pytest.raises(InvalidInput, match="not a path"):
        kind(path)


@pytest.mark.parametrize("url", ["ftp://host/x", "nothing://", "gs3://bucket/x"])
def test_an_unknown_kind_is_named(url: str) -> None:
    with pytest.raises(InvalidInput, match=rf"no store of kind '{url.partition(':')[0]}'"):
        open_cas(url)
