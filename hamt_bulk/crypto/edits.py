"""What an encrypted hierarchy has in the tree for a key and its value."""

from collections.abc import Callable

from hamt_bulk.block import Data
from hamt_bulk.crypto.encryption import Encryption
from hamt_bulk.manifest import TOMBSTONE


def edit(
    encryption: Encryption | None, key: str, value: Data | None, save: Callable[[Data], bytes]
) -> tuple[str, bytes]:
    """
    The name in the tree of a key, and the CID of what `save` stores for its value.

    value  `None`: the key is deleted
    """
    if encryption is None:
        return key, TOMBSTONE if value is None else save(value)
    return encryption.name(key), TOMBSTONE if value is None else save(encryption.seal(key, value))
