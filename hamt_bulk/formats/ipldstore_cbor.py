"""
CBOR as ipldstore's roots have it: dag-cbor, and what its writers made of it.

Links are told from byte strings, which libipld does not do. Maps in any order are read, since a fork wrote them as
they came, and NaN and the infinities, which Kubo lets pass in what it stores as dag-cbor. What is written is dag-cbor.
"""

import math
import struct
from typing import Any

from hamt_bulk.block import parse
from hamt_bulk.foreign import MAX_NESTING

MAX_ITEMS = 1 << 23
"""Values in one block, with all those within them: some 3 million keys, and 10 s of decoding."""

_LINK_TAG = 42
_SIMPLE: dict[int, bool | None] = {20: False, 21: True, 22: None}
_FLOATS = {25: ">e", 26: ">f", 27: ">d"}


class Link(bytes):
    """The CID that a link names."""

    __slots__ = ()


def decode(data: bytes) -> Any:
    """The value of CBOR, links as `Link`. Raises `ValueError`, also for what nests deeper than `MAX_NESTING`."""
    try:
        value, end = _Decoder(data).value(0)
    except IndexError:
        raise ValueError("the bytes end within a value") from None
    except RecursionError:
        raise ValueError("lists or maps nest deeper than can be decoded here") from None
    if end != len(data):
        raise ValueError(f"{len(data) - end} bytes follow the value, which ends at byte {end}")
    return value


class _Decoder:
    """One pass over a block. A class for its two counters alone."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._items = 0
        self._depth = 0

    def value(self, at: int) -> tuple[Any, int]:
        """The value at byte `at`, and where it ends."""
        self._items += 1
        if self._items > MAX_ITEMS:
            raise ValueError(f"more than {MAX_ITEMS:,} values")
        major, info, number, at = self._head(at)
        match major:
            case 0:
                return number, at
            case 1:
                return -1 - number, at
            case 2:
                return self._bytes(at, number), at + number
            case 3:
                return str(self._bytes(at, number), "utf-8"), at + number
            case 4 | 5:
                self._depth += 1
                if self._depth > MAX_NESTING:
                    raise ValueError(f"lists or maps nest deeper than {MAX_NESTING}")
                found = self._list(at, number) if major == 4 else self._map(at, number)
                self._depth -= 1
                return found
            case 6:
                return self._link(at, number)
            case _:
                return self._simple(info, number, at), at

    def _head(self, at: int) -> tuple[int, int, int, int]:
        """Major type, additional information, the number it stands for, and where the head ends."""
        data = self._data
        head = data[at]
        info = head & 31
        at += 1
        if info < 24:
            return head >> 5, info, info, at
        if info > 27:
            raise ValueError(f"head {head:#x} at byte {at - 1}, expected one with a definite length")
        end = at + (1 << (info - 24))
        return head >> 5, info, int.from_bytes(self._bytes(at, end - at)), end

    def _bytes(self, at: int, length: int) -> bytes:
        if length > len(self._data) - at:
            raise ValueError(f"{length} bytes at byte {at}, and {len(self._data) - at} are left")
        return self._data[at : at + length]

    def _list(self, at: int, length: int) -> tuple[list[Any], int]:
        items = []
        for _ in range(length):
            item, at = self.value(at)
            items.append(item)
        return items, at

    def _map(self, at: int, length: int) -> tuple[dict[str, Any], int]:
        found: dict[str, Any] = {}
        for _ in range(length):
            major, _, number, start = self._head(at)
            if major != 3:
                raise ValueError(f"a map key of major type {major} at byte {at}, expected text")
            key = str(self._bytes(start, number), "utf-8")
            if key in found:
                raise ValueError(f"the map key {key!r:.80} comes twice")
            found[key], at = self.value(start + number)
        return found, at

    def _link(self, at: int, tag: int) -> tuple[Link, int]:
        major, _, length, start = self._head(at)
        if tag != _LINK_TAG or major != 2:
            raise ValueError(
                f"tag {tag} of major type {major} at byte {at}, expected a link, tag 42 of bytes"
            )
        content = self._bytes(start, length)
        if content[:1] != b"\0":
            raise ValueError(f"a link without its leading zero at byte {at}")
        parse(content[1:])
        return Link(content[1:]), start + length

    def _simple(self, info: int, number: int, at: int) -> float | bool | None:
        if info in _FLOATS:
            size = struct.calcsize(_FLOATS[info])
            [value] = struct.unpack(_FLOATS[info], self._data[at - size : at])
            return float(value)
        if number not in _SIMPLE or info >= 24:
            raise ValueError(f"simple value {number} at byte {at - 1}, expected false, true or null")
        return _SIMPLE[number]


def encode(value: Any, *, strict: bool = True) -> bytes:
    """
    `value` in dag-cbor. Raises `ValueError` for what it has no form for, and for what nests too deep.

    strict  whether NaN and the infinities are refused, as dag-cbor has it
    """
    parts: list[bytes] = []
    try:
        _encode(value, parts, 0, strict)
    except RecursionError:
        raise ValueError("lists or maps nest deeper than can be encoded here") from None
    return b"".join(parts)


def _encode(value: Any, parts: list[bytes], depth: int, strict: bool) -> None:
    if depth > MAX_NESTING:
        raise ValueError(f"lists or maps nest deeper than {MAX_NESTING}")
    match value:
        case None:
            parts.append(b"\xf6")
        case bool():
            parts.append(b"\xf5" if value else b"\xf4")
        case str():
            text = value.encode()
            parts += (_head(3, len(text)), text)
        case Link():
            parts += (b"\xd8\x2a", _head(2, 1 + len(value)), b"\0", value)
        case int():
            if not -(1 << 64) <= value < 1 << 64:
                raise ValueError(f"a whole number of {value.bit_length()} bits, at most 64 have a form")
            parts.append(_head(0, value) if value >= 0 else _head(1, -1 - value))
        case float():
            if strict and not math.isfinite(value):
                raise ValueError(f"{value} is no number that IPLD has")
            parts.append(struct.pack(">Bd", 0xFB, value))
        case list():
            parts.append(_head(4, len(value)))
            for item in value:
                _encode(item, parts, depth + 1, strict)
        case dict():
            parts.append(_head(5, len(value)))
            for _, key, item in sorted(
                (len(key := name.encode()), key, item) for name, item in value.items()
            ):
                parts += (_head(3, len(key)), key)
                _encode(item, parts, depth + 1, strict)
        case _:
            raise ValueError(f"a {type(value).__name__}")


def _head(major: int, number: int) -> bytes:
    if number < 24:
        return bytes((major << 5 | number,))
    size = 0 if number < 1 << 8 else 1 if number < 1 << 16 else 2 if number < 1 << 32 else 3
    return bytes((major << 5 | 24 + size,)) + number.to_bytes(1 << size)
