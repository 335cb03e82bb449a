"""The folder of a `PackCAS`: whether it is one, and the same one for everybody who writes to it."""

import os
import secrets
import socket
from pathlib import Path

from hamt_bulk.cas.files import make_folder, outside, write_durably
from hamt_bulk.cas.packfile import KINDS, temporary_name
from hamt_bulk.errors import CASError, InvalidInput

FORMAT = "hamt_bulk pack store 1\n"
"""What the file `format` of every such folder says."""

ASIDE = "damaged"
"""The folder in which damaged packs are kept aside. Nothing in it is read."""

_OURS = {"format", "packs", "index", "journals", "tmp", ASIDE, "lost+found"}


class PackFolder:
    """The folder at `path`, which is looked at once."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._is_there = self._is_whole = False

    def is_there(self) -> bool:
        """Whether there is a store yet. Raises `InvalidInput` for a folder that holds something else."""
        if self._is_there:
            return True
        with outside("cannot open", self.path):
            try:
                found = (self.path / "format").read_text(errors="replace")[:200]
            except FileNotFoundError:
                if self.path.is_dir() and not _OURS.issuperset(os.listdir(self.path)):
                    raise InvalidInput(
                        f"{self.path} is a folder with other things in it, not a pack store: choose a new or "
                        "empty one"
                    ) from None
                return False
        if found != FORMAT:
            raise InvalidInput(
                f"{self.path / 'format'} says {found.strip()!r}, expected {FORMAT.strip()!r}: "
                "the store was made by another version or is something else"
            )
        self._is_there = True
        return True

    def create(self) -> None:
        """Makes what is missing: copies and clean-ups leave out empty folders."""
        if self._is_whole:
            return
        there = self.is_there()
        with outside("cannot create", self.path):
            for folder in (*(f"packs/{kind}" for kind in KINDS), "index", "tmp"):
                make_folder(self.path / folder)
            if not there:
                # Always the same bytes, so it does not matter who is last.
                temporary = self.path / "tmp" / temporary_name()
                write_durably(temporary, self.path / "format", [FORMAT.encode()])
        self._is_there = self._is_whole = True

    def refuse_absence(self) -> None:
        """Raises `CASError` where there is none, on a worker of a build, whose driver has made one."""
        if not self.is_there():
            raise CASError(
                f"{self.path} on {socket.gethostname()} is no store, and the build that writes to it has made one: this is not "
                "the folder that the driver sees. Put the store on a file system that all workers share"
            )

    def announce(self) -> str:
        """Leaves a token, by which `preflight` knows on a worker that it is the same folder."""
        self.create()
        token = secrets.token_hex(8)
        path = self._preflight(token)
        with outside("cannot write", path):
            path.touch()
        return token

    def preflight(self, token: str) -> None:
        """Raises `CASError` when it is another folder than the one that was announced, or cannot be written to."""
        path = self._preflight(token)
        with outside("cannot read", path):
            here = path.exists()
        if not here:
            raise CASError(
                f"{self.path} on this worker is not the folder that the driver sees: packs written here "
                "would be lost. Put the store on a file system that all workers share"
            )
        with outside("cannot write", self.path / "tmp"):
            probe = self.path / "tmp" / temporary_name()
            probe.touch()
            probe.unlink()

    def retract(self, token: str) -> None:
        """Removes what `announce` has left."""
        path = self._preflight(token)
        with outside("cannot remove", path):
            path.unlink(missing_ok=True)

    def _preflight(self, token: str) -> Path:
        return self.path / "tmp" / f"preflight-{token}"
