"""A tree and its values, from one store to another."""

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from hamt_bulk import unixfs
from hamt_bulk.block import DAG_CBOR, AnyCID, Block, Data, parse, text, to_bytes
from hamt_bulk.cas import CarCAS, ContentAddressedStore, open_cas
from hamt_bulk.errors import InvalidInput, MalformedNode
from hamt_bulk.formats.kinds import is_root_of_others, links_of_block
from hamt_bulk.layout import PyHamt
from hamt_bulk.progress import BuildProgress, ProgressOption, progress_of
from hamt_bulk.roots.files import HeldNodes, split_as
from hamt_bulk.roots.names import Names, Recent, batches, is_file
from hamt_bulk.roots.transfer import BLOCKS_AT_ONCE, Source, Target, ValueTarget, plain, target_of
from hamt_bulk.tree.guards import refuse_no_cid

ASKED_AT_ONCE = 1024
"""Blocks that the target is asked for together."""

MAX_LEVELS = 177
"""Nodes below one another: a root, and one for every three bits of a hash of 64 bytes. No file is that deep.
A node is read once a level, and to be written, however often it is linked."""

_Links: TypeAlias = Callable[[bytes, Data], Iterator[bytes]]
"""The nodes that a node links to."""

_Show: TypeAlias = Callable[[BuildProgress], None]


@dataclass(frozen=True, slots=True)
class Copied:
    """
    What a copy did.

    blocks         of the tree and its values that were looked at, whether the target had them or not
    bytes          of those that were read: all nodes, and the values that the target lacked
    copied_blocks  that the target lacked and now has
    copied_bytes   theirs

    Where a store gives or takes files only whole, a file is one block, or as many as it is split into.
    """

    root: str
    blocks: int
    bytes: int
    copied_blocks: int
    copied_bytes: int


def copy(
    root: AnyCID | None,
    source: ContentAddressedStore | str | os.PathLike[str],
    target: ContentAddressedStore | str | os.PathLike[str],
    *,
    progress: ProgressOption = None,
) -> Copied:
    """
    What was copied, so that `target` has the tree `root` and all its values.

    root      `None`: the one root that a CAR file names, where that is the source
    target    a store; or the name of a .car file, which is made new, with an index and that one root. One
              that is there is never written to: it may be named again when it has the whole tree
    progress  as in `to_hamt`

    Of a root of another kind (`open_root`) all dag-cbor blocks are nodes, and all that they link to is copied.

    Blocks that the target has are not copied, values that it has are not read. Files are copied with all of
    their blocks; what else a value may link to is not followed. Whenever the copy is interrupted, no node
    that it wrote links to a block that is not there, and a second call goes on.

    Raises `BlockNotFound` and `BlockMismatch` for what is missing or damaged in the source, and
    `InvalidInput` when the target cannot hold a block under its name.
    """
    origin = plain(open_cas(source))
    binary = _root_of(root, origin)
    with progress_of(progress) as show, target_of(plain(open_cas(target)), binary) as destination:
        walk = _Copy(Source(origin), destination, show)
        walk.tree(binary)
        destination.finish()
    copied = destination.copied
    return Copied(text(binary), walk.blocks, walk.bytes, copied.blocks, copied.bytes)


def _root_of(root: AnyCID | None, source: ContentAddressedStore) -> bytes:
    if root is not None:
        return to_bytes(root)
    if not isinstance(source, CarCAS):
        raise InvalidInput(f"root=None: {source!r} names no root, as a .car file does: give the root")
    roots = [to_bytes(cid) for cid in source.roots]
    if len(roots) != 1:
        some = ", ".join(map(text, roots[:3]))
        raise InvalidInput(f"root=None: {source.path} names {len(roots)} roots, expected one: {some}")
    return roots[0]


