"""py-hamt's encrypted store, by its name and arguments."""

from os import PathLike
from typing import Self

from hamt_bulk.block import AnyCID
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.crypto import Encryption
from hamt_bulk.hamt import HAMT
from hamt_bulk.nodecache import CACHE_BYTES
from hamt_bulk.zarr.store import ZarrHAMTStore


class SimpleEncryptedZarrHAMTStore(ZarrHAMTStore):
    """
    A tree as a Zarr store whose every value is encrypted as py-hamt does it, documents included.

    It reads what py-hamt's class of this name has written, and the other way round. Key names stay readable, and who
    can write may swap the chunks of two keys unnoticed: for new data give `ZarrHAMTStore` an `Encryption(key)`.

    header  bytes that are not secret, and have to be the same when reading
    """

    def __init__(self, hamt: HAMT, read_only: bool, encryption_key: bytes, header: bytes) -> None:
        super().__init__(hamt, read_only, _encryption(encryption_key, header))

    @classmethod
    def open(  # type: ignore[override]  # the key takes the place of an encryption
        cls,
        root: AnyCID | PathLike[str],
        cas: ContentAddressedStore | str | PathLike[str],
        encryption_key: bytes,
        header: bytes,
        *,
        max_cache_bytes: int = CACHE_BYTES,
    ) -> Self:
        """The read-only store of the tree `root`, opened."""
        encryption = _encryption(encryption_key, header)
        return super().open(root, cas, max_cache_bytes=max_cache_bytes, encryption=encryption)


def _encryption(key: bytes, header: bytes) -> Encryption:
    return Encryption(key, header=header, format="py-hamt-3")
