"""Roots that are opened for people, who may have forgotten how they are encrypted."""

import json
from collections.abc import Iterable
from itertools import islice
from os import PathLike

from zarr.abc.store import ByteRequest, RangeByteRequest
from zarr.core.buffer import Buffer, BufferPrototype

from hamt_bulk.block import AnyCID
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.cas.loop import run_sync
from hamt_bulk.crypto import Encryption
from hamt_bulk.crypto.bound import MAGIC
from hamt_bulk.crypto.names import decoded
from hamt_bulk.errors import InvalidInput, WrongKey
from hamt_bulk.keys import is_metadata
from hamt_bulk.layout import LayoutOption
from hamt_bulk.zarr.reading import Ranges, read
from hamt_bulk.zarr.store import ZarrHAMTStore

ROOT_DOCUMENTS = ("zarr.json", ".zgroup", ".zarray")
"""Of these every hierarchy has one."""

FIRST_LOOKED_AT = 8
"""Of how many variables of a base a chunk is looked at."""

ENCRYPTED = "is encrypted by this package: pass encryption=Encryption(key, …), as it was written"


class UnencryptedStore(ZarrHAMTStore):
    """A tree whose values are taken to be plain. Raises `WrongKey` for one that is not, which zarr would fail to decode."""

    async def get(
        self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        found = await super().get(key, prototype, byte_range)
        if found is not None and byte_range is None:  # a part tells nothing
            start = found[: len(MAGIC)].to_bytes()
            if start == MAGIC:
                raise WrongKey(f"{key!r} {ENCRYPTED}")
            if is_metadata(key) and not _is_mapping(found.to_bytes()):
                raise InvalidInput(
                    f"{key!r} is no Zarr document, it begins with {start.hex()}: if py-hamt encrypted it, pass "
                    "encryption=Encryption(key, header=…, format='py-hamt-3')"
                )
        return found


def _is_mapping(document: bytes) -> bool:
    """Whether the bytes may be a JSON mapping, in any encoding: of encrypted ones one in fifty begins like one."""
    try:
        text = document.decode(json.detect_encoding(document))
    except UnicodeDecodeError:
        return False
    return text.lstrip("\ufeff \n\r\t").startswith("{")


def open_checked(
    root: AnyCID | PathLike[str],
    cas: ContentAddressedStore | str | PathLike[str],
    encryption: Encryption | None,
    layout: LayoutOption = None,
) -> ZarrHAMTStore:
    """The read-only store of a root, which is a Zarr hierarchy."""
    if encryption is None:
        return UnencryptedStore.open(root, cas, layout=layout)
    return ZarrHAMTStore.open(root, cas, encryption=encryption, layout=layout)


def has(store: ZarrHAMTStore, key: str) -> bool:
    """Whether the tree of a read-only store has `key`."""
    return store.hamt.draft.tree.pointer(store.name_of(key)) is not None


def refuse_other_names(store: ZarrHAMTStore) -> None:
    """
    Raises `WrongKey` or `NotAuthentic` when the tree has names that the store cannot read, or hidden ones that it takes
    for plain: it would seem to hold no hierarchy.
    """
    tree = store.hamt.draft.tree
    if any(has(store, document) for document in ROOT_DOCUMENTS):
        return
    first = next(iter(tree.entries()), None)
    if first is None:
        return
    name, pointer = first
    store.key_of(name)
    is_hiding = store.encryption is not None and store.encryption.hide_names
    if not is_hiding and decoded(name) is not None and tree.read(pointer, 0, len(MAGIC)) == MAGIC:
        raise WrongKey(
            "the key names of this root are hidden, and its values encrypted, by this package: pass "
            "encryption=Encryption(key, hide_names=True, …), as it was written"
        )


def refuse_other_encryption(store: ZarrHAMTStore) -> None:
    """Raises `WrongKey` or `NotAuthentic` when the root's own document is not encrypted as the store takes it to be."""
    refuse_other_names(store)
    tree, encryption = store.hamt.draft.tree, store.encryption
    for document in ROOT_DOCUMENTS:
        pointer = tree.pointer(store.name_of(document))
        if pointer is not None and encryption is not None:
            encryption.open(document, tree.read(pointer))
        elif pointer is not None and tree.read(pointer, 0, len(MAGIC)) == MAGIC:
            raise WrongKey(f"{document!r} {ENCRYPTED}")


def refuse_other_chunks(store: ZarrHAMTStore, keys: Iterable[str]) -> None:
    """
    Raises `WrongKey` or `NotAuthentic` when chunks are not encrypted as the store takes them to be.

    Where documents are clear nothing else tells, and chunks that are added would be encrypted in another way.

    keys  of chunks that the tree may have, of which the first few are looked at
    """
    tree, encryption = store.hamt.draft.tree, store.encryption
    for key in islice(keys, FIRST_LOOKED_AT):
        if encryption is not None and encryption.is_clear(key):
            continue
        pointer = tree.pointer(store.name_of(key))
        if pointer is not None and encryption is not None:
            run_sync(read(tree, encryption, Ranges(), key, pointer, RangeByteRequest(0, 1)))
        elif pointer is not None and tree.read(pointer, 0, len(MAGIC)) == MAGIC:
            raise WrongKey(f"{key!r} {ENCRYPTED}")
