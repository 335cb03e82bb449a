"""
Every error this package raises, split by what the caller would do next.

    HamtError
    ├── BlockNotFound                     no store has this block
    ├── BlockMismatch     (ValueError)    the bytes are not what the CID says
    ├── MalformedNode     (ValueError)    this block is not a node of a known layout
    ├── KeyNotFound       (KeyError)      the tree is sound and has no such key
    ├── InvalidInput      (ValueError)    not a CID, not text, unaligned chunks, contradictory options
    ├── Conflict          (ValueError)    two writers gave one key different values
    ├── ReadOnly          (PermissionError)
    ├── NotPortable       (TypeError)     this object cannot go to another process, and what to use instead
    ├── JournalMismatch   (ValueError)    this journal belongs to another build
    ├── WorkersDied       (RuntimeError)  every worker that tried this piece of work died
    ├── WrongKey          (ValueError)    encrypted with another key or header
    ├── NotAuthentic      (ValueError)    not encrypted, altered, or moved here from another key
    ├── VersionMismatch                   a worker runs another hamt_bulk, zarr or codec
    ├── DepthExceeded                     more keys share a whole hash than a bucket holds
    └── CASError          (OSError)       the outside failed; it may work later: the only one that is retried

`BlockNotFound` mixes in no builtin on purpose: zarr takes a `KeyError` or `FileNotFoundError` for
"no such chunk", and would drop the variable or fill the chunk.
"""


class HamtError(Exception):
    """The root of the tree above. Its one argument is the message, so every error can be pickled."""


class BlockNotFound(HamtError):
    """No store has this block. It is never an empty chunk."""


class BlockMismatch(HamtError, ValueError):
    """The bytes are not what the CID says."""


class MalformedNode(HamtError, ValueError):
    """This block is not a node of a known layout."""


class KeyNotFound(HamtError, KeyError):
    """The tree is sound and has no such key."""

    # KeyError shows the repr of its argument, which would quote the whole message.
    __str__ = Exception.__str__


class InvalidInput(HamtError, ValueError):
    """What the caller gave cannot be used; the message says what can."""


class Conflict(HamtError, ValueError):
    """Two writers gave one key different values."""


class ReadOnly(HamtError, PermissionError):
    """This object was opened for reading."""


class NotPortable(HamtError, TypeError):
    """This object cannot go to another process; the message says what to use instead."""


class JournalMismatch(HamtError, ValueError):
    """This journal belongs to another build; the message says what differs."""


class WorkersDied(HamtError, RuntimeError):
    """Every worker that tried this piece of work died: short of memory, or by a crash in native code."""


class WrongKey(HamtError, ValueError):
    """What is stored was encrypted with another key or header than the given ones."""


class NotAuthentic(HamtError, ValueError):
    """What is stored is not what was encrypted under this key name: it is plain, was altered, or was moved."""


class VersionMismatch(HamtError):
    """A worker runs another hamt_bulk, zarr or codec than the driver."""


class DepthExceeded(HamtError):
    """More keys share a whole hash than a bucket holds, so no depth can tell them apart."""


class CASError(HamtError, OSError):
    """The outside failed: a disk, a server, a permission. The same call may work later."""
