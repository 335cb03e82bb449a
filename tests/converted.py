"""What `convert` is given in its tests, and what comes of it."""

from collections.abc import Mapping
from typing import Any

import pytest
from old_kinds import WRITERS, hierarchy
from old_writers import DOCUMENTS, Blocks, link

from hamt_bulk import (
    HashMap,
    Inline,
    InMemoryCAS,
    build,
    open_root,
)
from hamt_bulk.formats.root import Root
from hamt_bulk.pointers import inline_value, is_inline

TARGETS: dict[str, Any] = {
    "pyhamt": "pyhamt",
    "HashMap of the specification": HashMap(),
    "HashMap of js": HashMap(5, 3),
    "HashMap of IAMap": HashMap(8, 5, "murmur3-128"),
    "HashMap of py-hamt 1": HashMap(8, 5, text_keys=True),
    "HashMap of one": HashMap(3, 1, "blake3"),
    "ipldstore": "ipldstore",
}

SOURCES = {**WRITERS, "pyhamt": ("pyhamt", lambda items, blocks: as_pyhamt(items, blocks))}

ITEMS = hierarchy(2, 6)

MANY = {f"a/c/{number}": b"%d" % number for number in range(2000)}

TO = pytest.mark.parametrize("to", TARGETS.values(), ids=list(TARGETS))


def as_pyhamt(items: Mapping[str, bytes], blocks: Blocks) -> bytes:
    cas = InMemoryCAS()
    root = bytes(build(items, cas))
    blocks.update(cas.blocks)
    return root


def made(name: str, items: Mapping[str, bytes]) -> Root:
    """The root of a writer, in a store whose hasher is that of its chunks."""
    blocks = Blocks()
    root = SOURCES[name][1](items, blocks)
    return open_root(root, blocks.memory("sha2-256" if SOURCES[name][0] == "ipldstore" else "blake3"))


def is_document(key: str) -> bool:
    return key.rpartition("/")[2] in DOCUMENTS


def rebuilt(source: Root, to: Any) -> Any:
    """The root of a build, key by key, of what the source has: its links where values have blocks of their own."""
    items: dict[str, Any] = {}
    for key, pointer in source.pointers():
        if source.kind in ("py-hamt-2", "ipldstore") and (source.kind == "py-hamt-2" or is_inline(pointer)):
            items[key] = source.get(key)
        elif not is_inline(pointer):
            items[key] = link(pointer)
        else:
            items[key] = Inline(inline_value(pointer)) if isinstance(to, HashMap) else inline_value(pointer)
    return build(items, source.cas, layout=to)
