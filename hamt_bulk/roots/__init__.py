"""Roots as values: compare, change and copy trees without a handle."""

from hamt_bulk.roots.clashes import Clash
from hamt_bulk.roots.copy import Copied, copy
from hamt_bulk.roots.delete import delete
from hamt_bulk.roots.diff import Change, diff
from hamt_bulk.roots.documents import FieldChange
from hamt_bulk.roots.merge import merge
from hamt_bulk.roots.variables import VariableChange, variable_changes

__all__ = [
    "Change",
    "Clash",
    "Copied",
    "FieldChange",
    "VariableChange",
    "copy",
    "delete",
    "diff",
    "merge",
    "variable_changes",
]
