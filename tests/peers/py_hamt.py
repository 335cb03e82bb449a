"""
A real py-hamt, to compare with.

It needs Python 3.12 and pins a zarr older than ours, so it lives in a virtual environment of its own, made
once in the user's cache folder, and answers from a process of its own (`py_hamt_peer.py`).
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeAlias

VERSION = "3.6.0"
MIN_PYTHON = (3, 12)
INSTALL_TIMEOUT_SECONDS = 900
CLOSE_TIMEOUT_SECONDS = 10
PROBE_TIMEOUT_SECONDS = 30

Hasher: TypeAlias = Literal["blake3", "sha2-256"]
KeyHasher: TypeAlias = Literal["blake3", "sha2-256", "crowded"]

Call: TypeAlias = tuple[Any, ...]
"""The name of a HAMT's method and its arguments."""


class PeerUnavailable(Exception):
    """There is no interpreter for py-hamt, or it cannot be installed."""


class PeerError(Exception):
    """The peer raised, or ended. The message is its traceback."""


class Python(NamedTuple):
    """An interpreter that runs, and can make environments."""

    version: tuple[int, int, int]
    path: str


@dataclass(frozen=True, slots=True)
class PeerTree:
    """A tree that py-hamt built. CIDs are base32 text."""

    root: str
    blocks: dict[str, bytes]
    """Nodes and values."""
    nodes: frozenset[str]
    """The keys of `blocks` that are nodes."""
    cpu_seconds: float
    """The peer's processor time for the build alone. About half goes to making the CIDs of values."""
    wall_seconds: float


@dataclass(frozen=True, slots=True)
class PeerView:
    """What py-hamt reads from a tree."""

    keys: list[str]
    """Every key, in py-hamt's order; a key listed twice is here twice."""
    values: dict[str, bytes | None]
    """What `get` gives for the keys asked for; `None` is its `KeyError`."""


@dataclass(frozen=True, slots=True)
class PeerRun:
    """What py-hamt did with a script of calls."""

    answers: list[tuple[str, Any]]
    """
    The name of each call and what it gave: the root for `make_read_only`, a list for `keys`, text for a CID;
    `"KeyError"`, or `"refused"` for any other error.
    """
    root: str | None
    """The root at the end; `None` while the HAMT takes edits, when it has none."""
    blocks: dict[str, bytes]
    """Nodes and values, those given included."""
    cpu_seconds: float
    """The peer's processor time for the calls alone."""


@dataclass(frozen=True, slots=True)
class PeerHierarchy:
    """What py-hamt's encrypted store has written and reads."""

    root: str
    blocks: dict[str, bytes]
    values: dict[str, bytes | None]
    """What its `get` gives for the keys asked for."""
    array: list[float] | None
    """The array "a" as zarr reads it from the store, if it has one."""


