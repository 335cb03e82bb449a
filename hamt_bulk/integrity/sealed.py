"""A tree whose values, and perhaps key names, are encrypted, as who looks at its metadata wants it: in clear."""

from collections.abc import Sequence

from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.crypto import Encryption
from hamt_bulk.crypto.bound import MAGIC
from hamt_bulk.errors import HamtError
from hamt_bulk.hashers import HashFn
from hamt_bulk.layout import Layout
from hamt_bulk.nodes import Tree


class SealedTree(Tree):
    """Looked up by names in clear; values as they were before they were encrypted."""

    def __init__(
        self, root: bytes, cas: ContentAddressedStore, layout: Layout, hash_fn: HashFn, encryption: Encryption
    ) -> None:
        super().__init__(root, cas, layout, hash_fn)
        self.encryption = encryption

    def pointer(self, key: str) -> bytes | None:
        return super().pointer(self.encryption.name(key))

    def opened(self, key: str, stored: bytes) -> bytes:
        return self.encryption.open(key, stored)


def is_sealed(tree: Tree, names: Sequence[str]) -> bool:
    """Whether one of these keys has an encrypted value, as far as damage does not keep that from being known."""
    for name in names:
        try:
            if (value := tree.value(name)) is not None and value.startswith(MAGIC):
                return True
        except HamtError:
            continue
    return False
