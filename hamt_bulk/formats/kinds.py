"""Which kind of root a block is, as far as the block alone tells."""

from hamt_bulk.block import Data
from hamt_bulk.foreign import from_cbor
from hamt_bulk.formats.ipldstore import is_ipldstore
from hamt_bulk.layout.pyhamt import HEAD
from hamt_bulk.layout.seen import is_other_root


def is_pyhamt(data: Data) -> bool:
    """Whether a block begins as a node of py-hamt 3 does."""
    return bytes(data[: len(HEAD)]) == HEAD


def is_root_of_others(data: Data) -> bool:
    """Whether a block is the root of an IPLD HashMap, of py-hamt 2 or of an ipldstore."""
    if is_pyhamt(data):
        return False
    try:
        return is_other_root(from_cbor(data)) or is_ipldstore(data)
    except ValueError:
        return False
