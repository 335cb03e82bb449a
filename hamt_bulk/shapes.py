"""The shape that an IPLD HashMap has, told from its blocks."""

from functools import partial

from hamt_bulk.block import Data, text
from hamt_bulk.cas.wrap import Reader
from hamt_bulk.errors import InvalidInput, MalformedNode
from hamt_bulk.hashers import MURMUR3_32, SHA2_256, HashFn, KeyHasher, blake3_hashfn, hasher_of
from hamt_bulk.layout import HashMap, HashMapNodes, Layout, PyHamt, PyHamt2, Slot, chosen, py_hamt_2_hashfn
from hamt_bulk.layout.hashmap import has_text_keys, is_hashmap, read_root
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
    if not is_hashmap(data):
        return layout, hash_fn
    return chosen(shape_of(root, data, reader), layout.max_bucket_size, hash_fn, layout.hasher)


MAX_SAMPLE_DEPTH = 176
"""No way is longer: 64 bytes of a hash, of which a level takes three bits at least."""


def shape_of(root: bytes, data: Data, reader: Reader) -> HashMap:
    """
    The shape of the HashMap whose root is the block `data`.

    js ipld-hashmap records whatever hash it is told and places keys by sha2-256. So where the first keys do not lie where the
    recorded hash puts them, or nobody knows that hash, and they do where sha2-256 would, that is the hasher. An early
    version of dClimate's ipldstore had the bytes of murmur3-32 the other way round.

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
    others = [KeyHasher(f"sha2-256, recorded as {recorded.name}", code, SHA2_256.hash)]
    if code == MURMUR3_32.code:
        others.append(KeyHasher("murmur3-32, big-endian", code, murmur3_32_big_endian))
    for hasher in (recorded, *others):
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


def murmur3_32_big_endian(data: bytes) -> bytes:
    """The 4 bytes of `murmur3_32_hashfn`, big-endian."""
    return MURMUR3_32.hash(data)[::-1]


def placing_of_2(root: bytes, data: Data, reader: Reader) -> HashFn:
    """
    What places the keys of the tree of py-hamt 2 whose root is the block `data`.

    Where the first keys do not lie by any byte of their hash, that is for lookups to find. Raises `MalformedNode` for another
    block, `InvalidInput` for a child node.
    """
    layout = PyHamt2()
    path, entries, _ = _first_entries(root, layout.decode(root, data, is_root=True), layout, reader)
    for hash_fn in (py_hamt_2_hashfn, blake3_hashfn):
        if _lie_there(path, entries, layout, hash_fn):
            return hash_fn
    below = next(
        (at - 1 for at in range(2, 32) if _lie_there(path, entries, layout, partial(_from_byte, at))), 0
    )
    if below:
        raise InvalidInput(
            f"{text(root)} is not the root of a tree of py-hamt 2 but a child node at depth {below} of one: pass its root"
        )
    return py_hamt_2_hashfn


def _first_entries(
    root: bytes, slots: list[Slot], layout: Layout, reader: Reader
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


def _from_byte(at: int, key: bytes) -> bytes:
    return blake3_hashfn(key)[at:]


def _lie_there(path: bytes, entries: list[tuple[int, bytes]], layout: Layout, placement: HashFn) -> bool:
    return all(placement(key).startswith(path + layout.path(number)) for number, key in entries)
