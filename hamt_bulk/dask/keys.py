"""The key of an encrypted build on every worker, before any work."""

import asyncio
from dataclasses import dataclass
from typing import cast

from distributed import Client

from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.crypto import Encryption
from hamt_bulk.dask.runner import ClientRunner, LocalRunner
from hamt_bulk.dask.workers import preflight_async


def check_key(runner: ClientRunner | LocalRunner, encryption: Encryption | None) -> None:
    """Raises `NotPortable` or what fetching the key raises, when a process that works for the build cannot have it."""
    if encryption is not None:
        encryption.fetch()
        runner.check(_as_store(encryption))


async def check_key_async(client: Client, encryption: Encryption | None) -> None:
    """As `check_key`, for an asynchronous Client."""
    if encryption is not None:
        await asyncio.to_thread(encryption.fetch)
        await preflight_async(client, _as_store(encryption))


@dataclass(frozen=True, slots=True)
class _KeyOnWorkers:
    """Asks of a key what is asked of a store before a build: whether each worker has it."""

    encryption: Encryption

    def refuse_other_processes(self) -> None:
        self.encryption.refuse_other_processes()

    def announce(self) -> str:
        return ""

    def retract(self, token: str) -> None:
        """Nothing was announced."""

    def preflight(self, token: str) -> None:
        self.encryption.fetch()

    def __repr__(self) -> str:
        return repr(self.encryption)


def _as_store(encryption: Encryption) -> ContentAddressedStore:
    # The checks of a build need these five methods of a store, and no others.
    return cast(ContentAddressedStore, _KeyOnWorkers(encryption))
