"""What readers put around a content-addressed store: its errors as ours, and every value hashed."""

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hamt_bulk import unixfs
from hamt_bulk.block import DAG_PB, HASH_CODES, AnyCID, Block, Data, parse, text, to_bytes, verify
from hamt_bulk.cas.base import (
    CodecInput,
    ContentAddressedStore,
    blocks_of,
    bounds,
    refuse_other_answer,
    several,
)
from hamt_bulk.cas.blocks import BlockCAS, LocalCAS
from hamt_bulk.cas.loop import run_sync
from hamt_bulk.cas.wrapping import WrappingCAS
from hamt_bulk.cas.wrapping import configuration as configuration
from hamt_bulk.errors import BlockMismatch, BlockNotFound, CASError, HamtError, InvalidInput


def verified(cas: ContentAddressedStore) -> ContentAddressedStore:
    """`cas` itself when it hashes what it loads, else a `VerifyingCAS` around it."""
    return cas if cas.verifies else VerifyingCAS(cas)


@contextmanager
def translated(cas: ContentAddressedStore, cids: Sequence[bytes]) -> Iterator[None]:
    """
    Within it, what `cas` raises on loading `cids` is an error of ours: `CASError` for a foreign one.

    zarr takes a `KeyError` or `FileNotFoundError` for "no such key", so none gets through, not even as a
    second base of one of our errors, such as `KeyNotFound`: a store knows blocks, never keys.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, HamtError) and not isinstance(error, (LookupError, FileNotFoundError)):
            raise
        kind = BlockNotFound if isinstance(error, BlockNotFound) else CASError
        what = text(cids[0]) + (f" or one of {len(cids) - 1} others" if len(cids) > 1 else "")
        name = type(cas.inner if isinstance(cas, VerifyingCAS) else cas).__name__
        raise kind(f"{name} could not load {what}: {type(error).__name__}: {error}") from error


async def save_value(cas: ContentAddressedStore, data: Data, codec: CodecInput = "raw") -> bytes:
    """The CID of `data`, which is now in `cas`. Raises `BlockMismatch` when the store answers another one."""
    if isinstance(cas, BlockCAS):
        return await cas.save_value(data, codec)
    expected, _ = await asyncio.to_thread(blocks_of, data, codec, cas.hasher)
    refuse_other_answer(cas, to_bytes(await cas.save(bytes(data), codec)), expected)
    return expected


class Reader:
    """
    What a store holds, for reading: every block hashed, here where the store does not; every error ours.
    """

    def __init__(self, cas: ContentAddressedStore) -> None:
        self.cas = verified(cas)

    def blocks(self, cids: Sequence[bytes]) -> list[bytes]:
        """The blocks of these names, in order."""
        with translated(self.cas, cids):
            blocks = self.cas.load_many(cids)
            if len(blocks) != len(cids):
                raise CASError(f"{self.cas!r} gave {len(blocks)} blocks, expected {len(cids)}")
            return blocks

    def path(self, root: bytes, segments: Sequence[str]) -> list[Block]:
        """The blocks on the way from `root`, as far as they came: at least the first."""
        with translated(self.cas, [root]):
            blocks = self.cas.load_ipld_path(root, segments)
            if not blocks or blocks[0].cid != root:
                raise CASError(f"{self.cas!r} gave a path that does not begin with {text(root)}")
            return blocks

    def read(
        self, pointer: bytes, start: int = 0, stop: int | None = None, suffix: int | None = None
    ) -> bytes:
        """
        Bytes `start` to `stop` (exclusive; `None`: the end) of a value, as slicing would give them.

        suffix  the last bytes instead, as many
        """
        with translated(self.cas, [pointer]):
            if suffix is not None and not isinstance(self.cas, LocalCAS):
                # What others say of sizes is not verified, and would decide which bytes these are.
                return run_sync(self.cas.load(pointer, suffix=suffix))
            if suffix is not None:
                start = max(self.cas.size_many([pointer])[0] - suffix, 0)
            return self.cas.load_range(pointer, start, None if stop is None else max(start, stop))

    async def read_async(
        self, pointer: bytes, start: int = 0, stop: int | None = None, suffix: int | None = None
    ) -> bytes:
        """As `read`."""
        with translated(self.cas, [pointer]):
            if suffix is not None:
                return await self.cas.load(pointer, suffix=suffix)
            return await self.cas.load(pointer, start or None, None if stop is None else max(stop - start, 0))

    def sizes(self, pointers: Sequence[bytes]) -> list[int]:
        """The length of each value in bytes, without loading it where the store can tell."""
        with translated(self.cas, pointers):
            return self.cas.size_many(pointers)

    async def sizes_async(self, pointers: Sequence[bytes]) -> list[int]:
        """As `sizes`."""
        return await asyncio.to_thread(self.sizes, pointers)


class VerifyingCAS(WrappingCAS):
    """
    A store whose values are hashed before they are believed.

    A raw or dag-cbor value is compared with its CID. A UnixFS file comes put together, so it is split
    again as this package splits; one that was split otherwise cannot be told from a damaged one and is
    refused with `BlockMismatch`. A range is cut out here, from the whole value. Sizes are believed.
    """

    def __init__(self, inner: ContentAddressedStore) -> None:
        super().__init__(inner)
        self.verifies = True

    async def load(
        self, id: AnyCID, offset: int | None = None, length: int | None = None, suffix: int | None = None
    ) -> bytes:
        cid = to_bytes(id)
        value = await self.inner.load(cid)
        if parse(cid).codec == DAG_PB:
            await asyncio.to_thread(_verify_value, cid, value)
        else:
            _verify_value(cid, value)
        return _cut(value, offset, length, suffix)

    def load_range(self, cid: AnyCID, start: int, stop: int | None) -> bytes:
        start, stop = bounds(start, stop)
        [value] = self.load_many([cid])
        return value[start:stop]

    def load_many(self, cids: Sequence[AnyCID]) -> list[bytes]:
        names = several(cids)
        values = self.inner.load_many(names)
        for cid, value in zip(names, values, strict=True):
            _verify_value(cid, value)
        return values

    def load_ipld_path(self, root: AnyCID, segments: Sequence[str]) -> list[Block]:
        blocks = self.inner.load_ipld_path(root, segments)
        for cid, data in blocks:
            verify(cid, data)
        return blocks


def _verify_value(cid: bytes, value: Data) -> None:
    parts = parse(cid)
    if parts.codec != DAG_PB:
        verify(cid, value)
        return
    hasher = next((name for name, code in HASH_CODES.items() if code == parts.hash_code), None)
    if hasher is None:
        known = ", ".join(HASH_CODES)
        raise InvalidInput(
            f"{text(cid)}: hash code {parts.hash_code:#x} cannot be verified, expected {known}"
        )
    found, _ = unixfs.split(value, hasher)
    if parse(found) != parts:
        raise BlockMismatch(
            f"file {text(cid)}: its {len(value)} bytes, split at 1 MiB, are {text(found)}. The copy is "
            "damaged, or was split otherwise, which can be read only from a store that verifies each block"
        )


def _cut(value: bytes, offset: int | None, length: int | None, suffix: int | None) -> bytes:
    if suffix is not None:
        if offset is not None or length is not None:
            raise InvalidInput("suffix goes without offset and length")
        return value[max(len(value) - suffix, 0) :]
    start = offset or 0
    if start < 0 or (length is not None and length < 0):
        raise InvalidInput(f"offset={offset}, length={length}: expected 0 or more")
    return value[start:] if length is None else value[start : start + length]
