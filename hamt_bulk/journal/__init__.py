"""The journal of a build: which Dask blocks are finished, so that the same call goes on where another one ended."""

from hamt_bulk.journal.records import Build
from hamt_bulk.journal.resuming import (
    Finished,
    JournalOption,
    Resuming,
    bases_of_journals,
    live_of_journals,
)
from hamt_bulk.journal.unfinished import Unfinished, give_up, unfinished

__all__ = [
    "Build",
    "Finished",
    "JournalOption",
    "Resuming",
    "Unfinished",
    "bases_of_journals",
    "give_up",
    "live_of_journals",
    "unfinished",
]
