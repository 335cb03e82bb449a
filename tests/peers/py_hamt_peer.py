"""
Runs py-hamt for the tests. `py_hamt.py` starts this in an environment of its own.

Standard input is a socket that carries pickled messages with their length ahead, both ways. A request is
`(command, arguments)`, `None` ends the process; the answer is `(True, result)` or `(False, traceback)`.

Start it with `python -I`: else `import py_hamt` finds the client next to this file.
"""

import asyncio
import base64
import hashlib
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import blake3
import multiformats
import numpy
import py_hamt  # type: ignore[import-not-found,import-untyped,unused-ignore]
import zarr.api.asynchronous
from zarr.core.buffer import default_buffer_prototype

HASHERS: dict[str, Callable[[bytes], bytes]] = {
    "blake3": lambda data: blake3.blake3(data).digest(),
    "sha2-256": lambda data: hashlib.sha256(data).digest(),
}
"""The functions of blocks, by multihash name; both 32 bytes."""


def crowded(data: bytes) -> bytes:
    """A hash whose first bytes take few values, so that small trees are deep: the tests' `crowded_hashfn`."""
    digest = hashlib.sha256(data).digest()
    return bytes(byte & 0x81 for byte in digest[:6]) + digest


KEY_HASHERS = HASHERS | {"crowded": crowded}
"""The functions of keys."""

HASHER_NAMES = {b"\x1e\x20": "blake3", b"\x12\x20": "sha2-256"}
"""By what stands before the digest in a CID: code and length."""

DAG_CBOR = 0x71

PROTOTYPE = default_buffer_prototype()


def to_base32(cid: bytes) -> str:
    """The text of a CID. `str` of a `multiformats.CID` takes longer than py-hamt takes for the key."""
    return "b" + base64.b32encode(cid).decode().rstrip("=").lower()


def from_base32(text: str) -> bytes:
    """The bytes of a CID."""
    return base64.b32decode(text[1:].upper() + "=" * (-(len(text) - 1) % 8))


class BadBlock(Exception):
    """A block is missing or is not what its CID says. No `KeyError`: py-hamt says "no such key" with that."""


class DictCAS(py_hamt.ContentAddressedStore):  # type: ignore[misc,unused-ignore]
    """Blocks in a dict, by the bytes of their CIDv1 of `hasher`. `load` verifies, and takes either hasher."""

    def __init__(self, hasher: str, blocks: dict[str, bytes]) -> None:
        self.hasher = hasher
        self.blocks = {from_base32(text): block for text, block in blocks.items()}

    async def save(self, data: bytes, codec: str) -> multiformats.CID:
        cid = multiformats.CID("base32", 1, codec, (self.hasher, HASHERS[self.hasher](data)))
        self.blocks[bytes(cid)] = data
        return cid

    async def load(
        self,
        id: multiformats.CID,
        offset: int | None = None,
        length: int | None = None,
        suffix: int | None = None,
    ) -> bytes:
        cid = bytes(id)
        block = self.blocks.get(cid)
        if block is None:
            raise BadBlock(f"{id} is not among the {len(self.blocks)} blocks given")
        hasher = HASHER_NAMES.get(cid[2:4])
        if hasher is None:
            raise BadBlock(f"{id} has neither of the hashers {', '.join(HASHERS)}")
        if HASHERS[hasher](block) != cid[4:]:
            raise BadBlock(f"the block given as {id} has another digest")
        if offset is None:
            return block if suffix is None else block[max(0, len(block) - suffix) :]
        return block[offset:] if length is None else block[offset : offset + length]


async def build(
    items: Iterable[tuple[str, bytes]], max_bucket_size: int, hasher: str, key_hasher: str
) -> dict[str, Any]:
    """
    The tree after one `HAMT.set` per item, in order.

    The seconds include the saving of every block: about half of them go to making CIDs.
    """
    cas = DictCAS(hasher, {})
    cpu, wall = time.process_time(), time.perf_counter()
    hamt = await py_hamt.HAMT.build(
        cas=cas, hash_fn=KEY_HASHERS[key_hasher], max_bucket_size=max_bucket_size, values_are_bytes=True
    )
    for key, value in items:
        await hamt.set(key, value)
    await hamt.make_read_only()
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    return {
        "root": str(hamt.root_node_id),
        "blocks": {to_base32(cid): block for cid, block in cas.blocks.items()},
        "nodes": frozenset(to_base32(cid) for cid in cas.blocks if cid[1] == DAG_CBOR),
        "cpu_seconds": cpu,
        "wall_seconds": wall,
    }


async def open_(root: str, blocks: dict[str, bytes], keys: Iterable[str], key_hasher: str) -> dict[str, Any]:
    """Every key of the tree, as py-hamt lists them, and what its `get` gives for each of `keys`."""
    cas = DictCAS("blake3", blocks)
    hamt = py_hamt.HAMT(
        cas=cas,
        hash_fn=KEY_HASHERS[key_hasher],
        root_node_id=multiformats.CID.decode(root),
        read_only=True,
        values_are_bytes=True,
    )
    values: dict[str, bytes | None] = {}
    for key in keys:
        try:
            values[key] = await hamt.get(key)
        except KeyError:
            values[key] = None
    every_key = hamt.keys()
    return {"keys": [key async for key in every_key], "values": values}


