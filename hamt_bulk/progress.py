"""How far a build is."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, TypeAlias


@dataclass(frozen=True, slots=True)
class BuildProgress:
    """
    How far one stage of a build is.

    stage   "resume" (batches that an earlier call finished), "write" (Dask blocks read, encoded and stored), "index" (parts of the tree), "check" (subtrees),
            "copy" (nodes whose values are copied), or "nodes" (nodes that are copied themselves); of a pack store
            "verify" (MiB), "rebuild" and "merge" (packs), "mark" (nodes) and "drop" (packs)
    done    Dask blocks, parts, subtrees or nodes that are finished
    total   and how many there are; in "copy" those that are known so far, which grow from level to level
    """

    stage: str
    done: int
    total: int


ProgressOption: TypeAlias = "bool | Callable[[BuildProgress], None] | None"
"""`None`: a bar where somebody looks, a terminal or a notebook; `False`: nothing; `True`: a bar anyway;
or a function that is called with each `BuildProgress`."""


class Progress(Protocol):
    """Shows stages."""

    def __call__(self, progress: BuildProgress) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...


class _Silent:
    """Calls a function, if there is one."""

    def __init__(self, call: Callable[[BuildProgress], None] | None) -> None:
        self._call = call

    def __call__(self, progress: BuildProgress) -> None:
        if self._call is not None:
            self._call(progress)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        return None


_TITLES = {
    "resume": "looking at what was finished",
    "write": "writing Dask blocks",
    "index": "building the tree",
    "check": "checking subtrees",
    "copy": "copying values",
    "nodes": "copying nodes",
    "verify": "verifying packs, MiB",
    "rebuild": "looking at packs",
    "merge": "merging packs",
    "mark": "marking what is needed",
    "drop": "dropping from packs",
}


class _Bar:
    """A bar for each stage, on stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )
        from rich.progress import Progress as Bars

        self._bars = Bars(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )
        self._tasks: dict[str, int] = {}

    def __call__(self, progress: BuildProgress) -> None:
        if progress.stage not in self._tasks:
            title = _TITLES.get(progress.stage, progress.stage)
            self._tasks[progress.stage] = self._bars.add_task(title, total=progress.total)
        self._bars.update(self._tasks[progress.stage], completed=progress.done, total=progress.total)  # type: ignore[arg-type]

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._bars.stop()


def progress_of(option: ProgressOption) -> Progress:
    """What shows the progress that `option` asks for."""
    if callable(option):
        return _Silent(option)
    if option is None:
        option = sys.stderr.isatty() or _in_notebook()
    return _Bar() if option else _Silent(None)


def _in_notebook() -> bool:
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return type(shell).__name__ == "ZMQInteractiveShell"
