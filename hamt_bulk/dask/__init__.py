"""Builds of any keys and values as Dask tasks."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import dask
import dask.base
from dask._task_spec import TaskRef
from dask.bag import Bag
from dask.delayed import Delayed
from multiformats import CID

from hamt_bulk.block import AnyCID, to_bytes
from hamt_bulk.bulk import Target, concluded, opened, write_piece
from hamt_bulk.cas import ContentAddressedStore
from hamt_bulk.cas.configured import providers
from hamt_bulk.dask.batches import WINDOW_BLOCKS
from hamt_bulk.dask.layers import Key
from hamt_bulk.dask.runner import Window, run, runner_here
from hamt_bulk.dask.stages import ValuesStage, fresh, task, tree_stages
from hamt_bulk.errors import InvalidInput
from hamt_bulk.layout import BUCKET_SIZE, LayoutOption
from hamt_bulk.manifest import HashFn, blake3_hashfn
from hamt_bulk.progress import ProgressOption, progress_of

__all__ = ["build"]


def _kubo_configured() -> Mapping[str, str]:
    """Credentials from `hamt-bulk.kubo` of Dask's configuration."""
    return dask.config.get("hamt-bulk.kubo", None) or {}


providers.append(_kubo_configured)


def build(
    items: "Bag | Sequence[Delayed]",
    cas: ContentAddressedStore | str,
    *,
    base: AnyCID | None = None,
    layout: LayoutOption = None,
    max_bucket_size: int = BUCKET_SIZE,
    hash_fn: HashFn = blake3_hashfn,
    pin: str | None = None,
    progress: ProgressOption = None,
) -> CID:
    """
    The root of the tree that holds `items`: that of `hamt_bulk.build`, built on the active Dask scheduler.

    items  a Bag of (key, value) pairs, or `Delayed` pieces, each a mapping or an iterable of pairs;
           values are those of `hamt_bulk.build`
    base   a root to change; without it a new tree
    layout, pin    as in `hamt_bulk.build`

    A key belongs to one piece: with different values in two of them it raises `Conflict`.
    """
    runner = runner_here("build in a thread (asyncio.to_thread) with a synchronous Client")
    wanted = Target.of(cas, max_bucket_size, hash_fn, pin, layout)
    pieces = _pieces(items)
    root = None if base is None else to_bytes(base)

    def make() -> bytes:
        target, tree = opened(wanted, root)
        windows = (
            _window(target, pieces[at : at + WINDOW_BLOCKS]) for at in range(0, len(pieces), WINDOW_BLOCKS)
        )
        write = ValuesStage("write", len(pieces), windows, target.cas)
        stages = tree_stages(target, write, [], tree, runner.workers)
        return run(stages, runner, target.cas, progress_of(progress))

    return concluded(wanted, root, make)


def _pieces(items: "Bag | Sequence[Delayed]") -> list[Delayed]:
    if isinstance(items, Bag):
        pieces: list[Delayed] = items.to_delayed()
        return pieces
    if isinstance(items, (str, bytes)) or not isinstance(items, Iterable):
        raise InvalidInput(f"items must be a Bag or a list of Delayed, found {type(items).__name__}")
    found = list(items)
    for piece in found:
        if not isinstance(piece, Delayed):
            raise InvalidInput(
                f"items must be a Bag or a list of Delayed, found a list with {type(piece).__name__}: "
                "use hamt_bulk.build for pairs in this process, or dask.delayed for a piece"
            )
    return found


def _window(target: Target, pieces: Sequence[Delayed]) -> Window:
    name = fresh("hamt-write")
    graph: dict[Key, Any] = {}
    results: dict[Key, int] = {}
    for number, piece in enumerate(dask.base.optimize(*pieces)):
        graph.update(piece.__dask_graph__())
        key = (name, number)
        graph[key] = task(key, write_piece, target, TaskRef(piece.key))
        results[key] = 1
    return Window(graph, results)
