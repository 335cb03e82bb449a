"""`hamt-bulk packs`: looking after a folder of packs."""

from pathlib import Path
from typing import Annotated

import typer

from hamt_bulk.cli.console import command, root_of, say, wrong
from hamt_bulk.wording import printable_lines

CAUTIOUS_HOURS = 1
"""Below it people are told what a drop may cost."""


def add_to(app: typer.Typer) -> None:
    """Adds this module's command."""
    app.command()(packs)


@command
def packs(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="A store: a folder of packs.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Hash every block. Exit status 1 when one is lost.")
    ] = False,
    index: Annotated[
        bool,
        typer.Option("--index", help="Make the indexes anew, and save what is whole of damaged packs."),
    ] = False,
    drop: Annotated[bool, typer.Option("--drop", help="Drop the blocks that no --keep reaches.")] = False,
    merge: Annotated[
        bool, typer.Option("--merge", help="Merge small packs, all of a kind into one.")
    ] = False,
    keep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ROOT",
            help="With --drop: a root that stays readable. As often as needed. Values are not followed: one that is "
            "itself a root needs a --keep of its own.",
        ),
    ] = None,
    older_than: Annotated[
        float | None,
        typer.Option(
            metavar="HOURS",
            help="With --drop: leave younger packs alone. Default: 24. Builds and copies that run are looked after "
            "anyway; 0 only when nobody writes key by key.",
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --drop: say what it would do, and change nothing.")
    ] = False,
) -> None:
    """
    List the packs of a store; or verify, mend, thin out and merge them, in this order.

    Others may read and write meanwhile.
    """
    from hamt_bulk import packs as store

    roots = [root_of(root) for root in keep or []]
    if drop and not roots:
        wrong("--drop", "give each root that is to stay as --keep ROOT: without one all would go")
    if not drop and (roots or older_than is not None or dry_run):
        wrong("--keep, --older-than and --dry-run", "they go with --drop")
    if dry_run and (index or merge):
        wrong("--dry-run", "--index and --merge change the store: leave them out")
    if older_than is not None and not 0 <= older_than < float("inf"):
        wrong("--older-than", f"{older_than}: expected 0 or more hours")
    if not (verify or index or drop or merge):
        _print(store.packs(path))
        return
    lost = False
    if verify:
        verified = store.verify(path)
        _print(verified)
        # What is whole, and only not found, is mended by --index.
        lost = verified.lost > 0 or verified.short > 0 or (verified.unreachable > 0 and not index)
    if index:
        _print(store.rebuild(path))
    if drop:
        hours = store.OLDER_THAN_HOURS if older_than is None else older_than
        if hours < CAUTIOUS_HOURS:
            say(
                f"--older-than {hours:g}: what is being written key by key now (HAMT, a Zarr store), and is older, is dropped "
                "unless a --keep reaches it"
            )
        _print(store.drop(path, roots, older_than_hours=hours, dry_run=dry_run))
    if merge:
        _print(store.merge(path))
    if lost:
        raise typer.Exit(1)


def _print(done: object) -> None:
    """What was done; files may have any name."""
    print(printable_lines(str(done)))
