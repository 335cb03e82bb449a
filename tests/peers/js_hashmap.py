"""
The JavaScript libraries of IPLD HashMaps, to compare with: ipld-hashmap, and IAMap, which it is made of.

They are installed once in the user's cache folder, in the versions of `js/package-lock.json`, and answer from a
process of their own (`js/peer.mjs`). bit-sequence is pinned there: IAMap does not load with 1.2.
"""

import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import dag_cbor
from dag_cbor.ipld import IPLDKind

from .py_hamt import CLOSE_TIMEOUT_SECONDS, INSTALL_TIMEOUT_SECONDS, PeerError, PeerUnavailable, _locked, _run

MIN_NODE = 18
PROBE_TIMEOUT_SECONDS = 30

SOURCE = Path(__file__).parent / "js"

Library: TypeAlias = Literal["ipld-hashmap", "iamap"]
Key: TypeAlias = str | bytes

Step: TypeAlias = tuple[Key, IPLDKind] | tuple[Key]
"""A key and the value to set; a key alone is deleted."""


@dataclass(frozen=True, slots=True)
class JsOptions:
    """
    How a map is made.

    library       ipld-hashmap places keys by sha2-256, whatever `hash_code` it records
    hash_code     sha2-256, blake3, murmur3-128 or murmur3-32
    block_hasher  the hash of the nodes' CIDs
    digests       for an IAMap with a hasher of its own: the digest of each key that it meets
    """

    bit_width: int = 5
    bucket_size: int = 3
    library: Library = "ipld-hashmap"
    hash_code: int = 0x12
    block_hasher: Literal["sha2-256", "blake3"] = "sha2-256"
    digests: Mapping[bytes, bytes] | None = None


@dataclass(frozen=True, slots=True)
class JsTree:
    """A map that the peer wrote. CIDs are base32 text; the blocks are the nodes of the tree, and no others."""

    root: str
    blocks: dict[str, bytes]


@dataclass(frozen=True, slots=True)
class JsView:
    """What the peer reads from a map."""

    entries: list[tuple[bytes, IPLDKind]]
    """In the peer's order; a key listed twice is here twice."""
    values: dict[Key, IPLDKind] = field(default_factory=dict)
    """What `get` gives for the keys asked for, without those that it does not find."""


class JsPeer:
    """A running peer. Use it as a context manager, or `close` it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    @classmethod
    def start(cls) -> "JsPeer":
        """A new process. Installs the libraries if need be; raises `PeerUnavailable`."""
        script = install(node := find_node())
        return cls(subprocess.Popen([node, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE))

    def edit(
        self,
        steps: Iterable[Step],
        options: JsOptions,
        root: str | None = None,
        blocks: Mapping[str, bytes] | None = None,
    ) -> JsTree:
        """The map after `steps`, one after the other, on that of `root`; without one, on a new map."""
        answer = self._ask(
            "edit",
            **_common(options),
            root=root,
            blocks=_blocks(blocks or {}),
            steps=[
                (_key(key), *(_text(dag_cbor.encode(value)) for value in values)) for key, *values in steps
            ],
        )
        blocks = {cid: base64.b64decode(data) for cid, data in answer["blocks"].items()}
        return JsTree(answer["root"], blocks)

    def read(
        self, root: str, blocks: Mapping[str, bytes], options: JsOptions, keys: Sequence[Key] = ()
    ) -> JsView:
        """
        Every entry of the map of `root`, and the values of `keys`.

        Raises `PeerError` for a block that it needs and that is missing or does not match its CID.
        """
        given = [_key(key) for key in keys]
        answer = self._ask("read", **_common(options), root=root, blocks=_blocks(blocks), keys=given)
        entries = [(base64.b64decode(key), _value(value)) for key, value in answer["entries"]]
        assert answer["size"] == len(entries)
        found = zip(keys, answer["values"], strict=True)
        return JsView(entries, {key: _value(value) for key, value in found if value is not None})

    def digests(self, hash_code: int, data: Iterable[bytes]) -> list[bytes]:
        """What the peer's key hasher of this code makes of each."""
        answer = self._ask("digests", hashAlg=hash_code, data=[_text(bytes_) for bytes_ in data])
        return [base64.b64decode(digest) for digest in answer]

    def close(self) -> None:
        """End the process. It can be closed twice."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        with suppress(OSError):  # It may have ended already.
            stdin.close()
        try:
            self._process.wait(CLOSE_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        stdout.close()

    def __enter__(self) -> "JsPeer":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def _ask(self, command: str, **given: Any) -> Any:
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None and stdout is not None
        try:
            stdin.write(json.dumps({"command": command, **given}).encode() + b"\n")
            stdin.flush()
            line = stdout.readline()
        except ConnectionError as error:
            raise PeerError(f"the JavaScript peer ended before {command!r}") from error
        except BaseException:
            # Interrupted halfway: the next request would get this one's answer.
            self._process.kill()
            raise
        if not line:
            raise PeerError(f"the JavaScript peer ended during {command!r}")
        answer = json.loads(line)
        if "error" in answer:
            raise PeerError(answer["error"])
        return answer["result"]


def find_node() -> str:
    """The path of Node; raises `PeerUnavailable`."""
    if sys.platform == "win32":
        raise PeerUnavailable("the peers run on POSIX systems only")
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise PeerUnavailable(f"ipld-hashmap needs {program}, which the PATH has not")
    version = _run("node", "--version", timeout_seconds=PROBE_TIMEOUT_SECONDS).strip()
    found = re.match(r"v(\d+)\.", version)
    if found is None or int(found[1]) < MIN_NODE:
        raise PeerUnavailable(f"ipld-hashmap needs Node {MIN_NODE} or newer, found {version}")
    return str(shutil.which("node"))


def install(node: str) -> str:
    """The path of the peer's script, beside its libraries; raises `PeerUnavailable`. Safe in parallel sessions."""
    lock, script = (SOURCE / "package-lock.json").read_bytes(), (SOURCE / "peer.mjs").read_bytes()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hamt_bulk" / "peers"
    folder = cache / f"js-hashmap-{hashlib.sha256(lock).hexdigest()[:16]}"
    # A module finds the libraries from where its file is.
    copied = folder / f"peer-{hashlib.sha256(script).hexdigest()[:16]}.mjs"
    marker = folder / "installed"
    folder.mkdir(parents=True, exist_ok=True)
    with _locked(folder.with_name(f"{folder.name}.lock")):
        if not marker.exists():
            for name in ("package.json", "package-lock.json"):
                shutil.copy(SOURCE / name, folder)
            options = ("--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund")
            _run("npm", "ci", *options, timeout_seconds=INSTALL_TIMEOUT_SECONDS)
            marker.touch()
        if not copied.exists():
            part = copied.with_suffix(".part")
            part.write_bytes(script)
            part.replace(copied)
    return str(copied)


def _common(options: JsOptions) -> dict[str, Any]:
    digests = options.digests
    return {
        "library": options.library,
        "options": {
            "bitWidth": options.bit_width,
            "bucketSize": options.bucket_size,
            "hashAlg": options.hash_code,
            "blockHasher": options.block_hasher,
            "digests": digests and {_text(key): _text(digest) for key, digest in digests.items()},
        },
    }


def _blocks(blocks: Mapping[str, bytes]) -> dict[str, str]:
    return {cid: _text(data) for cid, data in blocks.items()}


def _key(key: Key) -> dict[str, str]:
    return {"text": key} if isinstance(key, str) else {"bytes": _text(key)}


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _value(text: str) -> IPLDKind:
    return dag_cbor.decode(base64.b64decode(text))
