"""
The program `ipfs`.

It is the PATH's if that is new enough, else the Go tool of this folder, which Go builds once and keeps in its
cache: minutes on a machine that has never built it.
"""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

from peers.py_hamt import PeerUnavailable

MIN_VERSION = (0, 40)
BUILD_TIMEOUT_SECONDS = 1200


def find_ipfs() -> Path:
    """The program `ipfs`; raises `PeerUnavailable`. Safe in parallel sessions, as Go's cache is."""
    if sys.platform == "win32":
        raise PeerUnavailable("the peers run on POSIX systems only")
    found = shutil.which("ipfs")
    if found is not None and _is_new_enough(found):
        return Path(found)
    if shutil.which("go") is None:
        oldest = ".".join(map(str, MIN_VERSION))
        raise PeerUnavailable(f"the PATH has no ipfs of version {oldest} or newer, and no go to build one")
    # Without cgo no C compiler is needed. A go.work above this folder would have other modules.
    env = os.environ | {"CGO_ENABLED": "0", "GOWORK": "off"}
    command = ["go", "tool", "-n", "ipfs"]
    try:
        done = subprocess.run(
            command,
            cwd=Path(__file__).parent,
            env=env,
            capture_output=True,
            text=True,
            timeout=BUILD_TIMEOUT_SECONDS,
            check=True,
        )
    except subprocess.CalledProcessError as error:
        raise PeerUnavailable(f"{' '.join(command)} failed: {error.stderr.strip()}") from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PeerUnavailable(str(error)) from error
    return Path(done.stdout.strip())


def _is_new_enough(path: str) -> bool:
    command = [path, "version", "--number"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return False
    version = re.match(r"(\d+)\.(\d+)\.", done.stdout)
    return version is not None and tuple(map(int, version.groups())) >= MIN_VERSION
