"""Zarr hierarchies with foreign documents and keys in them, as walks through all of a tree meet them."""

from contextlib import suppress
from functools import lru_cache
from random import Random

from hamt_bulk import InMemoryCAS, build, check, merge
from hamt_bulk.errors import Conflict, HamtError, InvalidInput
from hamt_bulk.formats import open_root
from hamt_bulk.formats.zarr3 import zarr3_documents
from hamt_bulk.hamt import HAMT
from hamt_bulk.keys import array_of
from hamt_bulk.nodes import Tree
from hamt_bulk.roots import variable_changes
from hamt_bulk.roots.hierarchy import Hierarchy
from hamt_bulk.zarr.folders import Folders

from . import documents
from .target import Target, Wrong

CHUNKS = ("t2m/c/0/0", "t2m/0.1", "c/0", "0", "t2m/x/c/1", "s\N{SNOWMAN}", "")
ARRAY_2 = (
    b'{"zarr_format": 2, "shape": [4], "chunks": [2], "dtype": "<f4", "compressor": {"id": "zstd", "level": 1}, '
    b'"filters": null, "fill_value": 0.0, "order": "C"}'
)


def _root(values: dict[str, bytes]) -> tuple[bytes, InMemoryCAS]:
    cas = InMemoryCAS()
    return bytes(build(values, cas)), cas


def _checked(data: bytes) -> None:
    """Whatever a document says, a check says what is wrong. Its length decides which document it is."""
    names = (("zarr.json", ".zattrs"), (".zarray", ".zattrs"), (".zgroup", ".zmetadata"))
    name, other = names[len(data) % 3]
    values = {key: b"chunk" for key in CHUNKS if key}
    values |= {name: data, f"t2m/{name}": data, other: data, f"t2m/{other}": b"{}"}
    root, cas = _root(values)
    report = check(root, cas, progress=False)
    if len(str(report)) > 100_000:
        raise Wrong(f"a report of {len(str(report))} characters")


@lru_cache(1)
def _plain() -> dict[str, bytes]:
    seeds = documents._SEEDS
    return {"zarr.json": seeds[1], "t2m/zarr.json": seeds[0], "t2m/c/0/0": b"one", "t2m/c/1/1": b"two"}


def _compared(data: bytes) -> None:
    """A document against the sound one: by array, or merged with another change. Its length decides which."""
    cas, which = InMemoryCAS(), len(data) % 6
    base = build(_plain(), cas)
    key = ("zarr.json", "t2m/zarr.json")[which % 2]
    ours = build(_plain() | {key: data, "t2m/c/0/1": b"ours"}, cas)
    if which < 2:
        list(map(str, variable_changes(base, ours, cas)))
        return
    theirs = build(_plain() | {"t2m/c/1/0": b"theirs"}, cas)
    merge(base, ours, theirs, cas, resolve="ours" if which < 4 else None)


def _format_2(data: bytes) -> None:
    root, cas = _root({".zgroup": b'{"zarr_format": 2}', "a/.zarray": data, "a/.zattrs": b"{}", "b/0": b"1"})
    made = zarr3_documents(open_root(root, cas))
    if any(value is not None and not isinstance(value, bytes) for value in made.values()):
        raise Wrong("documents that are no bytes")


def _keys(data: bytes) -> None:
    """A line is a key of a tree, and what walks through it asks of keys."""
    keys = list(dict.fromkeys(line.decode("utf-8", "replace") for line in data.split(b"\n")))[:64]
    root, cas = _root({key: b"value" for key in keys})
    hierarchy = Hierarchy(Tree(root, cas))
    folders = Folders()
    for key in keys:
        path = array_of(key)
        if path is not None and not key.startswith(path):
            raise Wrong(f"{path!r} is no array of {key!r}")
        folders.add(key)
        hierarchy.owner(key)
    names = [name for key in keys for name in folders.names(key.rpartition("/")[0]) or ()]
    if len(names) > 64 * (len(data) + 1):
        raise Wrong(f"{len(names)} names in folders of {len(data)} bytes of keys")
    check(root, cas, progress=False)
    with suppress(HamtError):
        HAMT(cas, root_node_id=root, read_only=True)


def _made_keys(random: Random) -> bytes:
    parts = [b"a", b"0", b"c", b"zarr.json", b".zarray", b"", b"1.0", b"c.0", b"\xc3\xa9", b"00"]
    return b"\n".join(
        random.choice((b"/", b"/", b".")).join(
            random.choice(parts) * random.choice((1, 1, 1, 9)) for _ in range(random.choice((1, 3, 9, 2000)))
        )
        for _ in range(random.randint(1, 6))
    )


def _made_2(random: Random) -> bytes:
    return documents._made(random) if random.random() < 0.5 else ARRAY_2


TARGETS = [
    Target(
        "hierarchy keys",
        _keys,
        [
            b"\n".join(key.encode() for key in CHUNKS),
            b"/".join([b"a"] * 20_000),
            b"/".join([b"0"] * 20_000) + b"x",
            b"c/" * 20_000,
        ],
        (),
        _made_keys,
        [b"/", b"//", b"0/", b"c/", b"\n", b"zarr.json", b"0" * 3000],
    ),
    Target("checked hierarchy", _checked, documents._SEEDS, (), documents._made, documents.TOKENS),
    Target(
        "compared hierarchy",
        _compared,
        documents._SEEDS,
        (Conflict, InvalidInput),
        documents._made,
        documents.TOKENS,
    ),
    Target(
        "zarr 2 document",
        _format_2,
        [ARRAY_2, documents._SEEDS[2]],
        (InvalidInput,),
        _made_2,
        [*documents.TOKENS, b'"id": "zlib"', b'"|O"', b'"<M8[s]"', b'"delta"'],
    ),
]
