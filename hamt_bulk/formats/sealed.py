"""Roots whose values, and perhaps key names, are encrypted, opened with what they were encrypted with."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dag_cbor.ipld import IPLDKind

from hamt_bulk.errors import InvalidInput
from hamt_bulk.formats.root import Root
from hamt_bulk.formats.trees import PyHamt2Root, PyHamtRoot, Transformer, cut_bytes

if TYPE_CHECKING:
    from hamt_bulk.crypto import Encryption


def transformer_of(encryption: "Encryption | None") -> Transformer | None:
    """What undoes an encryption in a root of py-hamt 2, where it is in that one's format."""
    if encryption is None or encryption.format != "py-hamt-2":
        return None
    from hamt_bulk.crypto import transformers

    return transformers(encryption)[1]


def opened_with(root: Root, encryption: "Encryption") -> Root:
    """`root` with its values decrypted and its key names in clear."""
    if isinstance(root, PyHamt2Root):
        if encryption.format != "py-hamt-2":
            raise InvalidInput(
                f'a root of py-hamt 2 is encrypted as py-hamt 2 does: pass Encryption(…, format="py-hamt-2"), found {encryption.format!r}'
            )
        return root
    return SealedRoot(root, encryption)


class SealedRoot(Root):
    """A root whose values, and perhaps key names, are encrypted."""

    def __init__(self, inner: Root, encryption: "Encryption") -> None:
        super().__init__(inner.root, inner.cas)
        self.inner = inner
        self.kind = inner.kind
        self.encryption = encryption
        self._knows_names = not encryption.hide_names

    def pointers(self) -> Iterator[tuple[str, bytes]]:
        return ((self.encryption.key_of(name), pointer) for name, pointer in self.inner.pointers())

    def pointer(self, key: str) -> bytes | None:
        found = self.inner.pointer(self.encryption.name(key))
        if found is None and not self._knows_names:
            # With another key no name would be found, and the root seem empty.
            next(self.pointers(), None)
            self._knows_names = True
        return found

    def values(self, entries: Sequence[tuple[str, bytes]]) -> list[IPLDKind]:
        named = [(self.encryption.name(key), pointer) for key, pointer in entries]
        return [
            self.encryption.open(key, cut_bytes(key, stored, 0, None, None))
            for (key, _), stored in zip(entries, self.inner.values(named), strict=True)
        ]

    def read(
        self, key: str, pointer: bytes, start: int = 0, stop: int | None = None, suffix: int | None = None
    ) -> bytes:
        [value] = self.values([(key, pointer)])
        return cut_bytes(key, value, start, stop, suffix)

    def store(self) -> Any:
        if isinstance(self.inner, PyHamtRoot):
            from hamt_bulk.zarr import ZarrHAMTStore

            return ZarrHAMTStore.open(self.root, self.cas, encryption=self.encryption)
        return super().store()

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.inner, self.encryption)
