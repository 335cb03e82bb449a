"""The command line called in this process, and how a call ended."""

import os
import re
from pathlib import Path

from typer.testing import CliRunner, Result

from hamt_bulk import PackCAS, build
from hamt_bulk.block import text, to_bytes
from hamt_bulk.cli import app

LOCAL = ["--workers", "0", "--threads", "2"]


def call(*arguments: str | os.PathLike[str], env: dict[str, str] | None = None) -> Result:
    """The command in this process."""
    return CliRunner().invoke(app, list(map(os.fspath, arguments)), env={"HAMT_BULK_CAS": ""} | (env or {}))


def told(result: Result) -> str:
    """What was said to people, as one line without the frame of typer's errors."""
    return " ".join(re.sub("[│╭╮╰╯─]", " ", result.stderr).split())


def failed(result: Result, status: int, *parts: str) -> None:
    """It ended with `status`, nothing on stdout, and said `parts`."""
    assert result.exit_code == status, (result.stdout, result.stderr, result.exception)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    for part in parts:
        assert part in told(result)
    if status == 1:
        [line] = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
        assert result.stderr.endswith(line + "\n")


def root_in(result: Result) -> str:
    assert result.exit_code == 0, (result.stderr, result.exception)
    [root] = result.stdout.splitlines()
    to_bytes(root)
    return root


def few_keys(folder: Path) -> str:
    """The root of a few keys and values in a new store."""
    return text(to_bytes(build({"a/b": b"1", "a/c": b"22", "b": b"\x00\xff\n"}, PackCAS(folder))))
