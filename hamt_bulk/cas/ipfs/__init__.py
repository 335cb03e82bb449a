"""IPFS: Kubo daemons and gateways."""

from hamt_bulk.cas.ipfs.gateways import GatewayCAS
from hamt_bulk.cas.ipfs.kubo import KuboCAS

__all__ = ["GatewayCAS", "KuboCAS"]
