"""`hamt-bulk`: the package as a command."""

import sys
from typing import Annotated

import typer

from hamt_bulk import __version__
from hamt_bulk.cli import (
    check,
    compare,
    convert,
    copy,
    demo,
    encryption,
    ingest,
    inspect,
    ipfs,
    journals,
    packs,
)
from hamt_bulk.cli.console import options

__all__ = ["app", "main"]

app = typer.Typer(
    name="hamt-bulk",
    help="Climate data as content-addressed Zarr: one root names a dataset for ever.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"hamt-bulk {__version__}")
        raise typer.Exit


@app.callback()
def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
    traceback: Annotated[bool, typer.Option("--traceback", help="Show where an error came from.")] = False,
) -> None:
    options.traceback = traceback


demo.add_to(app)
ingest.add_to(app)
inspect.add_to(app)
check.add_to(app)
copy.add_to(app)
convert.add_to(app)
compare.add_to(app)
ipfs.add_to(app)
packs.add_to(app)
journals.add_to(app)
encryption.add_to(app)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command and exits: 0, 1 (the job failed), 2 (the call was wrong), 130 (Ctrl-C)."""
    app(sys.argv[1:] if arguments is None else arguments, prog_name="hamt-bulk")
