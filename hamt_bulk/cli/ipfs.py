"""`hamt-bulk pin`, `unpin`, `pins`, `publish` and `resolve`: roots on a Kubo daemon."""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from hamt_bulk.block import text, to_bytes
from hamt_bulk.cli.console import CasOption, RootArgument, command, root_of, say, store, wrong
from hamt_bulk.wording import printable

if TYPE_CHECKING:
    from hamt_bulk.cas.ipfs import KuboCAS

NameOption = Annotated[str, typer.Option(metavar="NAME", help="The pin's name.")]
KeyOption = Annotated[
    str, typer.Option(metavar="KEY", help="The daemon's key that signs. Made when it is not there.")
]


def add_to(app: typer.Typer) -> None:
    """Adds this module's commands."""
    for one in (pin, unpin, pins, publish, resolve):
        app.command()(one)


@command
def pin(root: RootArgument, cas: CasOption = None, name: NameOption = "") -> None:
    """Keep a root on a Kubo daemon, which has to have all of it. Prints the root."""
    daemon, wanted = kubo(cas), root_of(root)
    asyncio.run(daemon.pin_cid(wanted, name=name))
    print(text(wanted))


@command
def unpin(root: RootArgument, cas: CasOption = None) -> None:
    """Let a Kubo daemon forget a root: its next garbage collection takes what else is not pinned."""
    daemon, wanted = kubo(cas), root_of(root)
    asyncio.run(daemon.unpin_cid(wanted))
    print(text(wanted))


@command
def pins(
    cas: CasOption = None, name: Annotated[str | None, typer.Option(help="Text in the name.")] = None
) -> None:
    """List the roots that a Kubo daemon keeps, and their names."""
    found = asyncio.run(kubo(cas).pin_ls(name=name))
    for cid, kept in sorted(found.items(), key=lambda item: (item[1]["Name"], item[0])):
        print(f"{cid}  {printable(kept['Name'])}".rstrip())
    say(f"{len(found)} pinned")


@command
def publish(
    root: RootArgument,
    key: KeyOption,
    cas: CasOption = None,
    expected: Annotated[
        str | None, typer.Option(metavar="ROOT", help="Only when this is the root that is published now.")
    ] = None,
) -> None:
    """Publish a root under an IPNS name, and print the name."""
    daemon, wanted = kubo(cas), root_of(root)

    from hamt_bulk.ipfs import KuboName

    name = KuboName(daemon, key)
    done = name.publish(wanted) if expected is None else name.publish(wanted, expected=root_of(expected))
    print(done.name)


@command
def resolve(
    name: Annotated[str, typer.Argument(metavar="NAME", help="An IPNS name: k51…, also as ipns://k51….")],
    cas: CasOption = None,
) -> None:
    """Print the root that an IPNS name stands for now."""
    source = store(cas)

    from hamt_bulk.ipfs import resolve_name

    print(text(to_bytes(resolve_name(name, source))))


def kubo(url: str | None) -> "KuboCAS":
    """The daemon of the call."""
    found = store(url)

    from hamt_bulk.cas.ipfs import KuboCAS

    if not isinstance(found, KuboCAS):
        wrong("--cas", f"{url!r} has no pins and names: give a Kubo daemon, such as kubo://127.0.0.1:5001")
    return found