class PyHamt:
    """A running py-hamt. Use it as a context manager, or `close` it."""

    def __init__(self, process: subprocess.Popen[bytes], connection: "Connection[Any, Any]") -> None:
        self._process = process
        self._connection = connection

    @classmethod
    def start(cls) -> "PyHamt":
        """A new process. Makes the environment if need be; raises `PeerUnavailable`."""
        python = install(find_python())
        ours, theirs = Pipe()
        script = Path(__file__).with_name("py_hamt_peer.py")
        with theirs:
            process = subprocess.Popen([python, "-I", script], stdin=theirs.fileno())
        return cls(process, ours)

    def build(
        self,
        items: Iterable[tuple[str, bytes]],
        max_bucket_size: int = 4,
        hasher: Hasher = "blake3",
        key_hasher: KeyHasher = "blake3",
    ) -> PeerTree:
        """The tree of `items`, set one at a time in their order. `hasher` is for the blocks' CIDs."""
        return PeerTree(
            **self._ask(
                "build",
                items=[(key, bytes(value)) for key, value in items],
                max_bucket_size=max_bucket_size,
                hasher=hasher,
                key_hasher=key_hasher,
            )
        )

    def open(
        self,
        root: str,
        blocks: Mapping[str, bytes],
        keys: Iterable[str] = (),
        key_hasher: KeyHasher = "blake3",
    ) -> PeerView:
        """
        Every key under `root`, and the values of `keys`.

        Raises `PeerError` for a block that py-hamt needs and that is missing or does not match its CID.
        """
        return PeerView(
            **self._ask("open", root=root, blocks=dict(blocks), keys=list(keys), key_hasher=key_hasher)
        )

    def run(
        self,
        script: Iterable[Call],
        root: str | None = None,
        blocks: Mapping[str, bytes] | None = None,
        *,
        max_bucket_size: int = 4,
        values_are_bytes: bool = True,
        key_hasher: KeyHasher = "blake3",
        read_only: bool = False,
    ) -> PeerRun:
        """What a HAMT answers to the calls of `script`, one after the other; without a `root`, a new one."""
        return PeerRun(
            **self._ask(
                "run",
                script=list(script),
                root=root,
                blocks=dict(blocks or {}),
                max_bucket_size=max_bucket_size,
                values_are_bytes=values_are_bytes,
                key_hasher=key_hasher,
                read_only=read_only,
            )
        )

    def run_on_own_cas(
        self, items: Iterable[tuple[str, bytes]], scripts: Iterable[tuple[bool, Iterable[Call]]]
    ) -> list[float]:
        """
        The processor time of each script on the tree of `items`, with py-hamt's own InMemoryCAS.

        scripts  with whether the tree is opened read-only
        """
        answer = self._ask(
            "run_on_own_cas", items=list(items), scripts=[(mode, list(calls)) for mode, calls in scripts]
        )
        seconds: list[float] = answer["cpu_seconds"]
        return seconds

    def encrypted(
        self,
        key: bytes,
        header: bytes,
        *,
        root: str | None = None,
        blocks: Mapping[str, bytes] | None = None,
        values: Mapping[str, bytes] | None = None,
        array: Iterable[float] | None = None,
        wanted: Iterable[str] = (),
    ) -> PeerHierarchy:
        """
        What its SimpleEncryptedZarrHAMTStore writes, or reads under `root`.

        values  set under these keys, in a new tree
        array   written by zarr, as the array "a" of a new group
        wanted  keys to read

        Raises `PeerError` for what it cannot decrypt.
        """
        return PeerHierarchy(
            **self._ask(
                "encrypted",
                key=key,
                header=header,
                root=root,
                blocks=dict(blocks or {}),
                values=dict(values or {}),
                array=None if array is None else list(array),
                wanted=list(wanted),
            )
        )

    def close(self) -> None:
        """End the process. It can be closed twice."""
        if self._connection.closed:
            return
        with suppress(OSError):  # It may have ended already.
            self._connection.send(None)
        self._connection.close()
        try:
            self._process.wait(CLOSE_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> "PyHamt":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        try:
            self._connection.send((command, arguments))
            succeeded, result = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise PeerError(f"py-hamt's process ended during {command!r}") from error
        except BaseException:
            # Interrupted halfway: the next request would get this one's answer.
            self._process.kill()
            raise
        if not succeeded:
            raise PeerError(result)
        answer: dict[str, Any] = result
        return answer


def find_python() -> Python:
    """
    The interpreter for py-hamt; raises `PeerUnavailable`.

    This one if it is new enough, else one on the PATH, else pyenv's newest.
    """
    names = ["python3.14", "python3.13", "python3.12"]
    folders = os.environ.get("PATH", os.defpath).split(os.pathsep)
    # Every folder, not `which`'s first find: pyenv's shims stand before real interpreters, and fail.
    on_path = (found for name in names for folder in folders if (found := shutil.which(name, path=folder)))
    for path in (sys.executable, *on_path):
        if (python := _probe(path)) is not None:
            return python
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    pythons = [_probe(str(path)) for path in pyenv.glob("versions/*/bin/python")]
    if newest := max((python for python in pythons if python is not None), default=None):
        return newest
    oldest = ".".join(map(str, MIN_PYTHON))
    raise PeerUnavailable(f"py-hamt {VERSION} needs Python {oldest} or newer, and none was found")


def _probe(path: str) -> Python | None:
    """The interpreter at `path`, or `None` if it fails, is too old or cannot make environments."""
    code = "import sys, venv, ensurepip; print(*sys.version_info[:3])"
    try:
        output = _run(path, "-I", "-c", code, timeout_seconds=PROBE_TIMEOUT_SECONDS)
    except PeerUnavailable:
        return None
    major, minor, micro = (int(word) for word in output.split())
    return Python((major, minor, micro), path) if (major, minor) >= MIN_PYTHON else None


def install(python: Python) -> str:
    """The path of an interpreter that has py-hamt; raises `PeerUnavailable`. Safe in parallel sessions."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hamt_bulk" / "peers"
    folder = cache / f"py-hamt-{VERSION}-{'.'.join(map(str, python.version))}"
    interpreter = folder / "bin" / "python"
    marker = folder / "installed"
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f"{folder.name}.lock")):
        # The interpreter is a link, dead once the Python that it was made from is removed.
        if not (marker.exists() and interpreter.exists()):
            timeout = INSTALL_TIMEOUT_SECONDS
            _run(python.path, "-I", "-m", "venv", "--clear", str(folder), timeout_seconds=timeout)
            pip = (str(interpreter), "-I", "-m", "pip", "--quiet", "--disable-pip-version-check")
            _run(*pip, "install", f"py-hamt=={VERSION}", timeout_seconds=timeout)
            marker.touch()
    return str(interpreter)


def _run(*command: str, timeout_seconds: float) -> str:
    """The command's standard output."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_seconds, check=True)
    except subprocess.CalledProcessError as error:
        raise PeerUnavailable(f"{' '.join(command)} failed: {error.stderr.strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerUnavailable(str(error)) from error
    return done.stdout


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on `path` among processes; a holder that dies lets go."""
    if sys.platform == "win32":
        raise PeerUnavailable("the peers run on POSIX systems only")
    import fcntl  # Here: Windows has none, and the tests import this module there too.

    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
