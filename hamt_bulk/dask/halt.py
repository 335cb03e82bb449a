"""How a batch learns that nobody waits for it any more."""

from typing import Any
from weakref import WeakValueDictionary

# What `distributed.threadpoolexecutor` has of this name is another, and never says which task it is.
from distributed.worker import get_worker, thread_state  # type: ignore[attr-defined]


class Halted(Exception):
    """The batch ended before it was finished, since its build is over, or the scheduler took it back."""


class Halt:
    """
    A sign by which the driver tells the tasks of one build to end.

    Threads cannot be stopped from outside, and a batch may take minutes: it asks between its Dask blocks. The sign is
    seen in the driver's process; on a worker a task knows from the worker that it was cancelled.
    """

    def __init__(self, token: str) -> None:
        self._token = token
        self._given = False

    def give(self) -> None:
        """From now on the build is over."""
        self._given = True

    def heed(self) -> None:
        """Raises `Halted` when the task that calls this should end."""
        if self._given or _is_cancelled():
            raise Halted("nobody waits for this batch any more")

    def __reduce__(self) -> tuple[Any, ...]:
        return halt_of, (self._token,)

    def __dask_tokenize__(self) -> str:
        return self._token


_known: "WeakValueDictionary[str, Halt]" = WeakValueDictionary()


def halt_of(token: str) -> Halt:
    """The sign of the build that `token` names, in this process."""
    return _known.setdefault(token, Halt(token))


def is_task() -> bool:
    """Whether this is a task on a worker of a cluster."""
    return getattr(thread_state, "key", None) is not None


def _is_cancelled() -> bool:
    """Whether this is a task on a worker that the scheduler has taken back."""
    if not is_task():
        return False
    try:
        task = get_worker().state.tasks.get(thread_state.key)
    except ValueError:
        return False
    return task is None or task.state == "cancelled"
