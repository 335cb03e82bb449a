"""
ipldstore's roots: a Zarr v2 hierarchy as one block (`formats.ipldstore_tree`), read and written.

Metadata lies in the root itself, all else under a CID of its own. So whoever reads one key reads all of them, and the
root of a large hierarchy is too large for IPFS to exchange: a few ten thousand chunks fill the 2 MiB of a block.
"""

import os
import threading
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from typing import Any
from weakref import WeakSet

from dag_cbor.ipld import IPLDKind

from hamt_bulk import block
from hamt_bulk.block import Data, parse, text
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.cas.wrap import Reader, configuration
from hamt_bulk.cas.writer import MAX_TRANSFER_BYTES
from hamt_bulk.errors import BlockNotFound, InvalidInput, MalformedNode
from hamt_bulk.formats.ipldstore_tree import VALUE_CODECS, Hierarchy, document, encode_root, parse_root
from hamt_bulk.formats.root import Root
from hamt_bulk.manifest import encode_key
from hamt_bulk.pointers import cut, is_inline
from hamt_bulk.wording import many, size_text

MAX_ROOT_BYTES = 64 << 20
"""The longest root that is read: more than a million keys. ipldstore knows no bound, and stores on disk none either."""

SHARED_ROOTS = 4
"""How many decoded roots a process keeps for the next task that unpickles one of these."""


def is_ipldstore(data: Data) -> bool:
    """Whether a block is the root of an ipldstore."""
    return why_no_ipldstore(data) is None


def why_no_ipldstore(data: Data) -> str | None:
    """What a block holds that no ipldstore root does, in a few words; `None` when it is such a root."""
    try:
        _parsed(bytes(data))
    except ValueError as error:
        return str(error)
    return None


def write_ipldstore(entries: Iterable[tuple[str, bytes]], cas: ContentAddressedStore) -> bytes:
    """
    The root of these keys, durably in `cas` when this returns, named with the store's hasher: ipldstore's is sha2-256.

    entries  for a key whose last part is .zarray, .zgroup, .zattrs or .zmetadata the document's JSON, or the pointer
             that an `IpldstoreRoot` has for it; for every other key, `zarr.json` too, the CID of its value, which `cas`
             has or will have

    Raises `InvalidInput` for what the format has no form for: NaN and whole numbers beyond 64 bits in a document, a key
    that is a value and a folder, and a root above 2 MiB.
    """
    given = [*entries]
    data = encode_root(given)
    if len(data) > MAX_TRANSFER_BYTES:
        raise InvalidInput(
            f"an ipldstore root holds all of its keys, and {many(len(given), 'key')} make it {size_text(len(data))}: IPFS "
            f'exchanges blocks of {size_text(MAX_TRANSFER_BYTES)} at most. Convert to "pyhamt" instead, whose nodes are small'
        )
    with cas.writer() as writer:
        root = writer.save(data, "dag-cbor")
        writer.flush()
    return root


