"""A store that reads from IPFS gateways."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn

import httpx

from hamt_bulk import unixfs
from hamt_bulk.block import DAG_PB, AnyCID, Block, Data, Hasher, parse, to_bytes
from hamt_bulk.cas.base import bounds, range_of, several
from hamt_bulk.cas.blocks import BlockCAS
from hamt_bulk.cas.ipfs.address import Address, gateway_address
from hamt_bulk.cas.ipfs.connection import Access, Connection, connection_of, disconnect
from hamt_bulk.cas.ipfs.credentials import Auth, Credentials, credentials_of
from hamt_bulk.cas.loop import gather, on_loop, run_sync
from hamt_bulk.cas.retries import Retries
from hamt_bulk.cas.writer import Writer
from hamt_bulk.errors import InvalidInput, ReadOnly
from hamt_bulk.reads import drive_async

CONCURRENCY = 32
"""Requests under way at one server, unless the caller says otherwise."""


class IPFSReader(BlockCAS):
    """What all stores on IPFS share: blocks, files and paths, each block compared with its CID."""

    loads_paths = True

    def __init__(self, hasher: Hasher, access: Access) -> None:
        super().__init__(hasher)
        self._access = access

    @property
    def connection(self) -> Connection:
        """What this process reaches the servers with."""
        return connection_of(self._access, self)

    def load_blocks(self, cids: Sequence[bytes]) -> list[Data]:
        return run_sync(self._blocks(cids))

    def has_blocks(self, cids: Sequence[bytes]) -> list[bool]:
        return run_sync(self._each(cids, self._has))

    def size_blocks(self, cids: Sequence[bytes]) -> list[int]:
        return run_sync(self._each(cids, self._size))

    def load_range(self, cid: AnyCID, start: int, stop: int | None) -> bytes:
        start, stop = bounds(start, stop)
        return run_sync(self._value(to_bytes(cid), start, stop, None))

    def load_many(self, cids: Sequence[AnyCID]) -> list[bytes]:
        names = several(cids)
        return run_sync(self._values(names))

    async def load(
        self, id: AnyCID, offset: int | None = None, length: int | None = None, suffix: int | None = None
    ) -> bytes:
        cid = to_bytes(id)
        start, stop = range_of(offset, length, suffix)
        return await on_loop(self._value(cid, start, stop, suffix))

    def load_ipld_path(self, root: AnyCID, segments: Sequence[str]) -> list[Block]:
        return run_sync(self._path(to_bytes(root), segments))

    async def _path(self, root: bytes, segments: Sequence[str]) -> list[Block]:
        return await self.connection.sources.path(root, segments)

    async def _block(self, cid: bytes) -> bytes:
        return await self.connection.sources.block(cid)

    async def _size(self, cid: bytes) -> int:
        return await self.connection.sources.size(cid)

    async def _has(self, cid: bytes) -> bool:
        return await self.connection.sources.has(cid)

    async def _each(self, cids: Sequence[bytes], ask: Callable[[bytes], Any]) -> list[Any]:
        """What `ask` says of each, none asked for twice."""
        distinct = list(dict.fromkeys(cids))
        at_once = min(2 * self._access.concurrency, max(len(distinct), 1))
        found = dict(
            zip(distinct, await gather((partial(ask, cid) for cid in distinct), at_once), strict=True)
        )
        return [found[cid] for cid in cids]

    async def _blocks(self, cids: Sequence[bytes]) -> list[Any]:
        return await self._each(cids, self._block)

    async def _values(self, cids: Sequence[bytes]) -> list[bytes]:
        files = [cid for cid in cids if parse(cid).codec == DAG_PB]
        others = [cid for cid in cids if parse(cid).codec != DAG_PB]
        found = dict(zip(others, await self._blocks(others), strict=True))
        found |= zip(files, await self._each(files, lambda cid: self._value(cid, 0, None, None)), strict=True)
        return [found[cid] for cid in cids]

    async def _value(self, cid: bytes, start: int, stop: int | None, suffix: int | None) -> bytes:
        """Bytes `start` to `stop`, or the last `suffix`, of a block or a file."""
        if parse(cid).codec != DAG_PB:
            data = await self._block(cid)
            if suffix is not None:
                start = max(len(data) - suffix, 0)
            return data[start:stop]
        if suffix is not None:
            start = max(await drive_async(unixfs.size(cid), self._blocks) - suffix, 0)
        return await drive_async(unixfs.read(cid, start, stop), self._blocks)

    def close(self) -> None:
        disconnect(self._access, self)

    async def aclose(self) -> None:
        """As `close`, for callers on an event loop."""
        await asyncio.to_thread(self.close)


class GatewayCAS(IPFSReader):
    """
    What IPFS gateways give, read-only. They need not be trusted: every block is compared with its CID.

        GatewayCAS("https://gateway.example")

    urls            one or several, in order of preference. A user and password in one are for that gateway alone
    concurrency     requests under way at each gateway
    headers, auth   credentials, for the first gateway alone
    client_factory  gives the `httpx.AsyncClient` to use; called once in every process
    max_retries, initial_delay, backoff_factor  how often, and after how many seconds, a request is sent again
    """

    def __init__(
        self,
        urls: str | Sequence[str],
        *,
        concurrency: int = CONCURRENCY,
        headers: Mapping[str, str] | None = None,
        auth: Auth | None = None,
        client_factory: Callable[[], httpx.AsyncClient] | None = None,
        max_retries: int = 3,
        initial_delay: float = 1.0,
        backoff_factor: float = 2.0,
    ) -> None:
        several = [urls] if isinstance(urls, str) else list(urls)
        if not several:
            raise InvalidInput("no gateway: give a URL, or several")
        if client_factory is not None and (headers or auth is not None):
            raise InvalidInput(
                "client_factory goes without headers and auth: set them on the client it gives"
            )
        found = gateways_of(several, "urls")
        # The environment's credentials are for a daemon, and a gateway is anybody's.
        credentials = credentials_of(auth, headers, for_daemon=False)
        super().__init__(
            "blake3",
            Access(
                rpc=None,
                gateways=tuple(address for address, _ in found),
                trusted=frozenset({found[0][0].origin}),
                own_secrets=secrets_of(found, for_daemon=False),
                credentials=credentials,
                client=None,
                client_factory=client_factory,
                concurrency=positive("concurrency", concurrency),
                retries=Retries(max_retries, initial_delay, backoff_factor),
            ),
        )

    @property
    def urls(self) -> list[str]:
        """Where the gateways are, in order of preference."""
        return [address.url for address in self._access.gateways]

    def writer(self) -> Writer:
        self._refuse()

    def _implicit_writer(self) -> Writer:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise ReadOnly(f"{self!r} is read only: write to a KuboCAS, or to a PackCAS")

    def __reduce__(self) -> tuple[Any, ...]:
        return _gateways, (self._access,)

    def __dask_tokenize__(self) -> tuple[str, tuple[str, ...]]:
        return type(self).__qualname__, tuple(address.url for address in self._access.gateways)

    def __repr__(self) -> str:
        return f"GatewayCAS({self.urls!r})"


def _gateways(access: Access) -> GatewayCAS:
    cas = GatewayCAS.__new__(GatewayCAS)
    IPFSReader.__init__(cas, "blake3", access)
    return cas


def gateways_of(urls: Sequence[str], option: str) -> list[tuple[Address, str | None]]:
    """The addresses of gateways, each once, with the `Authorization` in its URL."""
    found: dict[Address, str | None] = {}
    for url in urls:
        address, secret = gateway_address(url, option)
        found[address] = found.get(address) or secret
    return list(found.items())


def secrets_of(
    found: Sequence[tuple[Address, str | None]], *, for_daemon: bool
) -> tuple[tuple[tuple[str, str, int], Credentials], ...]:
    """Credentials that came with a URL, by origin."""
    return tuple(
        (address.origin, Credentials({"Authorization": secret}, for_daemon=for_daemon))
        for address, secret in found
        if secret is not None
    )


def positive(name: str, value: int) -> int:
    """`value`, a whole number above 0."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise InvalidInput(f"{name}={value!r}, expected a whole number above 0")
    return value
