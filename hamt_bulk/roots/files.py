"""Files of a store that gives them only whole, as blocks."""

from collections import defaultdict

from hamt_bulk import unixfs
from hamt_bulk.block import HASH_CODES, Block, parse, text
from hamt_bulk.errors import BlockMismatch
from hamt_bulk.roots.names import is_file
from hamt_bulk.roots.transfer import Target

HELD = 4096
"""Nodes that wait for their leaves to be durable."""


class HeldNodes:
    """Files on their way into a target: their nodes are held back until what they link to is durable."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._levels: defaultdict[int, list[Block]] = defaultdict(list)

    def save(self, blocks: list[Block]) -> int:
        """How many blocks there are; those that lack are taken. Children come before parents."""
        distinct = {block.cid: block for block in blocks}
        lacking = self._target.lacking(list(distinct))
        self._target.save_many([distinct[cid] for cid in lacking if not is_file(cid)])
        heights: dict[bytes, int] = {}
        for cid, data in filter(lambda block: is_file(block.cid), distinct.values()):
            heights[cid] = 1 + max(heights.get(link, 0) for link in unixfs.links(data))
        for cid in filter(is_file, lacking):
            self._levels[heights[cid]].append(distinct[cid])
        if sum(map(len, self._levels.values())) > HELD:
            self.release()
        return len(distinct)

    def release(self) -> None:
        """Writes the nodes."""
        for height in sorted(self._levels):
            self._target.flush()
            self._target.save_many(self._levels.pop(height))


def split_as(pointer: bytes, value: bytes) -> list[Block]:
    """The blocks of a file, children before parents. Raises `BlockMismatch` when it was split otherwise."""
    hasher = next((name for name, code in HASH_CODES.items() if code == parse(pointer).hash_code), "")
    found, blocks = unixfs.split(value, hasher)
    if parse(found) != parse(pointer):
        raise BlockMismatch(
            f"file {text(pointer)}: its {len(value)} bytes, split at 1 MiB, are {text(found)}. The source gives "
            "it only whole: copy it from a store that gives the blocks into which it was split"
        )
    # The same hash under an older CID has the same bytes.
    return [*blocks[:-1], Block(pointer, blocks[-1].data)]
