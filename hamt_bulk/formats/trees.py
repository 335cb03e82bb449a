"""Roots of hash trees: py-hamt 3, IPLD HashMaps, py-hamt 2."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import dag_cbor
from dag_cbor.ipld import IPLDKind
from multiformats import CID

from hamt_bulk.block import text, to_cid
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.errors import HamtError, InvalidInput
from hamt_bulk.foreign import refuse_excess
from hamt_bulk.formats.root import Root
from hamt_bulk.hashers import HashFn, blake3_hashfn
from hamt_bulk.keys import key_text, plain_key
from hamt_bulk.layout import HashMap, HashMapNodes, Layout, PyHamt, PyHamt2, py_hamt_2_hashfn
from hamt_bulk.layout.cbor import BYTES, read_head
from hamt_bulk.nodes import Tree
from hamt_bulk.pointers import cut, inline_value, is_inline, is_value

Transformer = Callable[[str, bytes], bytes]
"""py-hamt 2's `transformer_decode`: what became of a key's encoded value, back to that."""

SAMPLED_VALUES = 8
"""How many values of a root of py-hamt 2 are looked at to tell how it keeps them."""


class TreeRoot(Root):
    """A root whose keys lie in a hash tree."""

    def __init__(
        self, root: bytes, cas: ContentAddressedStore, layout: Layout, hash_fn: HashFn = blake3_hashfn
    ) -> None:
        super().__init__(root, cas)
        self.tree = Tree(root, cas, layout, hash_fn)

    def pointers(self) -> Iterator[tuple[str, bytes]]:
        return self.tree.entries()

    def pointer(self, key: str) -> bytes | None:
        return self.tree.pointer(key)

    def values(self, entries: Sequence[tuple[str, bytes]]) -> list[IPLDKind]:
        stored = iter(self.tree.blocks([pointer for _, pointer in entries if self._is_stored(pointer)]))
        return [next(stored) if self._is_stored(pointer) else self._held(pointer) for _, pointer in entries]

    def read(
        self, key: str, pointer: bytes, start: int = 0, stop: int | None = None, suffix: int | None = None
    ) -> bytes:
        if self._is_stored(pointer):
            return self.tree.read(pointer, start, stop, suffix)
        return cut_bytes(key, self._held(pointer), start, stop, suffix)

    def sizes(self, entries: Sequence[tuple[str, bytes]]) -> list[int]:
        stored = iter(self.tree.sizes([pointer for _, pointer in entries if self._is_stored(pointer)]))
        return [
            next(stored) if self._is_stored(pointer) else len(self.read(key, pointer))
            for key, pointer in entries
        ]

    def _is_stored(self, pointer: bytes) -> bool:
        return not self.tree.layout.keeps_values or (not is_inline(pointer) and is_value(pointer))

    def _held(self, pointer: bytes) -> IPLDKind:
        """What a pointer says without a load: a value, or a link to what is no bytes."""
        return inline_value(pointer) if is_inline(pointer) else to_cid(pointer)


class PyHamtRoot(TreeRoot):
    """A root of py-hamt 3, and of this package."""

    kind = "pyhamt"

    def __init__(self, root: bytes, cas: ContentAddressedStore) -> None:
        super().__init__(root, cas, PyHamt(hasher=cas.hasher))

    def store(self) -> Any:
        from hamt_bulk.zarr.checked import open_checked  # zarr takes half a second to import

        return open_checked(self.root, self.cas, None)


class HashMapRoot(TreeRoot):
    """
    A root of an IPLD HashMap: of js ipld-hashmap, IAMap, py-hamt 1, or this package.

    Keys are text, or bytes where they are no UTF-8. A link to raw bytes or a UnixFS file has these for a value; another
    link is a CID; what the map itself holds is any IPLD value.
    """

    kind = "hashmap"

    def __init__(self, root: bytes, cas: ContentAddressedStore, layout: HashMap) -> None:
        super().__init__(root, cas, HashMapNodes(layout, cas.hasher), layout.placement)
        self.layout = layout

    def keys(self, prefix: str = "") -> Iterator[Any]:
        return map(plain_key, super().keys(prefix))

    def items(self, prefix: str = "") -> Iterator[tuple[Any, IPLDKind]]:
        return ((plain_key(key), value) for key, value in super().items(prefix))

    def get(self, key: str | bytes) -> IPLDKind:
        return super().get(key_text(key))

    def __contains__(self, key: str | bytes) -> bool:
        return super().__contains__(key_text(key))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.root, self.cas, self.layout)

    def __repr__(self) -> str:
        return f"<{self.layout} root {text(self.root)} in {self.cas!r}>"


class PyHamt2Root(TreeRoot):
    """
    A root of py-hamt 2.

    Its values are dag-cbor, so a chunk is a byte string with a head. The first releases, and dClimate's ipldstore over
    them, kept them as they are: a few values tell.

    transformer_decode  as in py-hamt 2, for values that were written with its `transformer_encode`: all of them are dag-cbor
    """

    kind = "py-hamt-2"

    def __init__(
        self,
        root: bytes,
        cas: ContentAddressedStore,
        transformer_decode: Transformer | None = None,
        hash_fn: HashFn = py_hamt_2_hashfn,
    ) -> None:
        super().__init__(root, cas, PyHamt2(), hash_fn)
        self.transformer_decode = transformer_decode
        self._is_encoded: bool | None = None

    def values(self, entries: Sequence[tuple[str, bytes]]) -> list[IPLDKind]:
        values: list[IPLDKind] = []
        for (key, pointer), value in zip(entries, super().values(entries), strict=True):
            values.append(self.decoded(key, value) if self._is_stored(pointer) else value)
        return self._followed(values)

    def read(
        self, key: str, pointer: bytes, start: int = 0, stop: int | None = None, suffix: int | None = None
    ) -> bytes:
        [value] = self.values([(key, pointer)])
        return cut_bytes(key, value, start, stop, suffix)

    def sizes(self, entries: Sequence[tuple[str, bytes]]) -> list[int]:
        return [len(self.read(key, pointer)) for key, pointer in entries]

    def load(self) -> None:
        """Finds out how values are kept, which every other call for one would do, and which travels with the root."""
        if self._is_encoded is None:
            self._is_encoded = self.transformer_decode is not None or self._seems_encoded()

    def decoded(self, key: str, stored: Any) -> IPLDKind:
        """The value that the bytes of a block stand for."""
        data = (
            stored if self.transformer_decode is None else _transformed(self.transformer_decode, key, stored)
        )
        self.load()
        if not self._is_encoded:
            return data
        try:
            return from_value(data)
        except ValueError as error:
            hint = "" if self.transformer_decode else ": was it written with a transformer, or encrypted?"
            raise InvalidInput(f"the value of {key!r} is not dag-cbor ({error}){hint}") from None

    def _seems_encoded(self) -> bool:
        entries = self.tree.entries(batch=1)
        stored = ((key, pointer) for key, pointer in entries if self._is_stored(pointer))
        some = list(islice(stored, SAMPLED_VALUES))
        kinds = set(map(is_encoded_value, self.tree.blocks([pointer for _, pointer in some])))
        if len(kinds) > 1:
            raise InvalidInput(
                f"{text(self.root)}: of {len(some)} values some are dag-cbor and some are not: pass the transformer_decode, or "
                "the encryption, that they were written with"
            )
        return kinds != {False}

    def _followed(self, values: list[IPLDKind]) -> list[IPLDKind]:
        """`values` with the bytes that those name which are links: dClimate's ipldstore set CIDs of chunks."""
        links = [bytes(value) for value in values if isinstance(value, CID)]
        if not links:
            return values
        loaded = iter(self.tree.blocks(links))
        return [next(loaded) if isinstance(value, CID) else value for value in values]

    def __reduce__(self) -> tuple[Any, ...]:
        opened = self.root, self.cas, self.transformer_decode, self.tree.hash_fn
        return type(self), opened, {"_is_encoded": self._is_encoded}


