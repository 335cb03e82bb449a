"""Looking after a pack store: what is in it, whether it is sound, and letting go of what nobody needs."""

from hamt_bulk.packs.dropped import Dropped, DroppedPack
from hamt_bulk.packs.dropping import OLDER_THAN_HOURS, drop
from hamt_bulk.packs.listing import Listing, Pack, packs
from hamt_bulk.packs.merging import Merged, merge
from hamt_bulk.packs.rebuilding import Rebuilt, RebuiltPack, rebuild
from hamt_bulk.packs.temporary import Temporary
from hamt_bulk.packs.verifying import DamagedBlock, DamagedPack, Verified, verify

__all__ = [
    "OLDER_THAN_HOURS",
    "DamagedBlock",
    "DamagedPack",
    "Dropped",
    "DroppedPack",
    "Listing",
    "Merged",
    "Pack",
    "Rebuilt",
    "RebuiltPack",
    "Temporary",
    "Verified",
    "drop",
    "merge",
    "packs",
    "rebuild",
    "verify",
]
