"""What commands know of encryption: a file that says how, and keys."""

import os
import secrets
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hamt_bulk.cli.console import command, say, wrong
from hamt_bulk.errors import CASError, InvalidInput

if TYPE_CHECKING:
    from hamt_bulk.crypto import Encryption

EncryptionOption = Annotated[
    Path | None,
    typer.Option(
        "--encryption",
        metavar="FILE.toml",
        help="How values are encrypted: key_file or key_env, and header, exclude_vars, encrypt_metadata, hide_names, "
        "deterministic, format, as of hamt_bulk.Encryption.",
    ),
]

FIELDS = {
    "key_file": str,
    "key_env": str,
    "header": str,
    "exclude_vars": list,
    "encrypt_metadata": bool,
    "hide_names": bool,
    "deterministic": bool,
    "format": str,
}


def add_to(app: typer.Typer) -> None:
    """Adds this module's command."""
    app.command()(keygen)


def encryption_of(path: Path | None, option: str = "--encryption") -> "Encryption | None":
    """What the file at `path` says. The name of a key file counts from the folder of that file."""
    if path is None:
        return None
    try:
        fields = tomllib.loads(path.read_text())
    except (OSError, ValueError, RecursionError) as error:
        wrong(option, f"{path}: {error}")
    for name, value in fields.items():
        if name not in FIELDS:
            wrong(option, f"{path}: there is no {name!r}; known are {', '.join(FIELDS)}")
        if not isinstance(value, FIELDS[name]):
            wrong(option, f"{path}: {name} is a {type(value).__name__}, expected {FIELDS[name].__name__}")
    from hamt_bulk.crypto import Encryption, KeyEnv, KeyFile

    if ("key_file" in fields) == ("key_env" in fields):
        wrong(
            option,
            f"{path}: it needs key_file, the name of a file, or key_env, that of an environment variable",
        )
    named: dict[str, Any] = dict(fields)
    file, variable = named.pop("key_file", None), named.pop("key_env", None)
    key = KeyEnv(variable) if file is None else KeyFile(path.resolve().parent / file)
    try:
        return Encryption(key, header=named.pop("header", "").encode(), **named)
    except InvalidInput as error:
        wrong(option, f"{path}: {error}")


@command
def keygen(
    path: Annotated[Path, typer.Argument(metavar="FILE", help="Where the key goes; there is none yet.")],
) -> None:
    """Make a key for --encryption: 64 hex digits, in a file that only you can read."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        wrong(
            "FILE", f"{path} is there already: a key that is written over is lost, and all that it encrypted"
        )
    except OSError as error:
        raise CASError(f"cannot write {path}: {error}") from error
    with os.fdopen(file, "w") as opened:
        opened.write(f"{secrets.token_hex(32)}\n")
        opened.flush()
        os.fsync(opened.fileno())
    say(f"{path} has a new key. Keep a copy: what is encrypted with it cannot be read without it")
