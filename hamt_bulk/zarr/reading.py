"""Values of a tree, or the byte ranges of them that zarr asks for, decrypted where they are encrypted."""

import asyncio
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, SuffixByteRequest

from hamt_bulk.block import DAG_PB, Data, parse
from hamt_bulk.crypto import Encryption
from hamt_bulk.crypto.bound import HEAD_BYTES, SEGMENT_BYTES, Shape, shape_of, span_of
from hamt_bulk.errors import InvalidInput
from hamt_bulk.nodes import Tree

P = ParamSpec("P")
T = TypeVar("T")

KNOWN_HEADS = 4096
"""Of how many values a store remembers head and shape, so that the next range of one takes one read."""


class Ranges:
    """Byte ranges of encrypted values that lie in several blocks."""

    def __init__(self) -> None:
        self._heads: dict[bytes, tuple[bytes, Shape]] = {}

    async def read(
        self, tree: Tree, encryption: Encryption, key: str, pointer: bytes, byte_range: ByteRequest
    ) -> bytes:
        """The bytes of a range, of which only the segments it lies in are loaded."""
        head, shape = await self._head(tree, encryption, key, pointer)
        start, stop = bounds_of(key, byte_range, shape.size)
        span = span_of(shape, start, stop)
        sealed = await tree.read_async(pointer, span.start, span.stop)
        return await heavy(len(sealed), encryption.open_range, key, head, sealed, shape, start, stop)

    async def _head(
        self, tree: Tree, encryption: Encryption, key: str, pointer: bytes
    ) -> tuple[bytes, Shape]:
        known = self._heads.get(pointer)
        if known is None:
            # What a server says of sizes is not verified, but the last segment is known as such when it is opened.
            head, [size] = await asyncio.gather(
                tree.read_async(pointer, 0, HEAD_BYTES), tree.sizes_async([pointer])
            )
            encryption.check_head(key, head)
            known = head, shape_of(key, size)
            if len(self._heads) >= KNOWN_HEADS:
                self._heads.clear()
            self._heads[pointer] = known
        return known


async def read(
    tree: Tree,
    encryption: Encryption | None,
    ranges: Ranges,
    key: str,
    pointer: bytes,
    byte_range: ByteRequest | None,
) -> bytes:
    """The value of `key`, or a range of it. Raises `InvalidInput` for a range that is none."""
    if encryption is None:
        return await stored(tree, key, pointer, byte_range)
    if encryption.is_clear(key) and byte_range is not None:
        return await stored(tree, key, pointer, byte_range)
    if byte_range is None:
        whole = await tree.read_async(pointer)
        return await heavy(len(whole), encryption.open, key, whole)
    # A block is loaded whole to be verified, so only of values in several blocks a part is asked for.
    if encryption.opens_ranges and parse(pointer).codec == DAG_PB:
        return await ranges.read(tree, encryption, key, pointer, byte_range)
    whole = await tree.read_async(pointer)
    if not encryption.opens_ranges:
        value = await heavy(len(whole), encryption.open, key, whole)
        start, stop = bounds_of(key, byte_range, len(value))
        return value[start:stop]
    return await heavy(len(whole), _range_of, encryption, key, whole, byte_range)


async def stored(tree: Tree, key: str, pointer: bytes, byte_range: ByteRequest | None) -> bytes:
    """What is stored, or a range of it."""
    match byte_range:
        case None:
            return await tree.read_async(pointer)
        case RangeByteRequest(start, end) if min(start, end) >= 0:
            return await tree.read_async(pointer, start, end)
        case OffsetByteRequest(offset) if offset >= 0:
            return await tree.read_async(pointer, offset)
        case SuffixByteRequest(suffix) if suffix >= 0:
            return await tree.read_async(pointer, suffix=suffix)
        case _:
            raise _no_range(key, byte_range)


async def size_of(
    tree: Tree, encryption: Encryption | None, ranges: Ranges, entries: Sequence[tuple[str, bytes]]
) -> int:
    """The bytes of the values of `entries` (key and pointer), of which those are loaded that do not tell otherwise."""
    sizes = await tree.sizes_async([pointer for _, pointer in entries])
    if encryption is None:
        return sum(sizes)
    total = 0
    for (key, pointer), found in zip(entries, sizes, strict=True):
        size = encryption.size(key, found)
        total += len(await read(tree, encryption, ranges, key, pointer, None)) if size is None else size
    return total


def bounds_of(key: str, byte_range: ByteRequest, size: int) -> tuple[int, int | None]:
    """Start and stop of a range of `size` bytes, as slices have them. Raises `InvalidInput` for what is no range."""
    match byte_range:
        case RangeByteRequest(start, end) if min(start, end) >= 0:
            return start, max(start, end)
        case OffsetByteRequest(offset) if offset >= 0:
            return offset, None
        case SuffixByteRequest(suffix) if suffix >= 0:
            return max(size - suffix, 0), None
        case _:
            raise _no_range(key, byte_range)


async def heavy(size: int, call: Callable[P, T], *arguments: P.args, **options: P.kwargs) -> T:
    """What `call` gives, in a thread where it works on so many bytes that others would wait."""
    if size <= SEGMENT_BYTES:
        return call(*arguments, **options)
    return await asyncio.to_thread(call, *arguments, **options)


def _range_of(encryption: Encryption, key: str, whole: Data, byte_range: ByteRequest) -> bytes:
    view = memoryview(whole)
    encryption.check_head(key, view[:HEAD_BYTES])
    shape = shape_of(key, len(view))
    start, stop = bounds_of(key, byte_range, shape.size)
    span = span_of(shape, start, stop)
    return encryption.open_range(key, view[:HEAD_BYTES], view[span.start : span.stop], shape, start, stop)


def _no_range(key: str, byte_range: object) -> InvalidInput:
    return InvalidInput(f"{key!r}: Unexpected byte_range, got {byte_range}.")
