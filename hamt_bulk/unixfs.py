"""
Values of more than one block, as UnixFS files.

What `ipfs add --chunker=size-1048576 --raw-leaves --cid-version=1` makes of the same bytes: raw
leaves of 1 MiB under a balanced tree of dag-pb nodes, filled from left to right.

    PBNode = (12 <length> PBLink)* 0a <length> File          links first, then data
    PBLink = 0a <length> <cid>  12 00  18 <tsize>            the name is empty
    File   = 08 02  18 <filesize>  (20 <blocksize>)*         one block size per link
    tsize  = a leaf's length; for a node its block's length and the tsizes of its links

Nodes of other importers may carry bytes of their own, which precede those of their links
(`12 <length> <bytes>` in File, whose type `02` may be `00`, Raw, where there are no links), leave
out names, tsizes and the filesize, and add mode and mtime.

Source: https://github.com/ipfs/specs/blob/main/UNIXFS.md and https://ipld.io/specs/codecs/dag-pb/spec/
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from hamt_bulk.block import DAG_PB, RAW, Block, Data, identify, parse, read_varint, text, varint
from hamt_bulk.errors import InvalidInput, MalformedNode
from hamt_bulk.reads import Reads

LEAF_BYTES = 1 << 20
"""The length of every leaf but the last."""

MAX_LINKS = 174
"""Links of a node that is written. Newer profiles have 1024, which gives other roots above 174 MiB."""

MAX_LEVELS = 8
"""Levels of nodes above the leaves. Eight of `MAX_LINKS` hold more than any file system does."""

MAX_PIECES = 1 << 19
"""Blocks that one `read` puts together, at a hundred bytes each. Nodes that link one child thousands of times, level
upon level, stand for more pieces than memory holds; half a terabyte in leaves of 1 MiB is fine."""

MAX_REPEATED_BYTES = 2 << 30
"""What one `read` makes of blocks that it has already: a few of them, linked again and again, stand for more bytes
than memory holds. What is read is at most so much more than what was loaded for it."""

MAX_NODE_BYTES = 2 << 20
"""The most that IPFS exchanges as one block, and so a bound for the links of a node: some 50,000."""

_RAW_TYPE = 0
_FILE_TYPE = 2


class Node(NamedTuple):
    """A dag-pb block: `inline` comes before the bytes of the links; `sizes` are those of the links."""

    inline: Data
    links: list[bytes]
    sizes: list[int]

    @property
    def size(self) -> int:
        return len(self.inline) + sum(self.sizes)


class _Want(NamedTuple):
    """Bytes [start, stop) of what `cid` names. `size` is what its parent says; a root has no parent."""

    cid: bytes
    start: int
    stop: int | None
    size: int | None

    @property
    def length(self) -> int:
        assert self.stop is not None
        return self.stop - self.start


class _Child(NamedTuple):
    """What a node records of one link."""

    cid: bytes
    size: int
    tsize: int


def split(
    value: Data, hasher: str, *, leaf_bytes: int = LEAF_BYTES, max_links: int = MAX_LINKS
) -> tuple[bytes, list[Block]]:
    """
    The root CID of `value` and all of its blocks, children before parents.

    Leaves are views of `value`, not copies. A value of at most one leaf is one raw block.
    Equal leaves are listed as often as they occur.
    """
    if leaf_bytes < 1 or max_links < 2:
        raise InvalidInput(f"leaf_bytes={leaf_bytes}, max_links={max_links}: at least 1 and 2 are needed")
    total = memoryview(value).nbytes
    if total <= leaf_bytes:
        leaf = Block(identify(value, RAW, hasher), value)
        return leaf.cid, [leaf]
    view = memoryview(value).cast("B")
    leaves = [view[at : at + leaf_bytes] for at in range(0, total, leaf_bytes)]
    blocks = [Block(identify(leaf, RAW, hasher), leaf) for leaf in leaves]
    level = [_Child(block.cid, len(block.data), len(block.data)) for block in blocks]
    for _ in range(MAX_LEVELS):
        groups = [level[at : at + max_links] for at in range(0, len(level), max_links)]
        level = []
        for group in groups:
            data = _encode(group)
            blocks.append(Block(identify(data, DAG_PB, hasher), data))
            tsize = len(data) + sum(child.tsize for child in group)
            level.append(_Child(blocks[-1].cid, sum(child.size for child in group), tsize))
        if len(level) == 1:
            return level[0].cid, blocks
    raise InvalidInput(
        f"{len(leaves)} leaves with max_links={max_links} need more than {MAX_LEVELS} levels: raise either"
    )


def read(root: bytes, start: int = 0, stop: int | None = None) -> Reads[bytes]:
    """
    Bytes [start, stop) of the value, as slicing would give them. `stop=None` is its end.

    Asks for the blocks that the range needs and for no others; an empty range needs none. Raises
    `MalformedNode` where the nodes do not agree with each other. Memory is that of the blocks and of the range,
    whatever sizes the nodes claim; see `MAX_REPEATED_BYTES`.
    """
    if start < 0 or (stop is not None and stop < 0):
        raise InvalidInput(f"{text(root)}: range [{start}, {stop}), expected bounds of 0 and up")
    _check_codec(root)
    parts: list[Data | _Want] = [_Want(root, start, stop, None)] if stop is None or start < stop else []
    repeated = 0  # bytes that are there by now, of blocks that came more than once
    for level in range(MAX_LEVELS + 2):
        wants = [part for part in parts if isinstance(part, _Want)]
        if not wants:
            break
        if level > MAX_LEVELS:
            raise MalformedNode(f"{text(root)}: more than {MAX_LEVELS} levels of nodes above a leaf")
        if repeated + _repeated(wants) > MAX_REPEATED_BYTES:
            raise _too_much(root, f"{MAX_REPEATED_BYTES} bytes of blocks that come again")
        wanted = list(dict.fromkeys(want.cid for want in wants))
        blocks = yield wanted
        nodes = {cid: decode(cid, data) for cid, data in zip(wanted, blocks, strict=True)}
        deeper: list[Data | _Want] = []
        seen: set[bytes] = set()
        for part in parts:
            if not isinstance(part, _Want):
                deeper.append(part)
                continue
            for piece in _cut(part, nodes[part.cid]):
                deeper.append(piece)
                if part.cid in seen and not isinstance(piece, _Want):
                    repeated += len(piece)
            seen.add(part.cid)
            if len(deeper) > MAX_PIECES:
                raise _too_much(root, f"{MAX_PIECES} pieces")
        parts = deeper
    return b"".join(part for part in parts if not isinstance(part, _Want))


def size(root: bytes) -> Reads[int]:
    """The length of the value in bytes, from its root block alone."""
    _check_codec(root)
    [data] = yield [root]
    return decode(root, data).size


def links(data: Data) -> list[bytes]:
    """The CIDs that a dag-pb block links to, in order. It need not be of a file."""
    try:
        return _decode_node(bytes(data))[0]
    except ValueError as error:
        raise MalformedNode(f"dag-pb block of {len(data)} bytes: {error}") from None


def _encode(children: Sequence[_Child]) -> bytes:
    """The dag-pb node of `children`."""
    out = bytearray()
    file = bytearray(b"\x08\x02\x18" + varint(sum(child.size for child in children)))
    for cid, size, tsize in children:
        link = b"\x0a" + varint(len(cid)) + cid + b"\x12\x00\x18" + varint(tsize)
        out += b"\x12" + varint(len(link)) + link
        file += b"\x20" + varint(size)
    return bytes(out + b"\x0a" + varint(len(file)) + file)


def _cut(want: _Want, node: Node) -> Iterator[Data | _Want]:
    """What makes up `want`, in order: bytes that `node` has itself, and what is wanted of its links."""
    total = node.size
    if want.size is not None and want.size != total:
        raise MalformedNode(
            f"{text(want.cid)}: {total} bytes, expected the {want.size} that its parent records"
        )
    start, stop, _ = slice(want.start, want.stop).indices(total)
    at = len(node.inline)
    if at and start == 0 and stop >= at:
        yield node.inline
    elif start < min(stop, at):
        yield memoryview(node.inline)[start:stop]
    for cid, size in zip(node.links, node.sizes, strict=True):
        first, last = max(start - at, 0), min(stop - at, size)
        if first < last:
            yield _Want(cid, first, last, size)
        at += size


def _repeated(wants: Sequence[_Want]) -> int:
    """How many bytes are wanted of blocks that stand before in `wants`."""
    seen: set[bytes] = set()
    total = 0
    for want in wants:
        if want.cid in seen:
            total += want.length
        seen.add(want.cid)
    return total


def _too_much(root: bytes, what: str) -> MalformedNode:
    return MalformedNode(f"{text(root)}: more than {what} in the range: read it in smaller ranges")


def _check_codec(cid: bytes) -> None:
    codec = parse(cid).codec
    if codec not in (RAW, DAG_PB):
        raise MalformedNode(f"{text(cid)}: codec {codec:#x}, expected raw (0x55) or dag-pb (0x70)")


def decode(cid: bytes, data: Data) -> Node:
    """The block `cid`, of either codec. Its sizes agree with each other, not yet with its children."""
    if parse(cid).codec == RAW:
        return Node(data, [], [])
    try:
        links, content = _decode_node(bytes(data))
        return _decode_file(links, content)
    except ValueError as error:
        raise MalformedNode(f"{text(cid)}: {error}") from None


def _decode_node(data: bytes) -> tuple[list[bytes], bytes | None]:
    """The link CIDs and the data of a PBNode."""
    if len(data) > MAX_NODE_BYTES:
        raise ValueError(f"{len(data)} bytes, a dag-pb node has at most {MAX_NODE_BYTES}")
    links: list[bytes] = []
    content: bytes | None = None
    for tag, value in _fields(data):
        match tag, value:
            case 0x12, bytes():
                links.append(_decode_link(value))
            case 0x0A, bytes() if content is None:
                content = value
            case _:
                raise ValueError(f"tag {tag:#x} in a node, expected links (0x12) and data (0xa), once")
    return links, content


def _decode_link(data: bytes) -> bytes:
    """The CID in a PBLink. Name and tsize say nothing about a file's bytes."""
    cid: bytes | None = None
    for tag, value in _fields(data):
        match tag, value:
            case 0x0A, bytes() if cid is None:
                parse(value)
                cid = value
            case ((0x12 | 0x18), _):
                pass
            case _:
                raise ValueError(
                    f"tag {tag:#x} in a link, expected one CID (0xa), a name (0x12), a tsize (0x18)"
                )
    if cid is None:
        raise ValueError("a link without a CID")
    return cid