async def run(
    script: Iterable[tuple[Any, ...]],
    root: str | None,
    blocks: dict[str, bytes],
    max_bucket_size: int,
    values_are_bytes: bool,
    key_hasher: str,
    read_only: bool,
) -> dict[str, Any]:
    """What a HAMT answers to a script of calls, and what it has stored in the end."""
    cas = DictCAS("blake3", blocks)
    hamt = await py_hamt.HAMT.build(
        cas=cas,
        hash_fn=KEY_HASHERS[key_hasher],
        root_node_id=None if root is None else multiformats.CID.decode(root),
        read_only=read_only,
        max_bucket_size=max_bucket_size,
        values_are_bytes=values_are_bytes,
    )
    answers, cpu = await timed(hamt, script)
    return {
        "answers": answers,
        "root": to_base32(bytes(hamt.root_node_id)) if hamt.read_only else None,
        "blocks": {to_base32(cid): block for cid, block in cas.blocks.items()},
        "cpu_seconds": cpu,
    }


async def run_on_own_cas(
    items: Iterable[tuple[str, bytes]], scripts: Iterable[tuple[bool, Iterable[tuple[Any, ...]]]]
) -> dict[str, Any]:
    """
    The seconds of each script on the tree of `items`, with py-hamt's own InMemoryCAS, which gives no CIDs.

    scripts  with whether the tree is opened read-only
    """
    cas = py_hamt.InMemoryCAS()
    base = await py_hamt.HAMT.build(cas=cas, values_are_bytes=True)
    for key, value in items:
        await base.set(key, value)
    await base.make_read_only()
    seconds = []
    for read_only, script in scripts:
        hamt = py_hamt.HAMT(
            cas=cas, root_node_id=base.root_node_id, read_only=read_only, values_are_bytes=True
        )
        seconds.append((await timed(hamt, script))[1])
    return {"cpu_seconds": seconds}


async def encrypted(
    key: bytes,
    header: bytes,
    root: str | None,
    blocks: dict[str, bytes],
    values: dict[str, bytes],
    array: list[float] | None,
    wanted: Iterable[str],
) -> dict[str, Any]:
    """
    The tree after a SimpleEncryptedZarrHAMTStore was given `values`, and what one reads from it.

    array  is written by zarr, as the array "a" of a new group; and read, if there is one
    """
    cas = DictCAS("blake3", blocks)
    if values or array is not None:
        hamt = await py_hamt.HAMT.build(cas=cas, values_are_bytes=True)
        store = py_hamt.SimpleEncryptedZarrHAMTStore(hamt, False, key, header)
        if array is not None:
            group = await zarr.api.asynchronous.open_group(store, mode="w")
            made = await group.create_array("a", shape=(len(array),), chunks=(2,), dtype="f8")
            await made.setitem(slice(None), numpy.array(array))
        for name, value in values.items():
            await store.set(name, PROTOTYPE.buffer.from_bytes(value))
        await hamt.make_read_only()
        root = to_base32(bytes(hamt.root_node_id))
    hamt = await py_hamt.HAMT.build(
        cas=cas, root_node_id=multiformats.CID.decode(root), values_are_bytes=True, read_only=True
    )
    store = py_hamt.SimpleEncryptedZarrHAMTStore(hamt, True, key, header)
    found = {name: await store.get(name, PROTOTYPE) for name in wanted}
    read = None
    if await store.exists("a/zarr.json"):
        opened = await zarr.api.asynchronous.open_array(store=store, path="a", mode="r")
        read = [float(number) for number in await opened.getitem(slice(None))]
    return {
        "root": root,
        "blocks": {to_base32(cid): block for cid, block in cas.blocks.items()},
        "values": {name: None if value is None else value.to_bytes() for name, value in found.items()},
        "array": read,
    }


async def timed(hamt: Any, script: Iterable[tuple[Any, ...]]) -> tuple[list[Any], float]:
    """What the calls of a script give, and the processor time of them all."""
    answers = []
    start = time.process_time()
    for name, *arguments in script:
        try:
            if name == "keys":
                every_key = hamt.keys()
                answer = [key async for key in every_key]
            else:
                answer = await getattr(hamt, name)(*arguments)
            # The text of a CID that was read is base58.
            if name == "make_read_only":
                answer = to_base32(bytes(hamt.root_node_id))
            elif name == "get_pointer":
                answer = to_base32(bytes(answer))
            answers.append((name, answer))
        except KeyError:
            answers.append((name, "KeyError"))
        except BadBlock:
            raise
        except Exception:
            answers.append((name, "refused"))
    return answers, time.process_time() - start


COMMANDS: dict[str, Callable[..., Any]] = {
    "build": build,
    "open": open_,
    "run": run,
    "run_on_own_cas": run_on_own_cas,
    "encrypted": encrypted,
}


def main() -> None:
    # Descriptor 0 becomes the connection's own. What libraries print cannot get in between.
    connection: Connection[Any, Any] = Connection(sys.stdin.fileno())
    while request := connection.recv():
        command, arguments = request
        try:
            answer = (True, asyncio.run(COMMANDS[command](**arguments)))
        except Exception:
            answer = (False, traceback.format_exc())
        connection.send(answer)


if __name__ == "__main__":
    with suppress(EOFError, ConnectionError):  # The tests may end first.
        main()
