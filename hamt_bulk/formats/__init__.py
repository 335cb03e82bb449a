"""Roots of this and of other libraries: recognised, read, written where the format is alive, converted."""

from hamt_bulk.formats.recognise import open_root
from hamt_bulk.formats.root import Root

__all__ = ["Root", "open_root"]
