"""A Kubo daemon with the methods of ipldstore's stores."""

from typing import Any

from hamt_bulk.block import MAX_BLOCK_BYTES
from hamt_bulk.cas.ipfs import KuboCAS
from hamt_bulk.ipldstore.castores import CAStore, hasher_of
from hamt_bulk.ipldstore.mapping import IPLDStore

HOST = "http://127.0.0.1:5001"
"""Where the RPC of a daemon on this machine answers."""

CHUNKER = f"size-{MAX_BLOCK_BYTES}"
"""The fork's default was a quarter of that: values above 256 KiB have other CIDs with it."""


class IPFSStore(CAStore, KuboCAS):
    """
    A Kubo daemon, by its RPC alone.

    default_hash  "sha2-256" or "blake3"
    chunker       "size-N": values above N bytes, at most 1 MiB, are split
    options       of `KuboCAS`

    What is saved is held against garbage collection until `close`, and not pinned: `await store.pin_cid(root)` does that.
    """

    def __init__(
        self, host: str = HOST, default_hash: Any = "sha2-256", *, chunker: str = CHUNKER, **options: Any
    ) -> None:
        super().__init__(hasher_of(default_hash), rpc_base_url=host, chunker=chunker, **options)


def get_ipfs_mapper(
    host: str = HOST, max_nodes_per_level: int = 10_000, chunker: str = CHUNKER, should_async_get: bool = True
) -> IPLDStore:
    """
    A mapping on the Kubo daemon whose RPC answers at `host`.

    max_nodes_per_level, should_async_get  are taken from the fork and change nothing: reads are always under way together
    """
    return IPLDStore(IPFSStore(host, chunker=chunker))
