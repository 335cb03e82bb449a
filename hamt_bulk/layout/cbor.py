"""
Heads of CBOR items, and where an item ends.

    head = <major type: 3 bits> <info: 5 bits> and, for an info of 24 to 27, 1, 2, 4 or 8 bytes of a number, big-endian

Source: RFC 8949, section 3; dag-cbor takes a number in its shortest form alone.
"""

from hamt_bulk.block import Data, parse
from hamt_bulk.foreign import MAX_NESTING, from_cbor
from hamt_bulk.pointers import INLINE, LINK_HEAD, is_inline
from hamt_bulk.ragged import Ints

MAX_HEADS = 1 << 23
"""Items of a block, with all those within them: some ten seconds of reading. An ipldstore root of 64 MiB has half of that."""

BYTES, TEXT, ARRAY, MAP, TAG = 0x40, 0x60, 0x80, 0xA0, 0xC0


def head(major: int, value: int) -> bytes:
    """A CBOR head: the major type in the high bits and a number in its shortest form."""
    if value < 24:
        return bytes((major | value,))
    if value < 1 << 8:
        return bytes((major | 24, value))
    if value < 1 << 16:
        return bytes((major | 25,)) + value.to_bytes(2, "big")
    if value < 1 << 32:
        return bytes((major | 26,)) + value.to_bytes(4, "big")
    return bytes((major | 27,)) + value.to_bytes(8, "big")


def head_lengths(values: Ints) -> Ints:
    """How long the heads of these numbers are."""
    return 1 + (values >= 24) + (values >= 1 << 8) + 2 * (values >= 1 << 16)


def read_head(data: Data, at: int) -> tuple[int, int, int]:
    """The major type, the number and the end of a head. Raises `ValueError` for one that dag-cbor has not."""
    try:
        first = data[at]
    except IndexError:
        raise ValueError(f"the bytes end at {at}, where an item should begin") from None
    major, info = first & 0xE0, first & 0x1F
    if info < 24:
        return major, info, at + 1
    if info > 27:
        raise ValueError(f"byte {first:#04x} at {at}: dag-cbor has no such item")
    size = 1 << (info - 24)
    end = at + 1 + size
    if end > len(data):
        raise ValueError(f"the bytes end within the item at {at}")
    value = int.from_bytes(data[at + 1 : end], "big")
    if major != 0xE0 and value < (24 if size == 1 else 1 << 4 * size):
        raise ValueError(f"the number at {at} is in a longer form than needed")
    return major, value, end


def end_of(data: Data, at: int) -> int:
    """Where the item at `at` ends. Raises `ValueError`; what is within it is not looked at closely."""
    left = [1]  # items that each open list or map, the innermost last, still has to come
    for _ in range(MAX_HEADS):
        major, value, at = read_head(data, at)
        left[-1] -= 1
        if major in (BYTES, TEXT):
            at += value
        if at > len(data):
            raise ValueError("the bytes end within a string")
        inside = {ARRAY: value, MAP: 2 * value, TAG: 1}.get(major, 0)
        if inside:
            left.append(inside)
            if len(left) > MAX_NESTING:
                raise ValueError(f"lists or maps nest deeper than {MAX_NESTING}")
        while left and not left[-1]:
            left.pop()
        if not left:
            return at
    raise ValueError(f"more than {MAX_HEADS:,} items")


def links_of(data: Data) -> list[bytes]:
    """
    The CIDs in a dag-cbor block, in order. Raises `ValueError` when it is none.

    Maps in any order, and numbers that dag-cbor has not, pass: others wrote such blocks.
    """
    try:
        from_cbor(data)  # it is fast, but strict, and gives links as bytes
    except ValueError:
        if (end := end_of(data, 0)) != len(data):
            raise ValueError(f"{len(data) - end} bytes follow the value, which ends at {end}") from None
    found, at = [], 0
    while at < len(data):
        major, value, at = read_head(data, at)
        if major == TAG:
            kind, length, at = read_head(data, at)
            if (value, kind) != (42, BYTES) or data[at : at + 1] != b"\0":
                raise ValueError(f"a tag {value} at {at}, expected links, tag 42 of bytes that begin with 00")
            found.append(bytes(data[at + 1 : at + length]))
            at += length
        elif major in (BYTES, TEXT):
            at += value
    for cid in found:
        parse(cid)
    return found


def links_of_pointer(pointer: bytes) -> list[bytes]:
    """The CIDs of the blocks that a pointer names: one, or those within an inline value."""
    if not is_inline(pointer):
        return [pointer]
    # Almost no value has any.
    return links_of(pointer[len(INLINE) :]) if LINK_HEAD in pointer else []
