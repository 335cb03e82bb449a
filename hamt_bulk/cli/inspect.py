"""`hamt-bulk info`, `ls` and `cat`: what there is under a root."""

import base64
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Annotated, Any, TypeVar

import typer
from dag_cbor.ipld import IPLDKind
from multiformats import CID

from hamt_bulk.block import text
from hamt_bulk.cas.wrap import Reader
from hamt_bulk.cli.console import CasOption, RootArgument, command, root_of, store
from hamt_bulk.cli.encryption import EncryptionOption, encryption_of
from hamt_bulk.errors import KeyNotFound
from hamt_bulk.pointers import is_inline
from hamt_bulk.wording import printable

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
    encryption: EncryptionOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON.")] = False,
) -> None:
    """Show what a root is: its tree, groups and arrays."""
    from hamt_bulk.cli.describe import described, shown

    description = described(root_of(root), store(cas), encryption_of(encryption))
    print(json.dumps(description, indent=2) if as_json else shown(description))


@command
def ls(
    root: RootArgument,
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="What the keys start with.")] = "",
    cas: CasOption = None,
    encryption: EncryptionOption = None,
    long: Annotated[
        bool, typer.Option("-l", "--long", help="With the length and CID of each value.")
    ] = False,
) -> None:
    """List keys in order."""
    from hamt_bulk.formats import open_root

    opened = open_root(root_of(root), store(cas), encryption=encryption_of(encryption))
    entries = sorted(entry for entry in opened.pointers() if entry[0].startswith(prefix))
    if not long:
        sys.stdout.writelines(f"{_shown(key)}\n" for key, _ in entries)
        return
    for batch in _batches(entries):
        stored = [pointer for _, pointer in batch if not is_inline(pointer)]
        sizes = iter(Reader(opened.cas).sizes(stored))
        for key, pointer in batch:
            if is_inline(pointer):
                print(f"{len(pointer) - 1:>12} {'in the tree':<59} {_shown(key)}")
            else:
                print(f"{next(sizes):>12} {text(pointer)} {_shown(key)}")


@command
def cat(
    root: RootArgument,
    key: Annotated[str, typer.Argument(metavar="KEY", help="As `hamt-bulk ls` shows it.")],
    cas: CasOption = None,
    encryption: EncryptionOption = None,
) -> None:
    """Write a value's bytes to stdout; what is no bytes as DAG-JSON."""
    from hamt_bulk.formats import open_root

    opened = open_root(root_of(root), store(cas), encryption=encryption_of(encryption))
    pointer = opened.pointer(key)
    if pointer is None:
        raise KeyNotFound(f"{text(opened.root)} has no key {key!r}: `hamt-bulk ls` lists those it has")
    [value] = opened.values([(key, pointer)])
    sys.stdout.buffer.write(value if isinstance(value, bytes) else _dag_json(value))
    sys.stdout.buffer.flush()


def _shown(key: str) -> str:
    """A key for people, on one line: bytes that are no text, and what is not seen, as escapes."""
    return printable(key.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"))


def _dag_json(value: IPLDKind) -> bytes:
    """
    An IPLD value as JSON, its links and bytes as maps of one key, "/".

    Source: the DAG-JSON specification (ipld.io/specs/codecs/dag-json).
    """

    def plain(part: IPLDKind) -> Any:
        match part:
            case CID():
                return {"/": str(part)}
            case bytes():
                return {"/": {"bytes": base64.b64encode(part).decode().rstrip("=")}}
            case list():
                return [plain(item) for item in part]
            case dict():
                return {name: plain(item) for name, item in part.items()}
            case _:
                return part

    return json.dumps(plain(value), separators=(",", ":"), sort_keys=True).encode() + b"\n"


def _batches(items: Sequence[T]) -> Iterator[list[T]]:
    rest = iter(items)
    while batch := list(islice(rest, SIZES_AT_ONCE)):
        yield batch
