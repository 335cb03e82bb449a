"""A disk of which not all is durable, and what a crash leaves of it."""

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

FULL = os.environ.get("HAMT_BULK_FULL") == "1"
"""Whether every loss of bytes is tried with every loss of entries."""


@dataclass(frozen=True)
class Write:
    """Bytes of a file; where `data` is an int, its new length."""

    file: int
    offset: int
    data: bytes | int


@dataclass(frozen=True)
class Entries:
    """Names in folders: of a file, a folder (its path) or nothing. Those of one call come together."""

    changes: tuple[tuple[str, str, int | str | None], ...]


@dataclass(frozen=True)
class Sync:
    """A file, or a folder by its path."""

    what: int | str


@dataclass(frozen=True)
class Said:
    """What `act` has told: to somebody outside, it is true from here on."""

    word: str


Step: TypeAlias = "Write | Entries | Sync | Said"
Tree: TypeAlias = "dict[str, bytes | None]"
"""Files and folders (`None`) by path."""


@dataclass
class Disk:
    """Files by number and folders by path: what is durable, and what came since."""

    files: dict[int, bytes] = field(default_factory=dict)
    folders: dict[str, dict[str, int | str]] = field(default_factory=lambda: {"": {}})
    writes: dict[int, list[Write]] = field(default_factory=dict)
    entries: dict[str, list[tuple[str, int | str | None]]] = field(default_factory=dict)

    def copy(self) -> "Disk":
        return Disk(
            dict(self.files),
            {name: dict(names) for name, names in self.folders.items()},
            {file: list(writes) for file, writes in self.writes.items()},
            {folder: list(changes) for folder, changes in self.entries.items()},
        )

    def do(self, step: Step) -> None:
        match step:
            case Write():
                self.writes.setdefault(step.file, []).append(step)
            case Entries():
                for folder, name, target in step.changes:
                    self.entries.setdefault(folder, []).append((name, target))
            case Sync(int(file)):
                self.files[file] = content(self.files.get(file, b""), self.writes.pop(file, []))
            case Sync(str(folder)):
                self.folders[folder] = names(self.folders.get(folder, {}), self.entries.pop(folder, []))

    def tree(self, written: "Loss", kept: Callable[[str, int], int]) -> Tree:
        """The files when of what was not synced is left what `written` and `kept` (of so many changes) say."""
        found: Tree = {}

        def walk(folder: str) -> None:
            changes = self.entries.get(folder, [])
            there = names(self.folders.get(folder, {}), changes[: kept(folder, len(changes))])
            for name, target in there.items():
                path = f"{folder}/{name}" if folder else name
                if isinstance(target, str):
                    found[path] = None
                    walk(target)
                else:
                    found[path] = written(self.files.get(target, b""), self.writes.get(target, []))

        walk("")
        return found


def names(
    before: dict[str, int | str], changes: Iterable[tuple[str, int | str | None]]
) -> dict[str, int | str]:
    after: dict[str, int | str | None] = {**before}
    for name, target in changes:
        after[name] = target
    return {name: target for name, target in after.items() if target is not None}


def content(before: bytes, writes: Iterable[Write]) -> bytes:
    data = bytearray(before)
    for write in writes:
        if isinstance(write.data, int):
            del data[write.data :]
            data += bytes(write.data - len(data))
        elif write.data:
            data += bytes(max(write.offset - len(data), 0))
            data[write.offset : write.offset + len(write.data)] = write.data
    return bytes(data)


Loss: TypeAlias = "Callable[[bytes, Sequence[Write]], bytes]"
"""The bytes of a file, from those that are durable and the writes since."""


def none_of_it(before: bytes, writes: Sequence[Write]) -> bytes:
    return before


def torn(before: bytes, writes: Sequence[Write]) -> bytes:
    """The first half of the bytes."""
    left = sum(len(write.data) for write in writes if isinstance(write.data, bytes)) // 2
    kept = []
    for write in writes:
        data = write.data
        if isinstance(data, bytes):
            data, left = data[:left], left - len(data)
        kept.append(Write(write.file, write.offset, data))
        if left <= 0:
            break
    return content(before, kept)


def zeros(before: bytes, writes: Sequence[Write]) -> bytes:
    """The length is known, the bytes are not."""
    after = content(before, writes)
    return before[: len(after)] + bytes(max(len(after) - len(before), 0))


def last(before: bytes, writes: Sequence[Write]) -> bytes:
    """The last write was faster than those before it."""
    return content(before, writes[-1:])


LOSSES: Sequence[Loss] = (none_of_it, torn, zeros, last, content)


def everything(_: str, changes: int) -> int:
    return changes


def disks(before: Disk, steps: Sequence[Step]) -> Iterator[tuple[list[str], Tree, str]]:
    """The disks that crashes may leave, with what had been said, and how each came to be."""
    disk = before.copy()
    said: list[str] = []
    for number, step in enumerate([None, *steps]):
        if step is not None:
            when = f"after step {number}, {_shown(step)}"
            if isinstance(step, Write) and isinstance(step.data, bytes):
                half = disk.copy()
                half.do(Write(step.file, step.offset, step.data[: len(step.data) // 2]))
                yield list(said), half.tree(content, everything), f"of a process killed half-way in {when}"
            disk.do(step)
            if isinstance(step, Said):
                said.append(step.word)
        else:
            when = "before all"
        yield list(said), disk.tree(content, everything), f"of a process killed {when}"
        waiting = sorted(folder for folder, changes in disk.entries.items() if changes)
        for loss in LOSSES:
            for shares in itertools.product((0, 1, 2), repeat=len(waiting)):
                if not FULL and loss is not content and {*shares} not in ({0}, {2}):
                    continue
                share = dict(zip(waiting, shares, strict=True))

                def kept(folder: str, changes: int, share: dict[str, int] = share) -> int:
                    return changes * share.get(folder, 2) // 2

                what = f"of a power cut {when}: {loss.__name__} of the bytes, {share} halves of entries"
                yield list(said), disk.tree(loss, kept), what


def _shown(step: Step) -> str:
    shown = repr(step)
    return shown if len(shown) < 150 else shown[:147] + "…"
