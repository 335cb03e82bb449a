"""What IPFS has beside blocks: names of roots that change, and services that pin roots for us."""

from hamt_bulk.ipfs.names import KuboName, Published
from hamt_bulk.ipfs.records import BadRecord, Record
from hamt_bulk.ipfs.remotepins import RemotePin, ServiceRefused
from hamt_bulk.ipfs.resolve import NameNotFound, resolve_name, resolve_name_async
from hamt_bulk.ipfs.services import PinningService, addresses

__all__ = [
    "BadRecord",
    "KuboName",
    "NameNotFound",
    "PinningService",
    "Published",
    "Record",
    "RemotePin",
    "ServiceRefused",
    "addresses",
    "resolve_name",
    "resolve_name_async",
]
