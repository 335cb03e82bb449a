"""Folders of packs with foreign bytes in them."""

from blake3 import blake3

from hamt_bulk.cas import PackCAS
from hamt_bulk.cas.packindex import MAGIC
from hamt_bulk.errors import BlockMismatch, BlockNotFound, CASError, InvalidInput, MalformedNode

from .archives import MIXED, SMALL, TOKENS, version_1, version_2
from .target import Target, Wrong, scratch

_LOST = (BlockNotFound, BlockMismatch, CASError, InvalidInput, MalformedNode)


def _pack(data: bytes) -> None:
    """A pack beside a sound one, whose blocks are found whatever the other says."""
    folder = scratch("packs")
    if not folder.exists():
        PackCAS(folder).writer().close()
        (folder / "packs/values/sound.car").write_bytes(version_2(SMALL[:2], []))
    (folder / "packs/values/hostile.car").write_bytes(data)
    _read(folder, len(SMALL[:2]))


def _multi_pack_index(data: bytes) -> None:
    """An index with the right digest, over a sound pack."""
    folder = scratch("indexed")
    if not folder.exists():
        PackCAS(folder).writer().close()
        (folder / "packs/values/sound.car").write_bytes(version_2(MIXED, []))
    (folder / "index/hostile.mpi").write_bytes(data + blake3(data).digest())
    _read(folder, 0)


def _read(folder, sound: int) -> None:
    cas = PackCAS(folder)
    errors = []
    try:
        cas.has_many([block.cid for block in MIXED])
        for number, (cid, expected) in enumerate(MIXED):
            try:
                cas.size_many([cid])
                if cas.load_blocks([cid])[0] != expected:
                    raise Wrong("bytes that are not those of the CID")
            except _LOST as error:
                if number < sound:
                    raise Wrong(f"a block of a sound pack is not found: {error}") from error
                errors.append(error)
        cas.has_many([block.cid for block in MIXED])
    finally:
        cas.close()
    if errors:
        raise errors[-1]


def index_seed() -> bytes:
    folder = scratch("seed")
    cas = PackCAS(folder)
    cas.writer().close()
    for number in range(2):
        (folder / f"packs/values/{number}.car").write_bytes(version_2(MIXED[number * 3 :], []))
    cas.finish()
    cas.close()
    [path] = (folder / "index").glob("*.mpi")
    found = path.read_bytes()[:-32]
    start = len(MAGIC) + 8
    length = int.from_bytes(found[len(MAGIC) : start], "little")
    head = b'{"packs": ["values/sound.car"], "rows": %d}' % ((len(found) - start - length) // 20)
    head += b" " * (-len(head) % 8)
    rows = (len(found) - start - length) // 20
    columns = found[start + length : start + length + 16 * rows] + bytes(4 * rows)
    return MAGIC + len(head).to_bytes(8, "little") + head + columns


TARGETS = [
    Target("pack", _pack, [version_2(MIXED, []), version_1(MIXED, [])], _LOST, None, TOKENS),
    Target(
        "multi-pack index",
        _multi_pack_index,
        [index_seed(), MAGIC],
        _LOST,
        None,
        [
            b'{"packs": ["values/sound.car"], "rows": 1e400}',
            b'{"packs": ["values/sound.car", "values/sound.car"], "rows": -1}',
            b"[" * 5000,
            b'"values/sound.car"',
            b"null",
            b"\xff" * 16,
        ],
    ),
]
