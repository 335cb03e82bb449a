"""Which blocks of a store are needed: by the roots that are kept, and by builds that may be gone on with."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice

from hamt_bulk import unixfs
from hamt_bulk.block import DAG_CBOR, DAG_PB, Data, parse, text
from hamt_bulk.cas import PackCAS
from hamt_bulk.errors import BlockMismatch, BlockNotFound, HamtError, InvalidInput, MalformedNode
from hamt_bulk.formats.kinds import is_root_of_others, links_of_block
from hamt_bulk.layout import EMPTY_NODES, PyHamt, Slot
from hamt_bulk.manifest import HashFn
from hamt_bulk.packs.digests import Digests
from hamt_bulk.tree.guards import refuse_other_root

NODES_AT_ONCE = 64
VALUES_AT_ONCE = 4096


class Marking:
    """
    The blocks that were marked so far.

    live    all of them
    nodes   that were read, of trees and of files
    absent  blocks that journals name and the store does not have: their builds will write them again
    """

    def __init__(self, cas: PackCAS, hash_fn: HashFn, show: Callable[[int, int], None]) -> None:
        self._cas = cas
        self._hash_fn = hash_fn
        self._show = show
        self._layout = PyHamt()
        # The same bytes may be a node here and a value there, which is not followed: so these are sets of their own.
        self._trees, self._files = Digests(), Digests()
        self.live = Digests()
        self.nodes = self.absent = 0

    def tree(self, root: bytes) -> None:
        """
        Marks all that `root` reaches. The values are looked for, and not read.

        Raises what is wrong with the first block that is missing, damaged or no node; `InvalidInput` for what is no root.
        """
        with _naming(root):
            [data] = self._blocks([root])
            is_tree = not is_root_of_others(data)
            slots = self._layout.decode(root, data, is_root=True) if is_tree else []
        if is_tree:
            refuse_other_root(root, slots, self._layout, self._hash_fn)
        self.live.add_many([root])
        waiting = self._trees.add_many([root])
        with _naming(root):
            while waiting:
                batch = waiting[-NODES_AT_ONCE:]
                del waiting[-NODES_AT_ONCE:]
                links: list[bytes] = []
                values: dict[bytes, str] = {}
                for cid, data in zip(batch, self._blocks(batch), strict=True):
                    if is_tree:
                        _take(cid, self._layout.decode(cid, data), links, values)
                    else:
                        _take_any(cid, data, links, values)
                self.live.add_many(links)
                waiting += self._trees.add_many(link for link in links if link not in EMPTY_NODES)
                self._values(values)
                self._show(self.nodes, self.nodes + len(waiting))

    def finished(self, values: Iterable[bytes]) -> None:
        """Marks values that builds have finished, as far as they are there."""
        rest = iter(values)
        while batch := list(islice(rest, VALUES_AT_ONCE)):
            self.absent += self._cas.has_blocks(self.live.add_many(batch)).count(False)
            for cid in self._files.add_many(cid for cid in batch if _is_file(cid)):
                try:
                    self._below([cid])
                except (BlockNotFound, BlockMismatch, MalformedNode):
                    self.absent += 1

    def _blocks(self, cids: Sequence[bytes]) -> list[Data]:
        self.nodes += len(cids)
        return self._cas.load_blocks(cids)

    def _values(self, values: dict[bytes, str]) -> None:
        """Marks values, of which each has a key, and looks for them."""
        self._look([cid for cid in self.live.add_many(values) if not _is_file(cid)], values)
        self._below(self._files.add_many(filter(_is_file, values)))

    def _look(self, cids: Sequence[bytes], keys: dict[bytes, str]) -> None:
        for start in range(0, len(cids), VALUES_AT_ONCE):
            batch = cids[start : start + VALUES_AT_ONCE]
            for cid, there in zip(batch, self._cas.has_blocks(batch), strict=True):
                if not there:
                    key = f", the value of {keys[cid]!r}" if cid in keys else ""
                    raise BlockNotFound(f"no block {text(cid)}{key}, in {self._cas.path}")

    def _below(self, files: list[bytes]) -> None:
        """Marks what nodes of files link to."""
        waiting = files
        while waiting:
            batch = waiting[-NODES_AT_ONCE:]
            del waiting[-NODES_AT_ONCE:]
            links: list[bytes] = []
            for data in self._blocks(batch):
                links += unixfs.links(data)
            self._look([cid for cid in self.live.add_many(links) if not _is_file(cid)], {})
            waiting += self._files.add_many(filter(_is_file, links))


def _take(cid: bytes, slots: Sequence[Slot], links: list[bytes], values: dict[bytes, str]) -> None:
    """Adds what a node links to."""
    for slot in slots:
        if isinstance(slot, bytes):
            links.append(_checked(cid, slot))
        else:
            values.update((_checked(cid, pointer), key) for key, pointer in slot.items())


def _take_any(cid: bytes, data: Data, links: list[bytes], values: dict[bytes, str]) -> None:
    """Adds what a node of another kind of tree links to: to dag-cbor as to nodes, to all else as to values."""
    for link in links_of_block(cid, data):
        if parse(link).codec == DAG_CBOR:
            links.append(link)
        else:
            values[link] = f"a link in {text(cid)}"


def _checked(node: bytes, cid: bytes) -> bytes:
    try:
        parse(cid)
    except InvalidInput as error:
        raise MalformedNode(f"node {text(node)} links {error}") from None
    return cid


def _is_file(cid: bytes) -> bool:
    return parse(cid).codec == DAG_PB


@contextmanager
def _naming(root: bytes) -> Iterator[None]:
    """Says of what is raised within that it is about `root`."""
    try:
        yield
    except HamtError as error:
        raise type(error)(
            f"{text(root)} cannot be walked to its end, so nothing was dropped: {error}. Copy what it lacks from "
            "another store, or leave that root out"
        ) from error
