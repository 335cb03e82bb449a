"""`hamt-bulk info`, `ls` and `cat`: what there is under a root."""

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated, TypeVar

import typer

from hamt_bulk.block import text
from hamt_bulk.cli.console import CasOption, RootArgument, command, root_of, store
from hamt_bulk.errors import KeyNotFound

T = TypeVar("T")

SIZES_AT_ONCE = 256


def add_to(app: typer.Typer) -> None:
    """Adds this module's commands."""
    for function in (info, ls, cat):
        app.command()(function)


@command
def info(
    root: RootArgument,
    cas: CasOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show what a root is: its tree, groups and arrays."""
    from hamt_bulk.cli.describe import described, shown

    description = described(root_of(root), store(cas))
    print(json.dumps(description, indent=2) if as_json else shown(description))


@command
def ls(
    root: RootArgument,
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="What the keys start with.")] = "",
    cas: CasOption = None,
    long: Annotated[
        bool, typer.Option("-l", "--long", help="With the length and CID of each value.")
    ] = False,
) -> None:
    """List keys in order."""
    from hamt_bulk.nodes import Tree

    tree = Tree(root_of(root), store(cas))
    entries = sorted(entry for entry in tree.entries() if entry[0].startswith(prefix))
    if not long:
        sys.stdout.writelines(f"{key}\n" for key, _ in entries)
        return
    for batch in _batches(entries):
        pointers = [pointer for _, pointer in batch]
        for (key, pointer), size in zip(batch, tree.sizes(pointers), strict=True):
            print(f"{size:>12} {text(pointer)} {key}")


@command
def cat(
    root: RootArgument,
    key: Annotated[str, typer.Argument(metavar="KEY", help="As `hamt-bulk ls` shows it.")],
    cas: CasOption = None,
) -> None:
    """Write a value's bytes to stdout."""
    from hamt_bulk.nodes import Tree

    tree = Tree(root_of(root), store(cas))
    pointer = tree.pointer(key)
    if pointer is None:
        raise KeyNotFound(f"{text(tree.root)} has no key {key!r}: `hamt-bulk ls` lists those it has")
    sys.stdout.buffer.write(tree.read(pointer))
    sys.stdout.buffer.flush()


def _batches(items: Sequence[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, SIZES_AT_ONCE)):
        yield batch
