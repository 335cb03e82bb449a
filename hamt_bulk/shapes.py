"""The shape that an IPLD HashMap has, told from its blocks."""

from hamt_bulk.block import Data, text
from hamt_bulk.cas.wrap import Reader
from hamt_bulk.errors import InvalidInput, MalformedNode
from hamt_bulk.hashers import SHA2_256, HashFn, KeyHasher, blake3_hashfn, hasher_of
from hamt_bulk.layout import HashMap, HashMapNodes, Layout, PyHamt, Slot, chosen
from hamt_bulk.layout.hashmap import ROOT_HEAD, has_text_keys, read_root
from hamt_bulk.tree.guards import links_of, sample

_PYHAMT = PyHamt()


def layout_of(
    root: bytes | None, reader: Reader, hash_fn: HashFn = blake3_hashfn, layout: PyHamt = _PYHAMT
) -> tuple[Layout, HashFn]:
    """
    The layout of a tree and what places its keys: those given, unless `root` is that of a HashMap. `None`: no tree.

    Raises as `chosen` does where a HashMap contradicts what was given; a root that is something else is for others to find.
    """
    if root is None:
        return layout, hash_fn
    [data] = reader.blocks([root])
    if not data.startswith(ROOT_HEAD):
        return layout, hash_fn
    return chosen(shape_of(root, data, reader), layout.max_bucket_size, hash_fn, layout.hasher)


MAX_SAMPLE_DEPTH = 176
"""No way is longer: 64 bytes of a hash, of which a level takes three bits at least."""


def shape_of(root: bytes, data: Data, reader: Reader) -> HashMap:
    """
    The shape of the HashMap whose root is the block `data`.

    js ipld-hashmap records whatever hash it is told and places keys by sha2-256. So where the first keys do not lie where the
    recorded hash puts them, or nobody knows that hash, and they do where sha2-256 would, that is the hasher.

    Raises `MalformedNode` for another block, `InvalidInput` when no known hash puts the keys where they are.
    """
    (bit_width, bucket_size, code), slots = read_root(root, data)
    text_keys = has_text_keys(data)
    shape = HashMap(bit_width, bucket_size, SHA2_256, text_keys)
    path, entries, first = _first_entries(root, slots, HashMapNodes(shape), reader)
    if first is not None:
        text_keys = has_text_keys(first)
    unknown: InvalidInput | None = None
    try:
        recorded = hasher_of(code)
    except InvalidInput as error:
        unknown, recorded = error, KeyHasher(f"sha2-256, recorded as {code:#x}", code, SHA2_256.hash)
    for hasher in (recorded, KeyHasher(f"sha2-256, recorded as {recorded.name}", code, SHA2_256.hash)):
        if unknown is not None and not entries:
            break
        shape = HashMap(bit_width, bucket_size, hasher, text_keys)
        if _lie_there(path, entries, HashMapNodes(shape), shape.placement):
            return shape
    if unknown is not None:
        raise InvalidInput(f"{text(root)} is the root of an IPLD HashMap: {unknown}")
    raise MalformedNode(
        f"{text(root)} is the root of an IPLD HashMap of the hash {recorded.name} ({code:#x}), but its keys lie where neither "
        "that nor sha2-256 puts them: it was built with another one, or damaged by its writer"
    )


def _first_entries(
    root: bytes, slots: list[Slot], layout: HashMapNodes, reader: Reader
) -> tuple[bytes, list[tuple[int, bytes]], Data | None]:
    """Where the first node that has entries lies, those entries, and its block unless it is the root."""
    path, data, cid = b"", None, root
    for _ in range(MAX_SAMPLE_DEPTH):
        entries = sample(slots, 8)
        links = links_of(cid, slots, layout)
        if entries or not links:
            return path, entries, data
        cid = links[0]
        path += layout.path(slots.index(cid))
        [data] = reader.blocks([cid])
        slots = layout.decode(cid, data)
    raise MalformedNode(f"{text(root)}: no entries within {MAX_SAMPLE_DEPTH} levels")


def _lie_there(
    path: bytes, entries: list[tuple[int, bytes]], layout: HashMapNodes, placement: HashFn
) -> bool:
    return all(placement(key).startswith(path + layout.path(number)) for number, key in entries)
