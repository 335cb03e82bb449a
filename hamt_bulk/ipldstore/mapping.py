"""A Zarr v2 hierarchy as a mapping from keys to bytes, which becomes one ipldstore root."""

import threading
import uuid
from collections.abc import Iterator, MutableMapping
from io import BytesIO
from os import PathLike
from typing import TYPE_CHECKING, Any, BinaryIO, Self, overload

from multiformats import CID

from hamt_bulk.block import AnyCID, text, to_bytes, to_cid
from hamt_bulk.cas import ContentAddressedStore, open_cas
from hamt_bulk.cas.loop import run_sync
from hamt_bulk.cas.wrap import save_value
from hamt_bulk.errors import InvalidInput, KeyNotFound, NotPortable
from hamt_bulk.formats.ipldstore import IpldstoreRoot, write_ipldstore
from hamt_bulk.formats.ipldstore_tree import Hierarchy, is_document, pointer_of_document
from hamt_bulk.ipldstore.cars import open_car, refuse_incomplete, take_car, write_car
from hamt_bulk.ipldstore.castores import MappingCAStore
from hamt_bulk.manifest import encode_key

if TYPE_CHECKING:
    from hamt_bulk.ipldstore.zarr import IPLDZarrStore


class IPLDStore(MutableMapping[str, bytes]):
    """
    Keys and bytes in a store; `freeze` makes a root of them, and `set_root` takes one.

    castore  a store, or its URL; `None`: a new `MappingCAStore`, in memory
    sep      what separates the segments of a key

    Values are stored as they are set, documents (.zarray, .zgroup, .zattrs, .zmetadata) with the root. What comes back
    of a document is JSON in the order of dag-cbor. A value above 1 MiB becomes a UnixFS file. All keys are in memory.

    A fork's root, which keeps its chunks in a HashMap, is read by key and without loading all of it; the first edit
    loads it, and the next root is a plain one.
    """

    def __init__(
        self, castore: ContentAddressedStore | str | PathLike[str] | None = None, sep: str = "/"
    ) -> None:
        if not isinstance(sep, str) or not sep:
            raise InvalidInput(f"sep={sep!r}: expected text, such as '/'")
        self.castore = MappingCAStore() if castore is None else open_cas(castore)
        self.sep = sep
        self.root_cid: CID | None = None
        self._opened: IpldstoreRoot = _Draft(self.castore, {})
        self._lock = threading.Lock()
        self._token = uuid.uuid4().hex
        self._version = 0

    @property
    def zarr_store(self) -> "IPLDZarrStore":
        """This hierarchy as a Zarr store, to read and write: zarr 3 takes no mapping."""
        from hamt_bulk.ipldstore.zarr import IPLDZarrStore  # zarr takes half a second to import

        return IPLDZarrStore(self)

    def __getitem__(self, key: str) -> bytes:
        path, opened = self._path(key), self._opened
        pointer = opened.pointer(path)
        if pointer is None:
            raise KeyNotFound(f"{key!r} is not in {self!r}")
        return opened.read(path, pointer)

    def __setitem__(self, key: str, value: bytes) -> None:
        path = self._path(key)
        self._record(path, run_sync(self._saved(path, value)))

    def __delitem__(self, key: str) -> None:
        if not self._remove(self._path(key)):
            raise KeyNotFound(f"{key!r} is not in {self!r}")

    def __contains__(self, key: object) -> bool:
        return isinstance(key, str) and self._opened.pointer(self._path(key)) is not None

    def __iter__(self) -> Iterator[str]:
        for path in self._opened:
            yield path.replace("/", self.sep)

    def __len__(self) -> int:
        return len(self._opened)

    def clear(self) -> None:
        with self._lock:
            self._opened = _Draft(self.castore, {})
            self._changed()

    def freeze(self) -> CID:
        """
        The root that has all keys as they are, durably stored with all values.

        Raises `InvalidInput` for what the format has no form for, such as 2 MiB of keys.
        """
        if self.root_cid is None:
            version, opened = self._version, self._opened
            self.castore.flush()
            root = to_cid(write_ipldstore(opened.pointers(), self.castore))
            with self._lock:
                if self._version != version:  # edited meanwhile
                    return root
                self.root_cid = root
        return self.root_cid

    def set_root(self, cid: AnyCID) -> None:
        """Takes the keys of a root, in place of all others. Raises when it is not there, or is no ipldstore's."""
        root = to_bytes(cid)
        opened = IpldstoreRoot(root, self.castore)
        opened.load()
        with self._lock:
            self._opened = opened
            self._changed()
            self.root_cid = to_cid(root)

    @overload
    def to_car(self, stream: BinaryIO) -> int: ...

    @overload
    def to_car(self, stream: None = None) -> bytes: ...

    def to_car(self, stream: BinaryIO | None = None) -> bytes | int:
        """A CARv1 of the root and all that it reaches, root first: its bytes, or how many went into `stream`."""
        root = to_bytes(self.freeze())
        if stream is not None:
            return write_car(root, self.castore, stream)
        write_car(root, self.castore, buffer := BytesIO())
        return buffer.getvalue()

    def import_car(self, stream: bytes | BinaryIO) -> None:
        """
        Takes the blocks of a CAR file, of either version, and the keys of the one root that it names.

        Every block is compared with its CID. Raises `InvalidInput` for a file that is none, or names several roots,
        `BlockMismatch` for a damaged block, and `BlockNotFound` when the root reaches a block that is neither in the
        file nor in the store. The keys are then what they were.
        """
        with open_car(stream) as (file, header):
            if len(header.roots) != 1:
                named = "".join(f", {text(root)}" for root in header.roots[:3])
                raise InvalidInput(
                    f"the CAR file names {len(header.roots)} roots, expected one{named and ':'}{named[1:]}"
                )
            take_car(file, header, self.castore)
        refuse_incomplete(header.roots[0], self.castore, "the CAR file")
        self.set_root(header.roots[0])

    @classmethod
    def from_car(cls, stream: bytes | BinaryIO) -> Self:
        """A new one, in memory, of a CAR file: see `import_car`."""
        store = cls()
        store.import_car(stream)
        return store

    async def _saved(self, path: str, value: Any) -> bytes:
        """The pointer of a value, which is now in the store."""
        try:
            data = bytes(memoryview(value))
        except TypeError:
            raise InvalidInput(
                f"{path!r}: a value must be bytes, found {type(value).__name__}: encode it first"
            ) from None
        encode_key(path)
        return pointer_of_document(path, data) if is_document(path) else await save_value(self.castore, data)

    def _record(self, path: str, pointer: bytes) -> None:
        with self._lock:
            self._entries()[path] = pointer
            self._changed()

    def _remove(self, path: str) -> bool:
        """Deletes a key, if it is there. Whether it was."""
        with self._lock:
            if self._opened.pointer(path) is None:
                return False
            del self._entries()[path]
            self._changed()
            return True

    def _changed(self) -> None:
        self._version += 1
        self.root_cid = None

    def _entries(self) -> dict[str, bytes]:
        """The keys, to be edited."""
        if not isinstance(self._opened, _Draft):
            self._opened = _Draft(self.castore, dict(self._opened.pointers()))
        return self._opened.entries

    def _path(self, key: str) -> str:
        """The key with slashes, as roots have it."""
        encode_key(key)
        if self.sep == "/":
            return key
        if "/" in key:
            raise InvalidInput(f"{key!r}: with sep={self.sep!r} a key has no slashes")
        return key.replace(self.sep, "/")

    def __reduce__(self) -> tuple[Any, ...]:
        if self.root_cid is None:
            raise NotPortable(
                "an IPLDStore with edits cannot go to another process, which would have a copy: call `freeze` first"
            )
        return _reopened, (type(self), self.castore, self.sep, to_bytes(self.root_cid))

    def __repr__(self) -> str:
        what = "unfrozen" if self.root_cid is None else str(self.root_cid)
        return f"{type(self).__name__}({self.castore!r}, {what})"


class _Draft(IpldstoreRoot):
    """Keys that are in no root yet."""

    def __init__(self, cas: ContentAddressedStore, entries: dict[str, bytes]) -> None:
        super().__init__(b"", cas)
        self.entries = entries

    def _hierarchy(self) -> Hierarchy:
        return Hierarchy(self.entries, None)

    def pointers(self) -> Iterator[tuple[str, bytes]]:
        return iter([*self.entries.items()])  # they may be edited meanwhile


def _reopened(cls: type[IPLDStore], castore: ContentAddressedStore, sep: str, root: bytes) -> IPLDStore:
    store = cls(castore, sep)
    store.set_root(root)
    return store
