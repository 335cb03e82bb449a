"""Which kind of root a block is, as far as the block alone tells."""

from hamt_bulk.block import Data, text
from hamt_bulk.errors import MalformedNode
from hamt_bulk.foreign import from_cbor
from hamt_bulk.formats.ipldstore import is_ipldstore
from hamt_bulk.layout.cbor import links_of
from hamt_bulk.layout.hashmap import is_hashmap
from hamt_bulk.layout.pyhamt import HEAD


def is_pyhamt(data: Data) -> bool:
    """Whether a block begins as a node of py-hamt 3 does."""
    return bytes(data[: len(HEAD)]) == HEAD


def is_root_of_others(data: Data) -> bool:
    """Whether a block is the root of an IPLD HashMap, of py-hamt 2 or of an ipldstore."""
    return not is_pyhamt(data) and (is_hashmap(data) or is_py_hamt_2(data) or is_ipldstore(data))


def is_py_hamt_2(data: Data) -> bool:
    """Whether a block is a node of py-hamt 2, or nearly."""
    if not bytes(data[:3]).startswith((b"\xa2\x61B", b"\xa2\x61L")):
        return False
    try:
        node = from_cbor(data)
    except ValueError:
        return False
    return isinstance(node, dict) and all(isinstance(node.get(name), dict) for name in "BL")


def links_of_block(cid: bytes, data: Data) -> list[bytes]:
    """The CIDs in a dag-cbor block of any kind, in order. Raises `MalformedNode` when it is none."""
    try:
        return links_of(data)
    except ValueError as error:
        raise MalformedNode(f"{text(cid)} is not dag-cbor: {error}") from None
