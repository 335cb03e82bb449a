"""What is known of a root without reading its chunks."""

import math
from collections import Counter
from collections.abc import Iterator
from typing import Any, TypeAlias

import zarr
import zarr.errors

from hamt_bulk.block import text
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.cas.wrap import Reader
from hamt_bulk.cli.console import size_text
from hamt_bulk.crypto import Encryption
from hamt_bulk.formats import Root, open_root
from hamt_bulk.integrity import check
from hamt_bulk.pointers import is_inline
from hamt_bulk.wording import printable
from hamt_bulk.zarr import is_metadata

SIZES_AT_ONCE = 256

CHECKED = ("pyhamt", "hashmap")
"""Kinds of roots whose nodes are counted, and looked at."""

Description: TypeAlias = dict[str, Any]
"""Ready for JSON."""


def described(root: bytes, cas: ContentAddressedStore, encryption: Encryption | None = None) -> Description:
    """The tree under a root, and the Zarr hierarchy in it, if there is one."""
    opened = open_root(root, cas, encryption=encryption)
    groups, arrays = _hierarchy(opened)
    longest = max(map(len, arrays), default=0)
    chunks: Counter[str] = Counter()
    stored: Counter[str] = Counter()
    total = entries = 0
    for keys, pointers in _batches(opened):
        sizes = _sizes(opened, pointers)
        total += sum(sizes)
        entries += len(keys)
        for key, size in zip(keys, sizes, strict=True):
            if (path := _array_of(key, arrays, longest)) is not None:
                chunks[path] += 1
                stored[path] += size
    # The nodes were all there, or the walk above had ended.
    report = check(root, cas, values=False, zarr=False, progress=False) if opened.kind in CHECKED else None
    return {
        "root": text(root),
        "tree": str(getattr(opened, "layout", opened.kind)),
        "kind": f"zarr {next(iter(groups.values()))['zarr_format']}" if groups else "keys and values",
        "entries": entries,
        "nodes": None if report is None else report.nodes,
        "depth": None if report is None else report.depth,
        "node_bytes": None if report is None else report.bytes,
        "value_bytes": total,
        "problems": 0 if report is None else report.problem_count,
        "groups": [{"path": f"/{path}", **group} for path, group in groups.items()],
        "arrays": [
            {"path": f"/{path}", **array, "chunks_stored": chunks[path], "stored_bytes": stored[path]}
            for path, array in arrays.items()
        ],
    }


def shown(description: Description) -> str:
    """A description for people."""
    nodes, node_bytes = description["nodes"], description["node_bytes"]
    many = "" if nodes is None else f" in {nodes:,} nodes, the deepest at depth {description['depth']}"
    size = "" if node_bytes is None else f", {size_text(node_bytes)} of nodes"
    lines = [
        f"root     {description['root']}",
        f"tree     {description['tree']}",
        f"kind     {description['kind']}",
        f"entries  {description['entries']:,}{' in 1 node' if nodes == 1 else many}",
        f"bytes    {size_text(description['value_bytes'])} of values{size}",
    ]
    if description["problems"]:
        lines.append(f"problems {description['problems']:,}, which `hamt-bulk check` lists")
    rows = []
    for array in description["arrays"]:
        dims = array["dims"] or [f"dim_{axis}" for axis in range(len(array["shape"]))]
        shape = ", ".join(f"{dim}: {size}" for dim, size in zip(dims, array["shape"], strict=True))
        chunk = " × ".join(map(str, array["shards"] or array["chunks"])) or "one value"
        what = "shards of" if array["shards"] else "chunks of"
        rows.append(
            (
                printable(array["path"]),
                printable(array["dtype"]),
                f"({printable(shape)})",
                f"{what} {chunk}",
                f"{array['chunks_stored']}/{array['chunks_expected']} stored",
                f"{size_text(array['bytes'])} in {size_text(array['stored_bytes'])}",
            )
        )
    if len(description["groups"]) > 1:
        lines += ["", "groups   " + ", ".join(printable(group["path"]) for group in description["groups"])]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines += [""] if rows else []
    lines += ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join(lines)


def _sizes(root: Root, pointers: list[bytes]) -> list[int]:
    """The lengths of values as they are stored."""
    stored = iter(Reader(root.cas).sizes([pointer for pointer in pointers if not is_inline(pointer)]))
    return [len(pointer) - 1 if is_inline(pointer) else next(stored) for pointer in pointers]


def _hierarchy(root: Root) -> tuple[dict[str, Description], dict[str, Description]]:
    """The groups and arrays by path, the top one's being empty."""
    try:
        top = zarr.open(root.store(), mode="r")
    except (FileNotFoundError, zarr.errors.GroupNotFoundError):
        return {}, {}
    groups: dict[str, Description] = {}
    arrays: dict[str, Description] = {}
    members = [("", top)]
    if isinstance(top, zarr.Group):
        members += sorted(top.members(max_depth=None), key=lambda member: member[0])
    for path, node in members:
        if isinstance(node, zarr.Group):
            groups[path] = {"zarr_format": node.metadata.zarr_format}
        else:
            arrays[path] = _array(node)
    return groups or {"": {"zarr_format": top.metadata.zarr_format}}, arrays


def _array(array: "zarr.Array[Any]") -> Description:
    dims = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    if not isinstance(dims, (list, tuple)) or len(dims) != array.ndim:
        dims = None
    pieces = array.shards or array.chunks
    return {
        "dims": None if dims is None else list(map(str, dims)),
        "shape": list(array.shape),
        "dtype": str(array.dtype),
        "chunks": list(array.chunks),
        "shards": None if array.shards is None else list(array.shards),
        "chunks_expected": math.prod(
            -(-size // piece) if piece else 0 for size, piece in zip(array.shape, pieces, strict=True)
        ),
        "bytes": int(array.nbytes),
    }


def _array_of(key: str, arrays: dict[str, Description], longest: int) -> str | None:
    """The array that a chunk's key belongs to. `longest`: that of the paths in `arrays`."""
    if is_metadata(key):
        return None
    path = key[: longest + 1]
    while path:
        path = path.rpartition("/")[0]
        if path in arrays:
            return path
    return None


def _batches(root: Root) -> Iterator[tuple[list[str], list[bytes]]]:
    keys: list[str] = []
    pointers: list[bytes] = []
    for key, pointer in root.pointers():
        keys.append(key)
        pointers.append(pointer)
        if len(keys) == SIZES_AT_ONCE:
            yield keys, pointers
            keys, pointers = [], []
    if keys:
        yield keys, pointers
