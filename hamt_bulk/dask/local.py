"""Dask's schedulers of one host: synchronous, threads and processes."""

from collections.abc import Callable
from concurrent.futures import BrokenExecutor
from typing import Any

import dask
import dask.base
from dask.callbacks import Callback
from dask.system import CPU_COUNT

from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.dask.layers import Key
from hamt_bulk.dask.stage import Stage, Tick, Window
from hamt_bulk.errors import WorkersDied


class LocalRunner:
    """Runs stages in this process, or in processes that Dask starts for each window."""

    def __init__(self, get: Callable[..., Any]) -> None:
        self._get = get
        self._stays_here = "multiprocessing" not in getattr(get, "__module__", "")

    @property
    def workers(self) -> int:
        """Tasks that run at a time."""
        if self._get is dask.base.named_schedulers["sync"]:
            return 1
        return int(dask.config.get("num_workers", None) or CPU_COUNT)

    def check(self, cas: ContentAddressedStore) -> None:
        """Raises `NotPortable` before any work when the store cannot go where the tasks run."""
        if not self._stays_here:
            cas.refuse_other_processes()

    def results(self, stage: Stage, tick: Tick) -> list[Any]:
        """The results of all windows."""
        results: list[Any] = []
        try:
            for window in stage.windows:
                results += self._window(stage, window, tick)
        except BrokenExecutor as error:
            raise WorkersDied(
                f"a process of the pool died in the stage {stage.name!r}, short of memory or by a crash, and it is not "
                "known in which task. With a Client workers are replaced, and the error names the chunk"
            ) from error
        except BaseException:
            stage.halt()
            raise
        return results

    def _window(self, stage: Stage, window: Window, tick: Tick) -> list[Any]:
        left = dict(window.results)

        def finished(key: Key, result: Any, *_: Any) -> None:
            if key in left:
                stage.finished(key, result)
                tick(left.pop(key))

        with Callback(posttask=finished):
            results: list[Any] = self._get(window.graph, list(window.results))
        for key, result in zip(window.results, results, strict=True):
            finished(key, result)  # schedulers need not call back
        return results
