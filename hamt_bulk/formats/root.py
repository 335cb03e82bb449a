"""A root of any kind, opened for reading."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from dag_cbor.ipld import IPLDKind
from multiformats import CID

from hamt_bulk.block import DAG_PB, parse, text, to_cid
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.errors import KeyNotFound
from hamt_bulk.pointers import is_inline

if TYPE_CHECKING:
    from zarr.abc.store import Store

T = TypeVar("T")

VALUES_AT_ONCE = 64
"""How many values are loaded at a time, of a block each: 64 MiB at most of those that this package writes."""

FILES_AT_ONCE = 4
"""How many of those are loaded at a time that are files of several blocks, and of any length."""


class Root(ABC):
    """
    Keys and values below a root, whichever library wrote it.

    kind  which that is, such as `"pyhamt"` or `"ipldstore"`
    root  its CID, binary
    cas   the store that it is read from
    """

    kind: str

    def __init__(self, root: bytes, cas: ContentAddressedStore) -> None:
        self.root = root
        self.cas = cas

    @property
    def cid(self) -> CID:
        """The root's CID."""
        return to_cid(self.root)

    @abstractmethod
    def pointers(self) -> Iterator[tuple[str, bytes]]:
        """
        All keys, each once, and what the tree holds for them (`hamt_bulk.pointers`), in no promised order.

        Each node is loaded once, and no value.
        """

    @abstractmethod
    def pointer(self, key: str) -> bytes | None:
        """What the tree holds for `key`. `None` only when it is sound and has no such key."""

    @abstractmethod
    def values(self, entries: Sequence[tuple[str, bytes]]) -> list[IPLDKind]:
        """The values of these keys and pointers, in order: bytes, for what a Zarr store may hold."""

    @abstractmethod
    def read(
        self, key: str, pointer: bytes, start: int = 0, stop: int | None = None, suffix: int | None = None
    ) -> bytes:
        """
        Bytes `start` to `stop` (exclusive; `None`: the end) of a value that is bytes, as slicing would give them.

        suffix  the last bytes instead, as many
        """

    def sizes(self, entries: Sequence[tuple[str, bytes]]) -> list[int]:
        """The lengths of values that are bytes, in order; not loaded where the store can tell."""
        return [len(self.read(key, pointer)) for key, pointer in entries]

    def keys(self, prefix: str = "") -> Iterator[str]:
        """The keys that start with `prefix`, in no promised order."""
        return (key for key, _ in self.pointers() if key.startswith(prefix))

    def items(self, prefix: str = "") -> Iterator[tuple[str, IPLDKind]]:
        """The keys that start with `prefix` and their values, of which a few are loaded at a time."""
        wanted = (entry for entry in self.pointers() if entry[0].startswith(prefix))
        for entries in batches(wanted, lambda entry: entry[1]):
            yield from zip((key for key, _ in entries), self.values(entries), strict=True)

    def get(self, key: str) -> IPLDKind:
        """The value under `key`. Raises `KeyNotFound`."""
        pointer = self.pointer(key)
        if pointer is None:
            raise KeyNotFound(f"{key!r} is not in the {self.kind} root {text(self.root)}")
        [value] = self.values([(key, pointer)])
        return value

    def __contains__(self, key: str) -> bool:
        return self.pointer(key) is not None

    def __iter__(self) -> Iterator[str]:
        return self.keys()

    def __len__(self) -> int:
        """How many keys there are. Reads the whole tree."""
        return sum(1 for _ in self.pointers())

    def store(self) -> "Store":
        """The read-only Zarr store of the root, for zarr and xarray."""
        from hamt_bulk.zarr.roots import RootStore  # zarr takes half a second to import

        return RootStore(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.root, self.cas)

    def __repr__(self) -> str:
        return f"<{self.kind} root {text(self.root)} in {self.cas!r}>"


def batches(items: Iterable[T], pointer_of: Callable[[T], bytes]) -> Iterator[list[T]]:
    """`items` in lists whose values may be in memory together."""
    batch: list[T] = []
    taken = 0
    for item in items:
        pointer = pointer_of(item)
        is_file = not is_inline(pointer) and parse(pointer).codec == DAG_PB
        size = VALUES_AT_ONCE // FILES_AT_ONCE if is_file else 1
        if taken + size > VALUES_AT_ONCE:
            yield batch
            batch, taken = [], 0
        batch.append(item)
        taken += size
    if batch:
        yield batch
