"""What must hold on every worker before a build begins, and in every task of it."""

import importlib.metadata
from collections.abc import Container
from functools import cache
from typing import Any

from distributed import Client

from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.errors import CASError, HamtError, NotPortable, VersionMismatch

PACKAGES = ("hamt-bulk", "zarr", "numcodecs", "blake3")
"""What decides which bytes are stored and under which names: all must be the driver's versions."""

REMEDY = "install the same versions on every worker (the driver's environment, or its image) and call again"


@cache
def versions() -> dict[str, str]:
    """The versions of `PACKAGES` in this process."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "none"
    return found


def require_versions(expected: dict[str, str], where: str = "this worker") -> None:
    """Raises `VersionMismatch` when this process has others: a worker may join in the middle of a build."""
    _compare(expected, versions(), where)


def _compare(expected: dict[str, str], found: dict[str, str], where: str) -> None:
    differ = [
        f"{name} {found.get(name, 'none')}, expected {version}"
        for name, version in expected.items()
        if found.get(name) != version
    ]
    if differ:
        raise VersionMismatch(f"{where} has {'; '.join(differ)}: {REMEDY}")


async def preflight_async(
    client: Client, cas: ContentAddressedStore, known: Container[str] = frozenset()
) -> set[str]:
    """
    The workers that are fit for a build on `cas`: all that are there and not `known`.

    Raises `VersionMismatch` when one has other versions, `NotPortable` or `CASError` when the store cannot be reached
    from one.
    """
    workers = [worker for worker in await _there(client) if worker not in known]
    if not workers:
        return set()  # an adaptive cluster with no worker yet: they are asked when they come
    if any(not worker.startswith("inproc:") for worker in workers):
        cas.refuse_other_processes()
    token = cas.announce()
    try:
        answers: dict[str, Any] = await client._run(_examine, cas, token, workers=workers, on_error="return")
    finally:
        cas.retract(token)
    fit = set()
    for worker, answer in answers.items():
        where = f"the worker {worker}"
        if isinstance(answer, HamtError):
            raise type(answer)(f"{where}: {answer}") from answer
        if str(answer).startswith("NotPortable("):  # what fails as it is unpickled comes as its text
            raise NotPortable(f"{where}: {str(answer)[len('NotPortable(') + 1 : -2]}")
        if isinstance(answer, (ImportError, AttributeError)):
            raise VersionMismatch(
                f"{where} cannot load this version of hamt_bulk ({answer}): {REMEDY}"
            ) from answer
        if isinstance(answer, BaseException):
            if worker not in await _there(client):
                continue  # it has left, or died, meanwhile
            raise CASError(f"{where} cannot use {cas!r}: {type(answer).__name__}: {answer}") from answer
        _compare(versions(), answer, where)
        fit.add(worker)
    return fit


async def _there(client: Client) -> set[str]:
    """The addresses of all workers."""
    return set(await client.scheduler.ncores())  # type: ignore[union-attr]


def _examine(cas: ContentAddressedStore, token: str) -> dict[str, str]:
    cas.preflight(token)
    return versions()
