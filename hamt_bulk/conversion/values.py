"""
What the pointers of a source become in a target: kept where the bytes allow it, else written anew.

    the source has              a py-hamt tree, or ipldstore, takes      an IPLD HashMap takes
    a CID of bytes              it                                       it
    a CID of another kind       it                                       it
    bytes held by the tree      their CID, saved                         them
    a document of ipldstore     its JSON's CID, saved                    its JSON's CID, saved
    another value held          nothing: refused                         it, unless to be encrypted
    dag-cbor of py-hamt 2       its bytes' CID, saved                    the same; other values held
    encrypted, or to be         what it is without, or with it           the same

With another store as the target the blocks that it lacks are copied.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from dag_cbor.ipld import IPLDKind
from multiformats import CID

from hamt_bulk.block import DAG_CBOR, DAG_PB, Block, parse, text
from hamt_bulk.cas import ContentAddressedStore, Writer
from hamt_bulk.cas.wrap import Reader
from hamt_bulk.cas.writer import MAX_TRANSFER_BYTES
from hamt_bulk.errors import BlockNotFound, InvalidInput, MalformedNode
from hamt_bulk.formats.ipldstore import IpldstoreRoot
from hamt_bulk.formats.kinds import links_of_block
from hamt_bulk.formats.root import Root, batches
from hamt_bulk.formats.sealed import SealedRoot
from hamt_bulk.formats.trees import PyHamt2Root
from hamt_bulk.keys import any_key
from hamt_bulk.layout import Layout
from hamt_bulk.layout.cbor import links_of_pointer
from hamt_bulk.pointers import INLINE, inline_pointer, inline_value, is_inline

if TYPE_CHECKING:
    from hamt_bulk.crypto import Encryption

Entries: TypeAlias = list[tuple[str, bytes]]

MAX_DEPTH = 64
"""How deep structures of links below a value may go."""


@dataclass(frozen=True, slots=True)
class Values:
    """
    How entries of `source` become those of a tree of `layout` in `cas`.

    encryption  that of the result
    is_copy     whether `cas` is another store, to which blocks have to be copied
    """

    source: Root
    cas: ContentAddressedStore
    layout: Layout
    encryption: "Encryption | None"
    is_copy: bool

    def converted(self, entries: Sequence[tuple[str, bytes]], writer: Writer) -> Iterator[tuple[str, bytes]]:
        """The entries of the target. What has to be there is saved, and durable when the writer is flushed."""
        kept, others = self.apart(entries)
        if not self.layout.any_keys:
            for key, _ in kept:
                _refuse_other_text(key)
        yield from kept
        if self.is_copy:
            self._copy([link for _, pointer in kept for link in links_of_pointer(pointer)], writer)
        for some in batches(others, lambda entry: entry[1]):
            yield from self._written(some, writer)

    def apart(self, entries: Sequence[tuple[str, bytes]]) -> tuple[Entries, Entries]:
        """The entries whose pointers can be those of the target, too, and the others."""
        if self.encryption is not None or isinstance(self.source, (PyHamt2Root, SealedRoot)):
            return [], list(entries)
        if self.layout.keeps_values and not isinstance(self.source, IpldstoreRoot):
            return list(entries), []
        others = [entry for entry in entries if entry[1][:1] == INLINE]
        return [entry for entry in entries if entry[1][:1] != INLINE] if others else list(entries), others

    def _written(self, entries: list[tuple[str, bytes]], writer: Writer) -> Iterator[tuple[str, bytes]]:
        values = self.source.values(entries)
        links: list[bytes] = []
        for (key, _), value in zip(entries, values, strict=True):
            if not self.layout.any_keys:
                _refuse_other_text(key)
            if not isinstance(value, bytes):
                held = self._held(key, value)
                links += links_of_pointer(held)
                yield self._name(key), held
                continue
            stored = value if self.encryption is None else bytes(self.encryption.seal(key, value))
            yield self._name(key), writer.save(stored)
        if self.is_copy:
            self._copy(links, writer)

    def _held(self, key: str, value: IPLDKind) -> bytes:
        if self.encryption is not None:
            kind = "link" if isinstance(value, CID) else type(value).__name__
            raise InvalidInput(
                f"the value of {key!r} is a {kind}, and what is encrypted are bytes: leave out encryption, or that key"
            )
        if isinstance(value, CID):
            return bytes(value)
        if not self.layout.keeps_values:
            raise InvalidInput(
                f"the value of {key!r} is a {type(value).__name__}, and what is converted to holds bytes: convert to a HashMap, "
                "which holds any IPLD value"
            )
        return inline_pointer(value)

    def _name(self, key: str) -> str:
        return key if self.encryption is None else self.encryption.name(key)

    def refuse_lost(self, pointers: Sequence[bytes]) -> None:
        """Raises `BlockNotFound` when another store has not kept what was copied to it for these."""
        if not self.is_copy:
            return
        links = dict.fromkeys(link for pointer in pointers for link in links_of_pointer(pointer))
        refuse_absent(self.cas, [(text(link), link) for link in links])

    def _copy(self, links: Sequence[bytes], writer: Writer) -> None:
        """Copies what the target lacks of values, and of the structures of links that they are."""
        level = list(dict.fromkeys(links))
        seen = set(level)
        reader = Reader(self.source.cas)
        for _ in range(MAX_DEPTH):
            deeper: list[bytes] = []
            for batch in batches(level, lambda cid: cid):
                lacking = [cid for cid, has in zip(batch, self.cas.has_many(batch), strict=True) if not has]
                # A structure that is there need not be there with all below it.
                wanted = [cid for cid in batch if cid in lacking or parse(cid).codec == DAG_CBOR]
                for cid, data in zip(wanted, reader.blocks(wanted), strict=True):
                    self._copy_one(cid, data, writer)
                    if parse(cid).codec == DAG_CBOR:
                        deeper += links_of_block(cid, data)
            level = [cid for cid in dict.fromkeys(deeper) if cid not in seen]
            seen.update(level)
            if not level:
                return
        raise MalformedNode(f"{text(level[0])} lies below {MAX_DEPTH} blocks of links")

    def _copy_one(self, cid: bytes, data: bytes, writer: Writer) -> None:
        codec = parse(cid).codec
        if codec == DAG_PB:
            if (again := writer.save(data)) != cid:
                raise InvalidInput(
                    f"the file {text(cid)} was split in another way than this store splits, where it would be {text(again)}: "
                    "convert within its store, and copy the result with hamt_bulk.copy"
                )
        elif len(data) > MAX_TRANSFER_BYTES:
            raise InvalidInput(
                f"{text(cid)} is one block of {len(data)} bytes, at most {MAX_TRANSFER_BYTES} travel on IPFS"
            )
        else:
            writer.save_many([Block(cid, data)])


def refuse_absent(cas: ContentAddressedStore, named: Sequence[tuple[str, bytes]]) -> None:
    """Raises `BlockNotFound` for what was written and is not there, from CIDs and what they are called."""
    for (name, _), has in zip(named, cas.has_many([cid for _, cid in named]), strict=True):
        if not has:
            raise BlockNotFound(f"{name} was written to {cas!r} and is not there")


def _refuse_other_text(key: str) -> None:
    """Raises `InvalidInput` for a key with bytes that are no UTF-8."""
    if key.isascii():
        return
    try:
        key.encode()
    except UnicodeEncodeError:
        raise InvalidInput(
            f"the key {any_key(key)!r} is no text, and what is converted to has keys of text: convert to a HashMap"
        ) from None


def plain(pointer: bytes) -> Any:
    """A pointer for people: the value that it is, or the CID's text."""
    return inline_value(pointer) if is_inline(pointer) else text(pointer)
