"""What the tests of names share."""

import urllib.request

from hamt_bulk.cas import KuboCAS

from .daemon import Daemon


def opened(daemon: Daemon, rpc_url: str | None = None) -> KuboCAS:
    """The daemon with its gateway, perhaps by a proxy's RPC."""
    return KuboCAS(
        rpc_base_url=rpc_url or daemon.rpc_url, gateway_base_url=daemon.gateway_url, initial_delay=0.01
    )


def record_of(daemon: Daemon, name: str) -> bytes:
    """The signed record of a name."""
    with urllib.request.urlopen(f"{daemon.gateway_url}/ipns/{name}?format=ipns-record") as answer:
        return bytes(answer.read())


def shown(root: object) -> str | None:
    """The text of a CID, if there is one."""
    return None if root is None else str(root)
