"""
Blocks sent to a Kubo daemon, many at a time, held until their root is pinned.

    dag/import   CARv1 whose one root is a link list of its blocks, pinned as it arrives

    link list = dag-cbor [token, link, …]     each link under codec raw, so that whoever walks it stops there

A pin is recursive, so without the codec a node would drag in values that are not there yet. Kubo protects from
garbage collection what it pins as it imports, and deletes what it does not in the middle of the import.

The blocks too are sent under codec raw: Kubo keeps blocks by their hashes, and would decode every other one, and
refuse what is saved as dag-cbor and is none.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence

from hamt_bulk.block import CODECS, DAG_CBOR, HASH_CODES, RAW, Block, Data, identify, parse, text, varint
from hamt_bulk.car import cbor_links, header_v1, section_head
from hamt_bulk.cas.ipfs.rpc import LONG_SECONDS, CommandFailed, Rpc
from hamt_bulk.errors import BlockMismatch

MAX_IMPORT_BYTES = 16 << 20
MAX_IMPORT_BLOCKS = 16_000
"""What one request carries. 5,000 small blocks or 16 MiB are enough for full speed; 41 bytes a link fit a block."""

_JOINED_BYTES = 1 << 16  # smaller blocks are copied together, larger ones sent as they are
_PIECE_BYTES = 1 << 18
_PUT_AT_ONCE = 512

PIN_SECONDS = 60
"""What pinning a link list may take. On the network Kubo would wait for ever for a block that it lacks."""


async def import_held(rpc: Rpc, held: Block, blocks: Mapping[bytes, bytes]) -> None:
    """
    Sends `blocks`, if any, and a block that holds them, which is pinned as it arrives.

    By `dag/import`; where that is not allowed, by `block/put`.
    """
    try:
        await _import(rpc, held, blocks)
    except CommandFailed as error:
        if error.status not in (403, 404, 405):
            raise
        try:
            await _put(rpc, held, blocks)
        except CommandFailed as other:
            if other.status in (403, 404, 405):
                raise error from other  # neither is allowed; the first is what to ask for
            raise


def link_list(cids: Collection[bytes], hasher: str, token: str = "") -> Block:
    """
    The block that links `cids` and nothing below them.

    token  makes it another one than whoever else writes the same blocks has, and lets go of
    """
    data = cbor_links(list(map(raw_name, cids)), token)
    return Block(identify(data, DAG_CBOR, hasher), data)


async def _import(rpc: Rpc, held: Block, blocks: Mapping[bytes, bytes]) -> None:
    options = [("pin-roots", "true"), ("stats", "true"), ("fast-provide-root", "false")]
    lines = await rpc.lines("dag/import", options, files=[list(_car(held, blocks))], seconds=LONG_SECONDS)
    with rpc.understood("dag/import", lines):
        stats = [dict(line["Stats"]) for line in lines if "Stats" in line]
        pinned = {
            line["Root"]["Cid"]["/"]: line["Root"].get("PinErrorMsg") for line in lines if "Root" in line
        }
    expected = {
        "BlockCount": 1 + len(blocks),
        "BlockBytesCount": len(held.data) + sum(map(len, blocks.values())),
    }
    if not stats or any(stats[0].get(name) != count for name, count in expected.items()):
        raise rpc.server.failure(
            f"dag/import answered {str(stats or 'no Stats')[:300]}, expected {expected}: "
            "not all blocks arrived, or this Kubo is older than 0.15"
        )
    name = text(held.cid)
    if pinned.get(name, "it is not in the answer"):
        raise rpc.server.failure(
            f"dag/import did not pin {name}: {pinned.get(name, 'it is not in the answer')}"
        )


def _car(held: Block, blocks: Mapping[bytes, bytes]) -> Iterator[bytes]:
    """A CARv1 of `blocks` in pieces: small blocks joined, large ones as they are."""
    waiting: list[Data] = [header_v1([held.cid]), section_head(held.cid, len(held.data)), held.data]
    size = len(held.data)
    for cid, data in blocks.items():
        waiting.append(section_head(raw_name(cid), len(data)))
        if len(data) > _JOINED_BYTES:
            yield b"".join(waiting)
            yield data
            waiting, size = [], 0
            continue
        waiting.append(data)
        size += len(data)
        if size > _PIECE_BYTES:
            yield b"".join(waiting)
            waiting, size = [], 0
    yield b"".join(waiting)


async def _put(rpc: Rpc, held: Block, blocks: Mapping[bytes, bytes]) -> None:
    """By `block/put`, which takes several blocks of one kind; the link list comes last and is pinned."""
    kinds: dict[int, list[Block]] = {}
    for cid, data in blocks.items():
        kinds.setdefault(parse(cid).hash_code, []).append(Block(raw_name(cid), data))
    for some in kinds.values():
        for at in range(0, len(some), _PUT_AT_ONCE):
            await _put_some(rpc, some[at : at + _PUT_AT_ONCE])
    await pin_list(rpc, held)


async def pin_list(rpc: Rpc, held: Block) -> None:
    """Sends a link list, and pins it. Raises `CommandFailed` when some of what it links is not there."""
    # Not with the option `pin` of block/put: that pins without a look, and a pin with a hole stops all collections.
    await _put_some(rpc, [held])
    options = [("arg", text(held.cid)), ("timeout", f"{PIN_SECONDS}s")]
    await rpc.command("pin/add", options, seconds=LONG_SECONDS)


async def _put_some(rpc: Rpc, blocks: Sequence[Block]) -> None:
    names = {number: name for name, number in (CODECS | HASH_CODES).items()}
    kind = parse(blocks[0].cid)
    options = [("cid-codec", names[kind.codec]), ("mhtype", names[kind.hash_code])]
    lines = await rpc.lines("block/put", options, files=[[data] for _, data in blocks], seconds=LONG_SECONDS)
    found = [line.get("Key") for line in lines]
    expected = [text(block.cid) for block in blocks]
    if len(found) != len(expected):
        raise rpc.server.failure(f"block/put answered {len(found)} names, expected {len(expected)}")
    for name, own in zip(found, expected, strict=True):
        if name != own:
            raise BlockMismatch(f"{rpc.server.address}: block/put answered {name!r:.200}, expected {own}")


def raw_name(cid: bytes) -> bytes:
    """The same multihash under codec raw."""
    if len(cid) == 36:
        return b"\x01\x55" + cid[2:]
    parts = parse(cid)
    return bytes((1, RAW)) + varint(parts.hash_code) + varint(len(parts.digest)) + parts.digest