def _transformed(decode: Transformer, key: str, stored: bytes) -> bytes:
    """What `decode` makes of bytes. Raises `InvalidInput` for what it raises: zarr takes a `KeyError` for "no such chunk"."""
    try:
        data = decode(key, stored)
    except HamtError:
        raise
    except Exception as error:
        raise InvalidInput(
            f"transformer_decode failed on the value of {key!r}: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(data, (bytes, bytearray, memoryview)):
        raise InvalidInput(
            f"transformer_decode made a {type(data).__name__} of the value of {key!r}, expected bytes"
        )
    return bytes(data)


def is_encoded_value(data: bytes) -> bool:
    """Whether bytes are one dag-cbor value and nothing else."""
    try:
        from_value(data)
    except ValueError:
        return False
    return True


def from_value(data: bytes) -> IPLDKind:
    """The value that dag-cbor stands for. Raises `ValueError`. Long byte strings, as chunks are, take no time."""
    if data and data[0] & 0xE0 == BYTES:
        _, length, at = read_head(data, 0)
        if at + length != len(data):
            raise ValueError(f"a byte string of {length} bytes in {len(data) - at}")
        return data[at:]
    try:
        refuse_excess(data)
        return dag_cbor.decode(data)
    except Exception as error:  # its errors share no base with ours, and grow with each level
        raise ValueError(str(error)[:300]) from None


def cut_bytes(key: str, value: IPLDKind, start: int, stop: int | None, suffix: int | None) -> bytes:
    """A range of a value that is here. Raises `InvalidInput` for one of what is no bytes."""
    if not isinstance(value, bytes):
        kind = "a link" if isinstance(value, CID) else f"a {type(value).__name__}"
        raise InvalidInput(f"the value of {key!r} is {kind}, and a Zarr store holds bytes")
    return cut(value, start, stop, suffix)