def _decode_file(links: list[bytes], content: bytes | None) -> Node:
    """The node of a file with these links, checked against what its File message says."""
    if content is None:
        raise ValueError("a dag-pb node without data, expected a UnixFS file")
    sizes: list[int] = []
    kind: int | None = None
    inline: bytes | None = None
    declared: int | None = None
    for tag, value in _fields(content):
        match tag, value:
            case 0x20, int():
                sizes.append(value)
            case 0x08, int() if kind is None:
                kind = value
            case 0x12, bytes() if inline is None:
                inline = value
            case 0x18, int() if declared is None:
                declared = value
            case ((0x08 | 0x12 | 0x18), _):
                raise ValueError(f"tag {tag:#x} twice in UnixFS data, expected it once")
            case _:  # mode, mtime and the like
                pass
    if kind != _FILE_TYPE and not (kind == _RAW_TYPE and not links):
        raise ValueError(f"UnixFS type {kind} with {len(links)} links, expected a file (2)")
    if len(sizes) != len(links):
        raise ValueError(f"{len(sizes)} block sizes, expected one for each of {len(links)} links")
    for link in links:
        _check_codec(link)
    node = Node(inline or b"", links, sizes)
    if declared is not None and declared != node.size:
        raise ValueError(f"filesize {declared}, expected {node.size}, the sum of its parts")
    return node


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """The tag (field number << 3 | wire type) and value of every protobuf field, in order."""
    at = 0
    while at < len(data):
        tag, at = read_varint(data, at)
        match tag & 7:
            case 0:
                value, at = read_varint(data, at)
                yield tag, value
                continue
            case 1:
                length = 8
            case 2:
                length, at = read_varint(data, at)
            case 5:
                length = 4
            case wire:
                raise ValueError(f"protobuf wire type {wire}, expected 0, 1, 2 or 5")
        if length > len(data) - at:
            raise ValueError(f"a protobuf field of {length} bytes, but {len(data) - at} are left")
        yield tag, data[at : at + length]
        at += length
