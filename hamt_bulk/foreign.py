"""
What others wrote in dag-cbor and JSON, decoded by libraries that stop only where Python's stack does.

A library in C that recurses asks Python how deep it may go. Where a program has raised that limit the answer is more
than a thread's stack holds, and the process ends; so beyond `SAFE_RECURSION` nesting is measured first.
"""

import json
import re
import sys
from typing import Any

import libipld

from hamt_bulk.block import Data

MAX_NESTING = 256
"""Lists and maps within one another. Nodes have three, Zarr's metadata some ten."""

MAX_ITEMS = 1 << 20
MAX_HOLDERS = 1 << 18
"""What a large block may hold: values, and lists and maps among them. A map of one value is three bytes, and 230 in memory."""

SMALL_BYTES = 1 << 18
"""So long a block is decoded whatever it holds: 20 MiB at most."""

SAFE_RECURSION = 10_000
"""Python's own limit is 1000; libipld needs 8 MiB of stack, a thread's whole, for less than 20,000."""


def from_cbor(data: Data) -> Any:
    """The value that dag-cbor stands for; links as `bytes`. Raises `ValueError`, also for what nests too deep or holds too much."""
    if sys.getrecursionlimit() > SAFE_RECURSION or len(data) > SMALL_BYTES:
        refuse_excess(data)
    try:
        return libipld.decode_dag_cbor(bytes(data))
    except RecursionError:
        raise ValueError("lists or maps nest deeper than can be decoded") from None


def from_json(data: Data | str) -> Any:
    """The value that JSON stands for. Raises `ValueError`, also for what nests deeper than `MAX_NESTING`."""
    text = data if isinstance(data, str) else bytes(data)
    if sys.getrecursionlimit() > SAFE_RECURSION:
        _refuse_deep_json(text)
    try:
        value = json.loads(text)
    except RecursionError:
        raise _too_deep() from None
    # What is made of the value recurses too, from places that are deeper than this one.
    opened = (
        text.count("[") + text.count("{") if isinstance(text, str) else text.count(b"[") + text.count(b"{")
    )
    if opened > MAX_NESTING:
        level = [value]
        for _ in range(MAX_NESTING):
            level = [part for whole in level for part in _parts(whole)]
        if any(isinstance(part, (dict, list)) for part in level):
            raise _too_deep()
    return value


def _parts(value: Any) -> list[Any]:
    match value:
        case dict():
            return list(value.values())
        case list():
            return value
        case _:
            return []


def refuse_excess(data: Data) -> None:
    """
    Raises `ValueError` for dag-cbor that nests too deep, or holds more than a block may.

    What is malformed is left to the decoder, which gets no further.
    """
    left: list[int] = []  # items that each open list or map, the innermost last, still has to come
    at, end, items, holders = 0, len(data), 0, 0
    while at < end:
        major, info = data[at] >> 5, data[at] & 31
        at += 1
        items += 1
        if info > 27:
            return
        if info >= 24:
            size = 1 << (info - 24)
            info = int.from_bytes(data[at : at + size], "big")
            at += size
        if major in (2, 3):
            at += info
        elif major in (4, 5):
            holders += 1
        if items > MAX_ITEMS or holders > MAX_HOLDERS:
            raise ValueError(f"more than {MAX_ITEMS:,} values, or {MAX_HOLDERS:,} lists and maps")
        inside = {4: info, 5: 2 * info, 6: 1}.get(major, 0)
        if inside:
            left.append(inside)
            if len(left) > MAX_NESTING:
                raise _too_deep()
            continue
        while left and left[-1] == 1:
            left.pop()
        if left:
            left[-1] -= 1


def _refuse_deep_json(data: bytes | str) -> None:
    """As `refuse_excess`, for JSON and its nesting alone."""
    text = data if isinstance(data, str) else data.decode(json.detect_encoding(data), "surrogatepass")
    depth = 0
    for found in _MARKS.finditer(text):
        match found[0]:
            case "[" | "{":
                depth += 1
                if depth > MAX_NESTING:
                    raise _too_deep()
            case "]" | "}":
                depth -= 1


_MARKS = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
"""Strings, in which brackets mean nothing, and brackets."""


def _too_deep() -> ValueError:
    return ValueError(f"lists or maps nest deeper than {MAX_NESTING}")
