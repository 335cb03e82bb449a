"""What keys of a Zarr hierarchy look like."""

import re

from hamt_bulk.errors import InvalidInput

METADATA_NAMES = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
"""The last parts of keys that hold metadata, in both Zarr formats."""

# Of keys that are read backwards, from their ends: to try every place where a chunk's name may begin takes the square of
# the length, and a key may be as long as a node.
_DEFAULT = re.compile(r"(?:[0-9]++/)++c(?=/|\Z)")
_NUMBERS = re.compile(r"[0-9]++(?:[./][0-9]++)*+")


def is_metadata(key: str) -> bool:
    """Whether `key` names a metadata document rather than a chunk."""
    return key.rpartition("/")[2] in METADATA_NAMES


def array_of(key: str) -> str | None:
    """
    The path of the array that has `key` for a chunk, by its form: it ends as `c/0/1`, `0.1` or `0/1` do. `None` for others.

    Of several ends that have the form the longest counts.
    """
    backwards = key[::-1]
    if (found := _DEFAULT.match(backwards)) is not None:
        end = found.end()
    elif (found := _NUMBERS.match(backwards)) is not None:
        end = found.end()
        if not backwards.startswith("/", end) and end < len(key):
            # The first of them follow something else: those after a slash are left.
            end = backwards.rfind("/", 0, end)
    else:
        return None
    return None if end < 0 else key[: max(len(key) - end - 1, 0)]


def folder_start(prefix: str) -> str:
    """What the keys in the folder `prefix` start with."""
    return prefix if not prefix or prefix.endswith("/") else f"{prefix}/"


def any_key(key: str) -> bytes:
    """
    The bytes of a key that may be any bytes: those that are no UTF-8 are escapes in its text (PEP 383).

    Raises `InvalidInput` for what is no such text.
    """
    try:
        return key.encode("utf-8", "surrogateescape")
    except (AttributeError, UnicodeEncodeError):
        raise InvalidInput(f"a key must be text or bytes, found {type(key).__name__} {key!r}") from None


def key_text(key: str | bytes) -> str:
    """
    The text of a key, with escapes for bytes that are no UTF-8: `any_key` gives the same bytes back.

    Equal keys have equal texts, also where text has escapes for bytes that are UTF-8 together.
    """
    if isinstance(key, str) and plain_key(key) is key:
        return key
    return (key if isinstance(key, bytes) else any_key(key)).decode("utf-8", "surrogateescape")


def plain_key(key: str) -> str | bytes:
    """A key as callers have it: text, or bytes where it is none."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return any_key(key)
    return key