class IpldstoreRoot(Root):
    """
    What an ipldstore wrote: `IPLDStore.freeze` of d70-t's, or of dClimate's with chunks in a HashMap.

    The root is read whole, at the first call, and kept. Documents come as the JSON that ipldstore's own `json.dumps`
    makes of them; what their writer had as white space and order of keys is not recorded.
    """

    kind = "ipldstore"

    def __init__(self, root: bytes, cas: ContentAddressedStore) -> None:
        super().__init__(root, cas)
        self._reader = Reader(cas)
        self._kept = _Kept()

    def load(self) -> None:
        """Reads the root, which every other call would do. Raises when it is not there, or is no ipldstore's."""
        self._hierarchy()

    def pointers(self) -> Iterator[tuple[str, bytes]]:
        entries, chunks = self._hierarchy().entries, self._chunks()
        hidden = set[str]()
        if chunks is not None:
            for key, pointer in chunks.pointers():
                if key in entries:
                    hidden.add(key)  # whoever wrote this looks into the HashMap first
                yield key, self._checked(key, pointer)
        for entry in entries.items():
            if entry[0] not in hidden:
                yield entry

    def pointer(self, key: str) -> bytes | None:
        encode_key(key)
        entries, chunks = self._hierarchy().entries, self._chunks()
        found = None if chunks is None else chunks.pointer(key)
        return entries.get(key) if found is None else self._checked(key, found)

    def values(self, entries: Sequence[tuple[str, bytes]]) -> list[IPLDKind]:
        linked = [pointer for _, pointer in entries if not is_inline(pointer)]
        loaded = iter(self._reader.blocks(linked))
        return [document(pointer) if is_inline(pointer) else next(loaded) for _, pointer in entries]

    def read(
        self, key: str, pointer: bytes, start: int = 0, stop: int | None = None, suffix: int | None = None
    ) -> bytes:
        if not is_inline(pointer):
            return self._reader.read(pointer, start, stop, suffix)
        return cut(document(pointer), start, stop, suffix)

    def sizes(self, entries: Sequence[tuple[str, bytes]]) -> list[int]:
        linked = [pointer for _, pointer in entries if not is_inline(pointer)]
        known = iter(self._reader.sizes(linked))
        return [len(document(pointer)) if is_inline(pointer) else next(known) for _, pointer in entries]

    def _hierarchy(self) -> Hierarchy:
        with self._kept.lock:
            if self._kept.hierarchy is None:
                self._kept.hierarchy = self._loaded()
            return self._kept.hierarchy

    def _loaded(self) -> Hierarchy:
        try:
            data = self._block()
        except BlockNotFound as error:
            raise BlockNotFound(
                f"the root {text(self.root)} is not in this store, {self.cas!r}: {error}"
            ) from error
        try:
            return _parsed(data)
        except ValueError as error:
            raise MalformedNode(f"{text(self.root)} is no ipldstore root: {error}") from None

    def _block(self) -> bytes:
        match parse(self.root).codec:
            case block.DAG_CBOR:
                return self._reader.blocks([self.root])[0]
            case block.DAG_PB:  # a version of the fork that had `ipfs add` take its roots
                return self._reader.read(self.root, 0, MAX_ROOT_BYTES + 1)
            case codec:
                raise MalformedNode(
                    f"{text(self.root)} is no ipldstore root: its codec is {codec:#x}, expected dag-cbor (0x71)"
                )

    def _chunks(self) -> Root | None:
        """The root of the HashMap that has the chunks, where the fork wrote this."""
        kept = self._kept
        hamt = self._hierarchy().hamt
        if hamt is None:
            return None
        with kept.lock:
            if kept.chunks is None:
                from hamt_bulk.formats import open_root  # of all kinds, this one among them

                chunks = open_root(hamt, self.cas)
                if isinstance(chunks, IpldstoreRoot):
                    raise MalformedNode(
                        f"{text(self.root)}: what it links to as its HashMap, {text(hamt)}, is an ipldstore"
                    )
                kept.chunks = chunks
            return kept.chunks

    def _checked(self, key: str, pointer: bytes) -> bytes:
        if is_inline(pointer) or parse(pointer).codec not in VALUE_CODECS:
            found = "a value" if is_inline(pointer) else f"a link to codec {parse(pointer).codec:#x}"
            raise MalformedNode(
                f"{text(self.root)}: its HashMap has {found} under {key!r}, expected a link to raw bytes or a file"
            )
        return pointer

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopened, (self.root, self.cas)


class _Kept:
    """What was read of a root, for all threads that read it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.hierarchy: Hierarchy | None = None
        self.chunks: Root | None = None
        _all_kept.add(self)


_all_kept: "WeakSet[_Kept]" = WeakSet()


@lru_cache(SHARED_ROOTS)
def _shared(root: bytes, cas: tuple[str, str]) -> _Kept:
    """
    What this process keeps of a root for those that come from pickles.

    Each task of a job unpickles its own, one after the other, and would read all the keys again.
    """
    return _Kept()


def _reopened(root: bytes, cas: ContentAddressedStore) -> IpldstoreRoot:
    """A root that came from a pickle."""
    opened = IpldstoreRoot(root, cas)
    opened._kept = _shared(root, configuration(cas))
    return opened


def _parsed(data: bytes) -> Hierarchy:
    if len(data) > MAX_ROOT_BYTES:
        raise ValueError(f"{size_text(len(data))} or more, and at most {size_text(MAX_ROOT_BYTES)} are read")
    return parse_root(data)


def _after_fork() -> None:
    """A forked child has no other threads: locks they held stay locked."""
    for kept in list(_all_kept):
        kept.lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork)
