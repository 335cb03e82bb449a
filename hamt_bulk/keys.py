"""What keys of a Zarr hierarchy look like."""

import re

METADATA_NAMES = ("zarr.json", ".zarray", ".zgroup", ".zattrs", ".zmetadata")
"""The last parts of keys that hold metadata, in both Zarr formats."""

CHUNK = re.compile(r"(?:^|/)(?:c(?:/\d+)+|\d+(?:[./]\d+)*)$")
"""The end of a chunk's key, in any of zarr's encodings."""


def is_metadata(key: str) -> bool:
    """Whether `key` names a metadata document rather than a chunk."""
    return key.rpartition("/")[2] in METADATA_NAMES


def folder_start(prefix: str) -> str:
    """What the keys in the folder `prefix` start with."""
    return prefix if not prefix or prefix.endswith("/") else f"{prefix}/"
