"""The layout that arguments of callers name."""

from typing import Literal, TypeAlias

from hamt_bulk.errors import InvalidInput
from hamt_bulk.hashers import HashFn, blake3_hashfn
from hamt_bulk.layout.base import Layout
from hamt_bulk.layout.hashmap import HashMap, HashMapNodes
from hamt_bulk.layout.pyhamt import BUCKET_SIZE, PyHamt

LayoutOption: TypeAlias = "Literal['pyhamt'] | HashMap | None"
"""`"pyhamt"`; the shape of an IPLD HashMap; `None`: that of the tree that is opened, `"pyhamt"` for a new one."""


def chosen(option: LayoutOption, max_bucket_size: int, hash_fn: HashFn, hasher: str) -> tuple[Layout, HashFn]:
    """The layout, with blocks named by `hasher`, and what places keys in it. Raises `InvalidInput`."""
    if option is None or option == "pyhamt":
        return PyHamt(max_bucket_size, hasher), hash_fn
    if not isinstance(option, HashMap):
        raise InvalidInput(
            f'layout={option!r}, expected "pyhamt" or a HashMap(bit_width=…, bucket_size=…, hasher=…)'
        )
    if max_bucket_size != BUCKET_SIZE:
        raise InvalidInput(
            f"max_bucket_size={max_bucket_size} and layout={option}: a HashMap says its bucket_size itself"
        )
    if hash_fn is not blake3_hashfn:
        raise InvalidInput(f"hash_fn and layout={option}: a HashMap says its hasher itself")
    return HashMapNodes(option, hasher), option.placement
