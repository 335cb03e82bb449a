"""
The tree, without I/O: look up, list, build, edit and compare.

    A subtree is a node exactly when it holds more than `max_bucket_size` entries.
    The root is always a node.

So the root is a function of the entries alone. A build and an edit are one function: on an empty slot
`update_slots` builds, on a stored one it edits. What no edit touches is carried along unread, with the
one exception in `edit._collapsed`.
"""

from hamt_bulk.tree.diff import Changes, differences
from hamt_bulk.tree.edit import Emit, assemble, empty_slots, root_slots, update, update_slots
from hamt_bulk.tree.walk import Found, Walk, entries, entries_below, lookup

__all__ = [
    "Changes",
    "Emit",
    "Found",
    "Walk",
    "assemble",
    "differences",
    "empty_slots",
    "entries",
    "entries_below",
    "lookup",
    "root_slots",
    "update",
    "update_slots",
]
