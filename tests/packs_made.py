"""Pack stores to look after, and what can be read of them."""

import os
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from hamt_bulk import build
from hamt_bulk.block import DAG_PB, parse, to_bytes, to_cid
from hamt_bulk.car import read_header, scan
from hamt_bulk.cas import PackCAS
from hamt_bulk.errors import HamtError
from hamt_bulk.layout import PyHamt
from hamt_bulk.packs import Dropped, drop
from hamt_bulk.tree import Found, entries

LEAF_BYTES = 64
"""Values above it are files of several blocks."""

HOUR = 3600


def write(
    store: Path, values: Iterable[bytes], codec: str = "raw", leaf_bytes: int = LEAF_BYTES
) -> list[Path]:
    """Writes values into packs of their own. The packs."""
    with PackCAS(store).writer() as writer:
        writer.leaf_bytes = leaf_bytes
        for value in values:
            writer.save(value, codec)  # type: ignore[arg-type]
        writer.flush()
        return writer.paths


def tree(store: Path, items: Mapping[str, bytes]) -> bytes:
    """The root of a tree; its nodes and its values are in packs of their own."""
    cas = PackCAS(store)
    with cas.writer() as writer:
        writer.leaf_bytes = LEAF_BYTES
        pointers = {key: to_cid(writer.save(value)) for key, value in items.items()}
        writer.flush()
    return to_bytes(build(pointers, cas))


def items_of(tag: str, count: int) -> dict[str, bytes]:
    """Values of one block, and every tenth of several."""
    return {f"{tag}/{n}": f"{tag} {n} ".encode() * (30 if n % 10 == 0 else 1) for n in range(count)}


def pointers_of(cas: PackCAS, root: bytes) -> dict[str, bytes]:
    """The keys below a root and the CIDs of their values."""
    walk, pointers, sent = entries(root, PyHamt()), {}, None
    while True:
        try:
            step = walk.send(sent)
        except StopIteration:
            return pointers
        if isinstance(step, Found):
            pointers.update(step)
            sent = None
        else:
            sent = cas.load_blocks(step)


def contents(store: Path, root: bytes) -> dict[str, bytes]:
    """All that a new reader reads below a root. Raises when something is missing."""
    cas = PackCAS(store)
    pointers = pointers_of(cas, root)
    return dict(zip(pointers, cas.load_many(list(pointers.values())), strict=True))


def blocks_in(pack: Path) -> dict[bytes, tuple[int, int]]:
    """The blocks of a sound pack: where their bytes start in the file, and how many they are."""
    with pack.open("rb") as file:
        header = read_header(file)
        return {
            section.cid: (header.data_offset + section.data_offset, section.data_length)
            for section in scan(file, header)
        }


def blocks_in_all(store: Path) -> list[bytes]:
    """The blocks of all packs; those that several have come several times."""
    return [cid for path in packs_in(store) for cid in blocks_in(path)]


def packs_in(store: Path) -> list[Path]:
    return sorted(store.glob("packs/*/*.car"))


def readable(store: Path, cids: Iterable[bytes]) -> set[bytes]:
    """Which of these blocks a new reader gives."""
    cas, found = PackCAS(store), set()
    for cid in cids:
        try:
            cas.load_blocks([cid])
        except HamtError:
            continue
        found.add(cid)
    return found


def alter(pack: Path, at: int) -> None:
    """Flips a bit of a byte. The file stays as old as it was."""
    status, data = pack.stat(), bytearray(pack.read_bytes())
    data[at] ^= 1
    pack.write_bytes(data)
    os.utime(pack, ns=(status.st_atime_ns, status.st_mtime_ns))


def snapshot(store: Path) -> dict[str, tuple[int, bytes]]:
    """Every file of a store: when it was written, and its bytes."""
    return {
        str(path.relative_to(store)): (path.stat().st_mtime_ns, path.read_bytes())
        for path in store.rglob("*")
        if path.is_file()
    }


def age(store: Path, hours: float) -> None:
    """Makes all packs and temporary files that much older."""
    for path in (*packs_in(store), *(store / "tmp").iterdir()):
        status = path.stat()
        os.utime(path, (status.st_atime - hours * HOUR, status.st_mtime - hours * HOUR))


def is_file(cid: bytes) -> bool:
    return parse(cid).codec == DAG_PB


def dropped(store: Path, *keep: bytes, hours: float = 0) -> Dropped:
    """Drops, after a dry run that has to say the same and change nothing; a second drop has nothing to do."""
    before = snapshot(store)
    said = drop(store, keep, older_than_hours=hours, dry_run=True)
    assert snapshot(store) == before
    done = drop(store, keep, older_than_hours=hours)
    assert replace(said, dry_run=False) == done
    again, left = drop(store, keep, older_than_hours=hours), snapshot(store)
    assert (again.removed, again.rewritten, again.temporary, again.blocks, again.bytes) == ((), (), (), 0, 0)
    assert again.kept == done.kept
    assert {name: data for name, (_, data) in snapshot(store).items()} == {
        name: data for name, (_, data) in left.items()
    }
    return done
