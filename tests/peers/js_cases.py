"""Maps for JavaScript's libraries and for us: drawn from a seed, so that hypothesis shrinks a few small numbers."""

import hashlib
import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dag_cbor.ipld import IPLDKind
from hypothesis import strategies as st
from multiformats import CID

from hamt_bulk import HashMap
from hamt_bulk.block import RAW, identify, to_cid
from hamt_bulk.hashers import hasher_of
from hamt_bulk.pointers import Inline

from .js_hashmap import JsOptions, Key, Step

MAX_SAFE_INTEGER = 2**53 - 1
"""JavaScript's numbers are exact up to this; ipld-hashmap refuses those beyond."""


class Item(NamedTuple):
    """A key and its value as our `build` takes it: bytes to save, a CID, `None` to delete it, or what stays inline."""

    key: Key
    value: Any


@dataclass(frozen=True)
class Case:
    """A map: its shape and, from a seed, its entries."""

    options: JsOptions
    count: int
    seed: int

    @property
    def layout(self) -> HashMap:
        options = self.options
        return HashMap(bit_width=options.bit_width, bucket_size=options.bucket_size, hasher=options.hash_code)

    def items(self, more: int = 0) -> list[Item]:
        """The entries, and some `more` after them; no key twice."""
        rng = random.Random(self.seed)
        found: dict[bytes, Item] = {}
        while len(found) < self.count + more:
            item = Item(a_key(rng), a_given(rng))
            found.setdefault(key_bytes(item.key), item)
        return list(found.values())

    def edits(self) -> list[Item]:
        """Items that delete some, or all, of the entries, change others and add new ones."""
        rng = random.Random(self.seed + 1)
        items = self.items(more=rng.randrange(30))
        keys = [item.key for item in items[: self.count]]
        deleted = rng.sample(keys, len(keys) * rng.choice([0, 1, 2, 4]) // 4)
        changed = rng.sample(keys, len(keys) // 3)
        return [
            *(Item(key, None) for key in deleted),
            *(Item(key, a_given(rng)) for key in changed),
            *items[self.count :],
        ]

    def absent(self) -> list[Key]:
        """Keys that the map has not; some differ from one that it has by a last byte."""
        rng = random.Random(self.seed + 2)
        there = {key_bytes(item.key) for item in self.items()}
        near = [key + b"\0" for key in sorted(there)[:3]]
        return [key for key in (*near, *(a_key(rng) for _ in range(5))) if key_bytes(key) not in there]

    def after(
        self, items: list[Item], before: Mapping[bytes, IPLDKind] | None = None
    ) -> dict[bytes, IPLDKind]:
        """What a map holds after `items`: inline values, and CIDs."""
        values = dict(before or {})
        for key, given in items:
            match given:
                case None:
                    values.pop(key_bytes(key), None)
                case Inline(value=value):
                    values[key_bytes(key)] = value
                case bytes():
                    values[key_bytes(key)] = to_cid(identify(given, RAW, self.options.block_hasher))
                case _:
                    values[key_bytes(key)] = given
        return values

    def steps(self, items: list[Item]) -> list[Step]:
        """What the peer does for `items`, which delete nothing."""
        values = self.after(items)
        return [(item.key, values[key_bytes(item.key)]) for item in items]


def inline_items(values: Mapping[bytes, IPLDKind]) -> Iterator[Item]:
    """Items that put these values into a map as they are."""
    for key, value in values.items():
        yield Item(key, value if isinstance(value, CID) else Inline(value))


def key_bytes(key: Key) -> bytes:
    return key.encode() if isinstance(key, str) else key


def a_key(rng: random.Random) -> Key:
    match rng.randrange(7):
        case 0:
            return rng.randbytes(rng.randrange(12))  # the empty key among them
        case 1:
            return "".join(
                chr(rng.choice([rng.randrange(32, 0x250), 0x1F600])) for _ in range(rng.randrange(6))
            )
        case 2:
            return b"\xff" * rng.randrange(30) + rng.randbytes(1)
        case 3:
            return "long/" * rng.choice([4, 5, 50, 51, 200]) + str(rng.randrange(100))
        case _:
            return f"temp/c/{rng.randrange(3)}/{rng.randrange(20)}/{rng.randrange(20)}"


def a_given(rng: random.Random) -> Any:
    """A value as `build` takes it: saved, linked, inline without being told, or told."""
    match rng.randrange(4):
        case 0:
            return rng.randbytes(rng.randrange(40))
        case 1:
            return a_link(rng)
        case 2:
            return rng.choice([rng.randrange(10**6), "text", True, 1.5, [a_link(rng)], {"a": a_link(rng)}])
        case _:
            return Inline(a_value(rng))


def a_link(rng: random.Random) -> CID:
    codec, hasher = rng.choice(["raw", "dag-cbor", "dag-pb"]), rng.choice(["sha2-256", "blake3"])
    return CID("base32", 1, codec, (hasher, rng.randbytes(32)))


def a_value(rng: random.Random, depth: int = 0) -> IPLDKind:
    """
    Any IPLD value that JavaScript writes as it reads it, which is not a link itself.

    Integers are as large as its own, and no float is a whole number: JavaScript would write an integer.
    """
    match rng.randrange(8 if depth < 3 else 6):
        case 0:
            return rng.choice([None, True, False])
        case 1:
            edges = [
                0,
                -1,
                23,
                24,
                255,
                256,
                65535,
                65536,
                2**32 - 1,
                2**32,
                MAX_SAFE_INTEGER,
                -MAX_SAFE_INTEGER,
            ]
            return rng.choice([*edges, rng.randrange(-(10**6), 10**6)])
        case 2:
            return rng.choice([0.5, -1.25, 1e-300, 0.1, rng.randrange(1000) + 0.7])
        case 3:
            return rng.choice(["", "text", "ü" * rng.randrange(20), "😀", "x" * 300])
        case 4:
            return rng.choice([b"", rng.randbytes(36), rng.randbytes(rng.randrange(300))])
        case 5:
            return [a_link(rng)]
        case 6:
            return [a_value(rng, depth + 1) for _ in range(rng.randrange(4))]
        case _:
            return {
                rng.choice(["", "/", "b", "aa", "9", "10", "ключ"]): a_value(rng, depth + 1) for _ in range(3)
            }


def crowded_digest(key: bytes) -> bytes:
    """
    Five bytes of which few differ, so that small maps are deep.

    Of keys that are numbers four after each other share theirs, and the next four differ in the last bits alone.
    """
    if key.isdigit():
        return b"\x42" + (int(key) // 4).to_bytes(4, "big")
    digest = hashlib.sha256(key).digest()
    return bytes(byte & 0x81 for byte in digest[:4]) + digest[4:5]


def _options(bit_width: int, bucket_size: int, placed: tuple[str, str], block_hasher: Any) -> JsOptions:
    library, key_hasher = placed
    return JsOptions(bit_width, bucket_size, library, hasher_of(key_hasher).code, block_hasher)  # type: ignore[arg-type]


_placed = st.sampled_from(
    [("ipld-hashmap", "sha2-256")] * 3
    + [("iamap", name) for name in ("sha2-256", "blake3", "murmur3-128", "murmur3-32")]
)
_hashers = st.sampled_from(["sha2-256", "blake3"])
_seeds = st.integers(0, 2**32)
_ordinary = st.builds(_options, st.integers(3, 8), st.integers(2, 9), _placed, _hashers)
_wide = st.builds(_options, st.integers(9, 16), st.integers(2, 5), _placed, _hashers)

maps = st.builds(Case, _ordinary, st.integers(0, 90), _seeds)
"""Maps of up to three levels and more."""

all_maps = st.integers(0, 5).flatmap(
    lambda n: maps if n else st.builds(Case, _wide, st.integers(0, 12), _seeds)
)
"""`maps`, and some small ones with very wide nodes."""
