"""`hamt-bulk check`: whether all below a root is there, and as it should be."""

from contextlib import nullcontext
from typing import Annotated

import typer

from hamt_bulk.cli.cluster import running_on
from hamt_bulk.cli.console import CasOption, RootArgument, command, root_of, say, store, wrong
from hamt_bulk.cli.encryption import EncryptionOption, encryption_of
from hamt_bulk.errors import InvalidInput
from hamt_bulk.wording import printable_lines


def add_to(app: typer.Typer) -> None:
    """Adds this module's command."""
    app.command()(check)


@command
def check(
    root: RootArgument,
    cas: CasOption = None,
    values: Annotated[
        bool, typer.Option("--values/--no-values", help="Look at values too, or at the tree alone.")
    ] = True,
    zarr: Annotated[
        bool,
        typer.Option("--zarr/--no-zarr", help="Compare the keys with Zarr's metadata, where there is some."),
    ] = True,
    encryption: EncryptionOption = None,
    repair_from: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Copy what is missing or altered from this store, which has a copy of the root.",
        ),
    ] = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Worker processes; 0: this process alone.", show_default=True)
    ] = 0,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads in each worker process. Default: 1.")
    ] = None,
    scheduler: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="A Dask cluster to work on, as in tcp://host:8786.")
    ] = None,
) -> None:
    """
    Look at every block: is it there, is it what its CID says, is the tree as it should be.

    Ends with status 1 when problems remain.
    """
    if scheduler is not None and (workers or threads is not None):
        wrong("--scheduler", "the workers of a cluster are its own: leave out --workers and --threads")
    if threads is not None and not workers:
        wrong("--threads", "without worker processes a check has one thread: give --workers too")
    source, wanted = store(cas), root_of(root)

    from hamt_bulk.cas import open_cas
    from hamt_bulk.integrity import check as check_tree

    try:
        other = None if repair_from is None else open_cas(repair_from)
    except InvalidInput as error:
        wrong("--repair-from", str(error))
    alone = scheduler is None and not workers
    with nullcontext("this process") if alone else running_on(workers or None, threads, scheduler) as where:
        if not alone:
            say(f"on         {where}")
        report = check_tree(
            wanted,
            source,
            values=values,
            zarr=zarr,
            encryption=encryption_of(encryption),
            repair_from=other,
        )
    print(printable_lines(str(report)))
    if not report.ok:
        raise typer.Exit(1)
