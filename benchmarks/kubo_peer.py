"""
py-hamt's KuboCAS at work. `benchmarks/kubo.py` starts this in py-hamt's own environment.

Standard input is a socket that carries requests and answers, as for the tests' `py_hamt_peer.py`. Every command has
a KuboCAS of its own, with py-hamt's defaults and one request made before the clock starts.
"""

import asyncio
import os
import platform
import sys
import time
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from random import Random
from typing import Any

import multiformats
import py_hamt  # type: ignore[import-not-found,import-untyped,unused-ignore]

RPC, GATEWAY, XARRAY = sys.argv[1:]
"""Where the daemon is, and a folder that has xarray and Dask; "" for none."""


@asynccontextmanager
async def opened(gateway: str = GATEWAY) -> AsyncIterator[Any]:
    """A KuboCAS that has a connection to each side."""
    async with py_hamt.KuboCAS(rpc_base_url=RPC, gateway_base_url=gateway) as cas:
        await cas.load(await cas.save(b"warm", "raw"))
        yield cas


async def timed(work: Awaitable[Any]) -> tuple[Any, dict[str, float]]:
    """What `work` gives, and its seconds."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = await work
    return result, {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


async def versions() -> str:
    """What runs here."""
    return f"Python {platform.python_version()}, zarr {version('zarr')}, httpx {version('httpx')}"


async def save(count: int, size: int) -> dict[str, float]:
    """The seconds for so many new values of `size` bytes, saved all at once."""
    values = [os.urandom(size) for _ in range(count)]
    async with opened() as cas:
        _, spent = await timed(asyncio.gather(*(cas.save(value, "raw") for value in values)))
    return spent


async def load(names: list[str]) -> dict[str, float]:
    """The seconds for these values, loaded all at once."""
    cids = [multiformats.CID.decode(name) for name in names]
    async with opened() as cas:
        values, spent = await timed(asyncio.gather(*(cas.load(cid) for cid in cids)))
    assert all(values)
    return spent


async def keys(root: str) -> tuple[list[str], dict[str, float]]:
    """All keys of a tree, and the seconds."""

    async def listed() -> list[str]:
        hamt = await reader(cas, root)
        every_key = hamt.keys()
        return [key async for key in every_key]

    async with opened() as cas:
        return await timed(listed())


async def get(root: str, wanted: list[str], gateway: str) -> list[float]:
    """The seconds for the value of each key, each in a tree that was just opened."""

    async def found(key: str) -> Any:
        return await (await reader(cas, root)).get(key)

    async with opened(gateway) as cas:
        return [(await timed(found(key)))[1]["wall"] for key in wanted]


async def to_zarr(chunks: int, side: int, first: int) -> dict[str, float]:
    """The seconds for a dataset, as py-hamt's documentation stores one."""
    sys.path += [XARRAY, str(Path(__file__).parent.parent)]
    from benchmarks.data import maps

    dataset = maps(chunks, side, "random", first=first)

    async def stored() -> None:
        hamt = await py_hamt.HAMT.build(cas=cas, values_are_bytes=True)
        store = py_hamt.ZarrHAMTStore(hamt)
        encoding = {"t2m": {"compressors": None}}
        await asyncio.to_thread(dataset.to_zarr, store, mode="w", zarr_format=3, encoding=encoding)
        await hamt.make_read_only()

    async with opened() as cas:
        return (await timed(stored()))[1]


async def replay(items: list[tuple[str, str]]) -> str:
    """The root of a new tree with these keys, and the bytes that these CIDs name, set one after another."""
    Random(20).shuffle(items)
    async with opened() as cas:
        hamt = await py_hamt.HAMT.build(cas=cas, values_are_bytes=True)
        for key, name in items:
            await hamt.set(key, await cas.load(multiformats.CID.decode(name)))
        await hamt.make_read_only()
        return str(hamt.root_node_id)


async def reader(cas: Any, root: str) -> Any:
    return await py_hamt.HAMT.build(
        cas=cas, root_node_id=multiformats.CID.decode(root), read_only=True, values_are_bytes=True
    )


COMMANDS: dict[str, Callable[..., Any]] = {
    function.__name__: function for function in (versions, save, load, keys, get, to_zarr, replay)
}


def main() -> None:
    connection: Connection[Any, Any] = Connection(sys.stdin.fileno())
    while request := connection.recv():
        command, arguments = request
        try:
            answer = (True, asyncio.run(COMMANDS[command](**arguments)))
        except Exception:
            answer = (False, traceback.format_exc())
        connection.send(answer)


if __name__ == "__main__":
    with suppress(EOFError, ConnectionError):
        main()