class _Copy:
    """
    The walk, and what it has counted.

    It goes down level by level, copies values as it comes upon them, and notes the nodes, of the tree and
    of files. When there are no more it writes the nodes, the deepest first and the root last. Each level
    is durable before the one above is begun, since a store may take the blocks of a batch in any order.
    """

    def __init__(self, source: Source, target: Target, show: _Show) -> None:
        self._source = source
        self._target = target
        self._show = show
        self._recent = Recent()
        self._leaves: list[bytes] = []
        self._files = Names()
        self._is_tree: bool | None = None
        self.blocks = self.bytes = self._done = self._total = 0

    def tree(self, root: bytes) -> None:
        """Copies everything below `root`, and it."""
        levels = self._walk(Names([root]), self._below_root)
        files = self._files.distinct()
        if isinstance(self._target, ValueTarget):
            self._save_files(files, self._target)
        elif self._source.gives_blocks:
            levels += self._walk(files, self._below_file)
        else:
            self._split_files(files)
        if self._leaves:
            self._copy_leaves()
        self._target.flush()
        self._write(levels)

    def _walk(self, first: Names, below: _Links) -> list[Names]:
        """The levels of nodes from `first` on. What they hold is copied."""
        levels = [first]
        while level := levels[-1]:
            if len(levels) > MAX_LEVELS:
                deepest = text(next(iter(level)))
                raise MalformedNode(
                    f"{deepest} lies below {MAX_LEVELS} levels of nodes, more than a tree has"
                )
            self.blocks += len(level)
            self._total += len(level)
            deeper = Names()
            for batch in batches(level, BLOCKS_AT_ONCE):
                for cid, data in zip(batch, self._source.blocks(batch), strict=True):
                    self.bytes += len(data)
                    for link in below(cid, data):
                        deeper.add(link)
                self._step(len(batch))
            # Files share nodes; in a tree nobody builds links may multiply from level to level.
            levels.append(deeper.distinct())
        return levels[:-1]

    def _below_root(self, cid: bytes, data: Data) -> Iterator[bytes]:
        """Of a root, which tells how the nodes below it are to be read: those of other trees as IPLD of any kind."""
        if self._is_tree is None:
            self._is_tree = not is_root_of_others(data)
        return (self._below_node if self._is_tree else self._below_any)(cid, data)

    def _below_any(self, cid: bytes, data: Data) -> Iterator[bytes]:
        for link in links_of_block(cid, data):
            if parse(link).codec == DAG_CBOR:
                yield link
            else:
                self._take(link)

    def _below_node(self, cid: bytes, data: Data) -> Iterator[bytes]:
        for slot in PyHamt().decode(cid, data):
            if isinstance(slot, bytes):
                refuse_no_cid(slot, cid, "a child")
                yield slot
            elif slot:
                for key, pointer in slot.items():
                    refuse_no_cid(pointer, cid, f"the value of {key!r}")
                    self._take(pointer)

    def _below_file(self, cid: bytes, data: Data) -> Iterator[bytes]:
        try:
            links = unixfs.links(data)
        except MalformedNode as error:
            raise MalformedNode(f"{text(cid)}: {error}") from None
        for link in links:
            if is_file(link):
                yield link
            else:
                self._take(link)

    def _take(self, pointer: bytes) -> None:
        """Copies a value, sooner or later. It may come again under other keys."""
        if not self._recent.is_new(pointer):
            return
        if is_file(pointer):
            self._files.add(pointer)
            return
        self._leaves.append(pointer)
        if len(self._leaves) == ASKED_AT_ONCE:
            self._copy_leaves()

    def _copy_leaves(self) -> None:
        leaves, self._leaves = self._leaves, []
        self.blocks += len(leaves)
        self.bytes += self._copy(leaves)

    def _copy(self, cids: Sequence[bytes]) -> int:
        """Copies those that lack, and says how many bytes they are."""
        read = 0
        for batch in batches(self._target.lacking(cids), BLOCKS_AT_ONCE):
            blocks = [Block(cid, data) for cid, data in zip(batch, self._source.blocks(batch), strict=True)]
            read += sum(len(data) for _, data in blocks)
            self._target.save_many(blocks)
        return read

    def _save_files(self, files: Names, target: ValueTarget) -> None:
        """Copies files to a store that takes them whole."""
        self._total += len(files)
        self.blocks += len(files)
        for batch in batches(files, ASKED_AT_ONCE):
            for pointer in target.lacking(batch):
                value = self._source.value(pointer)
                self.bytes += len(value)
                target.save_value(pointer, value)
            self._step(len(batch))

    def _split_files(self, files: Names) -> None:
        """Copies files that the source gives only whole, where the target lacks a block of them."""
        self._total += len(files)
        nodes = HeldNodes(self._target)
        for pointer in files:
            there = self._target.blocks_of_file(pointer)
            if there is None:
                value = self._source.value(pointer)
                self.bytes += len(value)
                there = nodes.save(split_as(pointer, value))
            self.blocks += there
            self._step(1)
        nodes.release()

    def _write(self, levels: Sequence[Names]) -> None:
        """Copies nodes, those of the last level first."""
        self._done, self._total = 0, sum(map(len, levels))
        for level in reversed(levels):
            for batch in batches(level, ASKED_AT_ONCE):
                self._copy(batch)
                self._step(len(batch), "nodes")
            self._target.flush()

    def _step(self, done: int, stage: str = "copy") -> None:
        self._done += done
        self._show(BuildProgress(stage, self._done, self._total))
