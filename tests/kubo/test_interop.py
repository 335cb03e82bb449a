"""The daemon and we make the same blocks, and take each other's files."""

import asyncio
import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from hamt_bulk import CarCAS, InMemoryCAS, KuboCAS, PackCAS, build, check, copy
from hamt_bulk.block import text
from kubo.daemon import Daemon

VECTORS = json.loads((Path(__file__).parents[1] / "vectors" / "unixfs.json").read_text())["vectors"]
MIB = 1 << 20
ITEMS = {f"key {number}": b"value %d" % number for number in range(1500)} | {
    "large": bytes(range(251)) * 20_000
}
"""More than a copy asks for at once."""

NewKubo = Callable[..., Daemon]


def content(size: int) -> bytes:
    pattern = bytes(range(251))
    return (pattern * (size // 251 + 1))[:size]


def added(kubo: Daemon, data: bytes, hasher: str, chunk: int, links: int) -> str:
    options = {
        "cid-version": 1,
        "raw-leaves": True,
        "hash": hasher,
        "chunker": f"size-{chunk}",
        "max-file-links": links,
        "pin": False,
    }
    return json.loads(kubo.rpc("add", options, file=data).splitlines()[-1])["Hash"]


@pytest.mark.parametrize(
    "row",
    [row for row in VECTORS if row["maxLinks"] == 174 and row["rawLeaves"] and row["chunk"] <= MIB],
    ids=lambda row: f"{row['hash']}-{row['size']}-{row['chunk']}",
)
def test_a_vector_is_what_the_daemon_makes_and_what_is_saved(kubo: Daemon, row: dict) -> None:
    data = content(row["size"])
    cas = KuboCAS(row["hash"], rpc_base_url=kubo.rpc_url, chunker=f"size-{row['chunk']}")
    with cas.writer() as writer:
        cid = writer.save(data)
        writer.flush()
    assert text(cid) == row["root"] == added(kubo, data, row["hash"], row["chunk"], 174)
    assert kubo.rpc("cat", {"arg": text(cid), "offline": True}) == data


@pytest.mark.parametrize(
    "size, hasher",
    [
        *itertools.product([MIB - 1, MIB, MIB + 1, 2 * MIB, 5 * MIB + 7], ["blake3", "sha2-256"]),
        *itertools.product([174 * MIB - 1, 174 * MIB, 174 * MIB + 1, 175 * MIB + 1], ["blake3"]),
        (174 * MIB + 1, "sha2-256"),  # one will do: the shape of a file is that of its size
    ],
)
def test_values_around_the_limits_are_what_the_daemon_makes(kubo: Daemon, hasher: str, size: int) -> None:
    data = content(size)
    cas = KuboCAS(hasher, rpc_base_url=kubo.rpc_url, gateway_base_url=kubo.gateway_url)
    with cas.writer() as writer:
        cid = writer.save(data)
        writer.flush()
    assert text(cid) == added(kubo, data, hasher, MIB, 174)
    assert cas.load_range(cid, size - 5, None) == data[-5:]
    assert cas.size_many([cid]) == [size]
    for start, stop in itertools.pairwise((0, 3, MIB - 1, MIB + 1, min(2 * MIB + 3, size))):
        assert cas.load_range(cid, start, stop) == data[start:stop]


def test_our_packs_are_imported_by_its_command_line(new_kubo: NewKubo, tmp_path: Path) -> None:
    daemon = new_kubo()
    root = build(ITEMS, PackCAS(tmp_path / "store"))
    packs = sorted((tmp_path / "store" / "packs").glob("*/*.car"))
    daemon.ipfs("dag", "import", "--pin-roots=false", *map(str, packs))
    cas = KuboCAS(rpc_base_url=daemon.rpc_url, gateway_base_url=daemon.gateway_url)
    assert check(root, cas).ok
    asyncio.run(cas.pin_cid(root, name="imported"))
    assert daemon.pins() == {str(root): "imported"}


def test_its_exports_are_read_back(new_kubo: NewKubo, tmp_path: Path) -> None:
    daemon = new_kubo()
    root = build(ITEMS, KuboCAS(rpc_base_url=daemon.rpc_url))
    path = tmp_path / "exported.car"
    path.write_bytes(daemon.ipfs("dag", "export", str(root)))
    exported = CarCAS(path)
    assert exported.roots == [root]
    assert check(root, exported).ok


@pytest.mark.parametrize("gateway", [True, False], ids=["gateway", "rpc"])
def test_roots_are_copied_to_and_from_packs_and_cars(
    new_kubo: NewKubo, tmp_path: Path, gateway: bool
) -> None:
    daemon = new_kubo()
    cas = KuboCAS(rpc_base_url=daemon.rpc_url, gateway_base_url=daemon.gateway_url if gateway else None)
    root = build(ITEMS, first := PackCAS(tmp_path / "first"))
    copied = copy(root, first, cas)
    assert copied.copied_blocks == daemon.stat(str(root)).blocks
    assert copy(root, first, cas).copied_blocks == 0, "what is there is not sent again"
    for target in (PackCAS(tmp_path / "second"), CarCAS(tmp_path / "root.car")):
        copy(root, cas, target)
        assert check(root, target).ok
    cas.close()
    assert daemon.pins() == {}
    assert root == build(ITEMS, InMemoryCAS())


def test_between_daemons(new_kubo: NewKubo) -> None:
    first, second = new_kubo(), new_kubo()
    source, target = KuboCAS(rpc_base_url=first.rpc_url), KuboCAS(rpc_base_url=second.rpc_url)
    root = build(ITEMS, source)
    copy(root, source, target)
    assert second.stat(str(root)) == first.stat(str(root))
