"""
What a worker sends to the driver for each chunk, beside the chunk's key.

    pickled      the manifest of a batch, protocol 5, buffers included
    serialised   the message in which distributed carries it
    sent         the same message, measured on the workers of a cluster during a `to_hamt`
"""

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from distributed import Client, WorkerPlugin
from distributed.protocol.core import dumps
from distributed.protocol.serialize import to_serialize

from benchmarks.data import grid
from benchmarks.measure import cluster, fresh_folder
from benchmarks.report import Row, at_most, record, run
from hamt_bulk import PackCAS
from hamt_bulk.block import identify
from hamt_bulk.manifest import Manifest
from hamt_bulk.xarray import to_hamt

LIMIT = 100


@dataclass(frozen=True, slots=True)
class Size:
    """Batches of so many chunks, and an array of `grid` Dask blocks on a cluster."""

    batches: tuple[int, ...]
    grid: tuple[int, int] | None


BATCHES = (10, 100, 1_000, 10_000)
SIZES = {"tiny": Size((10, 100), None), "small": Size(BATCHES, (20, 100)), "full": Size(BATCHES, (200, 100))}


def rows(size: Size) -> Iterator[Row]:
    """A line for each size of batch, and for a whole build."""
    for chunks in size.batches:
        keys = [f"t2m/c/{number // 100}/{number % 100}/0" for number in range(chunks)]
        manifest = Manifest.of((key, identify(key.encode())) for key in keys)
        of_keys = sum(map(len, keys))
        for name, sent in (("pickled", pickled_bytes(manifest)), ("serialised", message_bytes(manifest))):
            note = f"{sent:,} bytes, {of_keys:,} of them keys"
            yield at_most(
                f"batch of {chunks:,}, {name}, a chunk", (sent - of_keys) / chunks, LIMIT, " B", note
            )
    if size.grid is not None:
        yield from on_cluster(*size.grid)


def on_cluster(blocks: int, columns: int) -> Iterator[Row]:
    """A build on two worker processes, which count what they send."""
    with cluster() as client, fresh_folder() as folder:
        client.register_plugin(CountResults(), name=CountResults.name)
        to_hamt(grid(blocks, columns), PackCAS(folder / "store"), progress=False)
        tasks, sent = _sums(client)
    chunks = blocks * columns
    of_keys = sum(len(f"number/c/{row}/{column}") for row in range(blocks) for column in range(columns))
    note = f"{sent['write']:,} bytes in {tasks['write']} results, {of_keys:,} of them keys"
    yield at_most(
        f"to_hamt of {chunks:,}, write, a chunk", (sent["write"] - of_keys) / chunks, LIMIT, " B", note
    )
    note = f"{sent['index']:,} bytes in {tasks['index']} results"
    yield record(f"to_hamt of {chunks:,}, index, a chunk", sent["index"] / chunks, " B", note)


class CountResults(WorkerPlugin):
    """Counts, on a worker, the results of a build's tasks and the bytes of the messages that carry them."""

    name = "count-results"

    def __init__(self) -> None:
        self.tasks = {"write": 0, "index": 0}
        self.sent = {"write": 0, "index": 0}

    def setup(self, worker: Any) -> None:
        self._worker = worker

    def transition(self, key: Any, start: str, finish: str, **_: Any) -> None:
        stage = (
            str(key[0]).split("-")[1] if isinstance(key, tuple) and str(key[0]).startswith("hamt-") else None
        )
        if finish == "memory" and stage in self.sent:
            self.tasks[stage] += 1
            self.sent[stage] += message_bytes(self._worker.data[key])

    def __getstate__(self) -> dict[str, Any]:
        return {"tasks": self.tasks, "sent": self.sent}


def _sums(client: Client) -> tuple[dict[str, int], dict[str, int]]:
    def counted(dask_worker: Any) -> tuple[dict[str, int], dict[str, int]]:
        plugin = dask_worker.plugins["count-results"]
        return plugin.tasks, plugin.sent

    answers = list(client.run(counted).values())
    tasks, sent = (
        {stage: sum(answer[at][stage] for answer in answers) for stage in answers[0][at]} for at in (0, 1)
    )
    return tasks, sent


def pickled_bytes(manifest: Manifest) -> int:
    """The bytes of a pickled manifest, those of its buffers included."""
    buffers: list[pickle.PickleBuffer] = []
    data = pickle.dumps(manifest, protocol=5, buffer_callback=buffers.append)
    return len(data) + sum(buffer.raw().nbytes for buffer in buffers)


def message_bytes(result: object) -> int:
    """The bytes of the message in which a worker sends a result, as distributed's `Worker.get_data` makes it."""
    message = {"status": "OK", "data": {"hamt-write-0": to_serialize(result)}}
    return sum(memoryview(frame).nbytes for frame in dumps(message))


if __name__ == "__main__":
    run("Traffic: bytes from a worker to the driver", rows, SIZES)
