"""What all commands share: where output goes, how errors end, and the store and root of a call."""

import logging
import os
import re
import sys
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import wraps
from typing import Annotated, NoReturn, ParamSpec, TextIO

import typer
from rich.console import Console

from hamt_bulk.block import to_bytes
from hamt_bulk.cas import ContentAddressedStore, PackCAS, open_cas
from hamt_bulk.errors import HamtError, InvalidInput
from hamt_bulk.wording import printable_lines
from hamt_bulk.wording import size_text as size_text

P = ParamSpec("P")

INTERRUPTED = 130
BROKEN_PIPE = 141
"""What a shell says of commands that these signals ended."""

HARMLESS = [
    "Consolidated metadata is currently not part",
    ".*does not have a Zarr V3 specification",
    "The codec .* is currently not part in the Zarr format 3 specification",
    "Numcodecs codecs are not in the Zarr version 3 specification",
]
"""Warnings about what zarr's version 3 format does not specify yet, and every reader reads."""


@dataclass
class Options:
    """What was given before the name of the command."""

    traceback: bool = False


options = Options()

CasOption = Annotated[
    str | None,
    typer.Option(
        "--cas",
        metavar="URL",
        envvar="HAMT_BULK_CAS",
        help="The store: a folder of packs, a .car file, kubo://host:port, or an https:// gateway.",
    ),
]
RootArgument = Annotated[str, typer.Argument(metavar="ROOT", help="A root: its CID, also as ipfs://CID.")]


def say(message: str = "", style: str | None = None) -> None:
    """A line for people, on stderr."""
    # A console of its own: an interrupted one would say its last line again.
    console = Console(stderr=True, highlight=False, emoji=False)
    console.print(printable_lines(message), style=style, markup=False, soft_wrap=True)


def store(url: str | None) -> ContentAddressedStore:
    """The store of the call."""
    if not url:
        wrong("--cas", "no store: give --cas URL, or set HAMT_BULK_CAS")
    try:
        return open_cas(url)
    except InvalidInput as error:
        wrong("--cas", str(error))


def url_of(cas: ContentAddressedStore, url: str | None) -> str:
    """What opens the store from any folder. Credentials stay out of it."""
    path = getattr(cas, "path", None)
    return re.sub(r"//[^/?#]*@", "//", str(url)) if path is None else os.fspath(path)


def root_of(text: str) -> bytes:
    """The root of the call."""
    try:
        return to_bytes(text)
    except InvalidInput as error:
        wrong("ROOT", str(error))


def wrong(name: str, message: str) -> NoReturn:
    """Ends a call that could not have worked."""
    raise typer.BadParameter(message, param_hint=name)


def packs_of(cas: ContentAddressedStore) -> int | None:
    """How many packs a folder has."""
    return len(list((cas.path / "packs").glob("*/*.car"))) if isinstance(cas, PackCAS) else None


def command(function: Callable[P, None]) -> Callable[P, None]:
    """`function` with every way to end in one line and an exit status."""

    @wraps(function)
    def run(*arguments: P.args, **named: P.kwargs) -> None:
        with warnings.catch_warnings():
            for message in HARMLESS:
                warnings.filterwarnings("ignore", message)
            warnings.showwarning = _show_warning
            log = logging.getLogger("hamt_bulk")
            log.handlers = [_Telling(logging.INFO)]
            log.setLevel(logging.INFO)
            try:
                function(*arguments, **named)
                sys.stdout.flush()
            except BrokenPipeError:
                # Whatever Python still has to say goes nowhere, else it complains at its end.
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                raise typer.Exit(BROKEN_PIPE) from None
            except KeyboardInterrupt as error:
                say("interrupted: no root was made; what was finished stays in the store", "yellow")
                _say_notes(error)
                raise typer.Exit(INTERRUPTED) from None
            except (typer.Exit, typer.Abort, typer.BadParameter):
                raise
            except Exception as error:
                if options.traceback:
                    raise
                say(f"error: {_line(error)}", "red")
                _say_notes(error)
                raise typer.Exit(1) from None

    return run


def _say_notes(error: BaseException) -> None:
    for note in getattr(error, "__notes__", ()):
        say(f"  {note}", "yellow")


class _Telling(logging.Handler):
    """What the package has to say of itself, to people."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def _line(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, HamtError):
        return text
    return f"{type(error).__name__}: {text} (hamt-bulk --traceback … shows where)"


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    say(f"warning: {' '.join(str(message).split())}", "yellow")
