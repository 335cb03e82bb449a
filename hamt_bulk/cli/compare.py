"""`hamt-bulk diff` and `merge`: two roots, compared or made one."""

import json
import sys
from collections import Counter
from collections.abc import Iterable
from operator import itemgetter
from typing import Annotated, Any

import typer

from hamt_bulk.block import text, to_bytes
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.cas.wrap import Reader
from hamt_bulk.cli.console import CasOption, command, say, store, wrong
from hamt_bulk.errors import InvalidInput
from hamt_bulk.roots import FieldChange, VariableChange, variable_changes
from hamt_bulk.roots.diff import changes
from hamt_bulk.roots.documents import CONSOLIDATED
from hamt_bulk.wording import printable

MARKS = {"added": "+", "removed": "-", "changed": "~"}

SHORT = 60
"""So many characters of a value are shown for people; a longer one has only changed."""

MEMBERS = 8
"""So many names of a group's members are shown."""


def add_to(app: typer.Typer) -> None:
    """Adds this module's commands."""
    app.command()(diff)
    app.command()(merge)


@command
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A root: its CID, also as ipfs://CID.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The root to compare it with.")],
    cas: CasOption = None,
    variables: Annotated[
        bool, typer.Option("--variables", help="By array and region instead of by key.")
    ] = False,
    long: Annotated[bool, typer.Option("-l", "--long", help="With the CIDs, that in A first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As a JSON array.")] = False,
) -> None:
    """
    Show what has to be done to A to get B: + added keys, - removed ones, ~ changed values.

    Reads the nodes that differ and no value, or with --variables metadata. The keys come in order, so the
    first one comes when the last has been found. The exit status is 0 whether the roots differ or not.
    """
    roots = _root("A", a), _root("B", b)
    opened = store(cas)
    if variables and long:
        wrong("--long", "--variables shows no keys, so there are no CIDs to show with them")
    if variables:
        _by_variable(*roots, opened, as_json)
    else:
        _by_key(*roots, opened, long, as_json)


@command
def merge(
    base: Annotated[str, typer.Argument(metavar="BASE", help="The root that both were made from.")],
    ours: Annotated[str, typer.Argument(metavar="OURS", help="One of them.")],
    theirs: Annotated[str, typer.Argument(metavar="THEIRS", help="The other one.")],
    cas: CasOption = None,
    resolve: Annotated[
        str | None,
        typer.Option(metavar="SIDE", help="What counts where the two do not go together: ours or theirs."),
    ] = None,
) -> None:
    """
    Merge what two roots changed, and print the root that has both.

    What does not go together, such as two appends along one dimension, is named, and no root is made.
    """
    from hamt_bulk.roots.merge import merge as merged

    if resolve not in (None, "ours", "theirs"):
        wrong("--resolve", f"{resolve!r}: expected ours or theirs")
    roots = _root("BASE", base), _root("OURS", ours), _root("THEIRS", theirs)
    print(text(to_bytes(merged(*roots, store(cas), resolve=resolve))))  # type: ignore[arg-type]


def _root(name: str, given: str) -> bytes:
    try:
        return to_bytes(given)
    except InvalidInput as error:
        wrong(name, str(error))


def _by_key(a: bytes, b: bytes, cas: ContentAddressedStore, long: bool, as_json: bool) -> None:
    # A tree gives keys in the order of their hashes, which would scatter the chunks of an array.
    found = sorted(changes(a, b, Reader(cas)), key=itemgetter(0))
    counts = Counter(_status(old, new) for _, old, new in found)
    if as_json:
        _print_json({"key": key, "old": _cid(old), "new": _cid(new)} for key, old, new in found)
    else:
        for key, old, new in found:
            cids = f"{_cid(old) or '-'} {_cid(new) or '-'} " if long else ""
            sys.stdout.write(f"{MARKS[_status(old, new)]} {cids}{printable(key)}\n")
    say(", ".join(f"{counts[status]:,} {status}" for status in MARKS) if found else "no key differs")


