"""The roots that js ipld-hashmap and IAMap computed, and what their maps hold."""

import hashlib
import json
from pathlib import Path
from typing import Any

from dag_cbor.ipld import IPLDKind

from hamt_bulk.block import RAW, identify, to_cid
from hamt_bulk.pointers import inline_pointer

ROWS: list[dict[str, Any]] = json.loads((Path(__file__).parent / "vectors" / "roots.json").read_bytes())[
    "ipld_hashmap"
]


def entries_of(row: dict[str, Any]) -> list[tuple[str, IPLDKind]]:
    """The keys in the order in which they were set, and their values: CIDs, or bytes that stay in the map."""
    is_link = row["value_kind"] != "bytes8"
    return [(key, to_cid(value) if is_link else value) for key, value in _values_of(row)]


def pointers_of(row: dict[str, Any]) -> list[tuple[str, bytes]]:
    """The same keys, with pointers. Without the CIDs, of which each takes longer to make than its entry to set."""
    is_link = row["value_kind"] != "bytes8"
    return [(key, value if is_link else inline_pointer(value)) for key, value in _values_of(row)]


def _values_of(row: dict[str, Any]) -> list[tuple[str, bytes]]:
    """Links are binary CIDs."""
    keys = [f"temp/c/{t // 400}/{t // 20 % 20}/{t % 20}" for t in range(row["n"])]
    return [(key, _value(row["value_kind"], b"v:" + key.encode())) for key in keys]


def _value(kind: str, data: bytes) -> bytes:
    if kind == "bytes8":
        return hashlib.sha256(data).digest()[:8]
    return identify(data, RAW, kind.removeprefix("cid-"))
