"""
What can be said of one node without fetching another: how each kind of tree encodes it.

    PyHamt          py-hamt 3, the default
    HashMapNodes    an IPLD HashMap, of a shape that a `HashMap` gives: js ipld-hashmap, IAMap, py-hamt 1
    PyHamt2         py-hamt 2, which is read alone
"""

from hamt_bulk.layout.base import Bucket, Layout, OtherLayout, Pieces, Slot
from hamt_bulk.layout.hashmap import HashMap, HashMapNodes
from hamt_bulk.layout.options import LayoutOption, chosen
from hamt_bulk.layout.pyhamt import BUCKET_SIZE, EMPTY_NODES, WIDTH, PyHamt
from hamt_bulk.layout.pyhamt2 import PyHamt2, py_hamt_2_hashfn

__all__ = [
    "BUCKET_SIZE",
    "EMPTY_NODES",
    "WIDTH",
    "Bucket",
    "HashMap",
    "HashMapNodes",
    "Layout",
    "LayoutOption",
    "OtherLayout",
    "Pieces",
    "PyHamt",
    "PyHamt2",
    "Slot",
    "chosen",
    "py_hamt_2_hashfn",
]