def _by_variable(a: bytes, b: bytes, cas: ContentAddressedStore, as_json: bool) -> None:
    found = variable_changes(a, b, cas)
    if as_json:
        _print_json(map(_plain, found))
    else:
        sys.stdout.writelines(f"{printable(shown(change))}\n" for change in found)
    if not found:
        say("no key differs")


def _status(old: bytes | None, new: bytes | None) -> str:
    return "added" if old is None else "removed" if new is None else "changed"


def _cid(pointer: bytes | None) -> str | None:
    return None if pointer is None else text(pointer)


def _print_json(items: Iterable[dict[str, Any]]) -> None:
    """An array, each item on a line of its own."""
    sys.stdout.write("[")
    for number, item in enumerate(items):
        sys.stdout.write(f"{',' if number else ''}\n{json.dumps(item)}")
    sys.stdout.write("\n]\n")


def _plain(change: VariableChange) -> dict[str, Any]:
    return {
        "path": change.path,
        "kind": change.kind,
        "status": change.status,
        "fields": [field._asdict() for field in change.fields],
        "shape": change.shape,
        "dims": change.dims,
        "added": change.added,
        "changed": change.changed,
        "removed": change.removed,
        "region": None if change.region is None else [[part.start, part.stop] for part in change.region],
        "sharded": change.sharded,
        "keys": change.keys,
    }


def shown(change: VariableChange) -> str:
    """One line for people."""
    if change.kind == "keys":
        more = ", …" if change.added + change.changed + change.removed > len(change.keys) else ""
        return f"{_counts(change, 'key')} outside of all arrays: {', '.join(change.keys)}{more}"
    name = change.path or "/"
    if change.dims:
        name += f"  ({', '.join(dim or '?' for dim in change.dims)})"
    if change.kind != "array":
        name += "  group" if change.kind == "group" else "  metadata that cannot be read"
    parts = _metadata(change)
    if chunks := _counts(change, "shard" if change.sharded else "chunk"):
        parts.append(f"{chunks} in [{_region(change)}]" if change.region else chunks)
    return f"{name}  {'; '.join(parts) or 'metadata written anew, which says the same'}"


def _counts(change: VariableChange, what: str) -> str:
    """Such as `24 chunks added, 1 changed`."""
    counts = [(count, status) for status in MARKS if (count := getattr(change, status))]
    words = [f"{count:,} {status}" for count, status in counts]
    if words:
        count, status = counts[0]
        words[0] = f"{count:,} {what if count == 1 else what + 's'} {status}"
    return ", ".join(words)


def _region(change: VariableChange) -> str:
    assert change.region is not None and change.shape is not None
    whole = [slice(0, size) for size in change.shape]
    return ", ".join(
        ":" if part == all_of_it else f"{part.start}:{part.stop}"
        for part, all_of_it in zip(change.region, whole, strict=True)
    )


def _metadata(change: VariableChange) -> list[str]:
    """What became of the array or group itself."""
    if change.status != "changed":
        return [change.status if change.shape is None else f"{change.status}, shape {change.shape}"]
    attributes = [field.attribute for field in change.fields if field.attribute is not None]
    parts = [_field(field) for field in change.fields if field.attribute is None]
    if attributes:
        parts.append(f"attribute{'s' if len(attributes) > 1 else ''} {', '.join(attributes)} changed")
    return parts


def _field(field: FieldChange) -> str:
    if field.name == CONSOLIDATED:
        return _consolidated(field)
    old, new = (value if isinstance(value, tuple) else json.dumps(value) for value in (field.old, field.new))
    values = f"{old} → {new}"
    return f"{field.name} {values if len(values) <= SHORT else 'changed'}"


def _consolidated(field: FieldChange) -> str:
    """What became of the copy that a group has of the metadata of its members."""
    if field.old is None or field.new is None:
        return f"{CONSOLIDATED} {'added' if field.old is None else 'removed'}"
    members = [path or "the group" for path in dict.fromkeys([*field.old, *field.new])]
    more = f" and {len(members) - MEMBERS} more" if len(members) > MEMBERS else ""
    return f"its copy of the metadata of {', '.join(members[:MEMBERS])}{more} ({CONSOLIDATED})"
