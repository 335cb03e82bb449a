"""`hamt-bulk journals`: builds that were begun and are not complete."""

from typing import Annotated

import typer

from hamt_bulk.cli.console import CasOption, command, say, store
from hamt_bulk.wording import many, printable_lines


def add_to(app: typer.Typer) -> None:
    """Adds this module's command."""
    app.command()(journals)


@command
def journals(
    cas: CasOption = None,
    give_up: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Forget a build that nobody will go on with: what it has finished may go. As shown, or the beginning of it; "
            "as often as needed.",
        ),
    ] = None,
) -> None:
    """
    List the builds into a store that wait to be gone on with, by the same call.

    Each is known by the name of its journal.
    """
    from hamt_bulk import journal

    found = store(cas)
    if give_up:
        for name in give_up:
            print(printable_lines(str(journal.give_up(name, found))))
        say(f"gave up {many(len(give_up), 'build')}")
        return
    waiting = journal.unfinished(found)
    for build in waiting:
        print(printable_lines(str(build)))
    say(f"{many(len(waiting), 'build')} {'is' if len(waiting) == 1 else 'are'} not complete")
