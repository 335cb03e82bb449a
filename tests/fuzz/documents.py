"""Zarr's metadata as this package reads it itself."""

import json
from random import Random

from hamt_bulk.roots.documents import Member, field_changes, member_of
from hamt_bulk.zarr.recording import named_in

from .target import Target, Wrong

ARRAY_3 = {
    "zarr_format": 3,
    "node_type": "array",
    "shape": [4, 5],
    "data_type": "float32",
    "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [2, 2]}},
    "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
    "codecs": [{"name": "sharding_indexed", "configuration": {"chunk_shape": [1, 1]}}],
    "fill_value": "NaN",
    "dimension_names": ["y", None],
    "attributes": {"units": "K"},
}
GROUP_3 = {
    "zarr_format": 3,
    "node_type": "group",
    "attributes": {},
    "consolidated_metadata": {"kind": "inline", "metadata": {"t2m": ARRAY_3}},
}
ARRAY_2 = {"zarr_format": 2, "shape": [4], "chunks": [2], "dtype": "<f4", "dimension_separator": "."}
ALL_2 = {"zarr_consolidated_format": 1, "metadata": {".zgroup": {"zarr_format": 2}, "t2m/.zarray": ARRAY_2}}
TOKENS = [
    b"[" * 3000,
    b'{"a":' * 3000,
    b"null",
    b"[]",
    b"1e999",
    b"-0",
    b'"\\ud800"',
    b"NaN",
    b"9" * 5000,
    b"\xff\xfe",
]


def _named(data: bytes) -> None:
    for document in ("zarr.json", ".zmetadata"):
        names = named_in(document, data)
        if names is not None and not all(isinstance(name, str) for name in names):
            raise Wrong(f"names that are none: {names!r:.200}")


def _member(data: bytes) -> None:
    plain = Member("group", {})
    for name, other in (("zarr.json", b"{}"), (".zarray", data), (".zgroup", data)):
        found = member_of({name: data, ".zattrs": data, ".zmetadata": other}.get)
        if found is None:
            raise Wrong("a document that is not there")
        found.may_have("c/0/1")
        found.index("0.1")
        field_changes(found, plain)
        field_changes(found, found)
        str(found.is_regular)


def _value(random: Random, depth: int = 0) -> object:
    match random.randrange(8 if depth < 4 else 5):
        case 0:
            return random.choice([0, -1, 1 << 70, 0.5, float("inf"), float("nan"), True, None])
        case 1 | 2:
            return random.choice(["", "default", "v2", "regular", "array", "\ud800", "a/zarr.json"])
        case 3 | 4:
            return random.choice([ARRAY_3, GROUP_3, ARRAY_2, ALL_2])
        case 5:
            return [_value(random, depth + 1) for _ in range(random.randint(0, 4))]
        case _:
            names = [
                *ARRAY_3,
                *GROUP_3,
                *ALL_2,
                "name",
                "configuration",
                "separator",
                "chunk_shape",
                "metadata",
            ]
            return {random.choice(names): _value(random, depth + 1) for _ in range(random.randint(0, 6))}


def _made(random: Random) -> bytes:
    document = dict(random.choice([ARRAY_3, GROUP_3, ARRAY_2, ALL_2]))
    for _ in range(random.randint(1, 3)):
        document[random.choice([*ARRAY_3, *GROUP_3, *ALL_2])] = _value(random)
    return json.dumps(document).encode()


_SEEDS = [json.dumps(document, indent=2).encode() for document in (ARRAY_3, GROUP_3, ARRAY_2, ALL_2)]

TARGETS = [
    Target("consolidated metadata", _named, _SEEDS, (), _made, TOKENS),
    Target("zarr documents", _member, _SEEDS, (), _made, TOKENS),
]
