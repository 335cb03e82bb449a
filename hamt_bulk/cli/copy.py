"""`hamt-bulk copy`: a root and all that is below it, to another store."""

import time
from typing import Annotated

import typer

from hamt_bulk.cli.console import CasOption, command, root_of, say, size_text, store, wrong
from hamt_bulk.errors import InvalidInput


def add_to(app: typer.Typer) -> None:
    """Adds this module's command."""
    app.command()(copy)


@command
def copy(
    to: Annotated[
        str,
        typer.Option(
            metavar="URL",
            help="Where it goes: a folder of packs, the name of a new .car file, or kubo://host:port.",
            show_default=False,
        ),
    ],
    root: Annotated[
        str | None,
        typer.Argument(
            metavar="ROOT",
            help="A root: its CID, also as ipfs://CID. Default: the one root that a .car file given as --cas names.",
            show_default=False,
        ),
    ] = None,
    cas: CasOption = None,
) -> None:
    """Copy what another store lacks of a root, and print the root."""
    source = store(cas)
    wanted = None if root is None else root_of(root)

    from hamt_bulk.cas import open_cas
    from hamt_bulk.roots import copy as copy_root

    try:
        target = open_cas(to)
    except InvalidInput as error:
        wrong("--to", str(error))
    started = time.perf_counter()
    done = copy_root(wanted, source, target)
    say(f"blocks     {done.copied_blocks:,} copied, of {done.blocks:,}")
    say(f"bytes      {size_text(done.copied_bytes)} copied, {size_text(done.bytes)} read")
    say(f"seconds    {time.perf_counter() - started:.1f}")
    print(done.root)
